from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl
from sklearn.linear_model import LogisticRegression

from flowparts import models
from flowparts.components.evaluate.select_best import select_best
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.prepare.fit_preprocessor import fit_preprocessor
from flowparts.components.prepare.split_table import split_table
from flowparts.components.train.train_sklearn import train_sklearn
from flowparts.components.tune.suggest_trials import suggest_trials

SPACE: dict[str, Any] = {
    "Linear": {"C": {"type": "float", "low": 0.01, "high": 10.0, "log": True}},
    "LGBM": {"n_estimators": 10, "num_leaves": {"type": "int", "low": 2.0, "high": 16.0}},
}


@dsl.pipeline(name="example-of-tuning-across-steps")
def example(space: dict = SPACE) -> None:
    table = ingest_table(source="sample://breast_cancer").outputs["table"]
    parts = split_table(table=table, stratify_by="target").outputs
    prepared = fit_preprocessor(train=parts["train"], validation=parts["validation"], label="target").outputs
    earlier: dict[str, Any] = {}
    for _ in range(2):
        suggested = suggest_trials(space=space, trials=2, **earlier)
        with dsl.ParallelFor(suggested.outputs["Output"], parallelism=2) as trial:
            trained = train_sklearn(
                train_features=prepared["train_features"],
                validation_features=prepared["validation_features"],
                preprocessor=prepared["preprocessor"],
                estimator=trial.estimator,
                parameters=trial.parameters,
                early_stopping_rounds=trial.early_stopping_rounds,
            )
        chosen = select_best(candidates=dsl.Collected(trained.outputs["model"]), **earlier)
        earlier = {"earlier": chosen.outputs["model"]}


ROWS = pl.DataFrame({"a": [float(n % 17) for n in range(60)], "y": ["ab"[n % 17 > 8] for n in range(60)]})


def model(save_model: Callable[..., Any], path: Path, strength: float, score: float) -> dsl.Model:
    save_model(
        path,
        ROWS,
        "y",
        LogisticRegression(C=strength),
        parameters={"C": strength},
        validation={"roc_auc": score},
    )
    return dsl.Model(name=path.name, uri=str(path))


def suggested(earlier: Any = None, **options: Any) -> list[dict[str, Any]]:
    (found,) = suggest_trials.python_func(earlier=earlier, **{"space": SPACE, "trials": 4, **options})
    return list(found)


def test_the_first_trial_of_each_estimator_has_its_default_parameters() -> None:
    first, second, *others = suggested(early_stopping_rounds=7)
    assert first == {"estimator": "Linear", "parameters": {}, "early_stopping_rounds": 0}
    assert second == {"estimator": "LGBM", "parameters": {"n_estimators": 10}, "early_stopping_rounds": 7}
    for trial in others:
        values = {**trial["parameters"]}
        assert values.pop("C", 1) != values.pop("num_leaves", 1), "one of both is chosen"
    assert suggested() == suggested() != suggested(seed=1)
    assert suggested(trials=2) == suggested()[:2]


def test_a_later_round_knows_what_all_earlier_rounds_have_tried(
    save_model: Callable[..., Any], artifact: Callable[..., Any], tmp_path: Path
) -> None:
    winner = None
    space = {"Linear": {"C": {"type": "float", "low": 1e-4, "high": 1e4, "log": True}}}
    for turn in range(3):
        # The best is 1: three decades to either side.
        strengths = [10 ** ((turn * 5 + n - 7) / 2) for n in range(5)]
        trained = [
            model(save_model, tmp_path / f"{turn}-{n}", each, 1 - 0.1 * abs(turn * 5 + n - 7))
            for n, each in enumerate(strengths)
        ]
        chosen = artifact(f"best-{turn}", dsl.Model)
        report = artifact(f"report-{turn}", dsl.HTML)
        select_best.python_func(candidates=trained, model=chosen, selection_report=report, earlier=winner)
        winner = chosen
    known = models.metadata(winner.path)["candidates"]
    assert len(known) == 15
    assert known[0]["parameters"] == {"C": pytest.approx(1.0)}
    scores = [entry["score"] for entry in known]
    assert scores == sorted(scores, reverse=True)
    # TPE looks near what was good.
    found = [trial["parameters"]["C"] for trial in suggested(winner, space=space, trials=12)]
    assert sum(0.01 < each < 100 for each in found) > 8
    assert suggested(winner, space=space) == suggested(winner, space=space)


def test_a_model_of_another_space_is_refused(
    save_model: Callable[..., Any], artifact: Callable[..., Any], tmp_path: Path
) -> None:
    best = artifact("best", dsl.Model)
    trained = [model(save_model, tmp_path / "trained", 1.0, 0.5)]
    select_best.python_func(candidates=trained, model=best, selection_report=artifact("report", dsl.HTML))
    with pytest.raises(
        ValueError, match="an earlier round is a LogisticRegression, which is not in the space: LGBM"
    ):
        suggested(best, space={"LGBM": SPACE["LGBM"]})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"trials": 0}, "trials must be at least 1, not 0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"space": {"LGBM": {"num_leavs": 3}}}, "did you mean 'num_leaves'"),
    ],
    ids=["trials", "seed", "space"],
)
def test_a_bad_option_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        suggested(**options)
