"""One format of times for all readers of text: ingestion, preprocessing, schemas and the model server.

Each reader converts many values at once with its own library. These libraries accept different texts, so
`PATTERN` decides first which texts are times.
"""

import re
from datetime import UTC, datetime, timedelta

_OFFSET = "( UTC|Z|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
# ISO 8601 to the day, minute, second or below, in the common syntax of re, RE2 (DuckDB) and Rust (Polars);
# " UTC" as BigQuery writes it.
PATTERN = f" *[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([T ]{_CLOCK}{_OFFSET}?)? *"
_TIME = re.compile(PATTERN)


# How far clocks may differ; a date may be tomorrow's, in a time zone ahead of UTC.
_TOLERANCE = timedelta(minutes=5)
_TOLERANCE_OF_DATES = timedelta(days=1)


def latest(now: datetime, of_dates: bool) -> datetime:
    """Return the latest time of a row that isn't dated in the future, by a clock or time zone that is wrong.

    Args:
        now: The present, in UTC.
        of_dates: Whether the rows have dates, which stand for their midnight.
    """
    return now + (_TOLERANCE_OF_DATES if of_dates else _TOLERANCE)


def parse(text: str) -> datetime | None:
    """Parse a text as a time in UTC without a zone; None if it isn't a time.

    A time without an offset is taken as UTC, a date as midnight; digits below a microsecond are truncated.
    Years are 1 to 9999.
    """
    if _TIME.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text.strip().replace(" UTC", "Z"))
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
