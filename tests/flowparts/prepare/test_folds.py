from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from flowparts.prepare import folds

ROWS = pl.DataFrame(
    {
        "x": [float(row) for row in range(300)],
        "who": [row // 10 for row in range(300)],
        "at": [datetime(2026, 1, 1) + timedelta(hours=row) for row in range(300)],
        "y": ["rare" if row % 10 == 0 else "often" for row in range(300)],
    }
)
WHAT: dict[str, Any] = {"label": "y", "task": "classification"}


def validated(found: list[folds.Fold]) -> list[list[float]]:
    return [ROWS.filter(fold.validation)["x"].to_list() for fold in found]


def test_each_row_is_validated_once_with_equal_fractions_of_each_class() -> None:
    found = folds.assign(ROWS.lazy(), 5, **WHAT)
    assert sorted(row for rows in validated(found) for row in rows) == ROWS["x"].to_list()
    for fold in found:
        assert (fold.train == ~fold.validation).all()
        assert abs(fold.validation.sum() - 60) <= 1
        assert abs((ROWS.filter(fold.validation)["y"] == "rare").sum() - 6) <= 1


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does() -> None:
    shuffled = ROWS.sample(fraction=1, shuffle=True, seed=1)
    first, again, other = (
        [set(rows.filter(fold.validation)["x"]) for fold in folds.assign(rows.lazy(), 4, **WHAT, seed=seed)]
        for rows, seed in ((ROWS, 0), (shuffled, 0), (ROWS, 1))
    )
    assert first == again != other


@pytest.mark.parametrize("way", [{"group_by": "who"}, {"kept_together": ["who"]}], ids=["group", "split"])
def test_groups_stay_together(way: dict[str, Any]) -> None:
    found = folds.assign(ROWS.lazy(), 4, **WHAT, **way)
    of_fold = [set(ROWS.filter(fold.validation)["who"]) for fold in found]
    assert sum(map(len, of_fold)) == 30 == len(set.union(*of_fold))
    assert all(7 <= len(each) <= 8 for each in of_fold)


def test_copies_of_a_row_stay_together() -> None:
    copied = pl.concat([ROWS, ROWS])
    for fold in folds.assign(copied.lazy(), 4, **WHAT):
        assert not set(copied.filter(fold.train)["x"]) & set(copied.filter(fold.validation)["x"])


def test_by_time_each_fold_is_validated_on_later_rows_than_it_trains_on() -> None:
    shuffled = ROWS.sample(fraction=1, shuffle=True, seed=1)
    found = folds.assign(shuffled.lazy(), 4, time_column="at", **WHAT)
    sizes = []
    for fold in found:
        assert shuffled.filter(fold.train)["at"].max() < shuffled.filter(fold.validation)["at"].min()
        sizes.append((int(fold.train.sum()), int(fold.validation.sum())))
    assert sizes == [(60, 60), (120, 60), (180, 60), (240, 60)]


def test_a_regression_has_each_decile_in_each_fold() -> None:
    for fold in folds.assign(ROWS.lazy(), 3, label="x", task="regression", exclude_columns=["at"]):
        deciles = ROWS.filter(fold.validation)["x"] // 30
        assert all(9 <= count <= 11 for count in deciles.value_counts()["count"])


@pytest.mark.parametrize(
    ("rows", "number", "options", "sentence"),
    [
        (ROWS, 1, {}, "folds must be at least 2, not 1"),
        (ROWS.head(3), 5, {}, "has 3 rows, fewer than the 5 folds"),
        (ROWS, 40, {"group_by": "who"}, "30 distinct values of 'who', fewer than the 40 folds"),
        (ROWS, 2, {"group_by": "who", "time_column": "at"}, "group_by and time_column contradict"),
        (ROWS, 2, {"group_by": "whom"}, "group_by column 'whom' is not in the table"),
        (ROWS, 2, {"time_column": "y"}, "time column 'y' must hold .*, not String"),
        (ROWS.with_columns(at=pl.lit(1)), 2, {"time_column": "at"}, "too few distinct values"),
        (ROWS, 2, {"group_by": "y"}, "fold 1 of 2 has a single class of 'y' to validate on"),
        (
            ROWS.with_columns(y=pl.when(pl.col("x") < 250).then(pl.col("y")).otherwise(pl.lit("late"))),
            3,
            {"time_column": "at"},
            "fold 1 of 3 has no training rows of class 'late' of 'y'",
        ),
    ],
)
def test_an_indivisible_table_gives_a_one_line_error(
    rows: pl.DataFrame, number: int, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        folds.assign(rows.lazy(), number, **WHAT, **options)
