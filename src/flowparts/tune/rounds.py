"""Search in rounds of steps: suggest trials, train each in a step, select the best, suggest again.

Earlier trials are read from the best model so far: `select_best` stores all candidates in its description.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flowparts.evaluate import directions
from flowparts.train import estimators
from flowparts.tune import objective
from flowparts.tune.objective import Configuration, Trial
from flowparts.tune.space import Space
from flowparts.tune.suggest import Suggester


def suggest(
    spaces: Sequence[Space], task: str, tried: Sequence[Mapping[str, Any]], trials: int, seed: int
) -> list[Configuration]:
    """Suggest the trials of the next round: each estimator's default parameters first, then by TPE.

    Args:
        spaces: The search spaces.
        task: "classification" or "regression".
        tried: Estimator (its class), parameters, metric and score of each model of earlier rounds, as
            `selection.ranking` returns them.
        trials: Number of suggestions.
        seed: Seed of the suggestions.

    Raises:
        ValueError: An option is out of range, or a model of an earlier round is of another space.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1, not {trials}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, not {seed}")
    by_class = {estimators.resolve(space.estimator, task).__name__: space for space in spaces}
    known = [_trial(number, entry, by_class) for number, entry in enumerate(tried)]
    maximizes = not tried or directions.higher_is_better(str(tried[0]["metric"]))
    suggester = Suggester(spaces, maximizes, seed)
    return [suggester.suggest(len(known) + place, known) for place in range(trials)]


def _trial(number: int, entry: Mapping[str, Any], by_class: Mapping[str, Space]) -> Trial:
    space = by_class.get(entry["estimator"])
    if space is None:
        raise ValueError(
            f"a model of an earlier round is a {entry['estimator']}, which is not in the space: "
            f"{', '.join(by_class)}; give every round the same space"
        )
    parameters = dict(entry["parameters"])
    # A trial of default parameters has chosen none.
    chosen = {each.name: parameters[each.name] for each in space.dimensions if each.name in parameters}
    configuration = Configuration(space.estimator, parameters, chosen, space.stops_early)
    return Trial(number, configuration, objective.COMPLETE, [float(entry["score"])])
