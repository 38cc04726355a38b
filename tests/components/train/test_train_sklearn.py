import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import roc_auc_score

from flowparts import models, tables
from flowparts.components.evaluate.select_best import select_best
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.prepare.fit_preprocessor import fit_preprocessor
from flowparts.components.prepare.split_table import split_table
from flowparts.components.train.train_keras_tabular import train_keras_tabular
from flowparts.components.train.train_sklearn import train_sklearn
from flowparts.models.contract import PipelineModel
from flowparts.prepare import preprocess

FAST = [
    {"estimator": "Linear", "parameters": {}},
    {"estimator": "XGB", "parameters": {"n_estimators": 20}},
]


@dsl.pipeline(name="example")
def example(candidates: list = FAST) -> None:
    table = ingest_table(source="sample://breast_cancer").outputs["table"]
    parts = split_table(table=table, stratify_by="target").outputs
    rows = {"train": parts["train"], "validation": parts["validation"], "label": "target"}
    prepared = fit_preprocessor(**rows).outputs
    with dsl.ParallelFor(candidates) as candidate:
        trained = train_sklearn(
            train_features=prepared["train_features"],
            validation_features=prepared["validation_features"],
            preprocessor=prepared["preprocessor"],
            estimator=candidate.estimator,
            parameters=candidate.parameters,
        )
    select_best(candidates=dsl.Collected(trained.outputs["model"]))
    train_keras_tabular(**rows, epochs=3)


def breast_cancer() -> pl.DataFrame:
    data = load_breast_cancer()
    frame = pl.DataFrame(data.data, schema=[str(name) for name in data.feature_names])
    names = pl.Series("diagnosis", ["malignant" if y == 0 else "benign" for y in data.target])
    return frame.with_columns(names).with_columns(weight=pl.lit(2.0))


def diabetes() -> pl.DataFrame:
    data = load_diabetes()
    return pl.DataFrame(data.data, schema=list(data.feature_names)).with_columns(progression=data.target)


class Step:
    """The artifacts around one training step."""

    def __init__(self, frame: pl.DataFrame, artifact: Callable[..., Any], **options: Any):
        self.train, self.validation = frame.head(-100), frame.tail(100)
        learned, features = preprocess.fit(self.train.lazy(), **options)
        self.inputs = {
            "train_features": artifact("train_features", dsl.Dataset),
            "validation_features": artifact("validation_features", dsl.Dataset),
            "preprocessor": artifact("preprocessor", dsl.Artifact),
        }
        tables.write(features, self.inputs["train_features"].path)
        tables.write(
            preprocess.transform(self.validation.lazy(), learned), self.inputs["validation_features"].path
        )
        learned.save(self.inputs["preprocessor"].path)
        self.artifact = artifact

    def run(self, estimator: str, name: str = "model", **options: Any) -> tuple[dsl.Model, dsl.Metrics]:
        model, metrics = self.artifact(name, dsl.Model), self.artifact(f"{name}_metrics", dsl.Metrics)
        self.page = self.artifact(f"{name}_page", dsl.HTML)
        train_sklearn.python_func(
            **self.inputs,
            model=model,
            validation_metrics=metrics,
            training_report=self.page,
            estimator=estimator,
            **options,
        )
        return model, metrics


@pytest.fixture
def step(artifact: Callable[..., Any]) -> Step:
    return Step(breast_cancer(), artifact, label="diagnosis", task="classification", weight_column="weight")


@pytest.mark.parametrize(
    ("estimator", "parameters", "framework"),
    [
        ("LogisticRegression", {"C": 0.5, "max_iter": 500.0}, "scikit-learn"),
        ("HistGradientBoosting", {"max_iter": 30.0}, "scikit-learn"),
        ("XGB", {"n_estimators": 30.0}, "xgboost"),
        ("LGBM", {"n_estimators": 30.0}, "lightgbm"),
    ],
)
def test_the_output_is_a_model_of_raw_rows(
    step: Step, estimator: str, parameters: dict[str, Any], framework: str
) -> None:
    model, metrics = step.run(estimator, parameters=parameters)
    loaded = models.load(model.path)
    predicted = loaded.predict(step.validation)
    assert (predicted["prediction"] == step.validation["diagnosis"]).mean() > 0.9  # type: ignore[operator]
    expected = roc_auc_score(step.validation["diagnosis"] == "malignant", predicted["probability_malignant"])
    written = json.loads(Path(metrics.path).read_text())
    assert written["roc_auc"] == pytest.approx(expected)
    assert metrics.metadata == written == loaded.metadata["validation"]
    assert model.metadata["framework"] == loaded.metadata["framework"] == framework
    assert loaded.metadata["classes"] == ["benign", "malignant"]
    assert loaded.metadata["parameters"] == parameters
    assert len(loaded.metadata["training_fingerprint"]) == 16


def test_a_regression_is_trained(artifact: Callable[..., Any]) -> None:
    step = Step(diabetes(), artifact, label="progression", task="regression")
    model, metrics = step.run("Linear", parameters={"alpha": 1.0})
    predicted = models.load(model.path).predict(step.validation)["prediction"].to_numpy()
    truth = step.validation["progression"].to_numpy()
    written = json.loads(Path(metrics.path).read_text())
    assert written["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - truth) ** 2)))
    assert written["r2"] > 0.3
    assert model.metadata["estimator"] == "Ridge"


@pytest.mark.parametrize("estimator", ["RandomForest", "HistGradientBoosting", "XGB", "LGBM"])
def test_the_same_seed_gives_the_same_file(step: Step, estimator: str) -> None:
    small = {"max_iter": 10} if estimator.startswith("Hist") else {"n_estimators": 10}
    paths = [
        step.run(estimator, name, parameters=small, early_stopping_rounds=None, seed=3)[0].path
        for name in "ab"
    ]
    for file in Path(paths[0]).iterdir():
        assert file.read_bytes() == (Path(paths[1]) / file.name).read_bytes(), file.name


def test_weights_class_weight_and_early_stopping_go_together(step: Step) -> None:
    model, _ = step.run(
        "XGB",
        class_weight="balanced",
        weight_column="weight",
        early_stopping_rounds=5,
        parameters={"n_estimators": 900},
    )
    assert models.metadata(model.path)["class_weight"] == "balanced"
    assert model.metadata["early_stopping_rounds"] == 5
    loaded = models.load(model.path)
    assert isinstance(loaded, PipelineModel)
    assert loaded.pipeline[-1].estimator.best_iteration < 800


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "RandomForrest"}, "did you mean 'RandomForest'"),
        ({"estimator": "RandomForest", "parameters": {"n_trees": 5}}, "has no parameter 'n_trees'"),
        ({"estimator": "RandomForest", "early_stopping_rounds": 5}, "can't stop early"),
        ({"estimator": "Linear", "weight_column": "mean radius"}, "was not given to fit_preprocessor"),
    ],
)
def test_a_bad_option_gives_a_one_line_error_and_no_output(
    step: Step, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        step.run(**options)
    assert not Path(step.artifact("model").path).exists()
    assert not Path(step.artifact("model_metrics").path).exists()


def test_the_page_shows_metrics_costs_and_parameters(step: Step, open_page: Callable[[Path], Any]) -> None:
    _, metrics = step.run("LogisticRegression", parameters={"C": 0.5, "max_iter": 500.0})
    shown = open_page(Path(step.page.path)).find_element("tag name", "body").text
    assert "LogisticRegression" in shown
    for words in ("roc_auc", "ms for 1,000 rows", "max_iter", "0.5", "classification of diagnosis"):
        assert words in shown
    assert metrics.metadata["roc_auc"] > 0.9
