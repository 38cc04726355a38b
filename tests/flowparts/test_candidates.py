from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from flowparts import candidates, forests


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
def test_a_bad_entry_is_answered_before_anything_is_trained(entries: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        candidates.build(entries, "classification", candidates.Options())


def test_what_all_have_in_common_is_checked_for_each() -> None:
    options = candidates.Options(early_stopping_rounds=5)
    with pytest.raises(ValueError, match=r"LogisticRegression.* can't stop early"):
        candidates.build(["LGBM", "Linear"], "classification", options)


def test_a_failing_candidate_is_named_and_nothing_is_written(tmp_path: Any) -> None:
    rows = pl.DataFrame({"x": [float(row) for row in range(60)], "label": ["a", "b", "c"] * 20})
    broken = [{"estimator": "LinearDiscriminantAnalysis", "parameters": {"n_components": 5}}]
    built = candidates.build(["Linear", *broken], "classification", candidates.Options())
    with pytest.raises(ValueError, match="'LinearDiscriminantAnalysis' can't be trained on this table: n_c"):
        candidates.train_best(
            built, rows.lazy(), rows.lazy(), tmp_path / "model", label="label", task="classification"
        )
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
