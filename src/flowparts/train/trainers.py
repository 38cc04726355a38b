"""Train a model of raw rows with scikit-learn or Keras."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from flowparts import models
from flowparts.evaluate import directions, positives
from flowparts.prepare import preprocess
from flowparts.util import names

if TYPE_CHECKING:
    from flowparts.train import candidates
    from flowparts.train.problem import Problem

TRAINERS = ("sklearn", "keras")
# Of trainer sklearn without candidates, the default first; see `flowparts.tune.effort`.
EFFORTS = ("quick", "standard", "thorough")


def train(
    table: pl.LazyFrame,
    validation: pl.LazyFrame,
    path: str | Path,
    problem: "Problem",
    *,
    trainer: str,
    entries: Sequence[Any] = (),
    network: Mapping[str, Any] | None = None,
    complete: Callable[[Path], None] | None = None,
) -> tuple[str, str]:
    """Train the best of several estimators, or a network, and write its model directory.

    Args:
        table: Raw rows to learn from.
        validation: Raw rows to choose by.
        path: The model directory to make.
        problem: What is learned, and the metric to choose by.
        trainer: One of `TRAINERS`.
        entries: What sklearn tries, as `candidates.build` takes it.
        network: Options of the network, as `networks.tabular_model.settings` takes them.
        complete: As for `models.save`.

    Returns:
        A page about the training, and the metric that the model was chosen by.

    Raises:
        ValueError: An option is unknown or out of range, which is found before any row is read, or a table's
            content makes training impossible.
    """
    check(trainer)
    options = problem.options
    check_columns(**problem.columns, metric=problem.metric, options=options)
    if trainer == "sklearn":
        from flowparts.train import candidates

        built = candidates.build(entries, problem.task, options)
        chosen, facts = examined(table, problem.metric, problem.columns, options)
        finish = annotated(facts, complete)
        _, page = candidates.train_best(
            built, table, validation, path, **problem.columns, metric=chosen, complete=finish
        )
        return page, chosen
    from flowparts.train.networks import tabular_model, training

    if options.early_stopping_rounds:
        raise ValueError("early_stopping_rounds is for trainer 'sklearn'; give network={'patience': ...}")
    if training.workers() > 1:
        raise ValueError("TF_CONFIG names several workers; train on them with train_keras_tabular")
    shape, how, checkpoints = tabular_model.settings(network or {}, options.seed)
    chosen, facts = examined(table, problem.metric, problem.columns, options, free_text=False)
    trained = tabular_model.train_and_save(
        table,
        validation,
        path,
        **problem.columns,
        weight_column=options.weight_column,
        class_weight=options.class_weight,
        shape=shape,
        options=how,
        checkpoints=checkpoints,
        metric=chosen,
        complete=annotated(facts, complete),
    )
    assert trained
    return trained[1], chosen


def check(trainer: str, effort: str = EFFORTS[0], has_candidates: bool = False) -> None:
    """Raise ValueError unless trainer and effort exist and can be combined."""
    if trainer not in TRAINERS:
        raise ValueError(names.unknown("trainer", trainer, TRAINERS))
    if effort not in EFFORTS:
        raise ValueError(names.unknown("effort", effort, EFFORTS))
    if effort == EFFORTS[0]:
        return
    if trainer != "sklearn":
        raise ValueError(f"effort {effort!r} is for trainer 'sklearn'; give a network more epochs instead")
    if has_candidates:
        raise ValueError(
            f"effort {effort!r} chooses what to try, and so do candidates; leave out one of the two"
        )


def check_columns(
    label: str, task: str, exclude_columns: Sequence[str], metric: str | None, options: "candidates.Options"
) -> None:
    """Raise ValueError if label, task, columns or metric contradict one another; needs no data."""
    preprocess.check_options(label, task, exclude_columns, options.weight_column, 1)
    if metric:
        directions.require_fitting(metric, task)


def annotated(facts: Mapping[str, Any], complete: Callable[[Path], None] | None) -> Callable[[Path], None]:
    """Return a `complete` callback that adds facts to a model's metadata before calling the given one."""

    def finish(folder: Path) -> None:
        models.annotate(folder, facts)
        if complete:
            complete(folder)

    return finish


def examined(
    table: pl.LazyFrame,
    metric: str | None,
    what: Mapping[str, Any],
    options: "candidates.Options",
    columns: preprocess.Examined | None = None,
    *,
    free_text: bool = True,
) -> tuple[str, dict[str, Any]]:
    """Examine the training rows; return the metric to choose by, and facts for the model's metadata.

    Args:
        table: The training rows.
        metric: The metric; chosen by task and class balance if not given.
        what: `label`, `task` and `exclude_columns`.
        options: What all candidates have in common.
        columns: What `preprocess.examine` found in the training rows, if that is known. Features that `what`
            excludes don't count.
        free_text: Whether the trainer learns from text of several words.
    """
    from flowparts.validate import leakage

    label, task = what["label"], what["task"]
    columns = columns or preprocess.examine(
        table, label, task, what["exclude_columns"], options.weight_column, free_text=free_text
    )
    features = [name for name in columns.features if name not in what["exclude_columns"]]
    unlike = [name for name, reason in columns.dropped.items() if reason == preprocess.ALL_DIFFERENT]
    warnings = [
        f"column {name!r} is left out of the features: it {preprocess.ALL_DIFFERENT}" for name in unlike
    ]
    warnings += leakage.warnings(table, features, label, task)
    found = positives.training_facts(table, label, task, metric)
    return found["metric"], {**found, "warnings": warnings}
