"""Agreement of a model's predictions in two places: the rows to compare, and the tolerance."""

import datetime
from collections.abc import Mapping
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.util import images

# Allowed difference of probabilities, and of regression values in units of `scale`: float32 arithmetic in
# batches of different sizes.
TOLERANCE = 1e-5


def sample(table: pl.LazyFrame, rows: int) -> pl.DataFrame:
    """Return a number of rows spread evenly over a table, or all if it has fewer.

    Raises:
        ValueError: The table has no rows.
    """
    total, place = tables.require_rows(table, "the test table"), "row"
    while place in table.collect_schema():
        place += "_"
    chosen = pl.Series([number * total // rows for number in range(min(rows, total))], dtype=pl.UInt32)
    if rows >= total:
        return table.pipe(tables.collect)
    numbered = table.with_row_index(place).filter(pl.col(place).is_in(chosen.implode()))
    return numbered.drop(place).pipe(tables.collect)


def to_records(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Return rows as the JSON records that a client sends.

    Times are ISO 8601, images base64, missing and infinite values null.
    """
    finite = rows.with_columns(pl.when(column.is_finite()).then(column) for column in [pl.selectors.float()])
    return [{name: _plain(value) for name, value in row.items()} for row in finite.to_dicts()]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return images.to_text(value)
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float | str) else float(value)


def scale(predictions: pl.DataFrame, task: str) -> float:
    """Return the scale of regression values: their root mean square, and at least 1.

    If terms of that size add up to a value near zero, its error is that of the terms.
    """
    if task != "regression":
        return 1.0
    values = predictions["prediction"]
    square = (values.cast(pl.Float64) ** 2).mean()
    return max(1.0, float(square) ** 0.5) if isinstance(square, float) else 1.0


def differences(
    expected: pl.DataFrame,
    online: pl.DataFrame,
    task: str,
    unit: float | None = None,
    card: Mapping[str, Any] | None = None,
) -> pl.Series:
    """Return for each row whether the two predictions differ.

    Args:
        expected: The model's offline predictions.
        online: A server's predictions, row by row.
        task: "classification" or "regression".
        unit: The `scale` of all offline predictions, if these are only some of them.
        card: The model's metadata, which may hold a decision threshold.
    """
    columns = pl.DataFrame({"expected": expected["prediction"], "online": online["prediction"]})
    if task == "regression":
        least = unit or scale(expected, task)
        allowed = TOLERANCE * pl.max_horizontal(least, pl.col("expected").abs())
        beyond = (pl.col("online") - pl.col("expected")).abs() > allowed
        return columns.select(beyond.fill_null(value=True)).to_series()
    names = [name for name in expected.columns if name.startswith("probability_")]
    apart = [((online[name] - expected[name]).abs() > TOLERANCE).fill_null(value=True) for name in names]
    may_differ: pl.Series = classes_may_differ(*(_lead(frame, names) for frame in (expected, online)))
    if card and "threshold" in card:
        positive = expected[f"probability_{card['positive_class']}"]
        may_differ = near_threshold(positive, card["threshold"])
    other = (online["prediction"] != expected["prediction"]).fill_null(value=True) & ~may_differ
    for difference in apart:
        other = other | difference
    return other


def classes_may_differ(expected_lead: Any, online_lead: Any) -> Any:
    """Return for each row whether float arithmetic can explain a different predicted class.

    If on both sides the two most probable classes are exactly equal, it can't: then the class was decided by
    something else, such as a decision function, and must be the same.

    Args:
        expected_lead: By how much the most probable class is more probable than the next one (array or
            series).
        online_lead: The same on the other side.
    """
    return (expected_lead <= 2 * TOLERANCE) & ~((expected_lead == 0) & (online_lead == 0))


def near_threshold(probability: Any, threshold: float) -> Any:
    """Return for each row whether float arithmetic can explain another decision by a threshold."""
    return abs(probability - threshold) <= TOLERANCE


def _lead(predictions: pl.DataFrame, names: list[str]) -> pl.Series:
    ranked = predictions.select(pl.concat_list(names).list.sort(descending=True).alias("p"))["p"]
    return (ranked.list.get(0) - ranked.list.get(1)).fill_null(1.0)
