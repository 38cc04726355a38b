"""A log that has stopped growing, and tables of which that can't be said."""

from datetime import UTC, date, datetime

import polars as pl
import pytest

from flowparts.monitor import freshness

NOW = datetime(2026, 3, 10)


@pytest.mark.parametrize(
    ("newest", "hours", "stalled"),
    [
        (datetime(2026, 3, 9, 1), 24.0, False),
        (datetime(2026, 3, 8, 23), 24.0, True),
        (datetime(2026, 3, 8, 23), 0.0, None),
        (datetime(2026, 3, 10, 0, 4), 1.0, False),
        (date(2026, 3, 9), 23.0, False),
        (date(2026, 3, 8), 23.0, True),
        (date(2026, 3, 11), 23.0, False),
        (datetime(1, 1, 1), 1e300, False),
    ],
)
def test_the_newest_row_decides(newest: date, hours: float, stalled: bool | None) -> None:
    rows = pl.LazyFrame({"at": [None, newest]})
    found = freshness.judge(rows, "at", hours, NOW)
    assert found is not None
    assert found.stalled is stalled
    assert [each.name for each in freshness.measurements(found)][1:] == (
        [] if stalled is None else ["flowparts_log_stalled"]
    )
    assert bool(freshness.blocks(found)) == bool(stalled)


@pytest.mark.parametrize(
    ("past", "future"),
    [
        (datetime(2026, 3, 8, 23), [datetime(2026, 3, 10, 0, 6), datetime(2099, 1, 1)]),
        (date(2026, 3, 8), [date(2026, 3, 12), date(9999, 12, 31)]),
    ],
)
def test_future_rows_hide_no_stall(past: date, future: list[date]) -> None:
    found = freshness.judge(pl.LazyFrame({"at": [*future, past, None]}), "at", 23.0, NOW)
    assert found is not None
    assert (found.stalled, found.future_rows) == (True, 2)
    assert found.reason.startswith("no row is newer than 2026-03-08T")
    stalled, dated = map(str, freshness.blocks(found))
    assert "The log has stopped growing" in stalled
    assert "Rows that are dated in the future: 2. They don&#39;t count as new; check" in dated
    growing = freshness.judge(
        pl.LazyFrame({"at": [*future, NOW.date() if type(past) is date else NOW]}), "at", 24.0, NOW
    )
    assert growing is not None
    assert growing.stalled is False
    assert len(freshness.blocks(growing)) == 1


def test_a_log_with_only_future_rows_has_stalled() -> None:
    found = freshness.judge(
        pl.LazyFrame({"at": [datetime(2099, 1, 1), datetime(2098, 1, 1)]}), "at", 24.0, NOW
    )
    assert found is not None
    assert (found.stalled, found.future_rows) == (True, 2)
    assert found.reason == "all rows are dated in the future, up to 2099-01-01T00:00 UTC"
    assert [each.value for each in freshness.measurements(found)] == [
        datetime(2099, 1, 1, tzinfo=UTC).timestamp(),
        1,
    ]


@pytest.mark.parametrize("values", [[1, 2], pl.Series([None], dtype=pl.Datetime("us"))])
def test_a_column_without_times_says_nothing(values: object) -> None:
    assert freshness.judge(pl.LazyFrame({"at": values}), "at", 24.0, NOW) is None
    assert freshness.judge(pl.LazyFrame({"at": values}), "time", 24.0, NOW) is None
    assert freshness.measurements(None) == []


@pytest.mark.parametrize("hours", [-1.0, float("nan"), float("inf")])
def test_hours_must_be_a_time(hours: float) -> None:
    with pytest.raises(ValueError, match=f"stalled_hours is {hours:g}; give the hours"):
        freshness.judge(pl.LazyFrame({"at": [NOW]}), "at", hours, NOW)
