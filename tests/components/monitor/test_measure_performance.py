import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from flowparts import models
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.measure_performance import measure_performance
from flowparts.components.predict.batch_predict import batch_predict
from flowparts.components.prepare.split_table import split_table
from flowparts.components.train.train_tabular import train_tabular
from flowparts.models import mlmodel
from flowparts.monitor import measurements

Run = Callable[..., dict[str, Any]]
DAYS = 12


@dsl.pipeline
def example(source: str = "sample://breast_cancer"):
    table = ingest_table(source=source).outputs["table"]
    parts = split_table(table=table).outputs
    linear = [{"estimator": "Linear", "parameters": {}}]
    model = train_tabular(
        train=parts["train"], validation=parts["validation"], label="target", candidates=linear
    ).outputs["model"]
    key = ["mean_radius", "mean_texture"]
    log = batch_predict(table=table, model=model, key_columns=key).outputs["predictions"]
    measure_performance(log=log, labels=table, model=model, key=key)


def rows(count: int, seed: int, noise: float = 0.7) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    amount = random.normal(0, 1, count)
    return pl.DataFrame(
        {
            "amount": amount,
            "plan": random.choice(["basic", "pro"], count),
            "left": (amount + random.normal(0, noise, count) > 0).astype(int),
        }
    )


@pytest.fixture
def model(tmp_path: Path, save_model: Callable[..., Any]) -> dsl.Model:
    made = dsl.Model(name="model", uri=str(tmp_path / "model"))
    save_model(made.path, rows(2_000, 1), "left", LogisticRegression(), "classification")
    auc = roc_auc(models.load(made.path).predict(rows(2_000, 2)), rows(2_000, 2)["left"])
    models.annotate(made.path, {"validation": {"roc_auc": auc}, "metric": "roc_auc"})
    return made


def roc_auc(predictions: pl.DataFrame, truth: pl.Series) -> float:
    return float(roc_auc_score(truth.to_numpy(), predictions["probability_1"].to_numpy()))


def served(model: dsl.Model, answered: pl.DataFrame, per_day: int = 300) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the log of these rows and their labels."""
    start = datetime(2026, 3, 1)
    count = len(answered)
    log = answered.drop("left").with_columns(
        pl.Series("time", [start + timedelta(days=number / per_day) for number in range(count)]),
        pl.Series("request_id", [f"r{number}" for number in range(count)]),
        pl.lit(0).alias("row"),
        pl.lit("predict").alias("protocol"),
        pl.lit(mlmodel.version(mlmodel.read(model.path))).alias("version"),
    )
    log = log.hstack(models.load(model.path).predict(answered))
    return log, log.select("request_id", "row").with_columns(answered["left"])


@pytest.fixture
def run(
    artifact: Callable[..., Any], table: Callable[..., dsl.Dataset], model: dsl.Model
) -> Callable[[pl.DataFrame, pl.DataFrame], dict[str, Any]]:
    def call(log: pl.DataFrame, labels: pl.DataFrame, **given: Any) -> dict[str, Any]:
        made = {
            "performance": artifact("performance"),
            "performance_report": artifact("performance_report", dsl.HTML),
            "measurements": artifact("measurements"),
        }
        made["returned"] = measure_performance.python_func(
            log=table(log, "log"), labels=table(labels, "labels"), model=model, **given, **made
        )
        made["found"] = json.loads(Path(made["performance"].path).read_text())
        return made

    return call


def test_a_stable_model_is_measured_by_window_and_reported_as_stable(run: Run, model: dsl.Model) -> None:
    answered = rows(300 * DAYS, 3)
    log, labels = served(model, answered)
    # Labels come in another order, as numbers of another type, and some not yet.
    late = labels.with_columns(pl.col("left").cast(pl.Float64)).sample(fraction=0.9, shuffle=True, seed=1)
    made = run(log, late)
    degraded, score, reason = made["returned"]
    found = made["found"]
    kept = log.join(late, on=["request_id", "row"])
    assert not degraded
    assert "not worse than the reference" in reason
    assert score == pytest.approx(roc_auc(kept, kept["left"]))
    assert [window["name"] for window in found["windows"]][:2] == ["2026-03-01T00:00", "2026-03-02T00:00"]
    assert len(found["windows"]) == DAYS
    assert sum(window["rows"] for window in found["windows"]) == len(late) == found["overall"]["rows"]
    day = kept.filter(pl.col("time").dt.date() == datetime(2026, 3, 2).date())
    assert found["windows"][1]["score"] == pytest.approx(roc_auc(day, day["left"]))
    assert found["windows"][1]["low"] < found["windows"][1]["score"] < found["windows"][1]["high"]
    assert found["changes"] == []


def test_a_loss_is_found_with_the_day_that_it_began(run: Run, model: dsl.Model) -> None:
    before, after = rows(300 * 7, 4), rows(300 * 5, 15, noise=6.0)
    log, labels = served(model, pl.concat([before, after]))
    made = run(log, labels, slice_columns=["plan"])
    degraded, _, reason = made["returned"]
    assert degraded
    assert made["found"]["changes"] == ["2026-03-08T00:00"]
    assert "since the last change" in reason
    assert "worse than the reference" in reason
    told = {
        (one.name, one.labels.get("value", one.labels.get("rows")))
        for one in measurements.read(made["measurements"].path)
    }
    assert {("flowparts_performance_slice", "basic"), ("flowparts_performance", "newest window")} <= told
    page = Path(made["performance_report"].path).read_text()
    assert "a new level begins at 2026-03-08T00:00" in page
    assert run(log, labels, tolerance=0.5)["returned"][0] is False


def test_the_worst_slice_comes_first(run: Run, model: dsl.Model) -> None:
    answered = rows(3_000, 6)
    flipped = answered.with_columns(
        pl.when(pl.col("plan") == "pro").then(1 - pl.col("left")).otherwise("left").alias("left")
    )
    found = run(*served(model, flipped), slice_columns=["plan"])["found"]
    assert [each["name"] for each in found["slices"]["plan"]] == ["pro", "basic"]
    assert found["slices"]["plan"][0]["score"] < 0.3


def test_windows_of_few_rows_or_one_class_have_no_score(run: Run, model: dsl.Model) -> None:
    answered = rows(700, 7)
    log, labels = served(model, answered)
    labels = labels.with_columns(
        pl.when(pl.int_range(pl.len()) < 300).then(1).otherwise("left").alias("left")
    )
    windows = run(log, labels, minimum_rows=150)["found"]["windows"]
    assert [window["score"] is None for window in windows] == [True, False, True]


def test_predictions_without_times_are_one_window(run: Run, model: dsl.Model) -> None:
    log, labels = served(model, rows(400, 8))
    found = run(log.drop("time"), labels)["found"]
    assert [window["name"] for window in found["windows"]] == ["all"]


def test_the_positive_class_is_that_of_the_models_evaluation(run: Run, model: dsl.Model) -> None:
    models.annotate(model.path, {"positive_class": 0})
    log, labels = served(model, rows(2_000, 11))
    kept = log.join(labels, on=["request_id", "row"])
    rare = average_precision_score(kept["left"].to_numpy() == 0, kept["probability_0"].to_numpy())
    assert run(log, labels, metric="average_precision")["returned"][1] == pytest.approx(rare)


def test_the_page_says_that_few_labels_may_not_be_like_the_others(run: Run, model: dsl.Model) -> None:
    log, labels = served(model, rows(600, 8))
    made = run(log, labels.head(200))
    assert "33% of the predictions have a label" in Path(made["performance_report"].path).read_text()


def test_a_regression_is_measured_as_well(
    run: Run,
    model: dsl.Model,
    tmp_path: Path,
    save_model: Callable[..., Any],
    artifact: Callable[..., Any],
    table: Callable[..., dsl.Dataset],
) -> None:
    from sklearn.linear_model import LinearRegression

    learning = rows(1_000, 9).with_columns((pl.col("amount") * 2).alias("left"))
    made = dsl.Model(name="other", uri=str(tmp_path / "other"))
    save_model(made.path, learning, "left", LinearRegression(), "regression")
    models.annotate(made.path, {"validation": {"rmse": 0.01}})
    log, labels = served(made, learning)
    labels = labels.with_columns(pl.col("left") + 1)
    ports = {name: artifact(name) for name in ("performance", "performance_report", "measurements")}
    found = measure_performance.python_func(
        log=table(log, "log"), labels=table(labels, "labels"), model=made, **ports
    )
    assert found[0]
    assert found[1] == pytest.approx(1, abs=1e-3)


def test_few_labels_are_measured_and_said_to_be_few(run: Run, model: dsl.Model) -> None:
    log, labels = served(model, rows(600, 16))
    made = run(log, labels.head(150))
    assert made["found"]["overall"]["rows"] == 150
    assert "25% of the predictions have a label" in Path(made["performance_report"].path).read_text()


def test_the_confidence_that_is_stored_is_that_of_the_intervals(run: Run, model: dsl.Model) -> None:
    made = run(*served(model, rows(600, 12)), confidence=0.9)
    assert made["found"]["confidence"] == pytest.approx(0.95)
    assert "lower end (95.0%)" in Path(made["performance_report"].path).read_text()


@pytest.mark.parametrize("key", [["request_id", "row"], ["customer"]])
def test_a_retried_request_counts_once(run: Run, model: dsl.Model, key: list[str]) -> None:
    log, labels = served(model, rows(900, 13))
    customers = pl.format("c{}", pl.int_range(pl.len()))
    log, labels = log.with_columns(customer=customers), labels.with_columns(customer=customers)
    again = log.head(200).with_columns(pl.col("time") + timedelta(days=1))
    made = run(pl.concat([again, log]), labels.select(*key, "left"), key=key)
    assert "200 rows of the log repeat a prediction" in Path(made["performance_report"].path).read_text()
    once = run(log, labels.select(*key, "left"), key=key)["found"]
    assert made["found"] == once | {"repeated": 200}


def test_several_requests_about_one_customer_all_count(run: Run, model: dsl.Model) -> None:
    log, labels = served(model, rows(600, 14))
    log = log.with_columns(customer=pl.int_range(pl.len()) % 300)
    labels = labels.head(300).select("left", customer=pl.int_range(pl.len()))
    found = run(log, labels, key=["customer"])["found"]
    assert (found["predictions"], found["overall"]["rows"], found["repeated"]) == (600, 600, 0)


def test_few_labels_that_are_older_than_their_predictions_are_counted(run: Run, model: dsl.Model) -> None:
    log, labels = served(model, rows(600, 15))
    hours = pl.when(pl.int_range(pl.len()) < 30).then(-2).otherwise(0)
    known = log["time"] - timedelta(minutes=4)
    labels = labels.with_columns(known=known).with_columns(pl.col("known") + pl.duration(hours=hours))
    made = run(log, labels, label_time_column="known")
    assert made["found"]["early_labels"] == 30
    assert "30 labels are older than their predictions" in Path(made["performance_report"].path).read_text()
    # A date says nothing about the time of day.
    days = labels.with_columns(known=log["time"].dt.date())
    assert run(log, days, label_time_column="known")["found"]["early_labels"] == 0


@pytest.mark.parametrize(
    ("change", "given", "sentence"),
    [
        (lambda log, labels: (log.drop("row"), labels), {}, "column of the prediction log 'row' is not in"),
        (lambda log, labels: (log, labels.drop("left")), {}, "column of the labels 'left' is not in"),
        (lambda log, labels: (log, pl.concat([labels, labels.head(2)])), {}, "several rows for request_id=r"),
        (
            lambda log, labels: (log, labels.with_columns(request_id=pl.format("x{}", "request_id"))),
            {},
            "no request_id and row of the 450 .* labels; the predictions have r0, 0, the labels xr0, 0",
        ),
        (
            lambda log, labels: (log, labels.with_columns(pl.lit(None, pl.Int64).alias("left"))),
            {},
            "no label has arrived",
        ),
        (lambda log, labels: (log, labels.clear()), {}, "the labels have no rows"),
        (lambda log, labels: (log, labels), {"since": "2027-01-01"}, "no row has a 'time' from 2027-01-01"),
        (lambda log, labels: (log, labels), {"window_hours": 0.0}, "a window must last longer than 0 hours"),
        (lambda log, labels: (log, labels), {"window_hours": 0.1}, "give a larger window_hours"),
        (lambda log, labels: (log, labels), {"metric": "rmse"}, "does not fit classification"),
        (lambda log, labels: (log, labels), {"key": []}, "key names no column"),
        (lambda log, labels: (log, labels), {"slice_columns": ["plna"]}, "'plna' is not in"),
        (
            lambda log, labels: (log.with_columns(pl.lit("other").alias("version")), labels),
            {},
            "answers of model version other, and none of [0-9a-f]+; give the model that answered",
        ),
        (
            lambda log, labels: (log, labels.with_columns(known=log["time"] - timedelta(hours=2))),
            {"label_time_column": "known"},
            "450 of 450 labels are older than .* than 5 minutes, by 2:00:00 in the median: the clocks or",
        ),
        (
            lambda log, labels: (log, labels),
            {"label_time_column": "left"},
            "'left' must hold timestamps or dates, not Int64",
        ),
        (
            lambda log, labels: (log.drop("time"), labels.with_columns(known=log["time"])),
            {"label_time_column": "known"},
            "label_time_column needs time_column",
        ),
        (
            lambda log, labels: (log.with_columns(pl.lit(None, pl.Int64).alias("prediction")), labels),
            {"metric": "accuracy"},
            "prediction",
        ),
        (
            lambda log, labels: (log.with_columns(pl.lit(None, pl.Float64).alias("probability_1")), labels),
            {},
            "probability",
        ),
        (
            lambda log, labels: (log, labels.with_columns(pl.lit("maybe").alias("left"))),
            {},
            "maybe",
        ),
    ],
)
def test_an_unmeasurable_log_gives_a_one_line_error(
    run: Run,
    model: dsl.Model,
    artifact: Callable[..., Any],
    change: Callable[..., Any],
    given: dict[str, Any],
    sentence: str,
) -> None:
    log, labels = change(*served(model, rows(450, 10), per_day=100))
    with pytest.raises(ValueError, match=sentence):
        run(log, labels, **given)
    assert not Path(artifact("performance").path).exists()
