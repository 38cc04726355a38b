from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from flowparts import models
from flowparts.train import budgets, candidates, forests


def test_an_entry_is_a_name_or_a_mapping_with_or_without_parameters() -> None:
    entries = ["Linear", {"estimator": "Linear"}, {"estimator": "Linear", "parameters": {"max_iter": 7.0}}]
    built = candidates.build(entries, "classification", candidates.Options(seed=3))
    assert [type(each.estimator) for each in built] == [LogisticRegression] * 3
    assert [each.estimator.max_iter for each in built] == [100, 100, 7]
    assert {each.estimator.random_state for each in built} == {3}


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "at least one estimator"),
        ("Linear", r"must be a list .*, not 'Linear'"),
        ([3], "candidate 1 is 3; give the name of an estimator"),
        (["Linear", {"parameters": {}}], "candidate 2 is .*; give the name of an estimator"),
        ([{"estimator": "Linear", "params": {}}], "unknown key 'params'; did you mean 'parameters'"),
        (
            [{"estimator": "Linear", "parameters": [1]}],
            r"parameters of candidate 1 must be a mapping, not \[1\]",
        ),
        (["Linear", "Forest"], "'Forest' is unknown for classification"),
        ([{"estimator": "Linear", "parameters": {"depth": 3}}], "has no parameter 'depth'"),
    ],
    ids=["none", "text", "number", "no name", "typo", "list", "unknown", "parameter"],
)
def test_a_bad_entry_is_refused_before_anything_is_trained(entries: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        candidates.build(entries, "classification", candidates.Options())


def test_common_options_are_checked_for_every_candidate() -> None:
    options = candidates.Options(early_stopping_rounds=5)
    with pytest.raises(ValueError, match=r"LogisticRegression.* can't stop early"):
        candidates.build(["LGBM", "Linear"], "classification", options)


def test_the_only_candidate_says_why_it_fails_and_nothing_is_written(tmp_path: Path) -> None:
    broken = {"estimator": "LinearDiscriminantAnalysis", "parameters": {"n_components": 5}}
    with pytest.raises(ValueError, match="'LinearDiscriminantAnalysis' can't be trained on this table: n_c"):
        trained([broken], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_bounded_forest_says_so_in_its_log_and_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forests, "MAX_BYTES", 200_000)
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({"x": rng.random(3_000), "y": rng.random(3_000), "label": rng.integers(0, 2, 3_000)})
    forest = {"estimator": "RandomForest", "parameters": {"n_estimators": 10}}
    built = candidates.build([forest], "classification", candidates.Options())
    with caplog.at_level("INFO", "flowparts"):
        stored, _ = candidates.train_best(
            built, rows.lazy(), rows.lazy(), tmp_path / "model", label="label", task="classification"
        )
    assert "RandomForestClassifier on 3,000 rows: max_leaf_nodes=125" in caplog.text
    assert stored["parameters"] == {"n_estimators": 10, "max_leaf_nodes": 125}
    assert 0 < stored["megabytes"] < 0.4
    assert stored["candidates"][0]["megabytes"] == stored["megabytes"]


ROWS = pl.DataFrame({"x": [float(row) for row in range(60)], "label": ["a", "b", "c"] * 20})


def trained(entries: list[Any], path: Path, metric: str | None = None) -> tuple[dict[str, Any], str]:
    built = candidates.build(entries, "classification", candidates.Options())
    return candidates.train_best(
        built, ROWS.lazy(), ROWS.lazy(), path, label="label", task="classification", metric=metric
    )


# Never done in its time, however quick the machine is.
ENDLESS = {
    "estimator": "MLP",
    "parameters": {"max_iter": 10**9, "tol": 0.0, "n_iter_no_change": 10**9},
    "seconds": 0.3,
}


def test_a_candidate_that_fails_or_takes_too_long_is_left_out_and_named(tmp_path: Path) -> None:
    broken = {"estimator": "LinearDiscriminantAnalysis", "parameters": {"n_components": 5}}
    stored, page = trained([broken, "Linear", ENDLESS], tmp_path / "model")
    assert stored["estimator"] == "LogisticRegression"
    assert [each["estimator"] for each in stored["candidates"]] == ["LogisticRegression"]
    failed, slow = stored["left_out"]
    assert failed["parameters"] == {"n_components": 5}
    assert "can't be trained on this table: n_c" in failed["reason"]
    assert slow["reason"] == (
        "training and scoring on 60 rows took longer than the 0.3 s of a candidate; give it more, as in "
        "{'estimator': 'MLPClassifier', 'seconds': 0.6}"
    )
    assert "LinearDiscriminantAnalysis is left out: " in page
    assert "MLPClassifier is left out: training and scoring on 60 rows" in page
    assert "MB</th>" in page
    assert "ms for 1,000 rows</th>" in page
    assert models.metadata(tmp_path / "model")["left_out"] == stored["left_out"]


def test_without_any_candidate_left_all_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    broken = {"estimator": "LinearDiscriminantAnalysis", "parameters": {"n_components": 5}}
    with pytest.raises(ValueError, match=r"no candidate .*: LinearDisc.*: .* n_c.*; MLPClassifier: .* 0.3 s"):
        trained([broken, ENDLESS], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_candidate_without_the_metric_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scored(*_: Any) -> dict[str, float]:
        return {"accuracy": 0.5, **({"roc_auc": 0.6} if calls.pop() else {})}

    calls = [True, False]
    monkeypatch.setattr(candidates, "score", scored)
    stored, _ = trained(["Linear", "RandomForest"], tmp_path / "model")
    assert stored["estimator"] == "RandomForestClassifier"
    assert "no validation metric 'roc_auc'" in stored["left_out"][0]["reason"]


def test_a_single_candidate_has_no_limit_unless_it_says_so() -> None:
    options = candidates.Options()
    (alone,) = candidates.build(["Linear"], "regression", options)
    assert alone.seconds is None
    both = candidates.build(["Linear", {"estimator": "Linear", "seconds": 7}], "regression", options)
    assert [each.seconds for each in both] == [budgets.SECONDS, 7.0]


@pytest.mark.parametrize("seconds", [0, -1, True, "9", float("inf"), float("nan")])
def test_seconds_must_be_positive(seconds: Any) -> None:
    with pytest.raises(ValueError, match="the seconds of candidate 1 must be a number more than 0"):
        candidates.build([{"estimator": "Linear", "seconds": seconds}], "regression", candidates.Options())


def test_a_model_that_became_too_large_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "MAX_MEGABYTES", 0.05)
    stored, _ = trained(["RandomForest", "Linear"], tmp_path / "model")
    assert stored["estimator"] == "LogisticRegression"
    assert "MB of memory, more than" in stored["left_out"][0]["reason"]
