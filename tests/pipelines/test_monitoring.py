from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from backends.local import runner
from flowparts import models
from flowparts.pipelines.monitoring import monitoring

# What tests/contract runs; see examples.py there.
AFTER = ["tabular_training"]
# Read by publish_metrics and Prometheus, not by people; both logs and labels are tables.
ALIKE = ("table", "rejected", "measurements", "exposition")

WINE = Path("src/flowparts/samples/wine.parquet")


def outputs(record: runner.Run, task: str) -> dict[str, Any]:
    return next(dict(each.outputs) for each in record.tasks if each.name == task)


def test_rows_that_moved_are_found_and_published(runs: Path, tmp_path: Path) -> None:
    moved = pl.read_parquet(WINE).with_columns(pl.col("alcohol") + 3)
    moved.write_parquet(tmp_path / "log.parquet")
    record = runner.run(monitoring, {"log": str(tmp_path / "log.parquet")}, runs)
    assert record.succeeded
    assert outputs(record, "detect-drift")["worst_columns"][0] == "alcohol"
    lines = Path(outputs(record, "publish-metrics")["exposition"].path).read_text().splitlines()
    (detected,) = [
        line for line in lines if line.startswith("flowparts_drift_detected") and '"alcohol"' in line
    ]
    assert detected.endswith(" 1.0")
    assert any(line.startswith("flowparts_skew_share") for line in lines)
    assert "measure-performance" not in [task.name for task in record.tasks if task.state == "succeeded"]


def test_labels_that_have_arrived_are_measured(runs: Path, tmp_path: Path) -> None:
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
    wrong.write_parquet(tmp_path / "labels.parquet")
    given = {"labels": str(tmp_path / "labels.parquet"), "key": ["bottle"], "window_hours": 48.0}
    record = runner.run(monitoring, {"log": str(tmp_path / "log.parquet"), **given}, runs)
    assert record.succeeded
    measured = outputs(record, "measure-performance")
    assert measured["degraded"]
    assert "worse than the reference" in measured["reason"]
    published = Path(outputs(record, "publish-metrics-2")["exposition"].path).read_text()
    assert "flowparts_performance_degraded" in published
