from typing import Any

import pytest

from flowparts.train import candidates, estimators
from flowparts.tune import space
from flowparts.tune.space import Dimension

NUMBER = {"type": "float", "low": 0.1, "high": 1.0}


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize(
    "name", ["Linear", "RandomForest", "ExtraTrees", "HistGradientBoosting", "LGBM", "XGB"]
)
def test_every_shipped_space_is_one_that_its_estimator_takes(name: str, task: str) -> None:
    (found,) = space.check({name: {}}, task)
    assert found.dimensions
    for place in (0, -1):
        chosen = {dimension.name: dimension.extremes()[place] for dimension in found.dimensions}
        entry = {"estimator": name, "parameters": {**found.fixed, **chosen}}
        (candidate,) = candidates.build([entry], task, candidates.Options())
        taken = candidate.estimator.get_params()
        assert {key: taken[key] for key in chosen} == chosen
    assert found.stops_early == (name in ("HistGradientBoosting", "LGBM", "XGB"))


def test_the_default_is_checked_like_any_other() -> None:
    assert [each.estimator for each in space.check(None, "regression")] == list(space.DEFAULT)


def test_a_space_of_every_kind_is_read() -> None:
    given = {
        "LGBM": {
            "n_estimators": 50.0,
            "drop_rate": {**NUMBER, "when": {"boosting_type": "dart"}},
            "num_leaves": {"type": "int", "low": 2.0, "high": 64.0, "log": True},
            "boosting_type": {"type": "categorical", "choices": ["gbdt", "dart"]},
        }
    }
    (found,) = space.check(given, "classification")
    assert found.fixed == {"n_estimators": 50.0}
    by_name = {dimension.name: dimension for dimension in found.dimensions}
    assert by_name["num_leaves"] == Dimension("num_leaves", "int", 2, 64, True)
    assert isinstance(by_name["num_leaves"].high, int)
    assert found.dimensions[-1].name == "drop_rate"
    assert by_name["drop_rate"].applies({"boosting_type": "dart"})
    assert not by_name["drop_rate"].applies({"boosting_type": "gbdt"})


def test_early_stopping_applies_to_the_estimators_with_that_option() -> None:
    for name in ("LGBM", "XGB", "HistGradientBoosting", "RandomForest", "Linear", "XGBRF"):
        able = estimators.stops_early(estimators.resolve(name, "classification"))
        try:
            estimators.build(name, "classification", early_stopping_rounds=3)
        except ValueError:
            assert not able
        else:
            assert able


BAD: dict[str, tuple[Any, str]] = {
    "no mapping": (["LGBM"], "space must be a mapping of estimators"),
    "unknown estimator": ({"LGBN": {}}, "estimator 'LGBN' is unknown"),
    "nothing shipped": ({"SVC": {}}, "there is no shipped space for 'SVC'"),
    "unknown parameter": (
        {"LGBM": {"num_leavs": NUMBER}},
        "no parameter 'num_leavs'; did you mean 'num_leaves'",
    ),
    "unknown fixed parameter": ({"Ridge": {"alpah": 1.0}}, "no parameter 'alpah'; did you mean 'alpha'"),
    "list": ({"LGBM": [NUMBER]}, "space of 'LGBM' must be a mapping"),
    "no type": (
        {"LGBM": {"num_leaves": {"low": 2, "high": 4}}},
        "has the type None; give one of: int, float",
    ),
    "unknown key": (
        {"LGBM": {"max_depth": {**NUMBER, "hihg": 4}}},
        "unknown key 'hihg'; did you mean 'high'",
    ),
    "no high": ({"LGBM": {"max_depth": {"type": "int", "low": 4}}}, "high of the range of 'max_depth'"),
    "fraction": (
        {"LGBM": {"max_depth": {"type": "int", "low": 1.5, "high": 4}}},
        "must be a whole number, not 1.5",
    ),
    "not finite": (
        {"LGBM": {"subsample": {"type": "float", "low": 0.1, "high": float("inf")}}},
        "must be a number, not inf",
    ),
    "upside down": ({"LGBM": {"subsample": {**NUMBER, "low": 2}}}, "is empty: low is 2 and high is 1"),
    "log of zero": (
        {"LGBM": {"reg_lambda": {**NUMBER, "low": 0, "log": True}}},
        "must be more than 0 for a logarithmic range",
    ),
    "log is text": ({"LGBM": {"reg_lambda": {**NUMBER, "log": "yes"}}}, "must be true or false, not 'yes'"),
    "no choices": ({"LGBM": {"boosting_type": {"type": "categorical"}}}, "needs choices"),
    "out of range": (
        {"RandomForest": {"max_features": {**NUMBER, "high": 2.5}}},
        "'max_features' .* not 2.5",
    ),
    "wrong choice": (
        {"LogisticRegression": {"solver": {"type": "categorical", "choices": ["lbfgs", "newton"]}}},
        "'solver' of LogisticRegression must be .*not 'newton'",
    ),
    "condition on nothing": (
        {"LGBM": {"drop_rate": {**NUMBER, "when": {"boosting_type": "dart"}}}},
        "names 'boosting_type', which isn't an unconditional categorical parameter .*; there are: none",
    ),
    "condition on no choice": (
        {
            "LGBM": {
                "boosting_type": {"type": "categorical", "choices": ["gbdt", "dart"]},
                "drop_rate": {**NUMBER, "when": {"boosting_type": "drat"}},
            }
        },
        "names the value 'drat', which isn't a choice of 'boosting_type': 'gbdt', 'dart'",
    ),
}


@pytest.mark.parametrize(("given", "sentence"), BAD.values(), ids=BAD)
def test_a_bad_space_gives_a_one_line_error(given: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        space.check(given, "regression" if "Ridge" in given else "classification")
    assert "\n" not in str(raised.value)


def test_a_constraint_by_names_is_fixed() -> None:
    (found,) = space.check({"LGBM": {"monotone_constraints": {"income": 1}}}, "regression")
    assert found.fixed == {"monotone_constraints": {"income": 1}}
    assert not found.dimensions
