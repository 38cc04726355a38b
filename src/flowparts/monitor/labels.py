"""Join late labels to logged predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import polars as pl

from flowparts import tables

# Clocks synchronised by NTP differ by less; time zones differ by at least half an hour.
CLOCK_TOLERANCE = timedelta(minutes=5)
_LABEL_TIME = "label time\0"


@dataclass(frozen=True)
class Joined:
    """Predictions with their labels.

    Attributes:
        rows: The predictions that have a label, with the label.
        predictions: Predictions in the log, without the repeated ones.
        repeated: Rows of the log that repeat a prediction, because a client retried its request.
        early_labels: Labels older than their predictions by more than `CLOCK_TOLERANCE`.
    """

    rows: pl.DataFrame
    predictions: int
    repeated: int = 0
    early_labels: int = 0


def join(
    log: pl.LazyFrame,
    labels: pl.LazyFrame,
    label: str,
    key: Sequence[str],
    time_column: str | None,
    label_time_column: str | None = None,
    request_columns: Sequence[str] = (),
) -> Joined:
    """Join labels to logged predictions by key.

    Args:
        log: Predictions with the key columns and their time.
        labels: One row per key with the label; further keys are ignored, and so are rows without a label.
        label: The label's column in `labels`.
        key: Columns that both tables have. Keys are compared as text, as the prediction log holds them.
        time_column: Column of timestamps of the log; None if it has none.
        label_time_column: Column of `labels` with the time of each label, to compare the clocks; a date
            stands for the end of its day.
        request_columns: Columns of the log that identify a prediction. Of rows with equal values in these and
            in the key, the first is kept: a client retries a request under the same id.

    Raises:
        ValueError: A column is missing, a key has several labels, no key is in both tables, a moment of
            the log is missing, or most labels are older than their predictions.
    """
    if not key:
        raise ValueError(
            "key names no column; give the columns to join labels and predictions by, such as [id]"
        )
    tables.require_columns(log, key, "column of the prediction log")
    tables.require_columns(labels, [*key, label], "column of the labels")
    times = [label_time_column] if label_time_column else []
    if time_column:
        tables.require_times(log, time_column, "time column of the prediction log")
    if label_time_column:
        tables.require_times(labels, label_time_column, "time column of the labels")
    columns = log.collect_schema()
    if label_time_column and not time_column:
        raise ValueError("label_time_column needs time_column, the time of each prediction to compare with")
    logged = tables.row_count(log)
    if not logged:
        raise ValueError("the prediction log has no rows")
    if not tables.row_count(labels):
        raise ValueError("the labels have no rows: no label has arrived")
    texts = [tables.column(name).cast(pl.String) for name in key]
    arrived = labels.filter(tables.column(label).is_not_null())
    moments = [_end(labels, name).alias(_LABEL_TIME) for name in times]
    known = tables.collect(arrived.select(*texts, tables.column(label), *moments))
    repeated = known.filter(known.select(key).is_duplicated())
    if len(repeated):
        shown = ", ".join(
            f"{name}={value}" for name, value in repeated.select(key).row(0, named=True).items()
        )
        raise ValueError(
            f"the labels have several rows for {shown}, and {len(repeated):,} such rows in all; "
            "keep one for each key"
        )
    theirs = f"{label}\0" if label in columns else label
    found = log.with_columns(texts).join(
        known.lazy().rename({label: theirs}), on=list(key), how="inner", maintain_order="left"
    )
    if theirs != label:
        found = found.drop(label).rename({theirs: label})
    joined = tables.collect(found)
    if joined.is_empty():
        what = f"no {' and '.join(key)} of the {logged:,} predictions is among the labels"
        if known.is_empty():
            raise ValueError(f"{what}: no label has arrived")
        examples = (tables.collect(log.select(texts).head(1)), known.select(key))
        asked, labelled = (", ".join(map(str, rows.row(0))) for rows in examples)
        raise ValueError(f"{what}; the predictions have {asked}, the labels {labelled}")
    if time_column and joined[time_column].null_count():
        raise ValueError(f"time column {time_column!r} has missing values; every prediction needs its time")
    predictions = logged
    if request_columns:
        identity = list(dict.fromkeys([*request_columns, *key]))
        predictions = tables.row_count(tables.select(log, identity).unique())
        if time_column:
            joined = joined.sort(time_column, maintain_order=True)
        joined = joined.unique(identity, keep="first", maintain_order=True)
    early = 0
    if time_column and label_time_column:
        early = _early(joined, time_column, label_time_column)
        joined = joined.drop(_LABEL_TIME)
    return Joined(joined, predictions, logged - predictions, early)


def _end(labels: pl.LazyFrame, name: str) -> pl.Expr:
    """Return the latest time at which each label became known, in UTC."""
    moment = tables.column(name).cast(pl.Datetime("us"))
    return moment + timedelta(days=1) if labels.collect_schema()[name] == pl.Date else moment


def _early(joined: pl.DataFrame, time_column: str, label_time_column: str) -> int:
    """Count labels that are older than their predictions; raise ValueError if most are."""
    ahead = (joined[time_column].cast(pl.Datetime("us")) - joined[_LABEL_TIME]).drop_nulls()
    early = ahead.filter(ahead > CLOCK_TOLERANCE)
    if 2 * len(early) > len(ahead):
        minutes = CLOCK_TOLERANCE.total_seconds() / 60
        raise ValueError(
            f"{len(early):,} of {len(ahead):,} labels are older than their predictions by more than "
            f"{minutes:g} minutes, by {cast(timedelta, early.median())} in the median: the clocks or time "
            f"zones of {label_time_column!r} and {time_column!r} differ; give both in UTC"
        )
    return len(early)
