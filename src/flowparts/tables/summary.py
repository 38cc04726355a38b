"""Mergeable statistics of a table, with which monitoring compares later data in place of the table itself.

A summary depends only on the rows, not on their order or partitioning: merging the summaries of two tables
gives exactly the summary of both. Its size is bounded whatever the table.

- Numbers, timestamps (microseconds since 1970) and lengths of text are counted in buckets. The 64 bits of a
  double, read as an integer, sort like the doubles; a bucket holds the doubles that share all bits except the
  last `level`. The level is the smallest at which at most `MAX_BUCKETS` buckets are non-empty: a column with
  fewer distinct values is counted exactly, and any other in buckets as narrow as its range allows. Buckets of
  a higher level are unions of buckets of a lower one, which makes merging exact.
  (UDDSketch, https://doi.org/10.1109/ACCESS.2020.3015599, collapses logarithmic buckets in the same way.)
- Categories are counted exactly up to `MAX_CATEGORIES` distinct ones. If there are more, those with the
  smallest hashes are counted exactly (a KMV sample, https://doi.org/10.1007/3-540-45726-7_1), and all of them
  by group of hashes. Their texts aren't stored: a column with so many values holds identifiers or free text.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from flowparts import tables
from flowparts.tables import schema
from flowparts.util import images, outputs
from flowparts.util.errors import first_line

MAX_BUCKETS = 2_048
MAX_CATEGORIES = 1_000
HASH_GROUPS = 1_024
ORDERED = ("integer", "number", "timestamp", "date")

_TEXT_CHARACTERS = 60
# Maximum number of images to measure.
_MAX_IMAGES = 2_000
_ROWS_AT_ONCE = 65_536
# Polars reads chunks of this many rows, and many of them ahead of the summary; larger ones are no faster.
_ROWS_AHEAD = 4_000
# Maximum range of keys that is counted in an array; wider ranges are counted by sorting.
_DENSE = 1 << 18
_VERSION = 1
_FACTS_KEY = "flowparts"
_LARGEST_HASH = 2**64 - 1
_WITHOUT_SIGN = np.int64(np.iinfo(np.int64).max)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Buckets:
    """The number of values in each bucket.

    Attributes:
        level: Number of last bits in which the values of a bucket may differ.
        keys: The buckets, ascending: the remaining bits.
        counts: Number of values in each, at least 1.
        minimum: The smallest value; infinity if there is none.
        maximum: The largest value; minus infinity if there is none.
    """

    level: int = 0
    keys: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    counts: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    minimum: float = float("inf")
    maximum: float = float("-inf")

    @property
    def count(self) -> int:
        """The number of values."""
        return int(self.counts.sum())

    def at(self, level: int) -> "Buckets":
        """Return the same values in buckets of an equal or higher level."""
        keys, counts = _summed(self.keys >> np.int64(level - self.level), self.counts)
        return replace(self, level=level, keys=keys, counts=counts)

    def add(self, other: "Buckets") -> "Buckets":
        """Return the sum of both."""
        level = max(self.level, other.level)
        mine, others = self.at(level), other.at(level)
        order = np.argsort(np.concatenate([mine.keys, others.keys]), kind="stable")
        keys = np.concatenate([mine.keys, others.keys])[order]
        counts = np.concatenate([mine.counts, others.counts])[order]
        minimum, maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        return _bounded(Buckets(level, *_summed(keys, counts), minimum, maximum))

    def edges(self) -> tuple[Floats, Floats]:
        """Return the smallest and largest value that each bucket may hold, clipped to the range of values."""
        low = self.keys << np.int64(self.level)
        high = low + np.int64((1 << self.level) - 1)
        # The bits beyond the largest number are those of NaN, which fmin and fmax ignore.
        return (
            np.fmin(np.fmax(_doubles(low), self.minimum), self.maximum),
            np.fmax(np.fmin(_doubles(high), self.maximum), self.minimum),
        )

    def quantile(self, fraction: float) -> float:
        """Return a quantile of the values, as the middle of its bucket."""
        low, high = self.edges()
        place = int(np.searchsorted(np.cumsum(self.counts), fraction * self.count))
        place = min(place, len(low) - 1)
        return float(low[place] + (high[place] - low[place]) / 2)


@dataclass(frozen=True)
class Categories:
    """The number of occurrences of each category.

    Attributes:
        hashes: Hashes of the categories that are counted, ascending; of all categories, unless `is_sampled`.
        counts: Occurrences of each.
        texts: The first 60 characters of each; None if a sample was read from a file.
        groups: Occurrences of all categories by the last bits of their hashes; empty unless `is_sampled`.
    """

    hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    counts: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    texts: list[str | None] = field(default_factory=list)
    groups: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def is_sampled(self) -> bool:
        """Whether there are more categories than are counted individually."""
        return len(self.groups) > 0

    @property
    def limit(self) -> int:
        """The hash up to which all categories are counted."""
        return int(self.hashes[-1]) if self.is_sampled else _LARGEST_HASH

    @property
    def distinct(self) -> int:
        """The number of distinct categories; for a sample, an estimate (standard error 3 %)."""
        return round((len(self.hashes) - 1) / (self.limit / 2**64)) if self.is_sampled else len(self.hashes)

    def grouped(self) -> Ints:
        """Return the occurrences by group of hashes, even if each category is counted."""
        return self.groups if self.is_sampled else _groups(self.hashes, self.counts)

    def add(self, other: "Categories") -> "Categories":
        """Return the sum of both."""
        limit = np.uint64(min(self.limit, other.limit))
        hashes = np.concatenate([self.hashes, other.hashes])
        distinct, first, place = np.unique(hashes, return_index=True, return_inverse=True)
        counts = np.bincount(place, np.concatenate([self.counts, other.counts]), len(distinct)).astype(
            np.int64
        )
        texts = [*self.texts, *other.texts]
        keep = np.flatnonzero(distinct <= limit)[:MAX_CATEGORIES]
        sampled = self.is_sampled or other.is_sampled or len(distinct) > MAX_CATEGORIES
        return Categories(
            distinct[keep],
            counts[keep],
            [texts[at] for at in first[keep]],
            self.grouped() + other.grouped() if sampled else np.empty(0, np.int64),
        )


@dataclass(frozen=True)
class Column:
    """Statistics of a column.

    Attributes:
        kind: Its schema type.
        rows: Number of rows of the table.
        nulls: Number of rows without a value.
        infinite: Number of rows with an infinite number.
        buckets: The finite values of numbers, dates and timestamps; the lengths of text in characters.
        categories: The values of text and booleans.
    """

    kind: str
    rows: int
    nulls: int
    infinite: int = 0
    buckets: Buckets = field(default_factory=Buckets)
    categories: Categories = field(default_factory=Categories)

    @property
    def is_ordered(self) -> bool:
        """Whether its values are numbers or times, not categories."""
        return self.kind in ORDERED

    @property
    def values(self) -> int:
        """The number of rows with a value."""
        return self.rows - self.nulls

    def add(self, other: "Column") -> "Column":
        """Return the statistics of the column in both tables together.

        Raises:
            ValueError: One holds numbers or times, and the other doesn't.
        """
        # A column without any value matches every type.
        kinds = {column.kind for column in (self, other) if column.values} or {self.kind}
        if len(kinds) > 1 and not (kinds == {"integer", "number"} or kinds == {"timestamp", "date"}):
            raise ValueError(f"holds {self.kind} values in one table and {other.kind} values in the other")
        return Column(
            max(kinds),  # number, timestamp
            self.rows + other.rows,
            self.nulls + other.nulls,
            self.infinite + other.infinite,
            self.buckets.add(other.buckets),
            self.categories.add(other.categories),
        )


@dataclass(frozen=True)
class Summary:
    """Statistics of a table.

    Attributes:
        columns: Name to statistics.
        facts: Further facts as JSON values, such as the origin of the rows.
    """

    columns: dict[str, Column]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The number of rows of the table."""
        return max((column.rows for column in self.columns.values()), default=0)

    def merge(self, other: "Summary") -> "Summary":
        """Return the summary of the rows of both tables, with the facts of this one.

        Raises:
            ValueError: The tables have different columns or types.
        """
        if self.columns.keys() != other.columns.keys():
            (odd, *_) = sorted(self.columns.keys() ^ other.columns.keys())
            raise ValueError(
                f"column {odd!r} is in one of the summaries only; summarise the same columns of both tables"
            )
        merged = {}
        for name, column in self.columns.items():
            try:
                merged[name] = column.add(other.columns[name])
            except ValueError as error:
                raise ValueError(f"column {name!r} {error}") from None
        return Summary(merged, self.facts)

    def write(self, path: str | Path) -> None:
        """Write it as one Parquet file, whole or not at all."""
        rows = [
            {
                "name": name,
                "kind": column.kind,
                "rows": column.rows,
                "nulls": column.nulls,
                "infinite": column.infinite,
                "level": column.buckets.level,
                # Neighbouring keys are close together, and small differences compress well.
                "steps": np.diff(column.buckets.keys, prepend=np.int64(0)).tolist(),
                "counts": column.buckets.counts.tolist(),
                "minimum": column.buckets.minimum,
                "maximum": column.buckets.maximum,
                "hashes": column.categories.hashes.tolist(),
                "occurrences": column.categories.counts.tolist(),
                "texts": [] if column.categories.is_sampled else column.categories.texts,
                "groups": column.categories.groups.tolist(),
            }
            for name, column in self.columns.items()
        ]
        facts = json.dumps({"version": _VERSION, **self.facts}, sort_keys=True)
        with outputs.atomic(path) as partial:
            pl.DataFrame(rows, _FILE).write_parquet(
                partial, compression="zstd", compression_level=9, metadata={_FACTS_KEY: facts}
            )


_FILE = {
    "name": pl.String(),
    "kind": pl.String(),
    **dict.fromkeys(("rows", "nulls", "infinite", "level"), pl.Int64()),
    **dict.fromkeys(("steps", "counts"), pl.List(pl.Int64)),
    **dict.fromkeys(("minimum", "maximum"), pl.Float64()),
    "hashes": pl.List(pl.UInt64),
    "occurrences": pl.List(pl.Int64),
    "texts": pl.List(pl.String),
    "groups": pl.List(pl.Int64),
}


def read(path: str | Path, what: str = "the summary") -> Summary:
    """Read a summary that `Summary.write` wrote.

    Raises:
        ValueError: There is no file, or it isn't a summary.
    """
    if not Path(path).is_file():
        raise ValueError(f"{what} is missing: there is no file at {path}")
    try:
        facts = json.loads(pl.read_parquet_metadata(path)[_FACTS_KEY])
        if facts.pop("version") != _VERSION:
            raise ValueError(f"its version isn't {_VERSION}")
        columns = {row["name"]: _column_of(row) for row in pl.read_parquet(path).iter_rows(named=True)}
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        reason = first_line(error)
        raise ValueError(
            f"{what} at {path} isn't a summary of a table ({reason}); run the step that wrote it again"
        ) from None
    return Summary(columns, facts)


def _column_of(row: Mapping[str, Any]) -> Column:
    def ints(name: str) -> Ints:
        return np.array(row[name], np.int64)

    buckets = Buckets(row["level"], np.cumsum(ints("steps")), ints("counts"), row["minimum"], row["maximum"])
    hashes = np.array(row["hashes"], np.uint64)
    texts = row["texts"] or [None] * len(hashes)
    categories = Categories(hashes, ints("occurrences"), texts, ints("groups"))
    if len(buckets.keys) != len(buckets.counts) or len(hashes) != len(categories.counts):
        raise ValueError(f"column {row['name']!r} is damaged")
    return Column(row["kind"], row["rows"], row["nulls"], row["infinite"], buckets, categories)


def summarise(frame: pl.LazyFrame, columns: Iterable[str] | None = None) -> Summary:
    """Summarise columns of a table in one pass, with memory that doesn't grow with the table.

    An image column becomes several numeric columns: NAME.width and NAME.height in pixels, NAME.kilobytes,
    NAME.brightness and NAME.contrast (mean and standard deviation of grey, 0 to 255), NAME.red, NAME.green
    and NAME.blue. If there are more than 2,000 images, those with the smallest hashes are measured.

    Args:
        frame: The table.
        columns: The columns to summarise; default: all.

    Raises:
        ValueError: The table has no rows, a column is missing or has no schema type, or an image is damaged.
    """
    names = frame.collect_schema().names() if columns is None else list(columns)
    tables.require_columns(frame, names)
    chosen = tables.select(frame, names)
    tables.require_rows(chosen)
    kinds = schema.types_of(chosen)
    measured: dict[str, Column] = {}
    for name, kind in kinds.items():
        if kind == "image":
            found = _image_statistics(chosen, name)
            measured |= _measured(found, schema.types_of(found))
    plain = {name: kind for name, kind in kinds.items() if kind != "image"}
    return Summary(measured | _measured(tables.select(chosen, plain), plain))


def _measured(frame: pl.LazyFrame, kinds: Mapping[str, str]) -> dict[str, Column]:
    columns = {name: Column(kind, 0, 0) for name, kind in kinds.items()}
    if not kinds:
        return columns
    with (
        pl.Config(streaming_chunk_size=_ROWS_AHEAD),
        tables.with_progress(schema.positional(frame), "summarising") as counted,
    ):
        for batch in tables.batches(counted, _ROWS_AT_ONCE):
            for index, name in enumerate(kinds):
                columns[name] = _grown(columns[name], batch[str(index)])
    return columns


def _grown(column: Column, values: pl.Series) -> Column:
    """Add values, in the form of `schema.positional`, to the statistics of a column."""
    filled = values.drop_nulls()
    nulls, infinite = len(values) - len(filled), 0
    buckets, categories = column.buckets, column.categories
    if column.is_ordered:
        ordered = filled.cast(pl.Datetime("us")) if column.kind == "date" else filled
        numbers = ordered.to_physical().cast(pl.Float64).to_numpy()
        if column.kind == "number":
            # NaN counts as missing, as in every table.
            missing = int(np.isnan(numbers).sum())
            finite = numbers[np.isfinite(numbers)]
            nulls, infinite = nulls + missing, len(numbers) - missing - len(finite)
            numbers = finite
        if len(numbers):
            buckets = buckets.add(_counted(numbers, None, buckets.level))
    elif len(filled):
        text = filled.cast(pl.String).alias("value")
        tally = text.value_counts(name="count")
        categories = categories.add(_categories(tally))
        if column.kind == "string":
            lengths = tally["value"].str.len_chars().cast(pl.Float64).to_numpy()
            times = tally["count"].cast(pl.Int64).to_numpy()
            buckets = buckets.add(_counted(lengths, times, buckets.level))
    return Column(
        column.kind,
        column.rows + len(values),
        column.nulls + nulls,
        column.infinite + infinite,
        buckets,
        categories,
    )


def _counted(values: Floats, times: Ints | None, level: int) -> Buckets:
    """Count finite values in buckets of a level, or of a higher one if there would be too many."""
    # Adding zero turns -0.0 into 0.0.
    bits = (values + 0.0).view(np.int64)
    keys = (bits ^ ((bits >> np.int64(63)) & _WITHOUT_SIGN)) >> np.int64(level)
    low, high = int(keys.min()), int(keys.max())
    if high - low < _DENSE:
        tally = np.bincount(keys - low, times, high - low + 1).astype(np.int64)
        places = np.flatnonzero(tally)
        keys, counts = places + low, tally[places]
    else:
        order = np.argsort(keys, kind="stable") if times is not None else None
        keys = np.sort(keys) if order is None else keys[order]
        counts = np.ones(len(keys), np.int64) if times is None or order is None else times[order]
        keys, counts = _summed(keys, counts)
    return _bounded(Buckets(level, keys, counts, float(values.min()), float(values.max())))


def _summed(keys: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Return each of the sorted keys once, with the sum of its counts."""
    if not len(keys):
        return keys, counts
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.add.reduceat(counts, first)


def _bounded(buckets: Buckets) -> Buckets:
    """Return the same values in at most `MAX_BUCKETS` buckets."""
    if len(buckets.keys) <= MAX_BUCKETS:
        return buckets
    # Two neighbours merge as soon as the highest bit in which they differ is dropped.
    differing = buckets.keys[1:] ^ buckets.keys[:-1]
    shift = 0
    while np.count_nonzero(differing >> np.int64(shift)) + 1 > MAX_BUCKETS:
        shift += 1
    return buckets.at(buckets.level + shift)


def _doubles(keys: Ints) -> Floats:
    """Return the doubles that belong to keys; the inverse of their order-preserving encoding."""
    return (keys ^ ((keys >> np.int64(63)) & _WITHOUT_SIGN)).view(np.float64)


def _categories(tally: pl.DataFrame) -> Categories:
    """Return the categories of a table of values and counts."""
    hashed = tally.select(tables.row_hash(["value"]).alias("hash"), "value", pl.col("count").cast(pl.Int64))
    is_sampled = hashed.height > MAX_CATEGORIES
    kept = hashed.bottom_k(MAX_CATEGORIES, by="hash").sort("hash")
    groups = _groups(hashed["hash"].to_numpy(), hashed["count"].to_numpy())
    return Categories(
        kept["hash"].to_numpy(),
        kept["count"].to_numpy(),
        kept["value"].str.slice(0, _TEXT_CHARACTERS).to_list(),
        groups if is_sampled else np.empty(0, np.int64),
    )


def _groups(hashes: npt.NDArray[np.uint64], counts: Ints) -> Ints:
    places = (hashes % np.uint64(HASH_GROUPS)).astype(np.int64)
    return np.bincount(places, counts, HASH_GROUPS).astype(np.int64)


def _image_statistics(frame: pl.LazyFrame, name: str) -> pl.LazyFrame:
    """Measure the images of a column, one row each; see `summarise`."""
    image = tables.select(frame, [name])
    hashes = image.select(tables.row_hash([name]).alias("hash")).pipe(tables.collect)["hash"]
    limit = hashes.bottom_k(_MAX_IMAGES).max()
    chosen = image.filter(tables.row_hash([name]) <= limit)
    found: dict[str, list[float | None]] = {measure: [] for measure in images.STATISTICS}
    for batch in tables.batches(chosen, 100):
        for content in batch[name]:
            try:
                values = images.statistics(content) if content is not None else {}
            except ValueError as error:
                raise ValueError(f"image column {name!r}: {error}") from None
            for measure in found:
                found[measure].append(values.get(measure))
    types = dict.fromkeys((f"{name}.{measure}" for measure in found), pl.Float64())
    return pl.DataFrame(list(found.values()), types).lazy()
