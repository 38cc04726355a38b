"""Weighted ensembles: members are compared on rows held out of their training, weighted, and trained again.

The weights are found by greedy selection with replacement (Caruana et al. 2004,
https://doi.org/10.1145/1015330.1015432) on the predictions for the held-out rows. Members with a weight are
then trained on all rows, and become one estimator.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flowparts.evaluate import directions, metrics
from flowparts.models import fitted_estimators, mlmodel
from flowparts.prepare.preprocess import Preprocessor
from flowparts.tables import casts
from flowparts.train import budgets, calibration, candidates, estimators, failures, trainers
from flowparts.train.calibration import Calibration, Threshold
from flowparts.train.candidates import Trained
from flowparts.train.held_out import Floats, HeldOut
from flowparts.train.portfolio import PORTFOLIO
from flowparts.train.problem import Compared, Problem
from flowparts.train.stages import Stage

# Picks of the greedy selection: weights are multiples of 1 / PICKS.
PICKS = 20
# Maximum number of rows that weights are chosen on, drawn at random.
_MOST_ROWS = 50_000
_FEW = 1_000

_log = logging.getLogger("flowparts")


@dataclass(frozen=True)
class Member:
    """An estimator that was trained and scored.

    Attributes:
        name: Class name of the estimator.
        entry: Its name and parameters, as `candidates.build` takes them.
        rounds: Of each stage, the rounds kept by early stopping, by the parameter's name.
        predicted: For the held-out rows: probabilities (rows, classes), or numbers (rows).
        metrics: All metrics on the held-out rows.
        interval: The 95 % interval of the metric, if it has one.
        seconds: Training, summed over the stages.
        milliseconds: Predicting 1,000 rows.
        megabytes: In memory.
        weight: Its weight in the ensemble, 0 to 1.
    """

    name: str
    entry: dict[str, Any]
    rounds: list[dict[str, int]]
    predicted: Floats = field(repr=False)
    metrics: dict[str, float]
    interval: tuple[float, float] | None
    seconds: float
    milliseconds: float
    megabytes: float
    weight: float = 0.0

    def final_entry(self) -> dict[str, Any]:
        """Return the entry to train on all rows, with the mean of the rounds kept by early stopping."""
        return {
            **self.entry,
            "parameters": estimators.with_rounds(self.entry["parameters"], self.rounds),
        }


@dataclass(frozen=True)
class Ensemble:
    """A fitted ensemble.

    Attributes:
        trained: The final estimator, with its facts; validation metrics and predictions are those of the
            held-out rows.
        learned: The preprocessing of its features.
        rows: The rows that it was trained on.
        held_out: The rows that members were compared on.
        members: All members that could be trained, the best first, with their weights.
        left_out: `estimator`, `parameters` and `reason` of the others.
        mean: The weighted mean of the members' predictions for the held-out rows.
        predicted: The same, calibrated.
        calibration: How its probabilities are calibrated, if they are.
        threshold: From which probability the positive class is predicted; None for the more probable class.
        facts: What `trainers.examined` found in the training rows.
    """

    trained: Trained
    learned: Preprocessor
    rows: estimators.Examples
    held_out: HeldOut
    members: list[Member]
    left_out: list[dict[str, Any]]
    mean: Floats = field(repr=False)
    predicted: Floats = field(repr=False)
    calibration: Calibration | None
    threshold: Threshold | None
    facts: dict[str, Any]

    def save(self, path: str | Path, complete: Callable[[Path], None] | None = None) -> mlmodel.Card:
        """Write the model directory; return its metadata. `complete` is as for `models.save`."""
        return self.trained.save(path, self.learned, self.rows, trainers.annotated(self.facts, complete))


def fit(
    rows: Compared,
    entries: Sequence[Any] = (),
    *,
    calibrate: Sequence[str] = calibration.METHODS,
    threshold: Mapping[str, Any] | None = None,
    max_seconds: float = 0.0,
    picks: int = PICKS,
    known: Sequence[Member] = (),
) -> Ensemble:
    """Try members, find their weights, train those that have one on all rows, and calibrate the mean.

    Members are trained on the training rows and compared on the validation rows, or cross-validated. Weights,
    calibration and threshold are learned from their predictions for these held-out rows. The final estimators
    are trained on training and validation rows together, boosted ones for as many rounds as early stopping
    kept on average.

    Args:
        rows: What members are compared on; its problem is checked.
        entries: The members, as `candidates.build` takes them; `PORTFOLIO` if empty.
        calibrate: Methods to calibrate the probabilities of a classification by; none if empty.
        threshold: How to choose a decision threshold, as `calibration.choose_threshold` takes it.
        max_seconds: Seconds after which no further member is tried; 0 for no limit.
        picks: Picks of the greedy selection; 1 for the best member alone.
        known: Members that were trained and scored on these rows before; such entries aren't trained again.

    Raises:
        ValueError: The rows make a threshold or calibration impossible, or no member can be trained on them.
    """
    problem, is_crossed = rows.problem, rows.validation is None
    divided, held_out = rows.held_out_stages, HeldOut.of(rows)
    if threshold and len(held_out.classes or []) != 2:
        raise ValueError(
            f"a threshold decides between two classes, and label {problem.label!r} has "
            f"{len(held_out.classes or [])}; leave out threshold"
        )
    if threshold or (calibrate and held_out.classes is not None):
        held_out.require_two_classes()
    tried, left_out = try_members(entries or PORTFOLIO, divided, problem, held_out, max_seconds, known)
    fingerprint = divided[0].learned.training_fingerprint
    # The features of the training rows are no longer needed.
    del divided
    members = weighted(tried, held_out, picks)
    used = [each for each in members if each.weight]
    mean: Floats = np.sum([each.weight * each.predicted for each in used], axis=0)
    final, calibrated, chosen = mean, None, None
    if calibrate and held_out.classes is not None:
        calibrated = calibration.calibrate(mean, held_out.truth, held_out.parts, held_out.weights, calibrate)
        final = calibrated.probabilities
    if threshold:
        place = held_out.positive_index
        chosen = calibration.choose_threshold(
            final[:, place], held_out.truth == place, threshold, place, held_out.weights
        )
    whole = rows.table if rows.validation is None else casts.stacked(rows.table, rows.validation)
    learned, examples = candidates.learn(
        whole, problem.label, problem.task, problem.exclude_columns, problem.options
    )
    # Scores on rows that a model has seen are of no use, so a few are enough for its latency.
    few = estimators.Examples(examples.matrix[:_FEW], examples.truth.head(_FEW), None)
    parts = [
        candidates.train(_candidate(each.final_entry(), problem, stops=False), learned, examples, few)
        for each in used
    ]
    megabytes = sum(each.facts["megabytes"] for each in parts)
    budgets.require_size(megabytes)
    estimator = combine([each.estimator for each in parts], [each.weight for each in used], learned.classes)
    for adjustment in (calibrated, chosen):
        estimator = adjustment.apply(estimator) if adjustment else estimator
    described = {
        **parts[0].facts,
        "estimator": type(fitted_estimators.bare(estimator)).__name__,
        "parameters": parts[0].facts["parameters"] if len(parts) == 1 else {},
        "megabytes": round(megabytes, 1),
        "validation": held_out.measure(final, chosen),
        "members": [
            {"estimator": each.name, "weight": each.weight, "parameters": part.facts["parameters"]}
            for each, part in zip(used, parts, strict=True)
        ],
        # What a fingerprint names is the table that a pipeline knows, not both together.
        **({"validation_folds": len(rows.stages)} if is_crossed else {"training_fingerprint": fingerprint}),
        **({"calibration": calibrated.method} if calibrated else {}),
        **({"threshold": chosen.value, "threshold_rule": chosen.rule} if chosen else {}),
    }
    seconds = sum(each.seconds for each in parts)
    milliseconds = candidates.milliseconds(estimator, examples.matrix, learned.classes)
    trained = Trained(estimator, described, seconds, milliseconds, held_out.table(final, chosen))
    return Ensemble(
        trained, learned, examples, held_out, members, left_out, mean, final, calibrated, chosen, rows.facts
    )


def check(
    problem: Problem,
    entries: Sequence[Any],
    threshold: Mapping[str, Any] | None,
    max_seconds: float,
    validated: bool,
) -> None:
    """Check the arguments of `fit` without data; raise ValueError if they are wrong."""
    problem.check(validated)
    if not (math.isfinite(max_seconds) and max_seconds >= 0):
        raise ValueError(f"max_seconds must be a number of at least 0, not {max_seconds:g}")
    if threshold:
        calibration.check_threshold(threshold, problem.task)
    options = replace(problem.options, early_stopping_rounds=None)
    for built in candidates.build(entries or PORTFOLIO, problem.task, options):
        if problem.options.early_stopping_rounds and estimators.stops_early(type(built.estimator)):
            candidates.build([{"estimator": built.name}], problem.task, problem.options)


def try_members(
    entries: Sequence[Any],
    divided: Sequence[Stage],
    problem: Problem,
    held_out: HeldOut,
    max_seconds: float = 0.0,
    known: Sequence[Member] = (),
) -> tuple[list[Member], list[dict[str, Any]]]:
    """Train members on each stage; return the trained ones, and facts about those that failed.

    Args:
        entries: As `candidates.build` takes them.
        divided: The stages; all of their validation rows are `held_out`.
        problem: What is learned.
        held_out: What the members are compared on.
        max_seconds: Seconds after which no further member is tried, but for the first; 0 for no limit.
        known: Members that were trained and scored on these rows before.

    Raises:
        ValueError: None could be trained; the message groups the causes.
    """
    started = time.monotonic()
    members: list[Member] = []
    left_out: list[dict[str, Any]] = []
    before = {_key(each.name, each.entry["parameters"]): each for each in known}
    for built in candidates.build(
        entries, problem.task, replace(problem.options, early_stopping_rounds=None)
    ):
        if same := before.get(_key(built.name, built.parameters)):
            members.append(same)
            continue
        entry = {"estimator": built.name, "parameters": dict(built.parameters), "seconds": built.seconds}
        try:
            if members and max_seconds and time.monotonic() - started >= max_seconds:
                raise ValueError(f"max_seconds={max_seconds:g} had passed before its turn")
            members.append(_try(entry, divided, problem, held_out))
        except (ValueError, MemoryError) as error:
            reason = str(error) or "it ran out of memory"
            left_out.append({"estimator": built.name, "parameters": dict(built.parameters), "reason": reason})
            _log.warning("%s is left out: %s", built.name, reason)
            continue
        last = members[-1]
        _log.info(
            "%s: %s %.6g in %.1f s", last.name, held_out.metric, last.metrics[held_out.metric], last.seconds
        )
    if not members:
        reasons = failures.in_short((each["estimator"], each["reason"]) for each in left_out)
        raise ValueError(f"no member can be trained on these rows: {reasons}")
    return members, left_out


def _try(entry: dict[str, Any], divided: Sequence[Stage], problem: Problem, held_out: HeldOut) -> Member:
    rounds, found = [], []
    for stage in divided:
        candidate = _candidate(entry, problem)
        trained = candidates.train(candidate, stage.learned, stage.train, stage.validation)
        if candidate.options.early_stopping_rounds:
            rounds.append(estimators.rounds(trained.estimator))
        if held_out.classes is not None and not hasattr(trained.estimator, "predict_proba"):
            raise ValueError("it has no probabilities, which an ensemble takes the mean of")
        found.append(replace(trained, estimator=None))
    plain = {name: value for name, value in entry.items() if name != "seconds"}
    return member(plain, found, rounds, held_out)


def member(
    entry: dict[str, Any], found: Sequence[Trained], rounds: Sequence[dict[str, int]], held_out: HeldOut
) -> Member:
    """Return a member that was trained on each stage.

    Args:
        entry: Its estimator and parameters, as `candidates.build` takes them.
        found: What was trained on each stage; the estimators aren't needed.
        rounds: Of each stage, the rounds kept by early stopping; none without it.
        held_out: The validation rows of all stages.

    Raises:
        ValueError: It lacks the metric on these rows.
    """
    predicted = np.concatenate([_array(each.predictions, held_out.classes) for each in found])
    measured = held_out.measure(predicted)
    if held_out.metric not in measured:
        raise ValueError(f"it has no {held_out.metric} on the held-out rows")
    return Member(
        name=found[0].facts["estimator"],
        entry=entry,
        rounds=list(rounds),
        predicted=predicted,
        metrics=measured,
        interval=held_out.interval(predicted),
        seconds=sum(each.seconds for each in found),
        milliseconds=max(each.milliseconds for each in found),
        megabytes=max(each.facts["megabytes"] for each in found),
    )


def _key(name: str, parameters: Mapping[str, Any]) -> str:
    return json.dumps([name, parameters], sort_keys=True, default=str)


def weighted(members: Sequence[Member], held_out: HeldOut, picks: int = PICKS) -> list[Member]:
    """Return members with their weights by greedy selection, the best member first."""
    sign = 1 if directions.higher_is_better(held_out.metric) else -1
    ranked = sorted(members, key=lambda each: -sign * each.metrics[held_out.metric])
    rows = len(held_out.labels)
    some = np.arange(rows)
    if rows > _MOST_ROWS:
        some = np.sort(np.random.default_rng(0).choice(rows, _MOST_ROWS, replace=False))
    measure = metrics.measured(
        held_out.task,
        held_out.metric,
        held_out.truth[some],
        len(held_out.classes or []),
        held_out.positive_index,
    )
    weights = select([each.predicted[some] for each in ranked], lambda found: sign * measure(found), picks)
    if weights.count(0.0) == len(weights) - 1:
        # A single member must be the best one on all rows, not only on those drawn.
        weights = [1.0, *[0.0] * (len(weights) - 1)]
    return [replace(each, weight=weight) for each, weight in zip(ranked, weights, strict=True)]


def select(
    predicted: Sequence[Floats], measure: Callable[[Floats], float], picks: int = PICKS
) -> list[float]:
    """Return weights that sum to 1: the share of each member among the picks of a greedy selection.

    Each pick is the member, picked before or not, that makes the mean of the picks best; the first of equals.
    Only the picks up to the best mean count, so the result is never worse than the best member.

    Args:
        predicted: Predictions of each member for the same rows.
        measure: Scores a mean of predictions; higher is better, NaN is worst.
        picks: Number of picks.
    """
    counts = np.zeros(len(predicted))
    total = np.zeros_like(predicted[0])
    best, kept = -math.inf, counts
    for size in range(1, picks + 1):
        scores = [measure((total + each) / size) for each in predicted]
        scores = [-math.inf if math.isnan(score) else score for score in scores]
        pick = int(np.argmax(scores))
        counts = counts.copy()
        counts[pick] += 1
        total = total + predicted[pick]
        if scores[pick] > best:
            best, kept = scores[pick], counts
    if not kept.any():
        kept = np.eye(len(predicted))[0]
    return [float(weight) for weight in kept / kept.sum()]


def combine(fitted: Sequence[Any], weights: Sequence[float], classes: Sequence[Any] | None) -> Any:
    """Return fitted estimators as one: the weighted mean of their probabilities or numbers."""
    from sklearn.ensemble import VotingClassifier, VotingRegressor
    from sklearn.preprocessing import LabelEncoder
    from sklearn.utils import Bunch

    if len(fitted) == 1:
        return fitted[0]
    named = [(str(place), each) for place, each in enumerate(fitted)]
    shares = np.array(weights, dtype=float)
    if classes is None:
        mean: Any = VotingRegressor(named, weights=shares)
    else:
        mean = VotingClassifier(named, voting="soft", weights=shares, flatten_transform=False)
        mean.le_ = LabelEncoder().fit(np.asarray(fitted[0].classes_))
        mean.classes_ = mean.le_.classes_
    # They are already trained.
    mean.estimators_ = list(fitted)
    mean.named_estimators_ = Bunch(**dict(named))
    return mean


def _candidate(entry: Mapping[str, Any], problem: Problem, stops: bool = True) -> candidates.Candidate:
    cls = estimators.resolve(entry["estimator"], problem.task)
    options = problem.options
    if not (stops and estimators.stops_early(cls)):
        options = replace(options, early_stopping_rounds=None)
    return candidates.build([entry], problem.task, options)[0]


def _array(predictions: pl.DataFrame, classes: Sequence[Any] | None) -> Floats:
    if classes is None:
        return predictions["prediction"].to_numpy()
    return predictions.select(f"probability_{value}" for value in classes).to_numpy()
