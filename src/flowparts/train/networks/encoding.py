"""Statistics and vocabularies of raw columns, learned from the training table in a stream.

A network takes float64 numbers (NaN where missing), moments as microseconds since 1970, and text as positions
in a vocabulary: 0 for a missing or empty text, 1 for one that the vocabulary lacks, then its values in order,
as Keras' StringLookup counts with `mask_token=""`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.tables import casts

NUMBERS = ("integer", "number", "boolean")
MOMENTS = ("timestamp", "date")
MICROSECONDS_PER_DAY = 86_400e6

# A text that occurs once only adds noise; its row trains the position of unknown texts instead.
_LEAST_OCCURRENCES = 2


@dataclass(frozen=True)
class Encoding:
    """Means, variances and vocabularies of the training table.

    Attributes:
        features: Raw column name to type, in the order of the table.
        nullable: Columns in which the training table had missing values.
        means: Number and time columns to the mean of their values; times in days since 1970.
        variances: The same columns to their variance (population).
        vocabularies: Text column to its values, the most frequent first.
    """

    features: dict[str, str]
    nullable: list[str]
    means: dict[str, float]
    variances: dict[str, float]
    vocabularies: dict[str, list[str]]

    @property
    def numbers(self) -> list[str]:
        """Columns of numbers and booleans."""
        return [name for name, kind in self.features.items() if kind in NUMBERS]

    @property
    def moments(self) -> list[str]:
        """Columns of timestamps and dates."""
        return [name for name, kind in self.features.items() if kind in MOMENTS]

    @property
    def texts(self) -> list[str]:
        """Columns of text."""
        return list(self.vocabularies)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON form, which `from_dict` reads."""
        return {**asdict(self), "features": [[name, kind] for name, kind in self.features.items()]}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Encoding":
        """Return what `to_dict` described."""
        return cls(**{**given, "features": dict(given["features"])})


def learn(
    train: pl.LazyFrame, features: Mapping[str, str], nullable: Sequence[str], max_categories: int
) -> Encoding:
    """Learn means, variances and vocabularies; memory doesn't grow with the number of rows.

    Args:
        train: Raw rows of the training table.
        features: Raw column name to type.
        nullable: Columns in which values are missing.
        max_categories: Maximum vocabulary size per text column.
    """
    measured: dict[str, pl.Expr] = {}
    for index, (name, kind) in enumerate(features.items()):
        if kind == "string":
            continue
        value = _number(name, kind)
        measured |= {f"mean{index}": value.mean(), f"variance{index}": value.var(ddof=0)}
    row = train.select(**measured).pipe(tables.collect).row(0, named=True) if measured else {}
    places = {name: index for index, name in enumerate(features) if features[name] != "string"}
    return Encoding(
        dict(features),
        list(nullable),
        {name: float(row[f"mean{index}"]) for name, index in places.items()},
        {name: float(row[f"variance{index}"]) for name, index in places.items()},
        {
            name: _vocabulary(train, name, max_categories)
            for name, kind in features.items()
            if kind == "string"
        },
    )


def arrays(rows: pl.DataFrame, encoding: Encoding) -> dict[str, Any]:
    """Return the arrays that a network takes for raw rows.

    Args:
        rows: Raw rows with the features.
        encoding: Encoding learned from the training table.

    Returns:
        "numbers" and "moments" (float64) and "texts" (int32), each rows by columns; only those of
        which there are columns.

    Raises:
        ValueError: A column is missing, or a value can't be cast.
    """
    raw = casts.conform(rows, encoding.features)
    made: dict[str, Any] = {}
    if encoding.numbers:
        made["numbers"] = tables.select(raw, encoding.numbers).fill_null(float("nan")).to_numpy(order="c")
    if encoding.moments:
        moments = raw.select(
            tables.column(name).dt.epoch("us").cast(pl.Float64).fill_null(float("nan"))
            for name in encoding.moments
        )
        made["moments"] = moments.to_numpy(order="c")
    if encoding.texts:
        positions = raw.select(_position(name, encoding.vocabularies[name]) for name in encoding.texts)
        made["texts"] = positions.to_numpy(order="c")
    return made


def columns(rows: pl.DataFrame, encoding: Encoding) -> dict[str, Any]:
    """Return the inputs of a model of raw columns: a vector for each, float64 or text."""
    raw = casts.conform(rows, encoding.features)
    made = {}
    for name, kind in encoding.features.items():
        if kind == "string":
            made[name] = raw[name].alias("text").fill_null("").to_numpy().astype(object)
        else:
            values = raw[name].alias("value")
            values = values.dt.epoch("us") if kind in MOMENTS else values
            made[name] = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return made


def _number(name: str, kind: str) -> pl.Expr:
    if kind in MOMENTS:
        return (
            tables.column(name).cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / MICROSECONDS_PER_DAY
        )
    value = tables.column(name).cast(pl.Float64)
    return value.filter(value.is_finite())


def _vocabulary(train: pl.LazyFrame, name: str, most: int) -> list[str]:
    text = tables.column(name).cast(pl.String)
    counts = (
        train.select(text.alias("text"))
        .filter(pl.col("text").is_not_null() & (pl.col("text") != ""))
        .group_by("text")
        .agg(pl.len().alias("rows"))
        .filter(pl.col("rows") >= _LEAST_OCCURRENCES)
        .bottom_k(most, by=[-pl.col("rows").cast(pl.Int64), "text"])
    )
    found = counts.pipe(tables.collect).sort(-pl.col("rows").cast(pl.Int64), "text")
    return found["text"].to_list()


def _position(name: str, vocabulary: Sequence[str]) -> pl.Expr:
    known = ["", *vocabulary]
    places = [0, *range(2, len(vocabulary) + 2)]
    text = tables.column(name).fill_null("")
    return text.replace_strict(known, places, default=1, return_dtype=pl.Int32)
