import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from backends.local import runner
from flowparts import models, tables
from flowparts.pipelines.monitoring import monitoring
from tests.components.monitor.test_notify import Hook

# What tests/contract runs; see examples.py there.
AFTER = ["tabular_training"]
# Read by publish_metrics and Prometheus, not by people; both logs and labels are tables.
ALIKE = ("table", "rejected", "measurements", "exposition")

WINE = Path("src/flowparts/samples/wine.parquet")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    server = Hook()
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK", f"{server.url}/hook/T0K3N")
    yield server
    server.close()


def outputs(record: runner.Run, task: str) -> dict[str, Any]:
    return next(dict(each.outputs) for each in record.tasks if each.name == task)


def test_rows_that_moved_are_found_published_and_notified(runs: Path, tmp_path: Path, hook: Hook) -> None:
    moved = pl.read_parquet(WINE).with_columns(pl.col("alcohol") + 3)
    moved.write_parquet(tmp_path / "log.parquet")
    given = {"log": str(tmp_path / "log.parquet"), "notices_uri": str(tmp_path / "notices.json")}
    record = runner.run(monitoring, given, runs)
    assert record.succeeded
    assert [(each["title"], each["run"]) for each in hook.taken] == [
        ("tabular-training drifted", f"monitoring-{record.folder.name}")
    ]
    assert outputs(record, "detect-drift")["worst_columns"][0] == "alcohol"
    lines = Path(outputs(record, "publish-metrics")["exposition"].path).read_text().splitlines()
    (detected,) = [
        line for line in lines if line.startswith("flowparts_drift_detected") and '"alcohol"' in line
    ]
    assert detected.endswith(" 1.0")
    assert any(line.startswith("flowparts_skew_ratio") for line in lines)
    assert "flowparts_performance" not in "".join(lines)
    assert "measure-performance" not in [task.name for task in record.tasks if task.state == "succeeded"]


def test_a_log_that_has_stopped_growing_is_reported_once(runs: Path, tmp_path: Path, hook: Hook) -> None:
    wine = pl.read_parquet(WINE)
    moments = [datetime(2026, 3, 1) + timedelta(hours=number) for number in range(wine.height)]
    wine.with_columns(pl.Series("time", moments)).write_parquet(tmp_path / "log.parquet")
    given = {"log": str(tmp_path / "log.parquet"), "notices_uri": str(tmp_path / "notices.json")}
    first, second = (runner.run(monitoring, {**given, "window_days": 5.0}, runs) for _ in range(2))
    assert first.succeeded
    assert second.succeeded
    notices = [(each["state"], each["message"], each["run"]) for each in hook.taken]
    said = f"no row is newer than {moments[-1]:%Y-%m-%dT%H:%M} UTC"
    assert [each for each in notices if each[0] == "stalled"] == [
        ("stalled", said, f"monitoring-{first.folder.name}")
    ]
    found = outputs(second, "detect-drift")
    assert f"The log has stopped growing: {said}." in Path(found["drift_report"].path).read_text()
    published = Path(outputs(second, "publish-metrics")["exposition"].path).read_text()
    assert "\nflowparts_log_stalled 1.0\n" in published


def test_labels_that_have_arrived_are_measured(runs: Path, tmp_path: Path, hook: Hook) -> None:
    wine = pl.read_parquet(WINE)
    first = runner.run(monitoring, {"log": str(WINE)}, runs)
    scored = models.load(outputs(first, "load-champion")["model"].path).predict(wine)
    start = datetime(2026, 3, 1)
    log = wine.drop("target").hstack(scored).with_row_index("bottle").with_columns(
        pl.Series("time", [start + timedelta(hours=number) for number in range(wine.height)])
    )  # fmt: skip
    log.write_parquet(tmp_path / "log.parquet")
    # The labels of some, and wrong ones: the model looks worse than it is.
    wrong = wine.with_row_index("bottle").select("bottle", pl.col("target").shuffle(seed=1)).head(150)
    moments = log["time"].head(150).dt.offset_by("1h")
    wrong = wrong.with_columns(known=moments.scatter(100, start))
    wrong.write_parquet(tmp_path / "labels.parquet")
    given = {"labels": str(tmp_path / "labels.parquet"), "key": ["bottle"], "window_hours": 48.0}
    given |= {"label_time_column": "known", "window_days": 6.0}
    record = runner.run(monitoring, {"log": str(tmp_path / "log.parquet"), **given}, runs)
    assert record.succeeded
    # Of the log's 178 hours the last six days were looked at, and the labels' clock was compared.
    assert tables.scan(outputs(record, "ingest-table")["table"].path).collect().height == 144
    found = json.loads(Path(outputs(record, "measure-performance")["performance"].path).read_text())
    assert found["early_labels"] == 1
    (notice,) = (each for each in hook.taken if each["state"] == "degraded")
    assert "worse than the reference" in notice["message"]
    measured = outputs(record, "measure-performance")
    assert measured["degraded"]
    assert "worse than the reference" in measured["reason"]
    published = Path(outputs(record, "publish-metrics-2")["exposition"].path).read_text()
    assert "flowparts_performance_degraded" in published
