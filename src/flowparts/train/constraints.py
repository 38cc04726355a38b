"""Monotone and interaction constraints by column name.

Libraries take positions of features instead, and a column of categories or times has several features.
"""

from collections.abc import Mapping
from typing import Any

from flowparts.util.names import hint

_MONOTONE = ("monotone_constraints", "monotonic_cst")
_INTERACTION = ("interaction_constraints", "interaction_cst")


def names_columns(parameter: str, value: Any) -> bool:
    """Return whether a parameter is a constraint by column names: a mapping, or a list of groups."""
    if parameter in _MONOTONE:
        return isinstance(value, Mapping)
    groups = isinstance(value, list) and bool(value) and all(isinstance(group, list) for group in value)
    return parameter in _INTERACTION and groups and any(isinstance(n, str) for group in value for n in group)


def checked(parameter: str, value: Any) -> Any:
    """Return a constraint by names, with its directions as integers.

    Raises:
        ValueError: A direction isn't -1, 0 or 1, or a group holds something other than names.
    """
    if parameter in _INTERACTION:
        for group in value:
            if not group or not all(isinstance(name, str) for name in group):
                raise ValueError(f"{parameter} must be a list of lists of columns, not of {group!r}")
        return value
    for name, direction in value.items():
        if isinstance(direction, bool) or direction not in (-1, 0, 1):
            raise ValueError(
                f"{parameter} of column {name!r} must be 1 (rising), -1 (falling) or 0, not {direction!r}"
            )
    return {name: int(direction) for name, direction in value.items()}


def apply(estimator: Any, columns: Mapping[str, tuple[str, list[int]]]) -> None:
    """Replace column names by feature positions in the constraints of an estimator and of those inside it.

    Features of columns in no group form a group of their own, as in scikit-learn.

    Args:
        estimator: The estimator; changed in place.
        columns: Raw column to its type and the positions of its features.

    Raises:
        ValueError: A constraint names an unknown column, or a direction is given to one that isn't a number.
    """
    width = sum(len(places) for _, places in columns.values())
    for path, value in estimator.get_params().items():
        parameter = path.rpartition("__")[2]
        if not names_columns(parameter, value):
            continue
        named = list(value) if parameter in _MONOTONE else [name for group in value for name in group]
        for name in named:
            if name not in columns:
                raise ValueError(
                    f"{parameter} names {name!r}, which isn't a feature; {hint(name, columns)}"
                    f"features are: {', '.join(columns)}"
                )
        if parameter in _MONOTONE:
            positions: Any = tuple(_directions(parameter, value, columns, width))
        else:
            positions = [sorted(place for name in group for place in columns[name][1]) for group in value]
            rest = sorted(set(range(width)) - {place for group in positions for place in group})
            positions += [rest] if rest else []
        # XGBoost reads names of features from lists, and positions from text alone; LightGBM takes no tuple.
        xgboost = type(estimator).__module__.startswith("xgboost")
        estimator.set_params(**{path: str(positions) if xgboost else list(positions)})


def _directions(
    parameter: str, value: Mapping[str, int], columns: Mapping[str, tuple[str, list[int]]], width: int
) -> list[int]:
    directions = [0] * width
    for name, direction in value.items():
        kind, places = columns[name]
        if kind not in ("integer", "number", "boolean"):
            raise ValueError(
                f"{parameter} takes numbers and booleans; column {name!r} holds values of type {kind}"
            )
        directions[places[0]] = direction
    return directions
