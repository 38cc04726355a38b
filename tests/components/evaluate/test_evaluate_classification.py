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
from sklearn.linear_model import LogisticRegression

from components.evaluate.evaluate_classification import evaluate_classification
from flowparts import models


def run(artifact: Callable[..., Any], model: dsl.Model, test: dsl.Dataset, **options: Any) -> dict[str, Any]:
    made = {
        "metrics": artifact("metrics", dsl.Metrics),
        "curves": artifact("curves", dsl.ClassificationMetrics),
        "report": artifact("report", dsl.HTML),
    }
    options = {"bootstrap_samples": 50} | options
    made["returned"] = evaluate_classification.python_func(model=model, test=test, **made, **options)
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
    accuracy, f1, roc_auc, log_loss = made["returned"]
    assert accuracy == pytest.approx((test["diagnosis"] == answers["prediction"]).mean())
    assert f1 == pytest.approx(reference.f1_score(test["diagnosis"], answers["prediction"], average="macro"))
    assert roc_auc == pytest.approx(reference.roc_auc_score(truth, probability))
    assert log_loss == pytest.approx(reference.log_loss(truth, probability))
    assert made["metrics"].metadata["roc_auc"] == roc_auc
    file = stored(made["metrics"])
    assert file["roc_auc_low"] < roc_auc < file["roc_auc_high"]
    assert file["rows"] == test.height


def test_the_user_interface_gets_a_finite_roc_curve_and_the_confusion_matrix(
    cancer: Any, table: Any, artifact: Any
) -> None:
    model, test = cancer
    curves = run(artifact, model, table(test, "test"))["curves"]
    points = curves.metadata["confidenceMetrics"]
    assert 2 < len(points) <= 100
    assert np.isfinite([list(point.values()) for point in points]).all()
    area = np.trapezoid([p["recall"] for p in points], [p["falsePositiveRate"] for p in points])
    truth = (test["diagnosis"] == "malignant").to_numpy()
    probability = models.load(model.path).predict(test)["probability_malignant"]
    assert area == pytest.approx(reference.roc_auc_score(truth, probability), abs=0.003)
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
    slices = {(each["column"], each["value"]): each for each in stored(made["metrics"])["slices"]}
    assert slices["hospital", "west"]["metrics"]["accuracy"] < 0.6
    assert sum(each["rows"] for (column, _), each in slices.items() if column == "mean radius") == test.height
    page = open_page(Path(made["report"].path)).page_source
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
    accuracy, _, roc_auc, log_loss = made["returned"]
    probability = answers.drop("prediction").to_numpy().astype(np.float32)
    assert accuracy == pytest.approx((test["cultivar"] == answers["prediction"]).mean())
    assert roc_auc == pytest.approx(reference.roc_auc_score(test["cultivar"], probability, multi_class="ovr"))
    assert log_loss == pytest.approx(reference.log_loss(test["cultivar"], probability))
    assert stored(made["curves"])["roc"].keys() == {"0", "1", "2"}
    assert "confidenceMetrics" not in made["curves"].metadata
    assert len(made["curves"].metadata["confusionMatrix"]["rows"]) == 3
    page = open_page(Path(made["report"].path)).page_source
    assert "each class against the rest" in page


def test_a_test_table_of_one_class_leaves_out_what_needs_two(
    cancer: Any, table: Any, artifact: Any, open_page: Any
) -> None:
    model, test = cancer
    made = run(artifact, model, table(test.filter(pl.col("diagnosis") == "benign"), "test"))
    assert "roc_auc" not in made["metrics"].metadata
    assert made["returned"][2] == 0.0
    assert "hold one class only" in open_page(Path(made["report"].path)).page_source


def test_the_same_input_gives_the_same_files(cancer: Any, table: Any, artifact: Any) -> None:
    model, test = cancer
    dataset = table(test, "test")

    def files() -> list[str]:
        made = run(artifact, model, dataset, slice_columns=["hospital"], seed=3)
        return [Path(made[name].path).read_text() for name in ("metrics", "curves", "report")]

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
            "label 'diagnosis' holds 'cured', which the model does not know; its classes are: 'benign', ",
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
def test_bad_input_is_answered_in_a_sentence_and_writes_nothing(
    cancer: Any, table: Any, artifact: Any, change: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model, test = cancer
    with pytest.raises(ValueError, match=message):
        run(artifact, model, table(change(test), "test"), **options)
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"model", "test"}


def test_a_regression_model_is_refused(sklearn_rows: Any, trained: Any, table: Any, artifact: Any) -> None:
    from sklearn.linear_model import Ridge

    train, test = sklearn_rows("diabetes", "progression")
    model = trained(train, "progression", Ridge(), task="regression")
    with pytest.raises(ValueError, match="the model is for regression; evaluate it with evaluate_regression"):
        run(artifact, model, table(test, "test"))
