"""Search spaces: ranges of an estimator's parameters, shipped with flowparts or given as a mapping."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowparts.train import constraints, estimators
from flowparts.util import names

_KINDS = ("int", "float", "categorical")
_KEYS = {
    "int": ("type", "low", "high", "log", "when"),
    "float": ("type", "low", "high", "log", "when"),
    "categorical": ("type", "choices", "when"),
}


def _int(low: int, high: int) -> dict[str, Any]:
    return {"type": "int", "low": low, "high": high, "log": True}


def _float(low: float, high: float, log: bool = False) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high, "log": log}


_TREES = {
    "n_estimators": 200,
    "max_features": _float(0.1, 1.0),
    "min_samples_leaf": _int(1, 20),
}
# Boosting stops early, so the number of rounds is only a limit.
_ROUNDS = 1_000

# By the name of a family or class, in the same form as a given space.
SHIPPED: dict[str, dict[str, Any]] = {
    "LogisticRegression": {"max_iter": 1_000, "C": _float(1e-3, 1e2, log=True)},
    "Ridge": {"alpha": _float(1e-3, 1e3, log=True)},
    "RandomForest": _TREES,
    "ExtraTrees": _TREES,
    "HistGradientBoosting": {
        "max_iter": _ROUNDS,
        "learning_rate": _float(0.02, 0.3, log=True),
        "max_leaf_nodes": _int(4, 128),
        "min_samples_leaf": _int(2, 100),
        "l2_regularization": _float(1e-3, 10.0, log=True),
        "max_features": _float(0.3, 1.0),
    },
    "LGBM": {
        "n_estimators": _ROUNDS,
        "learning_rate": _float(0.02, 0.3, log=True),
        "num_leaves": _int(4, 128),
        "min_child_samples": _int(2, 100),
        "reg_lambda": _float(1e-3, 10.0, log=True),
        "colsample_bytree": _float(0.3, 1.0),
        "subsample": _float(0.5, 1.0),
        "subsample_freq": 1,
    },
    "XGB": {
        "n_estimators": _ROUNDS,
        "learning_rate": _float(0.02, 0.3, log=True),
        "max_depth": _int(2, 10),
        "min_child_weight": _float(0.1, 20.0, log=True),
        "reg_lambda": _float(1e-3, 10.0, log=True),
        "colsample_bytree": _float(0.3, 1.0),
        "subsample": _float(0.5, 1.0),
    },
}
# Estimators that are searched by default.
DEFAULT = ("Linear", "RandomForest", "LGBM", "XGB")


@dataclass(frozen=True)
class Dimension:
    """One parameter that a search chooses.

    Attributes:
        name: The parameter's name.
        kind: "int", "float" or "categorical".
        low: Minimum of a number.
        high: Maximum of a number.
        log: Whether numbers are drawn on a logarithmic scale.
        choices: Values of a categorical one.
        when: Other categorical parameter of the estimator to the values for which this one is used; empty if
            it always is.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def applies(self, chosen: Mapping[str, Any]) -> bool:
        """Return whether the parameter is used, given the values of those that it depends on."""
        return all(name in chosen and chosen[name] in values for name, values in self.when.items())

    def extremes(self) -> list[Any]:
        """Return the ends of the range, or all choices."""
        return list(self.choices) if self.kind == "categorical" else [self.low, self.high]


@dataclass(frozen=True)
class Space:
    """The search space of one estimator.

    Attributes:
        estimator: Its name, as for `estimators.resolve`.
        fixed: Parameters with the same value in every trial.
        dimensions: Parameters that the search chooses; those that others depend on come first.
        stops_early: Whether it can stop early on validation rows.
    """

    estimator: str
    fixed: Mapping[str, Any]
    dimensions: tuple[Dimension, ...]
    stops_early: bool


def check(given: Mapping[str, Any] | None, task: str) -> list[Space]:
    """Return the spaces that a mapping describes, and check every parameter; needs no data.

    Args:
        given: Name of an estimator to a mapping of its parameters; an empty one stands for the shipped space.
            A parameter is a fixed value or a range:
            `{"type": "int" or "float", "low": 1, "high": 100, "log": true}` or
            `{"type": "categorical", "choices": [...]}`. With `"when": {"booster": "dart"}` (a value or a list
            of them) it is used only with these values of a categorical parameter.
            None or empty: the shipped spaces of `DEFAULT`.
        task: "classification" or "regression".

    Raises:
        ValueError: An estimator or parameter is unknown, or a range is malformed or not accepted by the
            estimator; the message names it.
    """
    if not given:
        given = {name: {} for name in DEFAULT}
    if not isinstance(given, Mapping):
        raise ValueError(
            "space must be a mapping of estimators to their parameters, such as {'LGBM': {}}, "
            f"not {given!r}"
        )
    return [_space(str(name), parameters, task) for name, parameters in given.items()]


def _space(name: str, parameters: Any, task: str) -> Space:
    cls = estimators.resolve(name, task)
    if parameters is None or parameters == {}:
        parameters = _shipped(cls)
        if parameters is None:
            raise ValueError(
                f"there is no shipped space for {name!r}; give its parameters, or take one of: "
                f"Linear, {', '.join(key for key in SHIPPED if key not in ('LogisticRegression', 'Ridge'))}"
            )
    if not isinstance(parameters, Mapping):
        raise ValueError(
            f"the space of {name!r} must be a mapping of parameters to ranges, not {parameters!r}"
        )
    searched = {
        key: value
        for key, value in parameters.items()
        if isinstance(value, Mapping) and not constraints.names_columns(key, value)
    }
    fixed = {key: value for key, value in parameters.items() if key not in searched}
    found = [_dimension(name, key, value) for key, value in searched.items()]
    _check_conditions(name, found)
    found.sort(key=lambda dimension: bool(dimension.when))
    _check_values(cls, fixed, found, task)
    return Space(name, fixed, tuple(found), estimators.stops_early(cls))


def _shipped(cls: type) -> Mapping[str, Any] | None:
    family = cls.__name__.removesuffix("Classifier").removesuffix("Regressor")
    return SHIPPED.get(cls.__name__, SHIPPED.get(family))


def _dimension(estimator: str, name: str, given: Mapping[str, Any]) -> Dimension:
    what = f"the range of {name!r} of {estimator}"
    kind = given.get("type")
    if kind not in _KINDS:
        raise ValueError(f"{what} has the type {kind!r}; give one of: {', '.join(_KINDS)}")
    for key in given:
        if key not in _KEYS[kind]:
            raise ValueError(
                f"{what} has the unknown key {key!r}; {names.hint(str(key), _KEYS[kind])}"
                f"type {kind} takes: {', '.join(_KEYS[kind])}"
            )
    when = _when(what, given.get("when") or {})
    if kind == "categorical":
        choices = given.get("choices")
        if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
            raise ValueError(f"{what} needs choices, a list of at least one value, not {choices!r}")
        return Dimension(name, kind, choices=tuple(choices), when=when)
    low, high = (_number(what, key, given.get(key), whole=kind == "int") for key in ("low", "high"))
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"log of {what} must be true or false, not {log!r}")
    if low > high:
        raise ValueError(f"{what} is empty: low is {low:g} and high is {high:g}")
    if log and low <= 0:
        raise ValueError(f"low of {what} must be more than 0 for a logarithmic range, not {low:g}")
    return Dimension(name, kind, low, high, log, when=when)


def _number(what: str, key: str, value: Any, whole: bool) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or (whole and value != int(value)):
        raise ValueError(f"{key} of {what} must be a {'whole ' if whole else ''}number, not {value!r}")
    # JSON and YAML write whole numbers either way.
    return int(value) if whole else float(value)


def _when(what: str, given: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(given, Mapping):
        raise ValueError(f"when of {what} must be a mapping of a parameter to its values, not {given!r}")
    return {
        name: tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)
        for name, values in given.items()
    }


def _check_conditions(estimator: str, dimensions: Sequence[Dimension]) -> None:
    by_name = {dimension.name: dimension for dimension in dimensions}
    for dimension in dimensions:
        for name, values in dimension.when.items():
            other = by_name.get(name)
            if other is None or other.kind != "categorical" or other.when:
                possible = [each.name for each in dimensions if each.kind == "categorical" and not each.when]
                raise ValueError(
                    f"when of {dimension.name!r} of {estimator} names {name!r}, which isn't an unconditional "
                    f"categorical parameter of its space; there are: {', '.join(possible) or 'none'}"
                )
            unknown = [value for value in values if value not in other.choices]
            if unknown:
                raise ValueError(
                    f"when of {dimension.name!r} of {estimator} names the value {unknown[0]!r}, which isn't "
                    f"a choice of {name!r}: {', '.join(map(repr, other.choices))}"
                )


def _check_values(cls: type, fixed: Mapping[str, Any], dimensions: Sequence[Dimension], task: str) -> None:
    """Raise ValueError unless the estimator accepts the ends of each range and every choice."""
    first = {**fixed, **{dimension.name: dimension.extremes()[0] for dimension in dimensions}}
    estimators.check_parameters(cls, first, task)
    for dimension in dimensions:
        for value in dimension.extremes()[1:]:
            estimators.check_parameters(cls, {**first, dimension.name: value}, task)


def as_text(spaces: Sequence[Space]) -> str:
    """Return the spaces as text, for the identity of a study."""
    return json.dumps(
        [
            [each.estimator, dict(each.fixed), [repr(each_dimension) for each_dimension in each.dimensions]]
            for each in spaces
        ],
        sort_keys=True,
        default=str,
    )
