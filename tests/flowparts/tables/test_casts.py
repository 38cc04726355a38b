import datetime

import polars as pl
import pytest

from flowparts.tables import casts

TRAIN = pl.DataFrame(
    {
        "count": [1, 2],
        "size": [1.5, None],
        "town": ["a", "b"],
        "at": [datetime.datetime(2024, 1, 1), None],
        "empty": pl.Series([None, None], dtype=pl.Null),
        "only here": [1, 2],
    }
)


def stacked(second: pl.DataFrame) -> pl.DataFrame:
    return casts.stacked(TRAIN.lazy(), second.lazy()).collect()


def test_rows_of_other_types_are_cast_to_those_of_the_first_table() -> None:
    found = stacked(
        pl.DataFrame(
            {
                "town": [3],
                "at": ["2024-02-29 12:30"],
                "count": ["7"],
                "empty": ["x"],
                "size": [2],
                "more": [0],
            }
        )
    )
    assert found.columns == ["count", "size", "town", "at", "empty"]
    assert found.schema == pl.Schema(
        {
            "count": pl.Float64(),
            "size": pl.Float64(),
            "town": pl.String(),
            "at": pl.Datetime("us"),
            "empty": pl.String(),
        }
    )
    assert found.row(2) == (7.0, 2.0, "3", datetime.datetime(2024, 2, 29, 12, 30), "x")


def test_equal_types_stay_as_they_are() -> None:
    assert stacked(TRAIN).equals(pl.concat([TRAIN, TRAIN]))


def test_a_value_that_is_none_of_the_first_type_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"column 'count' must hold integer values, as in training, not 'many'"
    ):
        stacked(pl.DataFrame({"count": ["many"]}))
