import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from sklearn.linear_model import LinearRegression, LogisticRegression

from flowparts import models
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.estimate_performance import estimate_performance
from flowparts.components.predict.batch_predict import batch_predict
from flowparts.components.prepare.split_table import split_table
from flowparts.components.train.train_tabular import train_tabular
from flowparts.models import mlmodel
from flowparts.monitor import measurements

Run = Callable[..., dict[str, Any]]
PORTS = {"estimate": dsl.Artifact, "estimate_report": dsl.HTML, "measurements": dsl.Artifact}


@dsl.pipeline
def example(source: str = "sample://breast_cancer"):
    table = ingest_table(source=source).outputs["table"]
    parts = split_table(table=table).outputs
    linear = [{"estimator": "Linear", "parameters": {}}]
    model = train_tabular(
        train=parts["train"], validation=parts["validation"], label="target", candidates=linear
    ).outputs["model"]
    reference = batch_predict(table=parts["test"], model=model).outputs["predictions"]
    log = batch_predict(table=table, model=model).outputs["predictions"]
    key = ["mean_radius", "mean_texture"]
    estimate_performance(log=log, model=model, reference=reference, labels=table, key=key)


def rows(count: int, seed: int, spread: float = 1.0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    amount = random.normal(0, spread, count)
    return pl.DataFrame({"amount": amount, "left": (amount + random.normal(0, 0.7, count) > 0).astype(int)})


@pytest.fixture
def model(tmp_path: Path, save_model: Callable[..., Any]) -> dsl.Model:
    made = dsl.Model(name="model", uri=str(tmp_path / "model"))
    save_model(made.path, rows(2_000, 1), "left", LogisticRegression(), "classification")
    models.annotate(made.path, {"validation": {"roc_auc": 0.9}, "metric": "roc_auc"})
    return made


def answered(model: dsl.Model, asked: pl.DataFrame) -> pl.DataFrame:
    return asked.hstack(models.load(model.path).predict(asked))


def served(model: dsl.Model, asked: pl.DataFrame, per_day: int = 300) -> pl.DataFrame:
    count = len(asked)
    return answered(model, asked).with_columns(
        pl.Series(
            "time", [datetime(2026, 3, 1) + timedelta(days=number / per_day) for number in range(count)]
        ),
        pl.Series("request_id", [f"r{number}" for number in range(count)]),
        pl.lit(0).alias("row"),
        pl.lit("predict").alias("protocol"),
        pl.lit(mlmodel.version(mlmodel.read(model.path))).alias("version"),
    )


@pytest.fixture
def run(artifact: Callable[..., Any], table: Callable[..., dsl.Dataset], model: dsl.Model) -> Run:
    def call(
        log: pl.DataFrame,
        reference: pl.DataFrame | None = None,
        labels: pl.DataFrame | None = None,
        **given: Any,
    ) -> dict[str, Any]:
        made: dict[str, Any] = {name: artifact(name, kind) for name, kind in PORTS.items()}
        made["returned"] = estimate_performance.python_func(
            log=table(log, "log"),
            reference=None if reference is None else table(reference, "reference"),
            labels=None if labels is None else table(labels, "labels"),
            **{"model": model, **given},
            **made,
        )
        made["found"] = json.loads(Path(made["estimate"].path).read_text())
        return made

    return call


def test_harder_rows_are_seen_without_a_label_and_past_estimates_are_checked(
    run: Run, model: dsl.Model, open_page: Callable[[Path], Any]
) -> None:
    log = served(model, pl.concat([rows(1_200, 2), rows(600, 3, spread=0.4)]))
    labels = log.select("request_id", "row", "left").head(1_200)
    made = run(log.drop("left"), answered(model, rows(2_000, 4)), labels)
    degraded, score, reason = made["returned"]
    found = made["found"]
    assert degraded
    assert score < 0.8
    assert "roc_auc in the newest window is estimated at" in reason
    assert [window["rows"] for window in found["windows"]] == [300] * 6
    assert {"accuracy", "precision", "recall", "f1", "roc_auc", "log_loss", "brier"} <= set(
        found["windows"][-1]["metrics"]
    )
    assert [check["name"] for check in found["checks"]] == [f"2026-03-0{day}T00:00" for day in range(1, 5)]
    assert found["error"] < 0.03
    assert np.sum(found["confusion"]) == pytest.approx(300)
    told = {(one.name, one.labels.get("metric")) for one in measurements.read(made["measurements"].path)}
    assert {("flowparts_estimated_performance", "f1"), ("flowparts_estimate_error", "roc_auc")} <= told
    text = open_page(Path(made["estimate_report"].path)).find_element("tag name", "body").text
    assert f"{reason}." in text, "the verdict keeps the metric's name as it is"
    assert "It can't see concept drift" in text
    assert "measured with labels" in text


def test_labels_alone_calibrate_and_the_page_says_if_nothing_could_be_checked(
    run: Run, model: dsl.Model
) -> None:
    log = served(model, rows(900, 5))
    labels = log.select("request_id", "row", "left").head(300)
    made = run(log.drop("left"), labels=labels, reference_score=0.5)
    assert not made["returned"][0]
    assert made["found"]["checks"] == []
    assert made["found"]["reference"] == 0.5
    page = Path(made["estimate_report"].path).read_text()
    assert "no window has labels apart from those that the calibration was fitted on" in page


@pytest.mark.parametrize(
    ("change", "given", "sentence"),
    [
        (lambda log, known: (log, None), {}, "give a reference of labelled predictions, or labels"),
        (lambda log, known: (log, known.drop("prediction")), {}, "score its rows with batch_predict"),
        (lambda log, known: (log, known.drop("left")), {}, "label column of the reference 'left' is not in"),
        (lambda log, known: (log, known.head(0)), {}, "the reference has no rows"),
        (lambda log, known: (log, known.filter(left=0)), {}, "class 1 has 0 of the .* at least 10"),
        (lambda log, known: (log.drop("prediction"), known), {}, "'prediction' is not in"),
        (lambda log, known: (log.drop("probability_0"), known), {}, "1 probability columns for 2 classes"),
        (lambda log, known: (log.with_columns(time=pl.lit("now")), known), {}, "must hold timestamps"),
        (lambda log, known: (log.with_columns(version=pl.lit("x")), known), {}, "answers of model version x"),
        (lambda log, known: (log, known), {"metric": "rmse"}, "does not fit classification"),
        (lambda log, known: (log, known), {"window_hours": 0.0}, "longer than 0 hours"),
        (lambda log, known: (log, known), {"tolerance": -1.0}, "tolerance is -1"),
        (
            lambda log, known: (log.with_columns(probability_1=pl.lit(None, pl.Float64)), known),
            {},
            "probability",
        ),
        (
            lambda log, known: (log.with_columns(time=pl.lit(None, pl.Datetime("us"))), known),
            {},
            "time column 'time' is missing in 300 rows; every prediction needs its time",
        ),
        (lambda log, known: (log, known), {"since": "2027-01-01"}, "no row has a 'time' from 2027-01-01"),
    ],
)
def test_a_log_without_an_estimate_gives_a_one_line_error(
    run: Run,
    model: dsl.Model,
    artifact: Callable[..., Any],
    change: Callable[..., Any],
    given: dict[str, Any],
    sentence: str,
) -> None:
    log, known = change(served(model, rows(300, 6)), answered(model, rows(300, 7)))
    with pytest.raises(ValueError, match=sentence):
        run(log, known, **given)
    assert not Path(artifact("estimate").path).exists()


def test_a_regression_is_refused_with_the_reason(
    run: Run, tmp_path: Path, save_model: Callable[..., Any]
) -> None:
    other = dsl.Model(name="other", uri=str(tmp_path / "other"))
    save_model(other.path, rows(200, 8), "left", LinearRegression(), "regression")
    with pytest.raises(ValueError, match="a regression, whose predictions don't say how far off they may be"):
        run(served(other, rows(100, 9)), model=other)
