"""Train and score one configuration, an estimator with its parameters, in stages.

A stage is a fold of a cross-validation, or a fraction of the training rows scored on the validation table. A
trial that is worse than most at a stage is pruned: asynchronous successive halving (Li et al. 2020,
https://arxiv.org/abs/1810.05934) with the folds or rows as the resource.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flowparts.evaluate import directions
from flowparts.train import candidates, estimators
from flowparts.train.candidates import Candidate, Options, Trained
from flowparts.train.stages import Stage

STATES = COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"

# Of the trials that reached a stage, one in this many continues.
REDUCTION = 3
# Trials at a stage before pruning begins: with fewer, the best of them is chance.
_FIRST = 5


@dataclass(frozen=True)
class Configuration:
    """An estimator and its parameters.

    Attributes:
        estimator: Its name in the search space.
        parameters: Parameters of its constructor.
        chosen: Those of them that the search chose.
        stops_early: Whether it stops early on the validation rows.
    """

    estimator: str
    parameters: dict[str, Any]
    chosen: dict[str, Any] = field(default_factory=dict)
    stops_early: bool = False


@dataclass(frozen=True)
class Trial:
    """A configuration that was tried.

    Attributes:
        number: Its number in the study, from 0.
        configuration: The configuration.
        state: "complete", "pruned" or "failed".
        values: The metric at each stage reached; of a cross-validation, the mean so far.
        metrics: All metrics of a complete trial; of a cross-validation, their means.
        rounds: Of each fold, the rounds kept by early stopping, by the parameter's name.
        reason: Why it failed.
        seconds: Its duration.
        elapsed: Seconds from the start of the study to the end of the trial.
        trained: Of a complete trial, what was trained on each fold, or on all rows, without the estimators;
            empty if it was read from a journal, or isn't among the best (see `study.run`).
    """

    number: int
    configuration: Configuration
    state: str
    values: list[float]
    metrics: dict[str, float] = field(default_factory=dict)
    rounds: list[dict[str, int]] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0
    elapsed: float = 0.0
    trained: list[Trained] = field(default_factory=list, repr=False, compare=False)

    @property
    def score(self) -> float | None:
        """The metric of a complete trial."""
        return self.values[-1] if self.state == COMPLETE else None

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold and `from_dict` takes: all but `trained`."""
        stored = asdict(replace(self, trained=[]))
        del stored["trained"]
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Trial":
        """Return the trial that `to_dict` described."""
        return cls(**{**stored, "configuration": Configuration(**stored["configuration"])})


@dataclass(frozen=True)
class Objective:
    """How the trials of a study are trained and scored.

    Attributes:
        task: "classification" or "regression".
        metric: What is optimized.
        options: Options of all trials.
        stages: The rows that each is trained and scored on, in order.
        folds: Whether the stages are folds, whose mean is the score; otherwise the last stage is.
        positive: The positive one of two classes, the same at every stage.
    """

    task: str
    metric: str
    options: Options
    stages: Sequence[Stage]
    folds: bool
    positive: Any = None

    @property
    def maximizes(self) -> bool:
        """Whether a higher metric is better."""
        return directions.higher_is_better(self.metric)

    def candidate(self, configuration: Configuration, seconds: float | None = None) -> Candidate:
        """Return the untrained estimator of a configuration.

        Raises:
            ValueError: The parameters contradict one another.
        """
        options = self.options
        if not configuration.stops_early:
            options = replace(options, early_stopping_rounds=None)
        entry: dict[str, Any] = {
            "estimator": configuration.estimator,
            "parameters": configuration.parameters,
        }
        if seconds is not None:
            entry["seconds"] = seconds
        return candidates.build([entry], self.task, options)[0]

    def evaluate(
        self, number: int, configuration: Configuration, earlier: Sequence[Trial], seconds: float
    ) -> Trial:
        """Train and score a configuration stage by stage, until it is complete or pruned.

        Args:
            number: The trial's number.
            configuration: The configuration to try.
            earlier: The trials that it is compared with; if there are none, it isn't pruned.
            seconds: Limit for all stages.
        """
        started = time.monotonic()
        values: list[float] = []
        found: list[Trained] = []
        rounds: list[dict[str, int]] = []

        def ended(state: str, reason: str = "", **more: Any) -> Trial:
            spent = round(time.monotonic() - started, 3)
            return Trial(
                number, configuration, state, values, rounds=rounds, reason=reason, seconds=spent, **more
            )

        for place, stage in enumerate(self.stages):
            left = seconds - (time.monotonic() - started)
            if left <= 0:
                return ended(FAILED, f"took longer than {seconds:.4g} s")
            try:
                candidate = self.candidate(configuration, left)
                trained = candidates.train(
                    candidate, stage.learned, stage.train, stage.validation, self.positive
                )
            except (ValueError, MemoryError) as error:
                late = time.monotonic() - started >= seconds
                reason = f"took longer than {seconds:.4g} s" if late else str(error) or "it ran out of memory"
                return ended(FAILED, reason)
            if candidate.options.early_stopping_rounds:
                rounds.append(estimators.rounds(trained.estimator))
            if not self.folds:
                found.clear()
            found.append(replace(trained, estimator=None))
            scored = [each.facts["validation"] for each in found]
            value = sum(each.get(self.metric, math.nan) for each in scored) / len(scored)
            if not math.isfinite(value):
                return ended(FAILED, f"has no {self.metric} on the validation rows")
            values.append(value)
            if self._is_pruned(place, value, earlier):
                return ended(PRUNED)
        shared = set(scored[0]).intersection(*scored)
        means = {
            name: sum(each[name] for each in scored) / len(scored) for name in scored[-1] if name in shared
        }
        return ended(COMPLETE, metrics=means, trained=found)

    def _is_pruned(self, place: int, value: float, earlier: Sequence[Trial]) -> bool:
        # Folds count one each; every larger fraction of the rows is three times the one before.
        is_rung = place + 1 in (1, REDUCTION, REDUCTION**2) if self.folds else True
        if not earlier or not is_rung or place == len(self.stages) - 1:
            return False
        others = [trial.values[place] for trial in earlier if len(trial.values) > place]
        if len(others) < _FIRST:
            return False
        better = sum(other > value if self.maximizes else other < value for other in others)
        return better >= math.ceil((len(others) + 1) / REDUCTION)
