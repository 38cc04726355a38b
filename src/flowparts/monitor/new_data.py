"""Find out by fingerprint or high-water mark whether a table holds rows that an earlier run didn't see."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.util import state_files, times

_WHAT = "a state file of the data that was seen"
_KEY, _AT = "seen", "at"


@dataclass(frozen=True)
class Mark:
    """How far a table's rows go.

    Attributes:
        rows: Number of its rows; with a column, of those that have a value in it.
        fingerprint: Of its content; None with a column.
        column: The column of the high-water mark; None without one.
        highest: Its highest value: a number, or a time in ISO 8601 (UTC).
    """

    rows: int
    fingerprint: str | None = None
    column: str | None = None
    highest: int | float | str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {_KEY: asdict(self)}


@dataclass(frozen=True)
class State:
    """What a successful run has seen.

    Attributes:
        mark: How far the rows went.
        at: The day on which it was remembered (UTC); None if an earlier version remembered it.
    """

    mark: Mark
    at: datetime | None = None


@dataclass(frozen=True)
class News:
    """Result of `compare`.

    Attributes:
        new_rows: Number of new rows; by fingerprint the growth, which may be 0 although rows changed.
        new_data: Whether there are new rows, or the content changed.
        reason: Reason, in a sentence.
    """

    new_rows: int
    new_data: bool
    reason: str


def mark(frame: pl.LazyFrame, column: str | None = None) -> Mark:
    """Return the mark of a table: how far its rows go.

    Raises:
        ValueError: The table has no rows, or the column is missing, holds neither numbers nor times, or has
            no value.
    """
    tables.require_rows(frame)
    if not column:
        return Mark(tables.row_count(frame), tables.fingerprint(frame))
    values = _values(frame, column)
    found = tables.collect(values.select(pl.len().alias("rows"), pl.max("value").alias("highest")))
    rows, highest = found.row(0)
    if not rows:
        raise ValueError(f"column {column!r} has no values; the high-water mark needs one")
    return Mark(rows, None, column, highest.isoformat() if isinstance(highest, datetime) else highest)


def compare(frame: pl.LazyFrame, now: Mark, seen: Mark | None) -> News:
    """Compare a table with what was seen.

    With a column, rows beyond the mark are new. So are rows that arrived late: as many as lie at or below the
    mark in excess of those seen.

    Args:
        frame: The table.
        now: Its own mark.
        seen: The mark of the data that was seen; None if there was none.

    Raises:
        ValueError: The marks are of different kinds.
    """
    if seen is None:
        return News(now.rows, True, f"no data was seen before, and there are {now.rows:,} rows")
    if now.column != seen.column or isinstance(now.highest, str) != isinstance(seen.highest, str):
        kinds = [f"column {each.column!r}" if each.column else "the fingerprint" for each in (seen, now)]
        kinds = kinds if kinds[0] != kinds[1] else [f"{kinds[0]} of another type", kinds[1]]
        raise ValueError(
            f"the data that was seen was marked by {kinds[0]}, and this is by {kinds[1]}; name another "
            "state file, or remove that one to begin again"
        )
    if not now.column:
        if now.fingerprint == seen.fingerprint:
            return News(0, False, f"the {now.rows:,} rows are those that were seen before")
        grown = max(now.rows - seen.rows, 0)
        return News(grown, True, f"the content changed: {now.rows:,} rows now, {seen.rows:,} before")
    newer = tables.row_count(beyond(frame, seen))
    late = max(now.rows - newer - seen.rows, 0)
    where = f"{now.column} {seen.highest}"
    if not newer and not late:
        said = f"no row lies beyond {where}"
        if _higher(seen, now):
            said += (
                f", but the highest now is {now.highest}; if the other was a mistake, remove the state file"
            )
        return News(0, False, said)
    message = f"{newer:,} rows lie beyond {where}"
    return News(newer + late, True, message + (f", and {late:,} came late" if late else ""))


def beyond(frame: pl.LazyFrame, seen: Mark) -> pl.LazyFrame:
    """Return the rows of a table beyond a mark; all of them if the mark is a fingerprint.

    Raises:
        ValueError: The column is missing, or holds neither numbers nor times.
    """
    if not seen.column:
        return frame
    value = _comparable(frame, seen.column)
    return frame.filter(value > _bound(seen))


def seen(state_uri: str) -> State | None:
    """Read what was seen from a JSON file that outlives runs; None if there is no file.

    Args:
        state_uri: Path or URI of the file.

    Raises:
        ValueError: It can't be read, or holds something else.
    """
    found = state_files.read(state_uri, _WHAT)
    if found is None:
        return None
    mark = parse(found, state_uri)
    at = found.get(_AT)
    moment = times.parse(at) if isinstance(at, str) else None
    if at is not None and moment is None:
        raise state_files.unexpected_content(state_uri, _WHAT)
    return State(mark, moment)


def remember(state_uri: str, mark: Mark) -> None:
    """Remember that the data of a mark was seen, and the day; a higher mark is kept.

    In an object store, runs that end at the same time may overwrite each other's mark. If the lower one
    remains, a later run sees some rows again, but misses none.

    Raises:
        ValueError: The file can't be read or written, or holds something else.
    """
    with state_files.locked(state_uri):
        before = seen(state_uri)
        if before is not None and before.mark.column == mark.column and _higher(before.mark, mark):
            mark = before.mark
        # The day is enough for the age of a training, and a repeated step writes the same.
        state_files.write(state_uri, {**mark.to_dict(), _AT: datetime.now(UTC).date().isoformat()})


def parse(found: Any, where: str) -> Mark:
    """Return a mark from its JSON form; raise ValueError if it isn't one."""
    try:
        parsed = Mark(**found[_KEY])
        if not isinstance(parsed.rows, int) or (parsed.column is None) != (parsed.highest is None):
            raise TypeError
        if isinstance(parsed.highest, str) and times.parse(parsed.highest) is None:
            raise TypeError
    except (TypeError, LookupError):
        raise state_files.unexpected_content(where, _WHAT) from None
    return parsed


def _higher(one: Mark, other: Mark) -> bool:
    if isinstance(one.highest, str) and isinstance(other.highest, str):
        first, second = times.parse(one.highest), times.parse(other.highest)
        return first is not None and second is not None and first > second
    if isinstance(one.highest, int | float) and isinstance(other.highest, int | float):
        return one.highest > other.highest
    return False


def _bound(seen: Mark) -> int | float | datetime | None:
    return times.parse(seen.highest) if isinstance(seen.highest, str) else seen.highest


def _values(frame: pl.LazyFrame, column: str) -> pl.LazyFrame:
    """Return the values of a column that can be compared, as `value`."""
    return frame.select(_comparable(frame, column).alias("value")).drop_nulls()


def _comparable(frame: pl.LazyFrame, column: str) -> pl.Expr:
    """Return the values of a column in comparable form; null if a value can't be compared."""
    tables.require_columns(frame, [column], "column of the high-water mark")
    dtype = frame.collect_schema()[column]
    value = tables.column(column)
    if isinstance(dtype, pl.Date | pl.Datetime):
        return value.cast(pl.Datetime("us"))
    if not dtype.is_numeric():
        raise ValueError(f"column {column!r} holds {dtype}; a high-water mark needs numbers or times")
    return pl.when(value.is_finite()).then(value) if dtype.is_float() else value
