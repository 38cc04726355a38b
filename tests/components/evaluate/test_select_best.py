from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from flowparts import models
from flowparts.components.evaluate.select_best import select_best


def run(artifact: Any, candidates: list[dsl.Model], **options: Any) -> dict[str, Any]:
    made = {"model": artifact("best", dsl.Model), "selection_report": artifact("report", dsl.HTML)}
    made["returned"] = select_best.python_func(candidates=candidates, **made, **options)
    return made


def files(directory: str) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in Path(directory).rglob("*.*")}


@pytest.fixture
def candidates(sklearn_rows: Any, trained: Any) -> tuple[list[dsl.Model], pl.DataFrame]:
    train, test = sklearn_rows("breast_cancer", "benign")
    estimators = {
        "guess": (DummyClassifier(), {"roc_auc": 0.5, "log_loss": 0.66, "accuracy": 0.63}),
        "linear": (LogisticRegression(C=0.1), {"roc_auc": 0.994, "log_loss": 0.09, "accuracy": 0.97}),
        "tree": (DecisionTreeClassifier(max_depth=3), {"roc_auc": 0.95, "log_loss": 0.05, "accuracy": 0.93}),
    }
    made = [
        trained(train, "benign", estimator, name=name, validation=validation, parameters={"max_depth": 3})
        for name, (estimator, validation) in estimators.items()
    ]
    return made, test


def test_the_best_candidate_is_copied_whole_with_its_metadata(
    candidates: Any, artifact: Any, open_page: Any
) -> None:
    models_, test = candidates
    made = run(artifact, models_)
    assert made["returned"] == ("LogisticRegression", 0.994)
    winner, copy = files(models_[1].path), files(made["model"].path)
    assert {name: copy[name] for name in copy if name != "MLmodel"} == {
        name: winner[name] for name in winner if name != "MLmodel"
    }
    described = models.metadata(made["model"].path)
    candidates = described.pop("candidates")
    assert described == models.metadata(models_[1].path)
    assert candidates[0]["score"] == max(candidate["score"] for candidate in candidates)
    assert len(candidates) == len(models_)
    assert models.load(made["model"].path).predict(test).equals(models.load(models_[1].path).predict(test))
    page = open_page(Path(made["selection_report"].path)).page_source
    assert "LogisticRegression has the best roc_auc on the validation table, 0.994" in page


def test_a_loss_picks_the_lowest(candidates: Any, artifact: Any) -> None:
    assert run(artifact, candidates[0], metric="log_loss")["returned"] == ("DecisionTreeClassifier", 0.05)


def test_the_order_of_the_candidates_changes_neither_winner_nor_report(
    candidates: Any, artifact: Any
) -> None:
    first, second = run(artifact, candidates[0]), None
    text = Path(first["selection_report"].path).read_text()
    second = run(artifact, candidates[0][::-1])
    assert second["returned"] == first["returned"]
    assert Path(second["selection_report"].path).read_text() == text


def test_an_unknown_metric_writes_nothing(candidates: Any, artifact: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metric 'acuracy' is unknown; did you mean 'accuracy'\?"):
        run(artifact, candidates[0], metric="acuracy")
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"guess", "linear", "tree"}


def test_a_candidate_that_is_not_a_model_is_named(candidates: Any, artifact: Any) -> None:
    gone = dsl.Model(name="gone", uri="/nowhere/model")
    with pytest.raises(ValueError, match="no model at /nowhere/model"):
        run(artifact, [*candidates[0], gone])
