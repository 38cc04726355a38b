import datetime as dt
import re
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowparts.util import text_types

Convert = Callable[[str, str], Any]

# The rule that text_types.inferred takes shortcuts to, written independently of it.
NUMBER = re.compile(
    r"\s*[+-]?(((0|[1-9]\d*)\.\d*|\.\d+|0|[1-9]\d{0,14})(e[+-]?\d+)?|nan|inf|infinity)\s*",
    re.IGNORECASE | re.ASCII,
)


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


@pytest.fixture(scope="module")
def inferred(database: duckdb.DuckDBPyConnection) -> Convert:
    def convert(kind: str, text: str) -> Any:
        return database.execute(
            f"SELECT {text_types.inferred(kind, 't')} FROM (SELECT ? AS t)", [text]
        ).fetchall()[0][0]

    return convert


@pytest.fixture(scope="module")
def named(database: duckdb.DuckDBPyConnection) -> Convert:
    def convert(kind: str, text: str) -> Any:
        return database.execute(
            f"SELECT {text_types.given(kind, 't')} FROM (SELECT ? AS t)", [text]
        ).fetchall()[0][0]

    return convert


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("boolean", "true", True),
        ("boolean", "FALSE", False),
        ("integer", "-12", -12),
        ("integer", " 7 ", 7),
        ("integer", "9223372036854775807", 2**63 - 1),
        ("number", "1", 1.0),
        ("number", "-0.5e3", -500.0),
        ("number", ".5", 0.5),
        ("number", "0.3353895987048398436712", 0.33538959870483984),
        ("date", "2024-02-29", dt.date(2024, 2, 29)),
        ("date", " 2024-02-29", dt.date(2024, 2, 29)),
        ("timestamp", "9999-12-31T23:59:59", dt.datetime(9999, 12, 31, 23, 59, 59)),
        ("timestamp", "0001-01-01", dt.datetime(1, 1, 1)),
        ("timestamp", "2024-02-29", dt.datetime(2024, 2, 29)),
        ("timestamp", "2024-02-29 03:04", dt.datetime(2024, 2, 29, 3, 4)),
        ("timestamp", "2024-02-29T03:04:05.123456789", dt.datetime(2024, 2, 29, 3, 4, 5, 123456)),
        ("timestamp", "2024-02-29T03:04:05Z", dt.datetime(2024, 2, 29, 3, 4, 5)),
        ("timestamp", "2024-02-29T03:04:05+02:00", dt.datetime(2024, 2, 29, 1, 4, 5)),
        ("timestamp", "2024-02-29 03:04:05.5 UTC", dt.datetime(2024, 2, 29, 3, 4, 5, 500000)),
        ("string", "", ""),
        ("string", "é", "é"),
    ],
)
def test_text_that_looks_like_a_type_gives_its_value(
    inferred: Convert, kind: str, text: str, value: object
) -> None:
    assert inferred(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("boolean", "1"),
        ("boolean", "yes"),
        ("boolean", ""),
        ("integer", "1.5"),
        ("integer", "1.0"),
        ("integer", "007"),
        ("integer", "1_000"),
        ("integer", "0x1F"),
        ("integer", "9223372036854775808"),
        ("integer", "1e3"),
        ("number", "007"),
        ("number", "-01.5"),
        ("number", "1_000"),
        ("number", "1,5"),
        ("number", "1234567890123456"),
        ("number", "abc"),
        ("number", ""),
        ("date", "2024-02-30"),
        ("date", "2024-02-28 00:00:00"),
        ("date", "29.02.2024"),
        ("date", "infinity"),
        ("timestamp", "2024-02-30 03:04:05"),
        ("timestamp", "1-2-3"),
        ("timestamp", "epoch"),
        ("timestamp", "03:04:05"),
        ("date", "0000-01-01"),
        ("timestamp", "0000-01-01 10:00"),
        ("timestamp", "9999-12-31T23:59:59-05:00"),
        ("timestamp", "0001-01-01T00:00:00+05:00"),
        ("string", "a\0b"),
    ],
)
def test_text_that_looks_like_something_else_gives_null(inferred: Convert, kind: str, text: str) -> None:
    assert inferred(kind, text) is None


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("boolean", "Yes", True),
        ("boolean", "0", False),
        ("integer", "007", 7),
        ("integer", "7.0", 7),
        ("integer", "7.5", None),
        ("number", "007", 7.0),
        ("number", "1_000", None),
        ("date", "2024-02-29 00:00:00", dt.date(2024, 2, 29)),
        ("date", "2024-02-29 12:00:00", None),
        ("timestamp", "2024-02-29", dt.datetime(2024, 2, 29)),
        ("string", "007", "007"),
    ],
)
def test_type_that_a_person_named_accepts_more_texts(
    named: Convert, kind: str, text: str, value: object
) -> None:
    assert named(kind, text) == value


@settings(max_examples=300, deadline=None)
@given(text=st.text("0123456789+-._eE naif", max_size=24))
def test_shortcuts_of_the_number_rule_change_nothing(inferred: Convert, text: str) -> None:
    value = inferred("number", text)
    assert (value is not None) == bool(NUMBER.fullmatch(text))
    if value is not None and value == value:
        assert value == float(text)


@settings(max_examples=200, deadline=None)
@given(value=st.one_of(st.integers(-(2**70), 2**70), st.integers(-99, 99)))
def test_integers_are_exact_or_refused(inferred: Convert, value: int) -> None:
    assert inferred("integer", str(value)) == (value if -(2**63) <= value < 2**63 else None)


@settings(max_examples=200, deadline=None)
@given(value=st.datetimes(min_value=dt.datetime(1, 1, 2), max_value=dt.datetime(9999, 12, 30)))
def test_iso_timestamps_come_back_as_they_were_written(inferred: Convert, value: dt.datetime) -> None:
    assert inferred("timestamp", value.isoformat()) == value
    assert inferred("timestamp", value.isoformat(" ")) == value
    assert inferred("date", value.date().isoformat()) == value.date()
