"""Train candidate estimators one after the other on the same features and keep the best."""

import logging
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import estimators, fitted_estimators, forests, lineage, models, preprocess, selection
from flowparts.metrics import score
from flowparts.names import hint
from flowparts.preprocess import Preprocessor

_log = logging.getLogger("flowparts")

_KEYS = ("estimator", "parameters")


@dataclass(frozen=True)
class Options:
    """What all candidates have in common.

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
    """An estimator that is ready to be trained, and the parameters that it was given."""

    estimator: Any
    parameters: Mapping[str, Any]
    options: Options


@dataclass(frozen=True)
class Trained:
    """A trained candidate.

    Attributes:
        estimator: The trained estimator.
        facts: What its model's metadata says of it: estimator, parameters, task, label, the options,
            megabytes (in memory) and validation (metric to value on the validation table).
        seconds: How long training took.
        milliseconds: How long predicting 1,000 rows takes; 0 if there are no validation rows.
    """

    estimator: Any
    facts: dict[str, Any]
    seconds: float
    milliseconds: float

    def save(self, path: str | Path, learned: Preprocessor, train: estimators.Examples) -> dict[str, Any]:
        """Write preprocessing and estimator as one model directory; return its metadata.

        Args:
            path: The directory to make.
            learned: What made the features.
            train: The features that the estimator was trained on.
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
        )


def build(entries: Sequence[Any], task: str, options: Options) -> list[Candidate]:
    """Return the candidates that a list names; every entry is checked, no data needed.

    Args:
        entries: The name of an estimator each, or a mapping of "estimator" to the name and "parameters" to
            those of its constructor, as `estimators.build` takes them.
        task: "classification" or "regression".
        options: What all have in common.

    Raises:
        ValueError: There are none, or an entry can't be a candidate; the sentence says which and why.
    """
    if isinstance(entries, str) or not isinstance(entries, Sequence) or not entries:
        raise ValueError(
            f"candidates must be a list of at least one estimator, such as ['Linear'], not {entries!r}"
        )
    return [_candidate(entry, place, task, options) for place, entry in enumerate(entries, start=1)]


def train(
    candidate: Candidate, learned: Preprocessor, train: estimators.Examples, validation: estimators.Examples
) -> Trained:
    """Train a candidate on all processors and score it.

    Forests are bounded as `forests.bounds` says; the bounds are among the parameters in the facts.

    Args:
        candidate: What to train, once.
        learned: What made the features.
        train: Rows to learn from.
        validation: Rows to score, which early stopping watches.

    Raises:
        ValueError: The estimator can't be trained on these rows.
    """
    options, name = candidate.options, type(candidate.estimator).__name__
    rows, columns = train.matrix.shape
    bounds = forests.bounds(
        candidate.estimator, candidate.parameters, rows, columns, len(learned.classes or [0])
    )
    if bounds:
        _log.info("%s on %s rows: %s, to keep it small and quick", name, f"{rows:,}", _shown(bounds))
        candidate.estimator.set_params(**bounds)
    start = time.monotonic()
    trained = estimators.fit(
        candidate.estimator, train, validation, options.class_weight, options.early_stopping_rounds
    )
    fitted = time.monotonic()
    predicted = fitted_estimators.predictions(trained, validation.matrix, learned.classes)
    predicting = time.monotonic() - fitted
    facts = {
        "task": learned.task,
        "label": learned.label,
        "estimator": name,
        "parameters": estimators.described(candidate.estimator, {**candidate.parameters, **bounds}),
        "class_weight": options.class_weight,
        "early_stopping_rounds": options.early_stopping_rounds or 0,
        "training_fingerprint": learned.training_fingerprint,
        "training_rows": rows,
        "megabytes": round(_bytes(trained) / 1e6, 1),
        "git_commit": lineage.git_commit(),
        "validation": score(learned.task, validation.truth, predicted, learned.classes),
    }
    return Trained(trained, facts, fitted - start, 1e6 * predicting / max(1, len(validation.truth)))


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
) -> tuple[dict[str, Any], str]:
    """Learn the preprocessing, train each candidate, and write the model that scores best.

    Held in memory are the features and two trained estimators: the best so far and the one in training.

    Args:
        candidates: What `build` made for this task, each to be trained once.
        train_table: Raw rows to learn from.
        validation_table: Raw rows to choose by.
        path: The model directory to make.
        label: Column to predict.
        task: "classification" or "regression".
        exclude_columns: Columns to exclude from the features.
        metric: The metric to choose by; the task's primary one if not given.

    Returns:
        The model's metadata, with `candidates`: what `selection.ranking` says; and a page that ranks them.

    Raises:
        ValueError: An option or a table's content makes training impossible, or a candidate can't be trained
            on these rows or lacks the metric on them.
    """
    options = candidates[0].options
    learned, features = preprocess.fit(
        train_table,
        label=label,
        task=task,
        exclude_columns=exclude_columns,
        weight_column=options.weight_column,
        seed=options.seed,
    )
    rows = estimators.examples(features.lazy(), learned, options.weight_column)
    del features
    transformed = preprocess.transform(validation_table, learned, "the validation table")
    held_out = estimators.examples(transformed, learned, options.weight_column)
    found: list[dict[str, Any]] = []
    best: Trained | None = None
    for candidate in candidates:
        trained = train(candidate, learned, rows, held_out)
        found.append(trained.facts)
        choice = selection.rank(found, metric)
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
    assert best
    ranked = {**best.facts, "candidates": selection.ranking(found, choice)}
    stored = replace(best, facts=ranked).save(path, learned, rows)
    return stored, selection.selection_report(found, choice)


class _Counter:
    """A file that keeps nothing of what is written to it but the number of bytes."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: Any) -> int:
        self.bytes += (size := memoryview(data).nbytes)
        return size


def _bytes(estimator: Any) -> int:
    """Return about how much memory an estimator takes."""
    counter = _Counter()
    pickle.dump(estimator, counter, protocol=5)
    return counter.bytes


def _shown(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in parameters.items())


def _candidate(entry: Any, place: int, task: str, options: Options) -> Candidate:
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
                "it takes estimator and parameters"
            )
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise ValueError(f"the parameters of candidate {place} must be a mapping, not {parameters!r}")
    estimator = estimators.build(
        entry["estimator"],
        task,
        parameters,
        class_weight=options.class_weight,
        weighted=options.weight_column is not None,
        early_stopping_rounds=options.early_stopping_rounds,
        seed=options.seed,
    )
    return Candidate(estimator, parameters, options)
