import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl
from sklearn.metrics import recall_score, roc_auc_score

from flowparts import models, tables
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.prepare.split_table import split_table
from flowparts.components.train.train_ensemble import train_ensemble
from flowparts.components.tune.tune_model import tune_model
from flowparts.models import baseline, engines, seen
from tests.components.train.test_train_keras_tabular import LABELS, TRAIN, VALIDATION

MEMBERS: list[Any] = ["Linear", {"estimator": "LGBM", "parameters": {"n_estimators": 40.0}}]


@dsl.pipeline(name="example-of-ensembles")
def example() -> None:
    table = ingest_table(source="sample://breast_cancer").outputs["table"]
    parts = split_table(table=table, stratify_by="target").outputs
    rows = {"train": parts["train"], "validation": parts["validation"], "label": "target"}
    tuned = tune_model(**rows, space={"Linear": {}, "LGBM": {"n_estimators": 20}}, trials=2)
    train_ensemble(**rows, trial_table=tuned.outputs["trial_table"], threshold={"metric": "f1"})


class Training:
    """The artifacts around one step."""

    def __init__(self, artifact: Callable[..., Any]):
        self.artifact = artifact
        self.train, self.validation = artifact("train", dsl.Dataset), artifact("validation", dsl.Dataset)
        self.trials = artifact("trials", dsl.Dataset)
        tables.write(TRAIN, self.train.path)
        tables.write(VALIDATION, self.validation.path)

    def run(self, name: str = "run", validated: bool = True, **options: Any) -> dict[str, Any]:
        made = {
            "model": self.artifact(f"{name} model", dsl.Model),
            "validation_metrics": self.artifact(f"{name} metrics", dsl.Metrics),
            "ensemble_report": self.artifact(f"{name} report", dsl.HTML),
        }
        options = {**LABELS["classification"], "members": MEMBERS, **options}
        validation = self.validation if validated else None
        made["returned"] = train_ensemble.python_func(
            train=self.train, validation=validation, **made, **options
        )
        return made


@pytest.fixture
def training(artifact: Callable[..., Any]) -> Training:
    return Training(artifact)


def json_value(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def test_the_ensemble_is_a_model_of_raw_rows_that_is_served_as_it_predicts_offline(
    training: Training, open_page: Callable[[Path], Any]
) -> None:
    entries = [*MEMBERS, {"estimator": "KNeighbors", "parameters": {"n_neighbors": 5000}}]
    made = training.run(members=entries, metric="log_loss", threshold={"min_recall": 0.9})
    loaded = models.load(made["model"].path)
    estimator, metric, score = made["returned"]
    assert (metric, score) == ("log_loss", loaded.metadata["validation"]["log_loss"])
    assert estimator == loaded.metadata["estimator"] == "VotingClassifier"
    assert loaded.metadata["training_rows"] == TRAIN.height + VALIDATION.height
    offline = loaded.predict(VALIDATION)
    positive = offline["probability_yes"] >= loaded.metadata["threshold"]
    assert offline["prediction"].to_list() == ["yes" if each else "no" for each in positive]
    assert recall_score(VALIDATION["bought"], offline["prediction"], pos_label="yes") > 0.8
    served = engines.load(made["model"].path)
    assert served.name == "onnxruntime", served.reason
    columns = {name: [json_value(value) for value in VALIDATION[name]] for name in loaded.features}
    answered = served.predict_columns(columns)
    assert answered["prediction"].tolist() == offline["prediction"].to_list()
    assert list(answered["probability_yes"]) == pytest.approx(offline["probability_yes"].to_list(), abs=1e-6)
    assert json.loads(Path(made["validation_metrics"].path).read_text()) == loaded.metadata["validation"]
    known = seen.unseen(made["model"].path, pl.concat([TRAIN, VALIDATION]).lazy())
    assert known is not None
    assert not known.any()
    # Of rows held out, not of those that the final members learned from.
    assert baseline.read(made["model"].path).columns["probability_yes"].rows == VALIDATION.height
    page = open_page(Path(made["ensemble_report"].path)).page_source
    for text in (
        "Leaderboard by log_loss on the validation table (lower is better)",
        "LogisticRegression",
        "KNeighborsClassifier is left out",
        "expected calibration error",
        "The prediction is 'yes' from a probability of",
        "highest precision with recall 0.9",
    ):
        assert text in page


def test_without_a_validation_table_members_are_cross_validated(training: Training) -> None:
    made = training.run(validated=False, folds=3, calibrate=False)
    stored = models.metadata(made["model"].path)
    assert stored["training_rows"] == TRAIN.height
    assert stored["validation_folds"] == 3
    assert "calibration" not in stored
    assert "threshold" not in stored
    held_out = models.load(made["model"].path).predict(VALIDATION)["probability_yes"]
    assert roc_auc_score(VALIDATION["bought"] == "yes", held_out) == pytest.approx(
        made["returned"][2], abs=0.1
    )


def test_tables_split_by_time_are_cross_validated_by_time(training: Training) -> None:
    shutil.rmtree(training.train.path)
    rows = TRAIN.with_columns(when=pl.int_range(TRAIN.height))
    tables.write(rows, training.train.path, facts={"time_column": "when"})
    made = training.run(validated=False, folds=3, members=["Linear"], calibrate=False)
    # The first of four blocks is only learned from.
    held_out = baseline.read(made["model"].path).columns["probability_yes"].rows
    assert held_out == pytest.approx(TRAIN.height * 3 / 4, abs=1)


def test_members_come_from_the_trials_of_a_search(training: Training) -> None:
    trials = pl.DataFrame(
        {
            "estimator": ["LGBM", "Linear", "LGBM"],
            "metric": "log_loss",
            "score": [0.5, 0.6, None],
            "parameters": ['{"n_estimators": 7}', "{}", "{}"],
        }
    )
    tables.write(trials, training.trials.path)
    made = training.run(members=None, trial_table=training.trials, early_stopping_rounds=0)
    members = models.metadata(made["model"].path)["members"]
    expected = {"LGBMClassifier": {"n_estimators": 7}, "LogisticRegression": {}}
    assert members
    for each in members:
        assert each["parameters"] == expected[each["estimator"]]


def test_the_same_seed_gives_the_same_model(training: Training) -> None:
    first, again = (training.run(name, metric="log_loss") for name in ("a", "b"))
    files = [
        {file.name: file.read_bytes() for file in Path(made["model"].path).iterdir()}
        for made in (first, again)
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"members": ["Forrest"]}, "estimator 'Forrest' is unknown"),
        ({"members": "Linear"}, "candidates must be a list"),
        ({"threshold": {"recall": 0.9}}, "threshold has the unknown key 'recall'"),
        ({"folds": 3}, "there is a validation table, but folds would divide the training rows"),
        ({"max_seconds": float("nan")}, "max_seconds must be a number of at least 0, not nan"),
        ({"metric": "rmse"}, "metric 'rmse' does not fit classification"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_option_is_refused_before_a_row_is_read(
    options: dict[str, Any], sentence: str, training: Training
) -> None:
    for part in (training.train, training.validation):
        shutil.rmtree(part.path)
        tables.write(TRAIN.head(0), part.path)
    with pytest.raises(ValueError, match=sentence):
        training.run(**options)
    assert not Path(training.artifact("run model", dsl.Model).path).exists()
