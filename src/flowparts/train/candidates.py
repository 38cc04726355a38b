"""Train candidate estimators one after another on the same features, and keep the best."""

import logging
import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import models
from flowparts.evaluate import positives
from flowparts.evaluate.metrics import score
from flowparts.models import fitted_estimators, mlmodel
from flowparts.prepare import preprocess
from flowparts.prepare.preprocess import Preprocessor
from flowparts.train import budgets, estimators, failures, forests, selection
from flowparts.util import lineage
from flowparts.util.names import hint

_log = logging.getLogger("flowparts")

_KEYS = ("estimator", "parameters", "seconds")
# Candidates are scored in chunks, so that a time limit can interrupt them in between.
_SCORED_AT_ONCE = 10_000
# Rows for the measurement of latency, its maximum seconds and repetitions.
_TIMED_ROWS, _TIMED_SECONDS, _TIMED_RUNS = 1_000, 0.1, 3


@dataclass(frozen=True)
class Options:
    """Options of all candidates.

    Attributes:
        class_weight: "balanced" to weight classes inversely to their frequency.
        weight_column: Column of sample weights.
        early_stopping_rounds: Rounds without a lower validation loss after which training stops.
        seed: Random state of the estimators.
    """

    class_weight: str | None = None
    weight_column: str | None = None
    early_stopping_rounds: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Candidate:
    """An untrained estimator with its options.

    Attributes:
        estimator: The estimator.
        parameters: Its given parameters.
        options: Options of all candidates.
        seconds: Limit for training and scoring; None for no limit.
    """

    estimator: Any
    parameters: Mapping[str, Any]
    options: Options
    seconds: float | None = None

    @property
    def name(self) -> str:
        """The class name of the estimator."""
        return type(self.estimator).__name__


@dataclass(frozen=True)
class Trained:
    """A trained candidate.

    Attributes:
        estimator: The trained estimator.
        facts: For the model's metadata: estimator, parameters, task, label, the options, megabytes (in
            memory) and validation (metric to value on the validation table).
        seconds: Of training.
        milliseconds: Of predicting 1,000 rows.
        predictions: For the validation rows, in the columns of `Model.predict`.
    """

    estimator: Any
    facts: dict[str, Any]
    seconds: float
    milliseconds: float
    predictions: pl.DataFrame

    def measured(self) -> dict[str, Any]:
        """Return the facts with seconds and milliseconds, which differ from run to run."""
        return {**self.facts, "seconds": self.seconds, "milliseconds": self.milliseconds}

    def save(
        self,
        path: str | Path,
        learned: Preprocessor,
        train: estimators.Examples,
        complete: Callable[[Path], None] | None = None,
    ) -> mlmodel.Card:
        """Write preprocessing and estimator as one model directory; return its metadata.

        Args:
            path: The directory to make.
            learned: What made the features.
            train: The features that the estimator was trained on.
            complete: As for `models.save`.
        """
        described = {name: value for name, value in self.facts.items() if name not in ("task", "label")}
        return models.save(
            path,
            self.estimator,
            preprocessor=learned,
            task=learned.task,
            label=learned.label,
            classes=learned.classes,
            metadata=described,
            train_features=train.matrix,
            complete=complete,
        )


def build(entries: Sequence[Any], task: str, options: Options) -> list[Candidate]:
    """Build the candidates of a list and check every entry; needs no data.

    Args:
        entries: The name of an estimator each, or a mapping of "estimator" to the name, "parameters" to
            those of its constructor, as `estimators.build` takes them, and "seconds" to how long training and
            scoring may take. Without that, several get `budgets.SECONDS` each, and a single one has no limit.
        task: "classification" or "regression".
        options: Options of all candidates.

    Raises:
        ValueError: The list is empty, or an entry isn't a valid candidate; the message says which and why.
    """
    if isinstance(entries, str) or not isinstance(entries, Sequence) or not entries:
        raise ValueError(
            f"candidates must be a list of at least one estimator, such as ['Linear'], not {entries!r}"
        )
    seconds = budgets.SECONDS if len(entries) > 1 else None
    return [_candidate(entry, place, task, options, seconds) for place, entry in enumerate(entries, start=1)]


def train(
    candidate: Candidate,
    learned: Preprocessor,
    train: estimators.Examples,
    validation: estimators.Examples,
    positive: Any = None,
) -> Trained:
    """Train a candidate on all processors and score it.

    Forests are limited by `forests.bounds`; the limits are among the parameters in the facts.

    Args:
        candidate: What to train, once.
        learned: What made the features.
        train: Rows to learn from.
        validation: Rows to score, which early stopping watches.
        positive: The positive one of two classes; chosen from the training rows if not given.

    Raises:
        ValueError: The estimator can't be trained on these rows, doesn't scale to this many, takes longer
            than its seconds, or is too large.
    """
    options, name = candidate.options, candidate.name
    rows, columns = train.matrix.shape
    budgets.require_rows(candidate.estimator, rows)
    bounds = forests.bounds(
        candidate.estimator, candidate.parameters, rows, columns, len(learned.classes or [0])
    )
    if bounds:
        _log.info("%s on %s rows: %s, to keep it small and quick", name, f"{rows:,}", _shown(bounds))
        candidate.estimator.set_params(**bounds)
    start = time.monotonic()
    try:
        with budgets.limited(candidate.seconds):
            trained = estimators.fit(
                candidate.estimator, train, validation, options.class_weight, options.early_stopping_rounds
            )
            seconds = time.monotonic() - start
            predicted = _predictions(trained, validation, learned)
    except budgets.Expired:
        raise ValueError(
            f"training and scoring on {rows:,} rows took longer than the {candidate.seconds:g} s of a "
            "candidate; give it more, as in "
            f"{{'estimator': '{name}', 'seconds': {2 * (candidate.seconds or 0):g}}}"
        ) from None
    if positive is None and learned.classes:
        found = positives.find(train.truth.to_frame().lazy(), train.truth.name)
        positive = found[0] if found else None
    megabytes = _bytes(trained) / 1e6
    budgets.require_size(megabytes)
    facts = {
        "task": learned.task,
        "label": learned.label,
        "estimator": name,
        "parameters": estimators.described(candidate.estimator, {**candidate.parameters, **bounds}),
        "class_weight": options.class_weight,
        "early_stopping_rounds": options.early_stopping_rounds or 0,
        "training_fingerprint": learned.training_fingerprint,
        "training_rows": rows,
        "megabytes": round(megabytes, 1),
        "git_commit": lineage.git_commit(),
        "positive_class": positive,
        "validation": score(learned.task, validation.truth, predicted, learned.classes, positive),
    }
    latency = milliseconds(trained, validation.matrix, learned.classes)
    return Trained(trained, facts, seconds, latency, predicted)


def train_best(
    candidates: Sequence[Candidate],
    train_table: pl.LazyFrame,
    validation_table: pl.LazyFrame,
    path: str | Path,
    *,
    label: str,
    task: str,
    exclude_columns: Sequence[str] = (),
    metric: str | None = None,
    complete: Callable[[Path], None] | None = None,
) -> tuple[mlmodel.Card, str]:
    """Learn the preprocessing, train each candidate, and write the model that scores best.

    A candidate that can't be trained on these rows is left out as long as another one can. Memory holds the
    features and two trained estimators: the best so far and the one in training.

    Args:
        candidates: From `build`, for this task; each is trained once.
        train_table: Raw rows to learn from.
        validation_table: Raw rows to choose by.
        path: The model directory to make.
        label: Column to predict.
        task: "classification" or "regression".
        exclude_columns: Columns to exclude from the features.
        metric: The metric to choose by; the task's primary one if not given.
        complete: As for `models.save`.

    Returns:
        The model's metadata, with `candidates` (see `selection.ranking`) and, if any were, `left_out`
        (`estimator`, `parameters` and `reason` of each); and a page that ranks the candidates.

    Raises:
        ValueError: An option or a table's content makes training impossible, or no candidate can be trained
            on these rows and has the metric on them.
    """
    options = candidates[0].options
    learned, rows = learn(train_table, label, task, exclude_columns, options)
    transformed = preprocess.transform(validation_table, learned, "the validation table")
    held_out = estimators.examples(transformed, learned, options.weight_column)
    found: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    best: Trained | None = None
    for candidate in candidates:
        try:
            trained = train(candidate, learned, rows, held_out)
            choice = selection.rank([*found, trained.measured()], metric)
        except (ValueError, MemoryError) as error:
            if len(candidates) == 1:
                raise
            reason = str(error) or "it ran out of memory"
            left_out.append(
                {"estimator": candidate.name, "parameters": dict(candidate.parameters), "reason": reason}
            )
            _log.warning("%s is left out: %s", candidate.name, reason)
            continue
        found.append(trained.measured())
        if choice.order[0] == len(found) - 1:
            best = trained
        _log.info(
            "%s: %s %.6g; trained in %.1f s, %s MB, predicts 1,000 rows in %.1f ms",
            trained.facts["estimator"],
            choice.metric,
            choice.score_of(len(found) - 1),
            trained.seconds,
            trained.facts["megabytes"],
            trained.milliseconds,
        )
        del trained
    if best is None:
        reasons = failures.in_short((each["estimator"], each["reason"]) for each in left_out)
        raise ValueError(f"no candidate can be trained on these rows: {reasons}")
    choice = selection.rank(found, metric)
    ranked = {**best.facts, "candidates": selection.ranking(found, choice)}
    if left_out:
        ranked["left_out"] = left_out
    stored = replace(best, facts=ranked).save(path, learned, rows, complete)
    return stored, selection.selection_report(found, choice, left_out)


class _Counter:
    """A file object that only counts the bytes written to it."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: Any) -> int:
        self.bytes += (size := memoryview(data).nbytes)
        return size


def learn(
    table: pl.LazyFrame, label: str, task: str, exclude_columns: Sequence[str], options: Options
) -> tuple[Preprocessor, estimators.Examples]:
    """Learn the preprocessing of a table and make its features.

    Raises:
        ValueError: As `preprocess.fit`.
    """
    learned, features = preprocess.fit(
        table,
        label=label,
        task=task,
        exclude_columns=exclude_columns,
        weight_column=options.weight_column,
        seed=options.seed,
    )
    return learned, estimators.examples(features.lazy(), learned, options.weight_column)


def _predictions(estimator: Any, rows: estimators.Examples, learned: Preprocessor) -> pl.DataFrame:
    return pl.concat(
        fitted_estimators.predictions(
            estimator, rows.matrix[first : first + _SCORED_AT_ONCE], learned.classes
        )
        for first in range(0, len(rows.matrix), _SCORED_AT_ONCE)
    )


def _bytes(estimator: Any) -> int:
    """Return the approximate size of an estimator in memory."""
    counter = _Counter()
    pickle.dump(estimator, counter, protocol=5)
    return counter.bytes


def milliseconds(estimator: Any, matrix: Any, classes: Sequence[Any] | None) -> float:
    """Return the shortest time that predicting 1,000 rows took, in milliseconds."""
    import numpy as np

    rows = np.resize(matrix, (_TIMED_ROWS, matrix.shape[1]))
    times: list[float] = []
    while len(times) < _TIMED_RUNS and sum(times) < _TIMED_SECONDS:
        start = time.perf_counter()
        fitted_estimators.predictions(estimator, rows, classes)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def _shown(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in parameters.items())


def _candidate(entry: Any, place: int, task: str, options: Options, seconds: float | None) -> Candidate:
    if isinstance(entry, str):
        entry = {"estimator": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("estimator"), str):
        raise ValueError(
            f"candidate {place} is {entry!r}; give the name of an estimator, or a mapping such as "
            "{'estimator': 'RandomForest', 'parameters': {'n_estimators': 200}}"
        )
    for key in entry:
        if key not in _KEYS:
            raise ValueError(
                f"candidate {place} has the unknown key {key!r}; {hint(str(key), _KEYS)}"
                "it takes estimator, parameters and seconds"
            )
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise ValueError(f"the parameters of candidate {place} must be a mapping, not {parameters!r}")
    if (given := entry.get("seconds")) is not None:
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
            raise ValueError(f"the seconds of candidate {place} must be a number more than 0, not {given!r}")
        seconds = float(given)
    estimator = estimators.build(
        entry["estimator"],
        task,
        parameters,
        class_weight=options.class_weight,
        weighted=options.weight_column is not None,
        early_stopping_rounds=options.early_stopping_rounds,
        seed=options.seed,
    )
    return Candidate(estimator, parameters, options, seconds)
