import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl
from sklearn.metrics import roc_auc_score

from flowparts import models, tables
from flowparts.components.evaluate.select_best import select_best
from flowparts.components.prepare.fit_preprocessor import fit_preprocessor
from flowparts.components.train.train_keras_tabular import train_keras_tabular
from flowparts.components.train.train_sklearn import train_sklearn
from flowparts.components.train.train_tabular import train_tabular
from flowparts.models import baseline, seen
from flowparts.train.networks import tabular_model
from tests.components.train.test_train_keras_tabular import LABELS, SMALL, TRAIN, VALIDATION

CANDIDATES = ["Linear", {"estimator": "XGB", "parameters": {"n_estimators": 20.0}}]


class Step:
    """The artifacts around one training step."""

    def __init__(self, artifact: Callable[..., Any]):
        self.artifact = artifact
        self.tables = {name: artifact(name, dsl.Dataset) for name in ("train", "validation")}
        tables.write(TRAIN, self.tables["train"].path)
        tables.write(VALIDATION, self.tables["validation"].path)

    def run(self, **options: Any) -> dict[str, Any]:
        made = {
            "model": self.artifact("model", dsl.Model),
            "validation_metrics": self.artifact("metrics", dsl.Metrics),
            "training_report": self.artifact("report", dsl.HTML),
        }
        options = {**LABELS["classification"], "candidates": CANDIDATES, **options}
        made["returned"] = train_tabular.python_func(**self.tables, **made, **options)
        return made


@pytest.fixture
def step(artifact: Callable[..., Any]) -> Step:
    return Step(artifact)


def test_the_best_candidate_becomes_a_model_of_raw_rows_that_lists_them_all(
    step: Step, open_page: Callable[[Path], Any]
) -> None:
    made = step.run()
    loaded = models.load(made["model"].path)
    probability = loaded.predict(VALIDATION)["probability_yes"]
    expected = roc_auc_score(VALIDATION["bought"] == "yes", probability)
    estimator, metric, score = made["returned"]
    assert (metric, score) == ("roc_auc", pytest.approx(expected))
    ranking = loaded.metadata["candidates"]
    assert len(ranking) == 2
    assert ranking[0]["estimator"] == estimator == loaded.metadata["estimator"]
    assert ranking[0]["score"] == score >= ranking[1]["score"]
    assert json.loads(Path(made["validation_metrics"].path).read_text()) == loaded.metadata["validation"]
    assert made["validation_metrics"].metadata == loaded.metadata["validation"]
    assert loaded.metadata["training_rows"] == TRAIN.height
    page = open_page(Path(made["training_report"].path)).page_source
    assert f"{estimator} has the best roc_auc" in page


def test_few_positives_are_measured_by_average_precision_and_the_model_says_why(step: Step) -> None:
    rare = [
        rows.with_columns(
            bought=pl.when(pl.int_range(pl.len()) % 25 == 0).then(pl.lit("yes")).otherwise(pl.lit("no"))
        )
        for rows in (TRAIN, VALIDATION)
    ]
    for rows, part in zip(rare, step.tables.values(), strict=True):
        shutil.rmtree(part.path)
        tables.write(rows, part.path)
    made = step.run(candidates=["Linear"])
    stored = models.metadata(made["model"].path)
    assert made["returned"][1] == stored["metric"] == "average_precision"
    assert "% of the training rows are positive (class 'yes'), less than 5%" in stored["metric_reason"]
    assert made["returned"][2] == stored["validation"]["average_precision"]
    assert step.run(candidates=["Linear"], metric="roc_auc")["returned"][1] == "roc_auc"


def test_a_copy_of_the_label_is_warned_of_and_the_rows_are_remembered(step: Step) -> None:
    copied = TRAIN.with_columns(copy=pl.col("bought") == "yes")
    shutil.rmtree(step.tables["train"].path)
    tables.write(copied, step.tables["train"].path, facts={"split": "by time (at)", "split_warning": ""})
    shutil.rmtree(step.tables["validation"].path)
    tables.write(VALIDATION.with_columns(copy=pl.col("bought") == "yes"), step.tables["validation"].path)
    made = step.run(candidates=["Linear"])
    stored = models.metadata(made["model"].path)
    assert [text.partition(" (")[0] for text in stored["warnings"]] == [
        "column 'copy' alone predicts 'bought'"
    ]
    assert stored["split"] == "by time (at)"
    known = seen.unseen(made["model"].path, copied.lazy())
    assert known is not None
    assert not known.any()


def described(model: dsl.Model) -> dict[str, Any]:
    """Give a model's metadata but for what train_tabular alone says of the training rows."""
    alone = ("metric", "metric_reason", "warnings")
    return {name: value for name, value in models.metadata(model.path).items() if name not in alone}


def test_gives_what_the_single_components_give(step: Step, artifact: Callable[..., Any]) -> None:
    prepared = {
        "preprocessor": artifact("preprocessor"),
        "train_features": artifact("train_features", dsl.Dataset),
        "validation_features": artifact("validation_features", dsl.Dataset),
    }
    fit_preprocessor.python_func(**step.tables, **prepared, **LABELS["classification"])
    trained = [artifact(f"candidate {number}", dsl.Model) for number in range(2)]
    for model, candidate in zip(trained, [{"estimator": "Linear"}, CANDIDATES[1]], strict=True):
        metrics = artifact("single metrics", dsl.Metrics)
        outputs = {"validation_metrics": metrics, "training_report": artifact("single page", dsl.HTML)}
        train_sklearn.python_func(**prepared, model=model, **outputs, **candidate)
    best, page = artifact("best", dsl.Model), artifact("page", dsl.HTML)
    select_best.python_func(candidates=trained, model=best, selection_report=page)

    made = step.run()
    assert described(made["model"]) == described(best)
    predicted = [models.load(model.path).predict(VALIDATION) for model in (made["model"], best)]
    assert predicted[0].equals(predicted[1])
    for file in (seen.FILE, baseline.FILE):
        first, second = ((Path(found.path) / file).read_bytes() for found in (made["model"], best))
        assert first == second
    for rows in (TRAIN, VALIDATION):
        known = seen.unseen(best.path, rows.lazy())
        assert known is not None
        assert not known.any()
    # Only who trained the candidates knows what they cost.
    costs = ("training s", "ms for 1,000 rows")
    shown = [Path(found.path).read_text() for found in (made["training_report"], page)]
    assert [[cost in text for cost in costs] for text in shown] == [[True, True], [False, False]]


def test_the_same_seed_gives_the_same_files(step: Step) -> None:
    def files() -> dict[str, bytes]:
        folder = Path(step.run(seed=3)["model"].path)
        return {file.name: file.read_bytes() for file in folder.iterdir()}

    assert files() == files()


def test_a_network_is_that_of_train_keras_tabular(step: Step, artifact: Callable[..., Any]) -> None:
    network = {**SMALL, "epochs": 3.0}
    made = step.run(trainer="keras", network=network, metric="log_loss")
    single = {
        "model": artifact("single", dsl.Model),
        "validation_metrics": artifact("single metrics", dsl.Metrics),
        "training_report": artifact("single report", dsl.HTML),
    }
    options = {**LABELS["classification"], **SMALL, "epochs": 3}
    train_keras_tabular.python_func(**step.tables, **single, **options)
    assert described(made["model"]) == described(single["model"])
    predicted = [models.load(each["model"].path).predict(VALIDATION) for each in (made, single)]
    assert predicted[0].equals(predicted[1])
    assert made["returned"] == (
        "KerasDenseNetwork",
        "log_loss",
        made["validation_metrics"].metadata["log_loss"],
    )
    assert "Learning curves" in Path(made["training_report"].path).read_text()


def test_every_option_of_a_network_may_be_given_by_its_name() -> None:
    given = {"layers": 1.0, "dropout": 0, "schedule": "constant", "checkpoints": "s3://bucket/states"}
    shape, options, checkpoints = tabular_model.settings(given, seed=3)
    inputs = train_keras_tabular.component_spec.inputs
    assert shape == tabular_model.Shape(1, inputs["units"].default, 0.0, inputs["max_categories"].default)
    assert (options.schedule, options.epochs, options.seed) == ("constant", inputs["epochs"].default, 3)
    assert checkpoints == "s3://bucket/states"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"trainer": "kears"}, "unknown trainer 'kears'; did you mean 'keras'"),
        ({"task": "ranking"}, "task must be one of classification, regression, not 'ranking'"),
        ({"metric": "acuracy"}, "metric 'acuracy' is unknown; did you mean 'accuracy'"),
        ({"metric": "rmse"}, "metric 'rmse' does not fit classification"),
        ({"candidates": ["Linear", "Forrest"]}, "estimator 'Forrest' is unknown"),
        ({"trainer": "keras", "network": {"epoch": 3}}, "no option 'epoch'; did you mean 'epochs'"),
        ({"trainer": "keras", "network": {"epochs": 2.5}}, "epochs must be a whole number, not 2.5"),
        ({"trainer": "keras", "network": {"units": "many"}}, "units must be a number, not 'many'"),
        ({"trainer": "keras", "network": {"checkpoints": 1}}, "checkpoints must be text, not 1"),
        ({"trainer": "keras", "early_stopping_rounds": 3}, "early_stopping_rounds is for trainer 'sklearn'"),
        ({"trainer": "keras", "effort": "standard"}, "effort 'standard' is for trainer 'sklearn'"),
        ({"effort": "thorough"}, "and so do candidates; leave out one of the two"),
        ({"exclude_columns": ["bought"]}, "label column 'bought' must not be in exclude_columns"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_option_is_refused_before_a_row_is_read(
    options: dict[str, Any], sentence: str, artifact: Callable[..., Any], tmp_path: Path
) -> None:
    nowhere = dsl.Dataset(name="gone", uri=str(tmp_path / "gone"))
    tables.write(TRAIN.head(0), nowhere.path)
    step = Step(artifact)
    step.tables = {"train": nowhere, "validation": nowhere}
    with pytest.raises(ValueError, match=sentence):
        step.run(**options)
    assert not (tmp_path / "artifacts" / "model").exists()
