"""Every reader of times takes the same texts for the same times."""

import itertools
from datetime import datetime

import duckdb
import polars as pl
import pytest

from flowparts.deploy.targets import _tf_rows
from flowparts.models import raw_features
from flowparts.tables import casts
from flowparts.util import text_types, times

DAYS = [
    "2024-02-29", "2023-02-29", "0001-01-01", "9999-12-31", "0000-12-31", "2024-1-2", "20240102",
    " 2024-01-02",
]  # fmt: skip
CLOCKS = [
    "", " ", "T03", "T03:04", "T03:04:05", " 03:04:05", "  03:04:05", "T3:4:5", "t03:04:05", "T0304",
    "T24:00:00", "T23:59:60", "T23:60:00", "T00:00:00.", "T03:04:05.1", "T03:04:05.123456789", "T03:04:05,5",
]  # fmt: skip
OFFSETS = [
    "", "Z", "z", "+02", "+2", "+0200", "+02:00", " +02:00", " Z", "-05:30", "+02:00:30", "+25:00", "+14",
    "\u221205:00", "UTC", " UTC", " Europe/Berlin", "\n",
]  # fmt: skip
TEXTS = ["".join(parts) for parts in itertools.product(DAYS, CLOCKS, OFFSETS)]


@pytest.fixture(scope="module")
def parsed() -> list[datetime | None]:
    return [times.parse(text) for text in TEXTS]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-02-29", datetime(2024, 2, 29)),
        ("2024-02-29T23:59", datetime(2024, 2, 29, 23, 59)),
        ("2024-02-29 23:59:58.1234567", datetime(2024, 2, 29, 23, 59, 58, 123456)),
        ("2024-02-29T23:59:58+02:00", datetime(2024, 2, 29, 21, 59, 58)),
        ("2024-02-29 23:59:58 UTC", datetime(2024, 2, 29, 23, 59, 58)),
        ("2023-02-29", None),
        ("29.02.2024", None),
        ("2024-02-29T24:00:00", None),
        ("2024-02-29T12:00:00 Europe/Berlin", None),
        ("0001-01-01T00:00:00+01:00", None),
        ("9999-12-31T23:59:59-01:00", None),
    ],
)
def test_a_time_is_iso_8601_in_utc(text: str, moment: datetime | None) -> None:
    assert times.parse(text) == moment


def test_ingestion_reads_the_same_times(parsed: list[datetime | None]) -> None:
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        database.execute("CREATE TABLE texts AS SELECT unnest(?) AS text", [TEXTS])
        rows = database.execute(
            f"SELECT text, {text_types.inferred('timestamp', 'text')} FROM texts"
        ).fetchall()
    assert rows == list(zip(TEXTS, parsed, strict=True))


def test_preprocessing_reads_the_same_times(parsed: list[datetime | None]) -> None:
    good = [text for text, moment in zip(TEXTS, parsed, strict=True) if moment]
    read = casts.conform(pl.DataFrame({"at": good}), {"at": "timestamp"})
    assert read["at"].to_list() == [moment for moment in parsed if moment]
    for text in (text for text, moment in zip(TEXTS, parsed, strict=True) if moment is None):
        with pytest.raises(ValueError, match=r"in ISO 8601 \(years 1 to 9999\), as in training, not"):
            casts.conform(pl.DataFrame({"at": [text]}), {"at": "timestamp"})


def test_the_server_reads_the_same_times(parsed: list[datetime | None]) -> None:
    good = [text for text, moment in zip(TEXTS, parsed, strict=True) if moment]
    assert raw_features.conform({"at": good}, {"at": "timestamp"})["at"] == [
        moment for moment in parsed if moment
    ]
    for text in ("2023-02-29", "2024-02-29T24:00:00", "2024-1-2", "2024-01-02 Europe/Berlin"):
        with pytest.raises(ValueError, match=r"in ISO 8601 \(years 1 to 9999\), as in training, not"):
            raw_features.conform({"at": [text]}, {"at": "timestamp"})
        with pytest.raises(ValueError, match="takes numbers or times as ISO 8601"):
            _tf_rows._value("at", text, _tf_rows.Input("DT_DOUBLE", False))
