import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as reference
from kfp import dsl
from sklearn.linear_model import LogisticRegression, Ridge

from components.evaluate.evaluate_regression import evaluate_regression
from flowparts import models


def run(artifact: Callable[..., Any], model: dsl.Model, test: dsl.Dataset, **options: Any) -> dict[str, Any]:
    made = {"metrics": artifact("metrics", dsl.Metrics), "report": artifact("report", dsl.HTML)}
    options = {"bootstrap_samples": 50} | options
    made["returned"] = evaluate_regression.python_func(model=model, test=test, **made, **options)
    return made


@pytest.fixture
def diabetes(sklearn_rows: Any, trained: Any) -> tuple[dsl.Model, pl.DataFrame]:
    """A model, and test rows with a clinic; one clinic's labels are noise."""
    train, test = sklearn_rows("diabetes", "progression")
    model = trained(train, "progression", Ridge(), task="regression")
    clinic = pl.Series("clinic", ["a", "b", None] * (test.height // 3) + ["a"] * (test.height % 3))
    noise = pl.Series(np.random.default_rng(0).normal(0, 150, test.height))
    test = test.with_columns(clinic).with_columns(
        pl.when(pl.col("clinic") == "b").then(pl.col("progression") + noise).otherwise("progression")
    )
    return model, test


def test_errors_are_measured_as_scikit_learn_does(diabetes: Any, table: Any, artifact: Any) -> None:
    model, test = diabetes
    made = run(artifact, model, table(test, "test"))
    predicted = models.load(model.path).predict(test)["prediction"]
    assert made["returned"] == pytest.approx(
        (
            reference.root_mean_squared_error(test["progression"], predicted),
            reference.mean_absolute_error(test["progression"], predicted),
            reference.r2_score(test["progression"], predicted),
        )
    )
    rmse = made["returned"][0]
    assert made["metrics"].metadata["rmse"] == rmse
    file = json.loads(Path(made["metrics"].path).read_text())
    assert file["rmse_low"] < rmse < file["rmse_high"]
    assert file["rows"] == test.height


def test_the_report_names_the_worst_slice_and_the_largest_error(
    diabetes: Any, table: Any, artifact: Any, open_page: Any
) -> None:
    model, test = diabetes
    made = run(artifact, model, table(test, "test"), slice_columns=["clinic", "bmi"])
    slices = json.loads(Path(made["metrics"].path).read_text())["slices"]
    assert [each["value"] for each in slices if each["column"] == "clinic"] == ["a", "b", "(missing)"]
    page = open_page(Path(made["report"].path)).page_source
    assert "The worst slice: clinic = b" in page
    errors = test["progression"] - models.load(model.path).predict(test)["prediction"]
    row = errors.abs().arg_max()
    assert row is not None
    assert f'<tr><td class="number">{row}</td><td class="number">' in page


def test_a_constant_label_leaves_out_r2(diabetes: Any, table: Any, artifact: Any, open_page: Any) -> None:
    model, test = diabetes
    made = run(artifact, model, table(test.with_columns(progression=pl.lit(100.0)), "test"))
    assert "r2" not in made["metrics"].metadata
    assert made["returned"][2] == 0.0
    open_page(Path(made["report"].path))


def test_one_row_can_be_evaluated(diabetes: Any, table: Any, artifact: Any, open_page: Any) -> None:
    model, test = diabetes
    made = run(artifact, model, table(test.head(1), "test"), slice_columns=["clinic"])
    assert made["returned"][0] == pytest.approx(made["returned"][1])
    open_page(Path(made["report"].path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda t: t.drop("progression"), "label column 'progression' is not in", id="no label"),
        pytest.param(lambda t: t.head(0), "the test table has no rows", id="no rows"),
        pytest.param(
            lambda t: t.with_columns(progression=pl.when(pl.int_range(pl.len()) > 2).then("progression")),
            "label 'progression' is missing or infinite in 3 of 148 rows",
            id="null labels",
        ),
        pytest.param(
            lambda t: t.with_columns(progression=pl.lit("high")),
            "label 'progression' holds String",
            id="text label",
        ),
    ],
)
def test_bad_input_is_answered_in_a_sentence_and_writes_nothing(
    diabetes: Any, table: Any, artifact: Any, change: Any, message: str, tmp_path: Path
) -> None:
    model, test = diabetes
    with pytest.raises(ValueError, match=message):
        run(artifact, model, table(change(test), "test"))
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"model", "test"}


def test_a_classification_model_is_refused(
    sklearn_rows: Any, trained: Any, table: Any, artifact: Any
) -> None:
    train, test = sklearn_rows("wine", "cultivar")
    model = trained(train, "cultivar", LogisticRegression())
    with pytest.raises(ValueError, match="the model is for classification; evaluate it with evaluate_class"):
        run(artifact, model, table(test, "test"))
