"""How a time is written, for every reader of text: ingestion, preprocessing, schemas and the model server.

Each reader converts many values at once with its own library. Those accept different texts, so `PATTERN`
decides first what is a time at all.
"""

import re
from datetime import UTC, datetime

_OFFSET = "( UTC|Z|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
# ISO 8601 to the day, minute, second or below, as re, RE2 (DuckDB) and Rust (Polars) read it; UTC as BigQuery
# writes it.
PATTERN = f" *[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([T ]{_CLOCK}{_OFFSET}?)? *"
_TIME = re.compile(PATTERN)


def parse(text: str) -> datetime | None:
    """Return the time that a text stands for, in UTC without a zone, or None if it is no time.

    A time without an offset is taken as UTC, a date as its midnight; digits below a microsecond are cut off.
    The years are 1 to 9999.
    """
    if _TIME.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text.strip().replace(" UTC", "Z"))
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
