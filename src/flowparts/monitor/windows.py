"""Select the rows of a table or prediction log that a monitoring step measures."""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.models import mlmodel
from flowparts.util import names, times

# More windows can't be read on a chart: the window is too short for the period.
_MAX_WINDOWS = 400
_START = "window\0"


def select(
    frame: pl.LazyFrame, time_column: str | None, since: str | None = None, until: str | None = None
) -> pl.LazyFrame:
    """Return the rows within a time window.

    Args:
        frame: The table.
        time_column: Column of timestamps or dates, in UTC; needed with `since` or `until`.
        since: Start of the window in ISO 8601, UTC unless it has an offset; open if None.
        until: End of the window, exclusive; open if None.

    Raises:
        ValueError: A moment can't be read, the column isn't there or holds no times, or no row is in
            the window.
    """
    first, last = _moment(since, "since"), _moment(until, "until")
    if first is None and last is None:
        tables.require_rows(frame)
        return frame
    if not time_column:
        raise ValueError("since and until need time_column, the column with the time of each row")
    tables.require_times(frame, time_column)
    moment = tables.column(time_column).cast(pl.Datetime("us"))
    chosen = frame.filter(
        pl.lit(True) if first is None else moment >= first, pl.lit(True) if last is None else moment < last
    )
    if not tables.row_count(chosen):
        ends = frame.select(moment.min().alias("first"), moment.max().alias("last")).pipe(tables.collect)
        raise ValueError(
            f"no row has a {time_column!r} from {since or 'the beginning'} until {until or 'the end'}; the "
            f"table goes from {ends['first'][0]} to {ends['last'][0]}"
        )
    return chosen


def of_model(frame: pl.LazyFrame, model: str | Path) -> pl.LazyFrame:
    """Return the rows of a prediction log that a model answered; all rows of any other table.

    Raises:
        ValueError: The log holds rows, but none of this model.
    """
    described = mlmodel.read(model)
    version = _logged(described, "version")
    if not {version, "protocol", "request_id"} <= set(frame.collect_schema().names()):
        return frame
    own = mlmodel.version(described)
    versions = frame.select(pl.col(version).unique().sort()).pipe(tables.collect)[version].to_list()
    if versions and own not in versions:
        raise ValueError(
            f"the prediction log holds answers of model version {names.listed(map(str, versions))}, and "
            f"none of {own}; give the model that answered"
        )
    return frame.filter(pl.col(version) == own)


def request_columns(frame: pl.LazyFrame, model: str | Path) -> list[str]:
    """Return the columns of a prediction log that identify a prediction; [] for any other table."""
    described = mlmodel.read(model)
    columns = [_logged(described, name) for name in ("request_id", "row")]
    return columns if set(columns) <= set(frame.collect_schema().names()) else []


def _logged(described: Mapping[str, Any], name: str) -> str:
    """Return the name of a column in the prediction log, which differs if a feature has that name."""
    return names.free(name, "request_", described["metadata"]["features"])


def require_length(window_hours: float) -> None:
    """Raise ValueError unless a window lasts longer than 0 hours."""
    if not window_hours > 0 or math.isinf(window_hours):
        raise ValueError(f"window_hours is {window_hours:g}; a window must last longer than 0 hours")


def starts(moments: pl.Series, window_hours: float) -> pl.Series:
    """Return the start of each row's window in microseconds since 1970, a multiple of the window's length.

    Raises:
        ValueError: The rows lie in too many windows.
    """
    length = round(window_hours * 3_600e6)
    since = moments.cast(pl.Datetime("us")).cast(pl.Int64)
    found = (since // length) * length
    count = found.n_unique()
    if count > _MAX_WINDOWS:
        days = (since.max() - since.min()) / 86_400e6  # type: ignore[operator]
        raise ValueError(
            f"{days:,.0f} days of predictions make {count:,} windows of {window_hours:g} hours; at most "
            f"{_MAX_WINDOWS} are measured: give a larger window_hours, or a later since"
        )
    return found


def parts(rows: pl.DataFrame, time_column: str | None, window_hours: float) -> dict[str, pl.DataFrame]:
    """Split rows into windows by name, in the order of time; without times, return all of them as "all".

    Raises:
        ValueError: A row has no time, or the rows lie in too many windows.
    """
    if not time_column:
        return {"all": rows}
    if missing := rows[time_column].null_count():
        raise ValueError(
            f"time column {time_column!r} is missing in {missing:,} rows; every prediction needs its time"
        )
    rows = rows.with_columns(starts(rows[time_column], window_hours).alias(_START))
    found = rows.sort(_START, maintain_order=True).partition_by(_START, maintain_order=True)
    return {name(part[_START][0]): part.drop(_START) for part in found}


def name(start: int) -> str:
    """Return the name of a window of `starts`: its start in ISO 8601."""
    return (datetime(1970, 1, 1) + timedelta(microseconds=start)).isoformat(timespec="minutes")


def _moment(text: str | None, name: str) -> datetime | None:
    if not text:
        return None
    moment = times.parse(text)
    if moment is None:
        raise ValueError(f"{name} is {text!r}, which isn't a time in ISO 8601 such as 2026-03-01T00:00")
    return moment
