"""Select the rows of a table to keep: the newest, and those with a label."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.util import outputs, times

_log = logging.getLogger("flowparts")

_MAX_DAYS = 36_500


def check_window(window_days: float, time_column: str | None) -> None:
    """Raise ValueError unless a window is valid; 0 days stand for all rows."""
    if not 0 <= window_days <= _MAX_DAYS:
        raise ValueError(f"window_days must be from 0 (all rows) to {_MAX_DAYS:,}, not {window_days:g}")
    if window_days and not time_column:
        raise ValueError(
            f"window_days={window_days:g} needs time_column; pass the column with the time of each row"
        )


def keep_newest(file: Path, time_column: str, window_days: float, source: str) -> dict[str, Any]:
    """Drop the rows that are older than a window from a table's only file.

    The window ends with the newest row, not now, so that the same source gives the same table. Rows that are
    dated in the future are kept, but the window ends before them, unless all are: a single wrong clock would
    leave out all other rows.

    Args:
        file: The file.
        time_column: Column of timestamps or dates; rows without a value are dropped, too.
        window_days: Length of the window in days.
        source: Origin of the rows, for messages.

    Returns:
        The entries for the table's description.

    Raises:
        ValueError: The column is missing, doesn't hold times, or has no value.
    """
    frame = pl.scan_parquet(file, glob=False)
    tables.require_times(frame, time_column)
    moment = tables.column(time_column).cast(pl.Datetime("us"))
    is_date = frame.collect_schema()[time_column] == pl.Date
    limit = times.latest(datetime.now(UTC).replace(tzinfo=None), is_date)
    ends = {"newest": moment.max(), "past": pl.when(moment <= limit).then(moment).max()}
    (newest, past) = tables.collect(frame.select(**ends)).row(0)
    if newest is None:
        raise ValueError(
            f"time column {time_column!r} has no values in {source}, so window_days can't be applied; pass "
            "another column, or window_days=0"
        )
    if past is not None and past != newest:
        _log.warning("%s: a row is dated %s, in the future; the window ends with %s", source, newest, past)
        newest = past
    # Not compared with the window's start, which may be before the year 1.
    inside = pl.lit(newest) - moment < timedelta(days=window_days)
    rows = tables.row_count(frame)
    kept = tables.row_count(frame.filter(inside))
    if kept == rows:
        return {}
    dropped = f"{_counted(rows - kept)} outside the {window_days:g} days up to {newest.isoformat(' ')}"
    _log.info("%s: left out %s", source, dropped)
    rewrite(file, frame.filter(inside))
    return {"rows_left_out": [dropped]}


def drop_unlabeled(file: Path, label: str, on_missing_label: str, source: str) -> dict[str, Any]:
    """Drop the rows without a label from a table's only file; return the entries for its description."""
    frame = pl.scan_parquet(file, glob=False)
    missing = tables.column(label).is_null()
    count = int(frame.select(missing.sum()).pipe(tables.collect).item())
    if not count:
        return {}
    rows = tables.row_count(frame)
    unlabeled = f"label column {label!r} is missing in {count:,} of {rows:,} rows of {source}"
    if count == rows:
        raise ValueError(f"{unlabeled}, so there is nothing to learn from; provide labelled rows")
    if on_missing_label == "fail":
        raise ValueError(f"{unlabeled}; pass on_missing_label='drop' to leave them out")
    _log.warning("%s; they are left out", unlabeled)
    rewrite(file, frame.filter(~missing))
    return {"rows_without_label": count, "rows_left_out": [f"{_counted(count)} without a label"]}


def rewrite(file: Path, frame: pl.LazyFrame) -> None:
    """Replace the rows of a file by rows derived from them."""
    with outputs.atomic(file.with_suffix(".rewritten")) as rewritten:
        tables.write_part(frame, rewritten)
    file.with_suffix(".rewritten").replace(file)


def _counted(rows: int) -> str:
    return f"{rows:,} {'row' if rows == 1 else 'rows'}"
