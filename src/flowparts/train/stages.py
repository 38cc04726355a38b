"""Rows that estimators are trained and scored on before a model is made: folds, or a validation table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from flowparts import tables
from flowparts.prepare import preprocess
from flowparts.prepare.folds import Fold
from flowparts.prepare.preprocess import Preprocessor
from flowparts.train import estimators
from flowparts.train.candidates import Options

# Shares of the training rows that large tables are first tried on, and the fewest rows that make it worth it.
_SHARES = (1 / 9, 1 / 3)
_MIN_ROWS = 5_000


@dataclass(frozen=True)
class Stage:
    """Rows to train and score on.

    Attributes:
        learned: What made the features.
        train: Rows to learn from.
        validation: Rows to score, which early stopping watches.
    """

    learned: Preprocessor
    train: estimators.Examples
    validation: estimators.Examples


def on_validation(
    table: pl.LazyFrame,
    validation: pl.LazyFrame,
    *,
    label: str,
    task: str,
    exclude_columns: Sequence[str],
    options: Options,
) -> list[Stage]:
    """Return the stages of trials that are scored on a validation table.

    Large tables are first trained on a ninth and a third of their rows, drawn at random.

    Raises:
        ValueError: A table's content makes training impossible.
    """
    whole = _stage(table, validation, label, task, exclude_columns, options)
    rows = whole.train.matrix.shape[0]
    order = pl.int_range(rows, eager=True).shuffle(seed=options.seed)
    shares = [order.head(round(rows * share)).sort() for share in _SHARES if rows * share >= _MIN_ROWS]
    smaller = [replace(whole, train=_rows(whole.train, chosen)) for chosen in shares]
    classes = len(whole.learned.classes or [])
    return [
        *(stage for stage in smaller if not classes or stage.train.truth.n_unique() == classes),
        whole,
    ]


def on_folds(
    table: pl.LazyFrame,
    folds: Sequence[Fold],
    *,
    label: str,
    task: str,
    exclude_columns: Sequence[str],
    options: Options,
) -> list[Stage]:
    """Return the stages of trials that are cross-validated; each fold learns its own preprocessing.

    Raises:
        ValueError: A table's content makes training impossible.
    """
    rows = table.pipe(tables.collect)
    made = []
    for number, fold in enumerate(folds, start=1):
        parts = rows.filter(fold.train).lazy(), rows.filter(fold.validation).lazy()
        what = f"the validation part of fold {number}"
        made.append(_stage(*parts, label, task, exclude_columns, options, what))
    return made


def _stage(
    table: pl.LazyFrame,
    validation: pl.LazyFrame,
    label: str,
    task: str,
    exclude_columns: Sequence[str],
    options: Options,
    what: str = "the validation table",
) -> Stage:
    learned, rows = learn(table, label, task, exclude_columns, options)
    transformed = preprocess.transform(validation, learned, what)
    return Stage(learned, rows, estimators.examples(transformed, learned, options.weight_column))


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


def _rows(examples: estimators.Examples, chosen: pl.Series) -> estimators.Examples:
    places = chosen.to_numpy()
    weights = None if examples.weights is None else examples.weights[places]
    truth = examples.truth.gather(chosen)
    return replace(examples, matrix=examples.matrix[places], truth=truth, weights=weights)


def stored(stages: Sequence[Stage], folder: Path) -> list[Stage]:
    """Write the features of stages as files that processes map; return the stages without them."""
    import numpy as np

    emptied = []
    for place, stage in enumerate(stages):
        parts = {}
        for name in ("train", "validation"):
            examples = getattr(stage, name)
            np.save(folder / f"{place}-{name}.npy", examples.matrix)
            parts[name] = replace(examples, matrix=None)
        emptied.append(replace(stage, **parts))
    return emptied


def mapped(stages: Sequence[Stage], folder: Path) -> list[Stage]:
    """Return the stages that `stored` emptied, with their features mapped from the files."""
    import numpy as np

    def filled(examples: estimators.Examples, file: str) -> estimators.Examples:
        # Copied on write: some libraries refuse memory that is read only.
        return replace(examples, matrix=np.load(folder / file, mmap_mode="c"))

    return [
        replace(
            stage,
            train=filled(stage.train, f"{place}-train.npy"),
            validation=filled(stage.validation, f"{place}-validation.npy"),
        )
        for place, stage in enumerate(stages)
    ]
