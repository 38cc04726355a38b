"""Suggest the next configuration from the trials so far: TPE (Watanabe 2023, arxiv.org/abs/2304.11127)."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flowparts.tune import objective
from flowparts.tune.objective import Configuration, Trial
from flowparts.tune.space import Dimension, Space

_ESTIMATOR = "estimator"
# Random trials before TPE's model is used: in all, and for each estimator.
_RANDOM, _RANDOM_EACH = 10, 3


class Suggester:
    """Suggests configurations, which depend only on the given trials, the seed and the trial's number.

    Args:
        spaces: The search spaces.
        maximizes: Whether a higher score is better.
        seed: Another seed gives other suggestions.
    """

    def __init__(self, spaces: Sequence[Space], maximizes: bool, seed: int):
        self._spaces, self._seed = list(spaces), seed
        self._study = _study(maximizes)
        self._shown = 0

    def suggest(self, number: int, trials: Sequence[Trial]) -> Configuration:
        """Return the next configuration. The first trial of each estimator has its default parameters.

        Args:
            number: The number of the next trial.
            trials: The finished trials to learn from: those of the last call, and further ones.
        """
        if number < len(self._spaces):
            space = self._spaces[number]
            return Configuration(space.estimator, dict(space.fixed), {}, space.stops_early)
        import numpy as np

        for trial in trials[self._shown :]:
            self._study.add_trial(_frozen(trial, self._spaces))
        self._shown = max(self._shown, len(trials))
        self._study.sampler = _sampler(
            int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0]),
            max(_RANDOM, _RANDOM_EACH * len(self._spaces)),
        )
        with _quiet():
            return self._ask()

    def _ask(self) -> Configuration:
        asked = self._study.ask()
        index = 0
        if len(self._spaces) > 1:
            index = asked.suggest_categorical(_ESTIMATOR, list(range(len(self._spaces))))
        space = self._spaces[index]
        chosen: dict[str, Any] = {}
        for dimension in space.dimensions:
            if dimension.applies(chosen):
                chosen[dimension.name] = _suggested(asked, f"{index}.{dimension.name}", dimension)
        return Configuration(space.estimator, {**space.fixed, **chosen}, chosen, space.stops_early)


def importances(space: Space, trials: Sequence[Trial], maximizes: bool, seed: int) -> dict[str, float]:
    """Return the fraction of the score's variance explained by each parameter of an estimator, descending.

    fANOVA (Hutter et al. 2014) over the complete trials; empty with fewer than two that differ.

    Args:
        space: The space of the estimator.
        trials: The trials of the study.
        maximizes: Whether a higher score is better.
        seed: Seed of the forest that fANOVA fits.
    """
    import optuna

    always = [dimension for dimension in space.dimensions if not dimension.when]
    chosen = [
        trial
        for trial in trials
        if trial.score is not None
        and trial.configuration.estimator == space.estimator
        and all(dimension.name in trial.configuration.chosen for dimension in always)
    ]
    if not always or len(chosen) < 2 or len({trial.score for trial in chosen}) < 2:
        return {}
    study = _study(maximizes)
    for trial in chosen:
        study.add_trial(_frozen(trial, [space]))
    with _quiet():
        found = optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed),
            params=[f"0.{dimension.name}" for dimension in always],
        )
    return {name.removeprefix("0."): float(value) for name, value in found.items()}


def _study(maximizes: bool) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize" if maximizes else "minimize")


def _sampler(seed: int, random_trials: int) -> Any:
    from optuna.samplers import TPESampler

    with _quiet():
        # Running trials are ignored: when they end depends on the machine.
        return TPESampler(seed=seed, group=True, constant_liar=False, n_startup_trials=random_trials)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings about experimental features of Optuna: its version is pinned to a range."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _suggested(asked: Any, name: str, dimension: Dimension) -> Any:
    if dimension.kind == "categorical":
        return json.loads(asked.suggest_categorical(name, _texts(dimension)))
    suggest = asked.suggest_int if dimension.kind == "int" else asked.suggest_float
    return suggest(name, dimension.low, dimension.high, log=dimension.log)


def _texts(dimension: Dimension) -> list[str]:
    """Return the choices as text: Optuna doesn't take lists, and treats 1 and True as equal."""
    return [json.dumps(choice, sort_keys=True) for choice in dimension.choices]


def _frozen(trial: Trial, spaces: Sequence[Space]) -> Any:
    """Convert a trial to Optuna's form; a failed one counts as worse than all others."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    index = next(
        place for place, space in enumerate(spaces) if space.estimator == trial.configuration.estimator
    )
    values: dict[str, Any] = {}
    distributions: dict[str, Any] = {}
    if len(spaces) > 1:
        values[_ESTIMATOR] = index
        distributions[_ESTIMATOR] = CategoricalDistribution(list(range(len(spaces))))
    for dimension in spaces[index].dimensions:
        if dimension.name not in trial.configuration.chosen:
            continue
        name, value = f"{index}.{dimension.name}", trial.configuration.chosen[dimension.name]
        if dimension.kind == "categorical":
            values[name] = json.dumps(value, sort_keys=True)
            distributions[name] = CategoricalDistribution(_texts(dimension))
        else:
            kind: Any = IntDistribution if dimension.kind == "int" else FloatDistribution
            values[name] = value
            distributions[name] = kind(dimension.low, dimension.high, log=dimension.log)
    complete = trial.state == objective.COMPLETE
    return create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        value=trial.score,
        params=values,
        distributions=distributions,
        intermediate_values=dict(enumerate(trial.values)) if trial.state == objective.PRUNED else {},
    )
