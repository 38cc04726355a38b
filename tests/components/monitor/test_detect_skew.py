import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from sklearn.linear_model import LogisticRegression

from flowparts import models, tables
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.detect_skew import detect_skew
from flowparts.components.prepare.split_table import split_table
from flowparts.components.train.train_tabular import train_tabular
from flowparts.models import baseline, mlmodel
from flowparts.monitor import measurements


@dsl.pipeline
def example(source: str = "sample://breast_cancer"):
    table = ingest_table(source=source).outputs["table"]
    parts = split_table(table=table, stratify_by="target").outputs
    model = train_tabular(
        train=parts["train"], validation=parts["validation"], label="target", candidates=["Linear"]
    ).outputs["model"]
    detect_skew(log=parts["test"], model=model)


Run = Callable[..., dict[str, Any]]


def rows(count: int, seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    amount = random.normal(0, 1, count)
    return pl.DataFrame(
        {
            "amount": amount,
            "age": pl.Series(random.integers(18, 80, count)).set(pl.Series(random.random(count) < 0.1), None),
            "plan": random.choice(["basic", "pro"], count),
            "left": (amount + random.normal(0, 0.5, count) > 0).astype(int),
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, save_model: Callable[..., Any]) -> dsl.Model:
    folder = tmp_path_factory.mktemp("trained")
    model = dsl.Model(name="model", uri=str(folder / "model"))
    save_model(model.path, rows(2_000, 1), "left", LogisticRegression(), "classification")
    for name, part in (("train", rows(2_000, 1)), ("validation", rows(1_000, 2))):
        tables.write(part, folder / name)
    baseline.record(model.path, folder / "train", folder / "validation")
    return model


@pytest.fixture
def run(artifact: Callable[..., Any], table: Callable[..., dsl.Dataset], trained: dsl.Model) -> Run:
    def call(log: pl.DataFrame, **options: Any) -> dict[str, Any]:
        made = {
            "skew": artifact("skew"),
            "skew_report": artifact("skew_report", dsl.HTML),
            "measurements": artifact("measurements"),
        }
        made["returned"] = detect_skew.python_func(log=table(log), model=trained, **options, **made)
        return made

    return call


def logged(model: dsl.Model, sent: pl.DataFrame) -> pl.DataFrame:
    """Give what a server logs that is sent these rows."""
    version = mlmodel.version(mlmodel.read(model.path))
    beside = {"protocol": "predict", "request_id": "r", "version": version}
    first = sent.drop("left").with_columns(pl.col("age").cast(pl.Float64))
    return first.with_columns(**{name: pl.lit(text) for name, text in beside.items()}).hstack(
        models.load(model.path).predict(sent)
    )


def test_a_server_with_training_data_has_no_skew(run: Run, trained: dsl.Model) -> None:
    made = run(logged(trained, rows(1_500, 3)))
    skewed, reason, columns = made["returned"]
    assert (skewed, columns) == (False, [])
    assert reason == "the server sees what the model was trained on, and answers as it predicts in a batch"
    content = json.loads(Path(made["skew"].path).read_text())
    assert (content["findings"], content["scored_rows"]) == ([], 1_500)
    sent = {each.name: each.value for each in measurements.read(made["measurements"].path)}
    assert sent["flowparts_skewed_columns"] == 0


def test_each_kind_of_skew_is_reported_with_its_fraction(
    run: Run, trained: dsl.Model, open_page: Callable[[Path], Any]
) -> None:
    third = pl.int_range(pl.len()) % 3 == 0
    sent = rows(1_500, 4).with_columns(
        pl.when(third).then(None).otherwise("amount").alias("amount"),
        pl.when(third).then(pl.lit("Pro")).otherwise("plan").alias("plan"),
        pl.when(third).then(pl.col("age") * 12).otherwise("age").alias("age"),
    )
    made = run(logged(trained, sent))
    skewed, reason, columns = made["returned"]
    assert skewed
    content = json.loads(Path(made["skew"].path).read_text())
    found = {(each["column"], each["check"]): each for each in content["findings"]}
    assert found.keys() == {("amount", "missing"), ("plan", "unknown"), ("age", "range")}
    assert found["amount", "missing"]["share"] == pytest.approx(1 / 3)
    assert "('Pro')" in found["plan", "unknown"]["message"]
    assert set(columns) == {"amount", "plan", "age"}
    assert "33.3% of the values are missing, none in training" in reason
    page = open_page(Path(made["skew_report"].path)).find_element("tag name", "main").text
    assert "33.3% of the values are unknown to the model ('Pro')" in page


def test_answers_that_a_batch_does_not_repeat_are_counted(run: Run, trained: dsl.Model) -> None:
    log = logged(trained, rows(1_000, 5))
    flipped = pl.int_range(pl.len()) < 100
    log = log.with_columns(
        pl.when(flipped).then(pl.col("probability_1") * 0.9).otherwise("probability_1").alias("probability_1")
    )
    skewed, reason, columns = run(log)["returned"]
    assert (skewed, columns) == (True, ["prediction"])
    assert reason == (
        "prediction: 100 of 1,000 logged answers differ from what the model predicts in a batch"
    )


def test_a_feature_of_another_type_is_reported_and_the_others_are_compared(
    run: Run, trained: dsl.Model
) -> None:
    log = logged(trained, rows(500, 6)).with_columns(pl.col("amount").cast(pl.String))
    skewed, reason, columns = run(log)["returned"]
    assert (skewed, columns) == (True, ["amount"])
    assert reason == "amount: the server gets string values, training had number values"


def test_masked_features_are_not_compared(run: Run, trained: dsl.Model) -> None:
    log = logged(trained, rows(500, 7)).drop("plan").with_columns(masked_plan=pl.lit("3f"))
    made = run(log)
    assert made["returned"][0] is False
    content = json.loads(Path(made["skew"].path).read_text())
    assert content["scored_rows"] == 0
    assert "masks one" in Path(made["skew_report"].path).read_text()


def test_a_log_of_another_model_gives_a_one_line_error(
    run: Run, trained: dsl.Model, artifact: Callable[..., Any]
) -> None:
    log = logged(trained, rows(100, 8))
    with pytest.raises(ValueError, match="the prediction log holds answers of model version other"):
        run(log.with_columns(version=pl.lit("other")))
    with pytest.raises(ValueError, match="the baseline's column 'plan' is not in the table"):
        run(log.drop("plan"))
    assert not Path(artifact("skew").path).exists()


def test_all_null_windows_thousands_of_categories_and_empty_logs_are_reported(
    run: Run, trained: dsl.Model, artifact: Callable[..., Any]
) -> None:
    log = logged(trained, rows(3_000, 9))
    null = run(log.with_columns(amount=pl.lit(None, pl.Float64)))
    assert null["returned"][0]
    assert "amount: 100.0% of the values are missing, none in training" in null["returned"][1]
    many = run(log.with_columns(plan=pl.int_range(pl.len()).cast(pl.String)))
    assert "plan: 100.0% of the values are unknown to the model" in many["returned"][1]
    assert len(many["returned"][1]) < 500
    Path(artifact("skew").path).unlink()
    with pytest.raises(ValueError, match="has no rows"):
        run(log.clear())
    assert not Path(artifact("skew").path).exists()
