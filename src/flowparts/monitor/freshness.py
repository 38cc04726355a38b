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
from flowparts.util import times


@dataclass(frozen=True)
class Freshness:
    """How new the rows of a log are.

    Attributes:
        newest: Time of the newest row, in UTC: of those that aren't dated in the future, if there are any.
        stalled: Whether no row has come for too long; None if that wasn't judged.
        future_rows: Number of rows that are dated in the future.
        is_future: Whether all rows are.
    """

    newest: datetime
    stalled: bool | None
    future_rows: int = 0
    is_future: bool = False

    @property
    def reason(self) -> str:
        """The newest row's time, in a sentence that stays the same until another row comes."""
        if self.is_future:
            return f"all rows are dated in the future, up to {self.newest.isoformat(timespec='minutes')} UTC"
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
    moment = tables.column(time_column).cast(pl.Datetime("us"))
    limit = times.latest(now, dtype == pl.Date)
    (past, newest, future_rows) = tables.collect(
        rows.select(
            pl.when(moment <= limit).then(moment).max().alias("past"),
            moment.max().alias("newest"),
            (moment > limit).sum().alias("future_rows"),
        )
    ).row(0)
    if newest is None:
        return None
    if past is None:
        # None of them shows that rows still come.
        return Freshness(newest, True if stalled_hours else None, future_rows, is_future=True)
    # In hours, because stalled_hours may be more than a timedelta holds.
    age = (now - past) / timedelta(hours=1) - (24 if dtype == pl.Date else 0)
    return Freshness(past, age > stalled_hours if stalled_hours else None, future_rows)


def measurements(found: Freshness | None) -> list[Measurement]:
    """Return what `publish_metrics` sends: the newest row's time, and the verdict if there is one."""
    if found is None:
        return []
    moment = found.newest.replace(tzinfo=UTC).timestamp()
    results = [
        Measurement(
            "flowparts_log_newest_timestamp_seconds", moment, {}, "Time of the newest row, since 1970."
        )
    ]
    if found.stalled is not None:
        results.append(
            Measurement("flowparts_log_stalled", found.stalled, {}, "1 if no row has come for too long.")
        )
    return results


def blocks(found: Freshness | None) -> list[reports.Block]:
    """Return what the page says of a log that has stalled, and of rows that are dated in the future."""
    said = []
    if found and found.stalled:
        said.append(
            reports.callout(
                f"The log has stopped growing: {found.reason}. The results below are of rows measured "
                "before.",
                "bad",
            )
        )
    if found and found.future_rows:
        said.append(
            reports.callout(
                f"Rows that are dated in the future: {found.future_rows:,}. They don't count as new; check "
                "the clocks and time zones of what writes the log."
            )
        )
    return said
