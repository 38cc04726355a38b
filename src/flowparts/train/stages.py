"""Rows that estimators are trained and scored on before a model is made: folds, or a validation table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.prepare import preprocess
from flowparts.prepare.folds import Fold
from flowparts.prepare.preprocess import Preprocessor
from flowparts.train import candidates, estimators
from flowparts.train.candidates import Options

# Fractions of the training rows for the first stages on large tables, and the fewest rows of such a stage.
_FRACTIONS = (1 / 9, 1 / 3)
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


class Stages(Sequence[Stage]):
    """Stages whose features lie in files, which are mapped into memory while a stage is used.

    So memory holds the features of one stage at a time, and processes that use the same stages share it.

    Args:
        folder: Where the files lie, as long as the stages are used.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._stages: list[Stage] = []
        self._files: list[tuple[Path, Path]] = []

    def append(self, stage: Stage, same_validation: bool = False) -> None:
        """Add a stage, whose features are written to the folder.

        Args:
            stage: The stage.
            same_validation: Whether its validation rows are those of the stage before.
        """
        place = len(self._files)
        train, validation = (self._folder / f"{place}-{part}.npy" for part in ("train", "validation"))
        _write(train, stage.train)
        if same_validation:
            validation = self._files[-1][1]
        else:
            _write(validation, stage.validation)
        self._files.append((train, validation))
        rows = replace(stage.train, matrix=None), replace(stage.validation, matrix=None)
        self._stages.append(Stage(stage.learned, *rows))

    def __len__(self) -> int:
        return len(self._stages)

    def __getitem__(self, place: Any) -> Any:  # of a number only: nobody takes slices
        stage, (train, validation) = self._stages[place], self._files[place]
        return Stage(stage.learned, _mapped(train, stage.train), _mapped(validation, stage.validation))


def _write(file: Path, examples: estimators.Examples) -> None:
    import numpy as np

    np.save(file, examples.matrix)


def _mapped(file: Path, examples: estimators.Examples) -> estimators.Examples:
    import numpy as np

    # Copied on write: some libraries refuse memory that is read only.
    return replace(examples, matrix=np.load(file, mmap_mode="c"))


def on_validation(
    table: pl.LazyFrame,
    validation: pl.LazyFrame,
    folder: Path,
    *,
    halving: bool,
    label: str,
    task: str,
    exclude_columns: Sequence[str],
    options: Options,
) -> Stages:
    """Return the stages of trials that are scored on a validation table.

    The last stage has all training rows. Successive halving has stages before it on large tables: a ninth and
    a third of the rows, drawn at random.

    Args:
        table: Raw rows to learn from.
        validation: Raw rows to score on.
        folder: An empty folder for the features.
        halving: Whether to add the stages of successive halving.
        label: Column to predict.
        task: "classification" or "regression".
        exclude_columns: Columns to exclude from the features.
        options: What all estimators have in common.

    Raises:
        ValueError: A table's content makes training impossible.
    """
    whole = _stage(table, validation, label, task, exclude_columns, options)
    rows = whole.train.matrix.shape[0]
    classes = len(whole.learned.classes or [])
    order = pl.int_range(rows, eager=True).shuffle(seed=options.seed)
    made = Stages(folder)
    for fraction in _FRACTIONS if halving else ():
        if rows * fraction < _MIN_ROWS:
            continue
        smaller = _rows(whole.train, order.head(round(rows * fraction)).sort())
        if not classes or smaller.truth.n_unique() == classes:
            made.append(replace(whole, train=smaller), same_validation=len(made) > 0)
    made.append(whole, same_validation=len(made) > 0)
    return made


def on_folds(
    table: pl.LazyFrame,
    folds: Sequence[Fold],
    folder: Path,
    *,
    label: str,
    task: str,
    exclude_columns: Sequence[str],
    options: Options,
) -> Stages:
    """Return the stages of trials that are cross-validated; each fold learns its own preprocessing.

    Args:
        table: Raw rows, which are held in memory meanwhile.
        folds: The rows of each fold.
        folder: An empty folder for the features.
        label: Column to predict.
        task: "classification" or "regression".
        exclude_columns: Columns to exclude from the features.
        options: What all estimators have in common.

    Raises:
        ValueError: A table's content makes training impossible.
    """
    rows = table.pipe(tables.collect)
    made = Stages(folder)
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
    learned, rows = candidates.learn(table, label, task, exclude_columns, options)
    transformed = preprocess.transform(validation, learned, what)
    return Stage(learned, rows, estimators.examples(transformed, learned, options.weight_column))


def _rows(examples: estimators.Examples, chosen: pl.Series) -> estimators.Examples:
    places = chosen.to_numpy()
    weights = None if examples.weights is None else examples.weights[places]
    truth = examples.truth.gather(chosen)
    return replace(examples, matrix=examples.matrix[places], truth=truth, weights=weights)
