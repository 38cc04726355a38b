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
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.prepare.split_table import split_table
from flowparts.components.tune.tune_model import tune_model
from flowparts.models import engines, seen
from tests.components.train.test_train_keras_tabular import LABELS, TRAIN, VALIDATION
from tests.contract.steps import Step, Stop

LEAVES = {"type": "int", "low": 2.0, "high": 16.0, "log": True}  # as kfp hands whole numbers on
SPACE: dict[str, Any] = {
    "Linear": {},
    "LGBM": {
        "n_estimators": 30,
        "num_leaves": LEAVES,
        "learning_rate": {"type": "float", "low": 0.05, "high": 0.5},
    },
}


@dsl.pipeline(name="example-of-tuning")
def example() -> None:
    table = ingest_table(source="sample://breast_cancer").outputs["table"]
    parts = split_table(table=table, stratify_by="target").outputs
    tune_model(train=parts["train"], validation=parts["validation"], label="target", space=SPACE, trials=6)


class Tuning:
    """The artifacts around one step."""

    def __init__(
        self,
        artifact: Callable[..., Any],
        train: pl.DataFrame = TRAIN,
        facts: dict[str, Any] | None = None,
    ):
        self.artifact = artifact
        self.train, self.validation = artifact("train", dsl.Dataset), artifact("validation", dsl.Dataset)
        tables.write(train, self.train.path, facts=facts)
        tables.write(VALIDATION, self.validation.path)

    def run(self, name: str = "run", validated: bool = True, **options: Any) -> dict[str, Any]:
        made = {
            "model": self.artifact(f"{name} model", dsl.Model),
            "validation_metrics": self.artifact(f"{name} metrics", dsl.Metrics),
            "tuning_report": self.artifact(f"{name} report", dsl.HTML),
            "trial_table": self.artifact(f"{name} trials", dsl.Dataset),
        }
        options = {**LABELS["classification"], "space": SPACE, "trials": 8, **options}
        validation = self.validation if validated else None
        made["returned"] = tune_model.python_func(train=self.train, validation=validation, **made, **options)
        return made


def test_tables_split_by_time_are_cross_validated_by_time(artifact: Callable[..., Any]) -> None:
    scores = []
    for name, facts, options in (
        ("asked", {}, {"time_column": "when"}),
        ("split", {"time_column": "when"}, {}),
        ("at random", {}, {}),
    ):
        rows = TRAIN.with_columns(when=pl.int_range(TRAIN.height))
        tuning = Tuning(lambda what, kind, name=name: artifact(f"{name} {what}", kind), rows, facts)
        made = tuning.run(validated=False, folds=3, space={"Linear": {}}, trials=1, **options)
        scores.append(made["returned"][3])
    assert scores[0] == scores[1] != scores[2]


@pytest.fixture
def tuning(artifact: Callable[..., Any]) -> Tuning:
    return Tuning(artifact)


def json_value(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def test_the_best_trial_becomes_a_model_of_raw_rows_that_is_served_from_its_graph(
    tuning: Tuning, open_page: Callable[[Path], Any]
) -> None:
    made = tuning.run()
    loaded = models.load(made["model"].path)
    estimator, parameters, metric, score = made["returned"]
    expected = roc_auc_score(VALIDATION["bought"] == "yes", loaded.predict(VALIDATION)["probability_yes"])
    assert (metric, score) == ("roc_auc", pytest.approx(expected))
    assert estimator == loaded.metadata["estimator"]
    assert parameters == loaded.metadata["parameters"]
    assert loaded.metadata["trials"] == 8
    served = engines.load(made["model"].path)
    assert served.name == "onnxruntime", served.reason
    columns = {name: [json_value(value) for value in VALIDATION[name]] for name in loaded.features}
    answered = served.predict_columns(columns)["probability_yes"]
    assert list(answered) == pytest.approx(loaded.predict(VALIDATION)["probability_yes"].to_list(), abs=1e-6)
    trials = tables.scan(made["trial_table"].path).collect()
    assert trials["trial"].to_list() == list(range(8))
    assert trials["score"].max() == score
    assert set(trials["state"]) <= {"complete", "pruned"}
    assert set(trials["estimator"]) == {"Linear", "LGBM"}
    for row in trials.filter(pl.col("estimator") == "LGBM").tail(-1).to_dicts():
        assert 2 <= json.loads(row["parameters"])["num_leaves"] <= 16
    assert json.loads(Path(made["validation_metrics"].path).read_text()) == loaded.metadata["validation"]
    known = seen.unseen(made["model"].path, pl.concat([TRAIN, VALIDATION]).lazy())
    assert known is not None
    assert not known.any()
    page = open_page(Path(made["tuning_report"].path)).page_source
    for text in ("Hyperparameter search", "History", "Slices of", f"{estimator.removesuffix('Classifier')}"):
        assert text in page


def test_without_a_validation_table_trials_are_cross_validated_and_the_model_learns_from_all_rows(
    tuning: Tuning,
) -> None:
    space = {"LGBM": {**SPACE["LGBM"], "n_estimators": 200}}
    made = tuning.run(validated=False, folds=3, trials=5, space=space, early_stopping_rounds=10)
    stored = models.metadata(made["model"].path)
    assert stored["training_rows"] == TRAIN.height
    assert stored["validation_folds"] == 3
    assert stored["early_stopping_rounds"] == 0
    assert 1 <= stored["parameters"]["n_estimators"] < 200
    # Not the score on the rows that it learned from.
    assert 0.5 < stored["validation"]["roc_auc"] == made["returned"][3] < 1
    held_out = models.load(made["model"].path).predict(VALIDATION)["probability_yes"]
    assert roc_auc_score(VALIDATION["bought"] == "yes", held_out) == pytest.approx(
        made["returned"][3], abs=0.1
    )


def test_a_regression_is_cross_validated_in_the_order_of_time(artifact: Callable[..., Any]) -> None:
    dated = Tuning(artifact, TRAIN.drop_nulls("at"))
    options = {**LABELS["regression"], "space": {"Linear": {}}, "folds": 3, "trials": 4}
    made = dated.run(validated=False, time_column="at", **options)
    stored = models.metadata(made["model"].path)
    assert made["returned"][0] == "Ridge"
    assert made["returned"][2:] == ("rmse", stored["validation"]["rmse"])
    assert stored["validation"]["rmse"] != dated.run("random", validated=False, **options)["returned"][3]


def content(made: dict[str, Any]) -> dict[str, Any]:
    files = {file.name: file.read_bytes() for file in Path(made["model"].path).iterdir()}
    trials = tables.scan(made["trial_table"].path).collect()
    return {**files, "trials": trials.to_dicts(), "returned": made["returned"]}


@pytest.mark.parametrize("validated", [True, False], ids=["validation table", "folds"])
def test_the_same_seed_gives_the_same_files_and_another_one_does_not(tuning: Tuning, validated: bool) -> None:
    first, again, other = (
        tuning.run(name, validated, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert content(first) == content(again)
    assert content(first)["trials"] != content(other)["trials"]


def step(tuning: Tuning, folder: Path, **options: Any) -> Step:
    def artifacts(found: dict[str, tuple[Path | str, str]]) -> dict[str, Any]:
        return {
            name: {
                "artifacts": [{"name": name, "uri": str(path), "type": {"schemaTitle": kind}, "metadata": {}}]
            }
            for name, (path, kind) in found.items()
        }

    outputs = {
        "model": "Model",
        "validation_metrics": "Metrics",
        "tuning_report": "HTML",
        "trial_table": "Dataset",
    }
    return Step(
        "tune_model",
        {
            "inputs": {
                "artifacts": artifacts(
                    {
                        "train": (tuning.train.path, "system.Dataset"),
                        "validation": (tuning.validation.path, "system.Dataset"),
                    }
                ),
                "parameterValues": {
                    **LABELS["classification"],
                    "space": SPACE,
                    "trials": 8,
                    "seed": 3,
                    **options,
                },
            },
            "outputs": {
                "artifacts": artifacts(
                    {name: (folder / name, f"system.{kind}") for name, kind in outputs.items()}
                ),
                "parameters": {
                    name: {"outputFile": str(folder / f"returned-{name}")}
                    for name in ("estimator", "parameters", "metric", "score")
                },
                "outputFile": str(folder / "executor_output.json"),
            },
        },
    )


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_killed_search_resumes_after_the_last_finished_trial_with_the_same_result(
    tuning: Tuning, tmp_path: Path, parallel: int
) -> None:
    states = tmp_path / "states"
    log = tmp_path / "log"
    options = {"parallel_trials": parallel, "checkpoints": str(states)}
    killed = step(tuning, tmp_path / "out", **options)
    assert killed.run(log, Stop("flowparts.tune.journal.Journal.append", 6)).exit_code == -9
    (journal,) = states.iterdir()
    assert len(journal.read_text().splitlines()) == 5
    assert not (tmp_path / "out" / "model").exists()
    # It may be killed in the middle of a line.
    journal.write_text(journal.read_text() + '{"number": 5, "configur')

    ended = killed.run(log, Stop("flowparts.tune.journal.Journal.append", 99))
    assert ended.exit_code == 0, ended.log
    assert len(ended.moved) == 3, "it tried again what was finished"
    assert not states.exists()
    undisturbed = step(tuning, tmp_path / "undisturbed", **options)
    assert undisturbed.run(log).exit_code == 0
    for name in ("model", "trial_table"):
        found, expected = (
            {file.name: file.read_bytes() for file in (tmp_path / folder / name).iterdir()}
            for folder in ("out", "undisturbed")
        )
        assert found == expected


def test_how_many_processors_there_are_changes_nothing(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tuning.run("a", parallel_trials=2)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert content(tuning.run("b", parallel_trials=2)) == content(first)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"space": {"LGBM": {"num_leavs": LEAVES}}}, "'num_leavs'; did you mean 'num_leaves'"),
        ({"space": {"Forrest": {}}}, "estimator 'Forrest' is unknown"),
        ({"trials": 0}, "the budget is empty: trials and max_seconds are both 0"),
        ({"max_seconds": -1.0}, "max_seconds must be a number of at least 0, not -1"),
        ({"folds": 3}, "there is a validation table, but folds would divide the training rows"),
        ({"validated": False, "folds": 1}, "folds must be at least 2, not 1"),
        ({"parallel_trials": 0}, "parallel_trials must be at least 1, not 0"),
        ({"metric": "rmse"}, "metric 'rmse' does not fit classification"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_option_is_refused_before_a_row_is_read(
    options: dict[str, Any], sentence: str, tuning: Tuning
) -> None:
    for part in (tuning.train, tuning.validation):
        shutil.rmtree(part.path)
        tables.write(TRAIN.head(0), part.path)
    with pytest.raises(ValueError, match=sentence):
        tuning.run(**options)
    assert not Path(tuning.artifact("run model", dsl.Model).path).exists()


def left_behind(tuning: Tuning) -> list[str]:
    folder = Path(tuning.train.path).parent
    return sorted(path.name for path in folder.iterdir() if path.name not in ("train", "validation"))


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        (TRAIN.head(4), {"folds": 6}, "the training table has 4 rows, fewer than the 6 folds"),
        (
            TRAIN.with_columns(group=pl.col("bought")),
            {"folds": 2, "group_by": "group"},
            "fold 1 of 2 has a single class of 'bought' to validate on",
        ),
        (
            TRAIN.with_columns(group=pl.int_range(pl.len()) % 3),
            {"folds": 4, "group_by": "group"},
            "has 3 distinct values of 'group', fewer than the 4 folds",
        ),
        (
            TRAIN,
            {
                "folds": 2,
                "trials": 4,
                "space": {"KNeighbors": {"n_neighbors": 900, "p": {"type": "float", "low": 1, "high": 2}}},
            },
            r"all 4 trials failed: KNeighbors \(4 times\): ",
        ),
    ],
    ids=["rows", "one class", "groups", "all fail"],
)
def test_bad_rows_are_refused_and_leave_nothing_behind(
    rows: pl.DataFrame, options: dict[str, Any], sentence: str, artifact: Callable[..., Any]
) -> None:
    tuning = Tuning(artifact, rows)
    with pytest.raises(ValueError, match=sentence) as raised:
        tuning.run(validated=False, **options)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400
    assert left_behind(tuning) == []
