import math
import random
import re
from typing import Any

import pytest

from flowparts.tune import flat_space, space
from flowparts.tune.flat_space import Parameter

GIVEN = {
    "Ridge": {"alpha": {"type": "float", "low": 1e-3, "high": 1e3, "log": True}},
    "LGBM": {
        "n_estimators": 100,
        "num_leaves": {"type": "int", "low": 2, "high": 64},
        "boosting_type": {"type": "categorical", "choices": ["gbdt", "dart"]},
        "drop_rate": {"type": "float", "low": 0, "high": 1, "when": {"boosting_type": "dart"}},
        "min_child_samples": {"type": "int", "low": 5, "high": 5},
        "max_depth": {"type": "categorical", "choices": [-1, 3, 5]},
    },
}
SPACES = space.check(GIVEN, "regression")


def drawn(parameter: Parameter, seed: int) -> str:
    draws = random.Random(f"{parameter.name} {seed}")
    if parameter.values:
        return draws.choice(parameter.values)
    dimension = parameter.dimension
    assert dimension
    return repr(draws.uniform(dimension.low, dimension.high))


def test_names_and_values_are_plain_and_what_leaves_no_choice_is_left_out() -> None:
    parameters = flat_space.flat(SPACES)
    assert [each.name for each in parameters] == [
        "estimator",
        "ridge-alpha",
        "lgbm-num-leaves",
        "lgbm-boosting-type",
        "lgbm-max-depth",
        "lgbm-drop-rate",
    ]
    assert parameters[0].values == ("Ridge", "LGBM")
    assert parameters[4].values == ("-1", "3", "5")
    (alone,) = flat_space.flat(SPACES[:1])
    assert alone.name == "alpha"


@pytest.mark.parametrize(
    "choices", [[None, "None"], [1, True], ["a b", "c"], ['say "x"', "\\"], [[1], [2, 3]]]
)
def test_values_that_are_ambiguous_or_not_plain_go_by_their_places(choices: list[Any]) -> None:
    found = flat_space._labels(choices)
    assert len(set(found)) == len(choices)
    assert all(re.fullmatch(r"[\w.+-]+", each) for each in found)


def test_long_and_equal_names_get_numbers() -> None:
    long = space.Dimension("a_parameter_of_a_name_of_more_than_forty_characters", "float", 0, 1)
    clash = [space.Dimension("a_b", "float", 0, 1), space.Dimension("a__b", "float", 0, 1)]
    names = [each.name for each in flat_space.flat([space.Space("X", {}, (long, *clash), False)])]
    assert len(set(names)) == 3
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name) for name in names)


@pytest.mark.parametrize("seed", range(20))
def test_a_configuration_holds_what_applies_and_nothing_else(seed: int) -> None:
    assigned = {each.name: drawn(each, seed) for each in flat_space.flat(SPACES)}
    found = flat_space.configuration(SPACES, assigned)
    assert found.estimator == assigned["estimator"]
    if found.estimator == "Ridge":
        assert found.chosen == {"alpha": float(assigned["ridge-alpha"])}
        return
    expected = {
        "num_leaves": round(float(assigned["lgbm-num-leaves"])),
        "boosting_type": assigned["lgbm-boosting-type"],
        "max_depth": int(assigned["lgbm-max-depth"]),
        "min_child_samples": 5,
    }
    if assigned["lgbm-boosting-type"] == "dart":
        expected["drop_rate"] = float(assigned["lgbm-drop-rate"])
    assert found.chosen == expected
    assert found.parameters == {"n_estimators": 100, **expected}
    assert all(type(found.chosen[name]) is int for name in ("num_leaves", "max_depth"))


def test_the_rounding_of_a_logarithm_stays_inside_the_range() -> None:
    found = flat_space.configuration(SPACES[:1], {"alpha": repr(math.exp(math.log(1e3)))})
    assert found.chosen == {"alpha": pytest.approx(1e3)}
    assert found.chosen["alpha"] <= 1e3


@pytest.mark.parametrize("value", ["nan", "", "1e9", "unavailable", None])
def test_a_value_that_is_not_a_choice_is_named(value: str | None) -> None:
    with pytest.raises(
        ValueError, match=r"the tuner gave .* for alpha, which isn't a number from 0.001 to 1000"
    ):
        flat_space.configuration(SPACES[:1], {} if value is None else {"alpha": value})
    with pytest.raises(ValueError, match=r"gave 'SVM' for estimator, which isn't one of: Ridge, LGBM"):
        flat_space.configuration(SPACES, {"estimator": "SVM"})


def test_a_space_without_a_choice_is_refused() -> None:
    fixed = space.check({"Ridge": {"alpha": 1.0}}, "regression")
    with pytest.raises(ValueError, match="the space of 'Ridge' leaves nothing to choose; give at least one"):
        flat_space.flat(fixed)
