import json
from collections.abc import Callable
from datetime import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as reference
from kfp import dsl
from sklearn.linear_model import LogisticRegression, Ridge

from flowparts import models
from flowparts.components.evaluate.evaluate_model import evaluate_model


def run(artifact: Callable[..., Any], model: dsl.Model, test: dsl.Dataset, **options: Any) -> dict[str, Any]:
    made = {
        "test_metrics": artifact("metrics", dsl.Metrics),
        "curves": artifact("curves", dsl.ClassificationMetrics),
        "evaluation_report": artifact("report", dsl.HTML),
    }
    options = {"bootstrap_samples": 50} | options
    made["returned"] = evaluate_model.python_func(model=model, test=test, **made, **options)
    return made


def stored(artifact: Any) -> Any:
    return json.loads(Path(artifact.path).read_text())


@pytest.fixture
def cancer(sklearn_rows: Any, trained: Any) -> tuple[dsl.Model, pl.DataFrame]:
    """A model of text labels, and test rows with an identifier and groups; one group's labels are noise."""
    train, test = sklearn_rows("breast_cancer", "diagnosis")
    names = {0: "malignant", 1: "benign"}
    train, test = (
        rows.with_columns(pl.col("diagnosis").replace_strict(names, return_dtype=pl.String))
        for rows in (train, test)
    )
    group = pl.Series("hospital", [["north", "south", "west"][row % 3] for row in range(test.height)])
    swapped = {"malignant": "benign", "benign": "malignant"}
    noisy = (pl.col("hospital") == "west") & (pl.int_range(pl.len()) % 2 == 0)
    test = test.with_columns(group, patient=pl.format("P{}", pl.int_range(pl.len()))).with_columns(
        pl.when(noisy).then(pl.col("diagnosis").replace(swapped)).otherwise("diagnosis").alias("diagnosis")
    )
    return trained(train, "diagnosis", LogisticRegression(C=0.1)), test


def test_two_classes_are_measured_as_scikit_learn_does(cancer: Any, table: Any, artifact: Any) -> None:
    model, test = cancer
    made = run(artifact, model, table(test, "test"))
    answers = models.load(model.path).predict(test)
    truth, probability = (
        (test["diagnosis"] == "malignant").to_numpy(),
        answers["probability_malignant"].to_numpy(),
    )
    measured = made["test_metrics"].metadata
    accuracy, f1, roc_auc, log_loss = (measured[name] for name in ("accuracy", "f1", "roc_auc", "log_loss"))
    assert made["returned"] == ("roc_auc", roc_auc)
    assert accuracy == pytest.approx((test["diagnosis"] == answers["prediction"]).mean())
    assert f1 == pytest.approx(reference.f1_score(test["diagnosis"], answers["prediction"], average="macro"))
    assert roc_auc == pytest.approx(reference.roc_auc_score(truth, probability))
    assert log_loss == pytest.approx(reference.log_loss(truth, probability))
    file = stored(made["test_metrics"])
    assert file["roc_auc_low"] < roc_auc < file["roc_auc_high"]
    assert file["rows"] == test.height


def test_the_user_interface_gets_a_finite_roc_curve_and_the_confusion_matrix(
    cancer: Any, table: Any, artifact: Any
) -> None:
    model, test = cancer
    curves = run(artifact, model, table(test, "test"))["curves"]
    points = curves.metadata["confidenceMetrics"]
    assert 2 < len(points) <= 18
    assert len(json.dumps(curves.metadata)) < 2_000
    assert np.isfinite([list(point.values()) for point in points]).all()
    area = np.trapezoid([p["recall"] for p in points], [p["falsePositiveRate"] for p in points])
    truth = (test["diagnosis"] == "malignant").to_numpy()
    probability = models.load(model.path).predict(test)["probability_malignant"]
    assert area == pytest.approx(reference.roc_auc_score(truth, probability), abs=0.01)
    matrix = curves.metadata["confusionMatrix"]
    assert matrix["annotationSpecs"] == [{"displayName": "benign"}, {"displayName": "malignant"}]
    assert sum(sum(row["row"]) for row in matrix["rows"]) == test.height
    assert stored(curves)["confusion_matrix"] == [row["row"] for row in matrix["rows"]]
    json.dumps(curves.metadata, allow_nan=False)


def test_the_report_names_the_worst_slice_and_the_most_confident_mistake(
    cancer: Any, table: Any, artifact: Any, open_page: Any
) -> None:
    model, test = cancer
    made = run(artifact, model, table(test, "test"), slice_columns=["hospital", "mean radius"])
    slices = {(each["column"], each["value"]): each for each in stored(made["test_metrics"])["slices"]}
    assert slices["hospital", "west"]["metrics"]["accuracy"] < 0.6
    assert sum(each["rows"] for (column, _), each in slices.items() if column == "mean radius") == test.height
    page = open_page(Path(made["evaluation_report"].path)).page_source
    assert "The worst slice: hospital = west" in page
    assert "worse than on all rows by more than chance" in page
    wrong = test.with_columns(models.load(model.path).predict(test)).filter(
        pl.col("prediction") != pl.col("diagnosis")
    )
    surest = wrong.sort(pl.max_horizontal("probability_benign", "probability_malignant"), descending=True)
    assert surest["patient"][0] in page


def test_three_classes_have_a_curve_each(
    sklearn_rows: Any, trained: Any, table: Any, artifact: Any, open_page: Any
) -> None:
    train, test = sklearn_rows("wine", "cultivar")
    model = trained(train, "cultivar", LogisticRegression(C=0.01))
    made = run(artifact, model, table(test, "test"), slice_columns=["alcohol"])
    answers = models.load(model.path).predict(test)
    measured = made["test_metrics"].metadata
    accuracy, roc_auc, log_loss = (measured[name] for name in ("accuracy", "roc_auc", "log_loss"))
    probability = answers.drop("prediction").to_numpy().astype(np.float32)
    assert accuracy == pytest.approx((test["cultivar"] == answers["prediction"]).mean())
    assert roc_auc == pytest.approx(reference.roc_auc_score(test["cultivar"], probability, multi_class="ovr"))
    assert log_loss == pytest.approx(reference.log_loss(test["cultivar"], probability))
    assert stored(made["curves"])["roc"].keys() == {"0", "1", "2"}
    assert "confidenceMetrics" not in made["curves"].metadata
    assert len(made["curves"].metadata["confusionMatrix"]["rows"]) == 3
    page = open_page(Path(made["evaluation_report"].path)).page_source
    assert "each class against the rest" in page


def test_a_test_table_of_one_class_leaves_out_what_needs_two(
    cancer: Any, table: Any, artifact: Any, open_page: Any
) -> None:
    model, test = cancer
    made = run(artifact, model, table(test.filter(pl.col("diagnosis") == "benign"), "test"))
    assert "roc_auc" not in made["test_metrics"].metadata
    assert made["returned"] == ("roc_auc", 0.0)
    assert "have only one class" in open_page(Path(made["evaluation_report"].path)).page_source


def test_the_same_input_gives_the_same_files(cancer: Any, table: Any, artifact: Any) -> None:
    model, test = cancer
    dataset = table(test, "test")

    def files() -> list[str]:
        made = run(artifact, model, dataset, slice_columns=["hospital"], seed=3)
        return [Path(made[name].path).read_text() for name in ("test_metrics", "curves", "evaluation_report")]

    assert files() == files()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        pytest.param(
            lambda t: t.drop("diagnosis"), {}, "label column 'diagnosis' is not in the table", id="no label"
        ),
        pytest.param(
            lambda t: t.drop("mean area"), {}, "feature column 'mean area' is not in", id="no feature"
        ),
        pytest.param(lambda t: t.head(0), {}, "the test table has no rows", id="no rows"),
        pytest.param(
            lambda t: t.with_columns(diagnosis=pl.when(pl.int_range(pl.len()) > 1).then("diagnosis")),
            {},
            "label 'diagnosis' is missing in 2 of 190 rows",
            id="null labels",
        ),
        pytest.param(
            lambda t: t.with_columns(diagnosis=pl.lit("cured")),
            {},
            "label 'diagnosis' holds 'cured', which the model doesn't know; its classes are: 'benign', ",
            id="unknown class",
        ),
        pytest.param(
            lambda t: t,
            {"slice_columns": ["city"]},
            "slice column 'city' is not in the table",
            id="no slice column",
        ),
        pytest.param(
            lambda t: t.with_columns(opened=pl.lit(time(9, 30))),
            {"slice_columns": ["opened"]},
            "slice column 'opened' holds Time",
            id="slice column of times",
        ),
        pytest.param(lambda t: t, {"bootstrap_samples": 3}, "bootstrap_samples is 3", id="few resamples"),
    ],
)
def test_bad_input_to_a_classification_gives_a_one_line_error_and_writes_nothing(
    cancer: Any, table: Any, artifact: Any, change: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model, test = cancer
    with pytest.raises(ValueError, match=message):
        run(artifact, model, table(change(test), "test"), **options)
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"model", "test"}


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
    measured = made["test_metrics"].metadata
    assert [measured[name] for name in ("rmse", "mae", "r2")] == pytest.approx(
        [
            reference.root_mean_squared_error(test["progression"], predicted),
            reference.mean_absolute_error(test["progression"], predicted),
            reference.r2_score(test["progression"], predicted),
        ]
    )
    rmse = measured["rmse"]
    assert made["returned"] == ("rmse", rmse)
    assert stored(made["curves"]) == {}
    file = json.loads(Path(made["test_metrics"].path).read_text())
    assert file["rmse_low"] < rmse < file["rmse_high"]
    assert file["rows"] == test.height


def test_the_report_names_the_worst_slice_and_the_largest_error(
    diabetes: Any, table: Any, artifact: Any, open_page: Any
) -> None:
    model, test = diabetes
    made = run(artifact, model, table(test, "test"), slice_columns=["clinic", "bmi"])
    slices = json.loads(Path(made["test_metrics"].path).read_text())["slices"]
    assert [each["value"] for each in slices if each["column"] == "clinic"] == ["a", "b", "(missing)"]
    page = open_page(Path(made["evaluation_report"].path)).page_source
    assert "The worst slice: clinic = b" in page
    errors = test["progression"] - models.load(model.path).predict(test)["prediction"]
    row = errors.abs().arg_max()
    assert row is not None
    assert f'<tr><td class="number">{row}</td><td class="number">' in page


def test_a_constant_label_leaves_out_r2(diabetes: Any, table: Any, artifact: Any, open_page: Any) -> None:
    model, test = diabetes
    constant = table(test.with_columns(progression=pl.lit(100.0)), "test")
    made = run(artifact, model, constant, metric="r2")
    assert "r2" not in made["test_metrics"].metadata
    assert made["returned"] == ("r2", 0.0)
    open_page(Path(made["evaluation_report"].path))


def test_one_row_can_be_evaluated(diabetes: Any, table: Any, artifact: Any, open_page: Any) -> None:
    model, test = diabetes
    made = run(artifact, model, table(test.head(1), "test"), slice_columns=["clinic"])
    measured = made["test_metrics"].metadata
    assert measured["rmse"] == pytest.approx(measured["mae"])
    open_page(Path(made["evaluation_report"].path))


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
def test_bad_input_to_a_regression_gives_a_one_line_error_and_writes_nothing(
    diabetes: Any, table: Any, artifact: Any, change: Any, message: str, tmp_path: Path
) -> None:
    model, test = diabetes
    with pytest.raises(ValueError, match=message):
        run(artifact, model, table(change(test), "test"))
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"model", "test"}


def test_user_interfaces_get_no_template_and_little_of_many_classes(
    trained: Any, table: Any, artifact: Any
) -> None:
    names = [f"{{{{workflow.name}}}} class {number:03} {'x' * 60}" for number in range(40)]
    rows = pl.DataFrame({"x": [float(row % 40) for row in range(400)], "kind": names * 10})
    model = trained(rows, "kind", LogisticRegression(max_iter=20))
    shown = run(artifact, model, table(rows, "test"))["curves"]
    text = json.dumps(shown.metadata)
    assert "{{" not in text
    assert len(shown.metadata["confusionMatrix"]["rows"]) == 10
    assert len(text) < 2_000
    assert len(stored(shown)["classes"]) == 30


def test_a_metric_of_another_task_is_refused(diabetes: Any, table: Any, artifact: Any) -> None:
    model, test = diabetes
    with pytest.raises(ValueError, match="metric 'accuracy' does not fit regression"):
        run(artifact, model, table(test, "test"), metric="accuracy")
