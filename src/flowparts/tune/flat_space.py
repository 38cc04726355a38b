"""Convert a search space to a flat list of parameters with text values, for tuners of other platforms.

Katib supports neither conditions nor lists as values, and pastes values into JSON, so names and values are
plain. The value of a parameter is ignored if its estimator wasn't chosen or its condition isn't met. That
adds noise for the tuner; a single categorical parameter of all combinations would lose the ranges.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowparts.tune.objective import FAILED, Configuration, Trial
from flowparts.tune.space import Dimension, Space

ESTIMATOR = "estimator"

# Katib's limit, the lowest of all.
_MOST_CHARACTERS = 40
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
_PLAIN = re.compile(r"[\w.+-]{1,40}", re.ASCII)


@dataclass(frozen=True)
class Parameter:
    """A parameter of the flat list.

    Attributes:
        name: Its name: at most 40 of a-z, 0-9 and hyphen, starting with a letter.
        space: Index of its space; -1 for the choice of the estimator.
        dimension: Its dimension in that space.
        values: Text of each choice of a categorical one, in order; empty for a number.
    """

    name: str
    space: int = -1
    dimension: Dimension | None = None
    values: tuple[str, ...] = ()


def flat(spaces: Sequence[Space]) -> list[Parameter]:
    """Return the parameters for the tuner, without those that leave no choice.

    Raises:
        ValueError: There is nothing to choose.
    """
    parameters = []
    if len(spaces) > 1:
        parameters.append(Parameter(ESTIMATOR, values=_labels([space.estimator for space in spaces])))
    parameters += [
        Parameter(name, place, dimension, _labels(dimension.choices))
        for name, place, dimension in _named(spaces)
        if len(set(map(repr, dimension.extremes()))) > 1
    ]
    if not parameters:
        raise ValueError(
            f"the space of {spaces[0].estimator!r} leaves nothing to choose; give at least one range, such "
            "as {'type': 'float', 'low': 0.01, 'high': 1}, or train it with train_sklearn"
        )
    return parameters


def configuration(spaces: Sequence[Space], assigned: Mapping[str, str]) -> Configuration:
    """Return the configuration that a tuner has chosen.

    Args:
        spaces: The search spaces.
        assigned: Parameter name to value, as text.

    Raises:
        ValueError: A value is missing or outside the space.
    """
    parameters = {(each.space, each.dimension.name): each for each in flat(spaces) if each.dimension}
    place = 0
    if len(spaces) > 1:
        names = _labels([space.estimator for space in spaces])
        place = _place(ESTIMATOR, names, assigned)
    space, chosen = spaces[place], dict[str, Any]()
    for dimension in space.dimensions:
        if not dimension.applies(chosen):
            continue
        parameter = parameters.get((place, dimension.name))
        if parameter is None:
            chosen[dimension.name] = dimension.extremes()[0]
        elif parameter.values:
            chosen[dimension.name] = dimension.choices[_place(parameter.name, parameter.values, assigned)]
        else:
            chosen[dimension.name] = _number(parameter.name, dimension, assigned)
    return Configuration(space.estimator, {**space.fixed, **chosen}, chosen, space.stops_early)


def attempted(
    spaces: Sequence[Space],
    assigned: Mapping[str, str],
    number: int,
    run: Callable[[Configuration], Trial],
) -> Trial:
    """Return the trial of the configuration that a tuner has chosen; a failed one if it can't be read.

    Args:
        spaces: The search spaces.
        assigned: Parameter name to value, as text.
        number: The trial's number.
        run: Takes the configuration and returns its trial.
    """
    try:
        chosen = configuration(spaces, assigned)
    except ValueError as error:
        return Trial(number, Configuration("unknown", {}), FAILED, [], reason=str(error))
    return run(chosen)


def _named(spaces: Sequence[Space]) -> Iterator[tuple[str, int, Dimension]]:
    taken = {ESTIMATOR}
    for place, space in enumerate(spaces):
        for dimension in space.dimensions:
            whole = dimension.name if len(spaces) == 1 else f"{space.estimator}-{dimension.name}"
            name = _NOT_IN_NAMES.sub("-", whole.lower()).strip("-")
            if len(name) > _MOST_CHARACTERS or name in taken or not name[:1].isalpha():
                name = f"parameter-{len(taken)}"
            taken.add(name)
            yield name, place, dimension


def _labels(choices: Sequence[Any]) -> tuple[str, ...]:
    """Return the choices as text, or their indexes if texts are ambiguous or have other characters."""
    texts = [str(choice) for choice in choices]
    is_plain = len(set(texts)) == len(texts) and all(map(_PLAIN.fullmatch, texts))
    return tuple(texts) if is_plain else tuple(map(str, range(len(texts))))


def _place(name: str, values: Sequence[str], assigned: Mapping[str, str]) -> int:
    if assigned.get(name) not in values:
        raise ValueError(
            f"the tuner gave {assigned.get(name)!r} for {name}, which isn't one of: {', '.join(values)}"
        )
    return values.index(assigned[name])


def _number(name: str, dimension: Dimension, assigned: Mapping[str, str]) -> float:
    try:
        value = float(assigned[name])
        # Rounding of a logarithm may move a value out of its range.
        slack = 1e-6 * max(abs(dimension.low), abs(dimension.high))
        if not dimension.low - slack <= value <= dimension.high + slack:
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(
            f"the tuner gave {assigned.get(name)!r} for {name}, which isn't a number "
            f"from {dimension.low:g} to {dimension.high:g}"
        ) from None
    value = min(max(value, dimension.low), dimension.high)
    return round(value) if dimension.kind == "int" else value
