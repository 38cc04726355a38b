"""Parameters of estimators' constructors: their names and types."""

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flowparts.train import constraints
from flowparts.util.names import hint

# Parameters that take estimators; users give names of estimators.
_NESTED = ("estimator", "final_estimator")
_NESTED_LISTS = ("estimators",)
# Parameters of XGBoost's objectives that its constructor doesn't name.
_XGBOOST_NUMBERS = ("quantile_alpha", "huber_slope", "tweedie_variance_power")


def check(cls: type, parameters: Mapping[str, Any], nested: Callable[[Any], Any]) -> dict[str, Any]:
    """Return constructor parameters converted to the types that the estimator takes.

    Args:
        cls: The estimator's class.
        parameters: By name.
        nested: Builds an estimator that a parameter takes.

    Raises:
        ValueError: A parameter is unknown, missing, of a wrong type or out of range.
    """
    signature = inspect.signature(cls).parameters
    allowed = _parameter_names(cls)
    for parameter in parameters:
        if parameter not in allowed:
            raise ValueError(
                f"estimator {cls.__name__!r} has no parameter {parameter!r}"
                f"; {hint(parameter, _listed(cls))}it has: {', '.join(_listed(cls))}"
            )
    checked = {parameter: _checked(cls, parameter, value, nested) for parameter, value in parameters.items()}
    for parameter, description in signature.items():
        required = description.default is inspect.Parameter.empty and description.kind is not (
            inspect.Parameter.VAR_KEYWORD
        )
        if required and parameter not in checked:
            what = "estimator names" if parameter in _NESTED_LISTS else "name of an estimator"
            raise ValueError(f"estimator {cls.__name__!r} needs the parameter {parameter!r}: give the {what}")
    return checked


def _checked(cls: type, parameter: str, value: Any, nested: Callable[[Any], Any]) -> Any:
    if constraints.names_columns(parameter, value):
        return constraints.checked(parameter, value)
    if parameter in _NESTED and isinstance(value, str | Mapping):
        return nested(value)
    if parameter in _NESTED_LISTS and isinstance(value, Sequence) and not isinstance(value, str):
        return [(f"{index}", nested(item)) for index, item in enumerate(value)]
    if library(cls) == "xgboost" and parameter in _XGBOOST_NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(
                f"{parameter} of estimator {cls.__name__!r} must be one number, not {value!r}: "
                "a model has one prediction for a row"
            )
        return float(value)
    if is_booster(cls):
        return _checked_by_annotation(cls, parameter, value)
    return _checked_by_constraints(cls, parameter, value)


def _checked_by_constraints(cls: type, parameter: str, value: Any) -> Any:
    """Check against the constraints that scikit-learn's estimators declare."""
    from sklearn.utils._param_validation import make_constraint

    declared = getattr(cls, "_parameter_constraints", {}).get(parameter)
    if declared is None or declared == "no_validation":
        return _whole(value)
    constraints = [make_constraint(constraint) for constraint in declared]
    candidates = [value]
    if isinstance(value, float) and value.is_integer():
        candidates.append(int(value))
    elif isinstance(value, list | dict):
        inner = _whole(value)
        # Ints inside a list may arrive as floats, and nothing that takes floats refuses ints.
        candidates = [inner, tuple(inner)] if isinstance(value, list) else [inner]
    for candidate in candidates:
        if any(constraint.is_satisfied_by(candidate) for constraint in constraints):
            return candidate
    wanted = [str(constraint) for constraint in constraints if not constraint.hidden]
    raise ValueError(
        f"parameter {parameter!r} of {cls.__name__} must be {' or '.join(wanted)}, not {value!r}"
        + (near(value, _options(constraints)) if isinstance(value, str) else "")
    )


def _checked_by_annotation(cls: type, parameter: str, value: Any) -> Any:
    """Check against the type annotations of XGBoost's and LightGBM's constructors."""
    annotation = _annotations(cls).get(parameter, Any)
    accepted = set(typing.get_args(annotation)) if _is_union(annotation) else {annotation}
    if Any in accepted:
        return _whole(value)
    simple = tuple(kind for kind in accepted if kind in (int, float, str, bool, type(None)))
    if isinstance(value, bool):
        fits = bool in simple
    elif isinstance(value, float) and value.is_integer() and float not in simple and int in simple:
        return int(value)
    elif isinstance(value, int):
        fits = int in simple or float in simple
    else:
        fits = isinstance(value, simple)
    if not fits and isinstance(value, list | dict) and len(accepted) > len(simple):
        return _whole(value)
    if not fits:
        names = sorted("None" if kind is type(None) else kind.__name__ for kind in simple)
        raise ValueError(
            f"parameter {parameter!r} of {cls.__name__} must be {' or '.join(names) or annotation}, "
            f"not {value!r}"
        )
    return value


def _whole(value: Any) -> Any:
    """Turn whole floats into ints, inside lists and dicts too."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


def _annotations(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] in ("xgboost", "lightgbm") and "__init__" in vars(base):
            found |= typing.get_type_hints(base.__init__)  # type: ignore[misc]
    return {name: kind for name, kind in found.items() if name not in ("return", "kwargs")}


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _listed(cls: type) -> list[str]:
    if is_booster(cls):
        return sorted(_annotations(cls))
    return [name for name in inspect.signature(cls).parameters if not name.startswith("_")]


def _parameter_names(cls: type) -> list[str]:
    names = _listed(cls)
    if library(cls) == "xgboost":
        return [*names, *_XGBOOST_NUMBERS]
    if library(cls) == "lightgbm":
        from lightgbm.basic import _ConfigAliases

        # LightGBM takes all training parameters, not only those of the constructor.
        aliases = _ConfigAliases._get_all_param_aliases()
        names = [
            *names,
            *sorted({name for key, known in aliases.items() for name in (key, *known)} - set(names)),
        ]
    return names


def _options(constraints: Iterable[Any]) -> list[str]:
    options = [option for constraint in constraints for option in getattr(constraint, "options", ())]
    return [option for option in options if isinstance(option, str)]


def is_booster(cls: type) -> bool:
    """Return whether an estimator is one of XGBoost's or LightGBM's."""
    return library(cls) in ("xgboost", "lightgbm")


def library(cls: type) -> str:
    """Return the top-level package that an estimator comes from."""
    return cls.__module__.partition(".")[0]


def near(word: str, known: Iterable[str]) -> str:
    """Return a hint at the names nearest to a word, after a semicolon; nothing if none is near."""
    suggestion = hint(word, known)
    return f"; {suggestion.rstrip()}" if suggestion else ""
