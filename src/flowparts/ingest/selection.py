"""Which rows of a source that could be read stay in its table: the newest, and those with a label."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.util import outputs

_log = logging.getLogger("flowparts")

_MOST_DAYS = 36_500


def check_window(window_days: float, time_column: str | None) -> None:
    """Raise ValueError unless a window of so many days can be taken; 0 stands for all rows."""
    if not 0 <= window_days <= _MOST_DAYS:
        raise ValueError(
            f"window_days is {window_days:g}; give a number of days, at most {_MOST_DAYS:,}, or 0 for all "
            "rows"
        )
    if window_days and not time_column:
        raise ValueError("window_days needs time_column, the column that says when a row came about")


def keep_newest(file: Path, time_column: str, window_days: float, source: str) -> dict[str, Any]:
    """Take the rows that are older than a window out of a table's only file.

    The window ends with the newest row, not with the present, so that the same source gives the same table.

    Args:
        file: The file.
        time_column: Column of timestamps or dates; rows without a value are taken out, too.
        window_days: Length of the window.
        source: Where the rows come from, for messages.

    Returns:
        What the table's description says of it.

    Raises:
        ValueError: The column isn't there, holds no times, or has no value.
    """
    frame = pl.scan_parquet(file, glob=False)
    tables.require_times(frame, time_column)
    moment = tables.column(time_column).cast(pl.Datetime("us"))
    newest = tables.collect(frame.select(moment.max())).item()
    if newest is None:
        raise ValueError(f"time column {time_column!r} has no values in {source}, so no row is the newest")
    # Not by the window's first moment, which may lie before the year 1.
    inside = pl.lit(newest) - moment < timedelta(days=window_days)
    rows = tables.row_count(frame)
    kept = tables.row_count(frame.filter(inside))
    if kept == rows:
        return {}
    said = f"{_counted(rows - kept)} not of the {window_days:g} days until {newest.isoformat(' ')}"
    _log.info("%s of %s", said, source)
    rewrite(file, frame.filter(inside))
    return {"rows_left_out": [said]}


def drop_unlabeled(file: Path, label: str, on_missing_label: str, source: str) -> dict[str, Any]:
    """Take the rows without a label out of a table's only file; return how many, for its description."""
    frame = pl.scan_parquet(file, glob=False)
    missing = tables.column(label).is_null()
    count = int(frame.select(missing.sum()).pipe(tables.collect).item())
    if not count:
        return {}
    rows = tables.row_count(frame)
    said = f"label column {label!r} is missing in {count:,} of {rows:,} rows of {source}"
    if count == rows:
        raise ValueError(f"{said}, so there is nothing to learn from")
    if on_missing_label == "fail":
        raise ValueError(f"{said}; pass on_missing_label='drop' to leave them out")
    _log.warning("%s; they are left out", said)
    rewrite(file, frame.filter(~missing))
    return {"rows_without_label": count, "rows_left_out": [f"{_counted(count)} without a label"]}


def rewrite(file: Path, frame: pl.LazyFrame) -> None:
    """Put rows, made of those of a file, in their place."""
    with outputs.whole(file.with_suffix(".rewritten")) as rewritten:
        tables.write_part(frame, rewritten)
    file.with_suffix(".rewritten").replace(file)


def _counted(rows: int) -> str:
    return f"{rows:,} {'row' if rows == 1 else 'rows'}"
