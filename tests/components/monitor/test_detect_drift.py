import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from sklearn.linear_model import LogisticRegression

from flowparts import models, tables
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.baseline_table import baseline_table
from flowparts.components.monitor.detect_drift import detect_drift
from flowparts.models import baseline, mlmodel
from flowparts.monitor import measurements

Run = Callable[..., dict[str, Any]]


@dsl.pipeline
def example(source: str = "sample://diabetes"):
    table = ingest_table(source=source).outputs["table"]
    detect_drift(table=table, reference=table)


def rows(count: int, seed: int, shift: float = 0.0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    amount = random.normal(shift, 1, count)
    start = datetime(2026, 3, 1)
    return pl.DataFrame(
        {
            "time": [start + timedelta(minutes=number) for number in range(count)],
            "amount": amount,
            "plan": random.choice(["basic", "pro"], count),
            "left": (amount + random.normal(0, 0.5, count) > 0).astype(int),
        }
    )


@pytest.fixture
def run(artifact: Callable[..., Any]) -> Run:
    def call(**given: Any) -> dict[str, Any]:
        made = {
            "drift": artifact("drift"),
            "drift_report": artifact("drift_report", dsl.HTML),
            "measurements": artifact("measurements"),
        }
        made["returned"] = detect_drift.python_func(**given, **made)
        return made

    return call


@pytest.fixture
def trained(tmp_path: Path, save_model: Callable[..., Any]) -> dsl.Model:
    model = dsl.Model(name="model", uri=str(tmp_path / "model"))
    learning = rows(2_000, 1).drop("time")
    save_model(model.path, learning, "left", LogisticRegression(), "classification")
    for name, part in (("train", learning), ("validation", rows(1_000, 2).drop("time"))):
        tables.write(part, tmp_path / name)
    baseline.record(model.path, tmp_path / "train", tmp_path / "validation")
    return model


def logged(model: dsl.Model, answered: pl.DataFrame) -> pl.DataFrame:
    version = mlmodel.version(mlmodel.read(model.path))
    said = [
        pl.lit("predict").alias("protocol"),
        pl.lit("r").alias("request_id"),
        pl.lit(version).alias("version"),
    ]
    return answered.drop("left").with_columns(said).hstack(models.load(model.path).predict(answered))


def test_a_column_that_moved_is_named_measured_and_drawn(
    run: Run,
    table: Callable[..., dsl.Dataset],
    artifact: Callable[..., Any],
    open_page: Callable[[Path], Any],
) -> None:
    kept = artifact("baseline")
    baseline_table.python_func(table=table(rows(2_000, 1), "before"), baseline=kept, exclude_columns=["time"])
    made = run(table=table(rows(1_000, 2, shift=0.6), "now"), baseline=kept)
    assert made["returned"][:3] == (True, 2 / 3, ["amount", "left"])
    found = json.loads(Path(made["drift"].path).read_text())
    assert [column["column"] for column in found["columns"]] == ["amount", "left", "plan"]
    assert found["columns"][0]["ks"] == pytest.approx(0.24, abs=0.04)
    sent = {
        (each.name, each.labels.get("column")): each.value
        for each in measurements.read(made["measurements"].path)
    }
    assert sent["flowparts_drifted_columns", None] == 2
    assert sent["flowparts_drift_effect", "amount"] == found["columns"][0]["effect"]
    assert sent["flowparts_drift_detected", "plan"] == 0
    page = open_page(Path(made["drift_report"].path))
    assert "2 of 3 columns drifted: amount, left" in page.find_element("tag name", "main").text
    assert len(page.find_elements("css selector", "figure > svg")) == 3
    assert made["drift"].metadata == {
        "drifted_columns": 2,
        "columns": 3,
        "drifted_fraction": 2 / 3,
        "newest": "2026-03-01T16:39:00",
    }


def test_a_prediction_log_is_compared_with_what_the_model_was_trained_on(
    run: Run, trained: dsl.Model, table: Callable[..., dsl.Dataset]
) -> None:
    same = run(table=table(logged(trained, rows(1_500, 3)), "same"), model=trained)
    assert same["returned"][:3] == (False, 0.0, [])
    found = {each["column"]: each for each in json.loads(Path(same["drift"].path).read_text())["columns"]}
    assert {name: each["role"] for name, each in found.items()} == {
        "amount": "feature",
        "plan": "feature",
        "prediction": "prediction",
        "probability_0": "prediction",
        "probability_1": "prediction",
    }
    moved = run(table=table(logged(trained, rows(1_500, 4, shift=0.8)), "moved"), model=trained)
    assert moved["returned"][0]
    assert set(moved["returned"][2]) == {"amount", "prediction", "probability_0", "probability_1"}


def test_the_label_is_compared_where_the_table_has_it(
    run: Run, trained: dsl.Model, table: Callable[..., dsl.Dataset]
) -> None:
    relabelled = rows(1_500, 5).with_columns(left=pl.lit(1))
    made = run(table=table(relabelled), model=trained)
    assert made["returned"][:3] == (True, 1 / 3, ["left"])


def test_only_the_window_is_compared(run: Run, trained: dsl.Model, table: Callable[..., dsl.Dataset]) -> None:
    first, second = rows(1_000, 6), rows(1_000, 7, shift=1).with_columns(pl.col("time").dt.offset_by("10d"))
    both = table(logged(trained, pl.concat([first, second])))
    early = run(table=both, model=trained, until="2026-03-05", columns=["amount"], stalled_hours=1.0)
    assert early["returned"] == (False, 0.0, [], False, "no row is newer than 2026-03-11T16:39 UTC")
    late = run(table=both, model=trained, since="2026-03-05T00:00Z", columns=["amount"])
    assert late["returned"][:3] == (True, 1.0, ["amount"])


@pytest.mark.parametrize(("hours_ago", "stalled"), [(23, False), (25, True)])
def test_a_log_that_has_stopped_growing_is_reported(
    hours_ago: int, stalled: bool, run: Run, trained: dsl.Model, table: Callable[..., dsl.Dataset]
) -> None:
    newest = datetime.now(UTC).replace(tzinfo=None, second=0, microsecond=0) - timedelta(hours=hours_ago)
    log = rows(1_000, 8)
    log = logged(trained, log.with_columns(pl.col("time") + (newest - log["time"].max())))
    # Another model still answers: that is no news of this one.
    others = log.with_columns(pl.col("time") + timedelta(hours=hours_ago), version=pl.lit("other"))
    made = run(table=table(pl.concat([log, others])), model=trained, stalled_hours=24.0)
    assert made["returned"][3:] == (stalled, f"no row is newer than {newest:%Y-%m-%dT%H:%M} UTC")
    sent = {each.name: each.value for each in measurements.read(made["measurements"].path)}
    assert sent["flowparts_log_stalled"] == stalled
    assert sent["flowparts_log_newest_timestamp_seconds"] == newest.replace(tzinfo=UTC).timestamp()
    said = f"The log has stopped growing: {made['returned'][4]}."
    assert (said in Path(made["drift_report"].path).read_text()) == stalled
    found = json.loads(Path(made["drift"].path).read_text())
    assert (found["newest"], found["stalled"]) == (newest.isoformat(), stalled)


def test_without_hours_or_times_the_logs_freshness_is_not_reported(
    run: Run, trained: dsl.Model, table: Callable[..., dsl.Dataset]
) -> None:
    unjudged = run(table=table(logged(trained, rows(1_000, 8))), model=trained)
    assert unjudged["returned"][3:] == (False, "no row is newer than 2026-03-01T16:39 UTC")
    names = {each.name for each in measurements.read(unjudged["measurements"].path)}
    assert "flowparts_log_stalled" not in names
    timeless = run(table=table(rows(1_000, 8).drop("time")), model=trained, stalled_hours=1.0)
    assert timeless["returned"][3:] == (False, "")


def test_bad_input_gives_a_one_line_error_and_nothing_is_written(
    run: Run,
    trained: dsl.Model,
    table: Callable[..., dsl.Dataset],
    artifact: Callable[..., Any],
    tmp_path: Path,
) -> None:
    log = logged(trained, rows(200, 8))
    for given, sentence in (
        (
            {"table": table(log, "a")},
            "give one thing to compare with: a baseline, a reference table or a model",
        ),
        ({"table": table(log.drop("plan"), "b"), "model": trained}, "the baseline's column 'plan' is not in"),
        (
            {"table": table(log, "c"), "model": trained, "since": "2027-01-01"},
            "no row has a 'time' from 2027-01-01",
        ),
        (
            {"table": table(log, "d"), "model": trained, "since": "soon"},
            "since is 'soon', which isn't a time in ISO 8601",
        ),
        (
            {"table": table(log, "e"), "model": trained, "columns": ["age"]},
            "column 'age' is not in the baseline",
        ),
        (
            {"table": table(log.with_columns(version=pl.lit("other")), "f"), "model": trained},
            "the prediction log holds answers of model version other, and none of",
        ),
        (
            {"table": table(log, "g"), "model": trained, "since": "2026-03-01", "time_column": "plan"},
            "time column 'plan' must hold timestamps or dates, not String",
        ),
        ({"table": table(log.head(0), "h"), "model": trained}, "the table has no rows"),
        ({"table": table(log, "j"), "model": trained, "stalled_hours": -1.0}, "stalled_hours is -1; give"),
        (
            {"table": table(log.with_columns(amount=pl.lit("many")), "i"), "model": trained},
            "column 'amount' holds number values in the baseline and string values in the table",
        ),
    ):
        with pytest.raises(ValueError, match=sentence) as raised:
            run(**given)
        assert "\n" not in str(raised.value)
        assert not [
            name for name in ("drift", "drift_report", "measurements") if Path(artifact(name).path).exists()
        ]


def test_all_null_windows_and_thousands_of_categories_are_reported_as_drift(
    run: Run, table: Callable[..., dsl.Dataset]
) -> None:
    number = pl.int_range(6_000, eager=True)
    before = pl.DataFrame({"id": number.cast(pl.String), "x": number.cast(pl.Float64), "old": [None] * 6_000})
    now = pl.DataFrame({"id": ["one"] * 500, "x": [None] * 500, "old": [1.0] * 500})
    made = run(table=table(now, "now"), reference=table(before, "before"))
    assert made["returned"][0]
    assert set(made["returned"][2]) == {"id", "x", "old"}


def test_images_are_compared_by_their_light(
    run: Run, table: Callable[..., dsl.Dataset], open_page: Callable[[Path], Any]
) -> None:
    import io

    from PIL import Image

    def pictures(level: int) -> pl.DataFrame:
        random = np.random.default_rng(level)
        found = []
        for _ in range(120):
            stream = io.BytesIO()
            Image.fromarray(random.integers(0, level, (9, 8, 3)).astype(np.uint8)).save(stream, "PNG")
            found.append(stream.getvalue())
        return pl.DataFrame({"image": found})

    made = run(table=table(pictures(90), "dark"), reference=table(pictures(255), "light"))
    assert "image.brightness" in made["returned"][2]
    assert "image.width" not in made["returned"][2]
    open_page(Path(made["drift_report"].path))
