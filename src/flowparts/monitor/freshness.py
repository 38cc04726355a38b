"""Whether a prediction log still grows, by the time of its newest row.

A log that has stopped growing is measured as before, and every verdict about it looks current: a window that
ends with the newest row holds the same rows each day.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from flowparts import reports, tables
from flowparts.monitor.measurements import Measurement


@dataclass(frozen=True)
class Freshness:
    """How new the rows of a log are.

    Attributes:
        newest: Time of the newest row, in UTC.
        stalled: Whether no row has come for too long; None if that wasn't judged.
    """

    newest: datetime
    stalled: bool | None

    @property
    def reason(self) -> str:
        """The newest row's time, in a sentence that stays the same until another row comes."""
        return f"no row is newer than {self.newest.isoformat(timespec='minutes')} UTC"


def require_hours(stalled_hours: float) -> None:
    """Raise ValueError unless a log may be without a new row for this many hours."""
    if not 0 <= stalled_hours < math.inf:
        raise ValueError(
            f"stalled_hours is {stalled_hours:g}; give the hours that a log may be without a new row, or 0 "
            "to not judge it"
        )


def judge(
    rows: pl.LazyFrame, time_column: str | None, stalled_hours: float, now: datetime
) -> Freshness | None:
    """Judge whether a log still grows.

    Args:
        rows: The whole log: with a window that ended in the past, it would always have stalled.
        time_column: Column of timestamps or dates, in UTC; a date stands for the end of its day.
        stalled_hours: Hours without a new row after which the log counts as stalled; 0 to not judge it.
        now: The present, in UTC.

    Returns:
        None if the table has no such column, or no time in it.

    Raises:
        ValueError: stalled_hours is negative or infinite.
    """
    require_hours(stalled_hours)
    dtype = rows.collect_schema().get(time_column) if time_column else None
    if not time_column or not isinstance(dtype, pl.Date | pl.Datetime):
        return None
    newest = tables.collect(rows.select(tables.column(time_column).cast(pl.Datetime("us")).max())).item()
    if newest is None:
        return None
    # In hours, because stalled_hours may be more than a timedelta holds.
    age = (now - newest) / timedelta(hours=1) - (24 if dtype == pl.Date else 0)
    return Freshness(newest, age > stalled_hours if stalled_hours else None)


def measurements(found: Freshness | None) -> list[Measurement]:
    """Return what `publish_metrics` sends: the newest row's time, and the verdict if there is one."""
    if found is None:
        return []
    moment = found.newest.replace(tzinfo=UTC).timestamp()
    told = [
        Measurement(
            "flowparts_log_newest_timestamp_seconds", moment, {}, "Time of the newest row, since 1970."
        )
    ]
    if found.stalled is not None:
        told.append(
            Measurement("flowparts_log_stalled", found.stalled, {}, "1 if no row has come for too long.")
        )
    return told


def blocks(found: Freshness | None) -> list[reports.Block]:
    """Return the warning for the page about a log that has stalled; nothing for another one."""
    if found is None or not found.stalled:
        return []
    said = f"The log has stopped growing: {found.reason}. The results below are of rows measured before."
    return [reports.callout(said, "bad")]
