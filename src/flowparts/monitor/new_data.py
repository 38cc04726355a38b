"""Whether a table holds rows that an earlier run didn't see: by its fingerprint or a high-water mark."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.util import kept, times

_WHAT = "a memory of the data that was seen"
_KEY = "seen"


@dataclass(frozen=True)
class Mark:
    """How far a table's rows go.

    Attributes:
        rows: Its rows; with a column only those that have a value of it.
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
class News:
    """What `compare` found.

    Attributes:
        new_rows: Rows that weren't there before; by fingerprint the growth, which may be 0 although rows
            changed.
        new_data: Whether there are any, or the content changed.
        reason: Why, in a sentence.
    """

    new_rows: int
    new_data: bool
    reason: str


def mark(frame: pl.LazyFrame, column: str | None = None) -> Mark:
    """Return how far a table's rows go.

    Raises:
        ValueError: The table has no rows, or the column isn't there, holds neither numbers nor times, or has
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

    With a column, rows beyond the mark are new, and so are rows that came late: if more rows than were seen
    lie at or below the mark.

    Args:
        frame: The table.
        now: Its own mark.
        seen: The mark of the data that was seen; None if there was none.

    Raises:
        ValueError: The two marks are of different kinds.
    """
    if seen is None:
        return News(now.rows, True, f"no data was seen before, and there are {now.rows:,} rows")
    if now.column != seen.column or isinstance(now.highest, str) != isinstance(seen.highest, str):
        kinds = [f"column {each.column!r}" if each.column else "the fingerprint" for each in (seen, now)]
        kinds = kinds if kinds[0] != kinds[1] else [f"{kinds[0]} of another type", kinds[1]]
        raise ValueError(
            f"the data that was seen was marked by {kinds[0]}, and this is by {kinds[1]}; name another "
            "memory, or remove that one to begin again"
        )
    if not now.column:
        if now.fingerprint == seen.fingerprint:
            return News(0, False, f"the {now.rows:,} rows are those that were seen before")
        grown = max(now.rows - seen.rows, 0)
        return News(grown, True, f"the content changed: {now.rows:,} rows now, {seen.rows:,} before")
    bound = times.parse(seen.highest) if isinstance(seen.highest, str) else seen.highest
    beyond = tables.row_count(_values(frame, now.column).filter(pl.col("value") > bound))
    late = max(now.rows - beyond - seen.rows, 0)
    where = f"{now.column} {seen.highest}"
    if not beyond and not late:
        return News(0, False, f"no row lies beyond {where}")
    told = f"{beyond:,} rows lie beyond {where}"
    return News(beyond + late, True, told + (f", and {late:,} came late" if late else ""))


def seen(memory: str) -> Mark | None:
    """Return what was seen, from a JSON file that outlives runs; None if there is no file.

    Args:
        memory: Path or URI of the file.

    Raises:
        ValueError: It can't be read, or holds something else.
    """
    found = kept.read(memory, _WHAT)
    return None if found is None else parse(found, memory)


def remember(memory: str, mark: Mark) -> None:
    """Remember that the data of a mark was seen; a mark that is higher already stays.

    Runs that end at once may overwrite each other's mark. The lower one then makes a later run see rows once
    more, but none are missed.

    Raises:
        ValueError: The file can't be read or written, or holds something else.
    """
    before = seen(memory)
    if before is not None and before.column == mark.column and _higher(before, mark):
        return
    kept.write(memory, mark.to_dict())


def parse(found: Any, where: str) -> Mark:
    """Return a mark from its JSON; ValueError if it is none."""
    try:
        parsed = Mark(**found[_KEY])
        if not isinstance(parsed.rows, int) or (parsed.column is None) != (parsed.highest is None):
            raise TypeError
        if isinstance(parsed.highest, str) and times.parse(parsed.highest) is None:
            raise TypeError
    except (TypeError, LookupError):
        raise kept.foreign(where, _WHAT) from None
    return parsed


def _higher(one: Mark, other: Mark) -> bool:
    if isinstance(one.highest, str) and isinstance(other.highest, str):
        first, second = times.parse(one.highest), times.parse(other.highest)
        return first is not None and second is not None and first > second
    if isinstance(one.highest, int | float) and isinstance(other.highest, int | float):
        return one.highest > other.highest
    return False


def _values(frame: pl.LazyFrame, column: str) -> pl.LazyFrame:
    """Return the values of a column that can be compared, as `value`."""
    tables.require_columns(frame, [column], "column of the high-water mark")
    dtype = frame.collect_schema()[column]
    value = tables.column(column).alias("value")
    if dtype in (pl.Date, pl.Datetime):
        return frame.select(value.cast(pl.Datetime("us"))).drop_nulls()
    if not dtype.is_numeric():
        raise ValueError(f"column {column!r} holds {dtype}; a high-water mark needs numbers or times")
    found = frame.select(value).drop_nulls()
    return found.filter(pl.col("value").is_finite()) if dtype.is_float() else found
