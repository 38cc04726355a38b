"""Divide a training table into folds for cross-validation, identifying rows as `split` does."""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from flowparts import tables
from flowparts.prepare import split


class Fold(NamedTuple):
    """The rows of one fold, as boolean masks over the table.

    Attributes:
        train: The rows to train on.
        validation: The rows to score.
    """

    train: pl.Series
    validation: pl.Series


def check_options(folds: int, group_by: str | None, time_column: str | None) -> None:
    """Raise ValueError if the options are invalid."""
    if folds < 2:
        raise ValueError(f"folds must be at least 2, not {folds}")
    if group_by and time_column:
        raise ValueError("group_by and time_column contradict each other; give one of them")


def assign(
    frame: pl.LazyFrame,
    folds: int,
    *,
    label: str,
    task: str,
    group_by: str | None = None,
    time_column: str | None = None,
    kept_together: Sequence[str] = (),
    exclude_columns: Sequence[str] = (),
    seed: int = 0,
) -> list[Fold]:
    """Assign the rows of a table to the training and validation parts of folds.

    In random folds, each row is in the validation part of one fold, chosen by a hash of its features, and all
    folds have the same proportions of each class (or decile of a number); copies of a row stay together. The
    order of the rows doesn't matter. In folds by time, the rows are divided into `folds` + 1 consecutive
    blocks of about equal size; each fold is validated on one block and trains on all blocks before it.

    Args:
        frame: The training rows; only hashes, strata and times are held in memory.
        folds: Number of folds.
        label: The label column.
        task: "classification" or "regression".
        group_by: Column whose equal values stay together.
        time_column: Column of timestamps, dates or numbers for folds by time; equal times stay together.
        kept_together: Columns whose equal values the split of the table kept together; used if neither
            `group_by` nor `time_column` is given.
        exclude_columns: Columns that aren't features.
        seed: Seed of random folds.

    Raises:
        ValueError: An option is invalid, there are too few rows, groups or times for the folds, or a fold
            lacks a class.
    """
    check_options(folds, group_by, time_column)
    tables.require_columns(frame, [group_by] if group_by else [], "group_by column")
    tables.require_columns(frame, [time_column] if time_column else [], "time column")
    rows = tables.require_rows(frame, "the training table")
    if rows < folds:
        raise ValueError(f"the training table has {rows} rows, fewer than the {folds} folds; use fewer folds")
    if time_column:
        assigned = _by_time(frame, time_column, folds)
    else:
        together = [group_by] if group_by else [name for name in kept_together if name != label]
        tables.require_columns(frame, together, "column that the split kept together")
        assigned = _by_identity(frame, folds, label, together, exclude_columns, seed)
    if task == "classification":
        labels = tables.select(frame, [label]).pipe(tables.collect).to_series()
        for number, fold in enumerate(assigned, start=1):
            _require_classes(labels, fold, f"fold {number} of {folds}", label)
    return assigned


def _by_identity(
    frame: pl.LazyFrame,
    folds: int,
    label: str,
    together: Sequence[str],
    exclude_columns: Sequence[str],
    seed: int,
) -> list[Fold]:
    found = split.identities(frame, label, together, exclude_columns, seed)
    distinct = found.unique().sort("stratum", "hash")
    if distinct.height < folds:
        what = f"values of {', '.join(together)!r}" if together else "rows"
        raise ValueError(
            f"the training table has {distinct.height} distinct {what}, fewer than the {folds} folds; "
            "use fewer folds"
        )
    fold_of = distinct.with_columns(fold=pl.int_range(pl.len()) % folds)
    joined = found.join(fold_of, on=["stratum", "hash"], how="left", nulls_equal=True, maintain_order="left")[
        "fold"
    ]
    return [Fold(joined != fold, joined == fold) for fold in range(folds)]


def _by_time(frame: pl.LazyFrame, column: str, folds: int) -> list[Fold]:
    times = split.times(frame, column)
    blocks = (times.rank("min") - 1).cast(pl.Int64) * (folds + 1) // len(times)
    if blocks.n_unique() < folds + 1:
        raise ValueError(
            f"time column {column!r} has too few distinct values, or too many rows with the same one, for "
            f"{folds} folds by time; use fewer folds"
        )
    return [Fold(blocks < block, blocks == block) for block in range(1, folds + 1)]


def _require_classes(labels: pl.Series, fold: Fold, what: str, label: str) -> None:
    classes = labels.drop_nulls().unique()
    validation = labels.filter(fold.validation).drop_nulls().unique()
    advice = "use fewer folds, other groups or times, or a validation table"
    if len(validation) < 2:
        raise ValueError(
            f"{what} has a single class of {label!r} to validate on: {validation[0]!r}; {advice}"
        )
    lacking = classes.filter(~classes.is_in(labels.filter(fold.train).implode())).sort()
    if len(lacking):
        raise ValueError(f"{what} has no training rows of class {lacking[0]!r} of {label!r}; {advice}")
