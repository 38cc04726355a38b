"""Mergeable statistics of a table: what a monitor compares with later data instead of the data itself.

A summary depends on the rows alone, not on their order or on how they were divided: merging the summaries of
two tables gives the summary of both, to the same numbers. Its memory is bounded whatever the table.

- Numbers, timestamps (microseconds since 1970) and lengths of text are counted in buckets. The 64 bits of a
  double, read as an integer, are ordered as the doubles are; a bucket holds the doubles that share all bits
  but the last `level`. The level is the smallest at which at most `MAX_BUCKETS` buckets hold a value: a
  column of fewer different values is counted exactly, and any other in buckets that are as narrow as its
  spread allows. Buckets of a higher level are unions of those of a lower one, which is why merging is exact.
  (UDDSketch, https://doi.org/10.1109/ACCESS.2020.3015599, collapses buckets of logarithms in the same way.)
- Categories are counted exactly up to `MAX_CATEGORIES` different ones. Of more, those with the smallest
  hashes are counted exactly (a KMV sample, https://doi.org/10.1007/3-540-45726-7_1), and all of them by group
  of hashes. Their texts aren't stored: a column of so many values holds identifiers or free text.
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

MAX_BUCKETS = 2_048
MAX_CATEGORIES = 1_000
HASH_GROUPS = 1_024
ORDERED = ("integer", "number", "timestamp", "date")

_TEXT_CHARACTERS = 60
# Images whose pixels are looked at.
_MOST_IMAGES = 2_000
_ROWS_AT_ONCE = 131_072
# Buckets that lie closer together than this are counted in an array, others by sorting.
_DENSE = 1 << 18
_VERSION = 1
_FACTS_KEY = "flowparts"
_LARGEST_HASH = 2**64 - 1
_WITHOUT_SIGN = np.int64(np.iinfo(np.int64).max)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Buckets:
    """How many values lie in each bucket.

    Attributes:
        level: Bits that the values of a bucket may differ in.
        keys: The buckets, ascending: the remaining bits.
        counts: Values in each, at least 1.
        minimum: The smallest value; infinity without any.
        maximum: The largest.
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
        """Return the same values in the buckets of a level that is at least this one."""
        keys, counts = _summed(self.keys >> np.int64(level - self.level), self.counts)
        return replace(self, level=level, keys=keys, counts=counts)

    def add(self, other: "Buckets") -> "Buckets":
        """Return the buckets of the values of both."""
        level = max(self.level, other.level)
        mine, others = self.at(level), other.at(level)
        order = np.argsort(np.concatenate([mine.keys, others.keys]), kind="stable")
        keys = np.concatenate([mine.keys, others.keys])[order]
        counts = np.concatenate([mine.counts, others.counts])[order]
        minimum, maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        return _bounded(Buckets(level, *_summed(keys, counts), minimum, maximum))

    def edges(self) -> tuple[Floats, Floats]:
        """Return the smallest and the largest value that each bucket may hold, cut at the range."""
        low = self.keys << np.int64(self.level)
        high = low + np.int64((1 << self.level) - 1)
        # Beyond the largest number the bits are those of NaN, for which fmin and fmax take the other one.
        return (
            np.fmin(np.fmax(_doubles(low), self.minimum), self.maximum),
            np.fmax(np.fmin(_doubles(high), self.maximum), self.minimum),
        )

    def quantile(self, share: float) -> float:
        """Return the value below which a share of the values lies, to the middle of its bucket."""
        low, high = self.edges()
        place = int(np.searchsorted(np.cumsum(self.counts), share * self.count))
        place = min(place, len(low) - 1)
        return float(low[place] + (high[place] - low[place]) / 2)


@dataclass(frozen=True)
class Categories:
    """How often each category occurs.

    Attributes:
        hashes: Of the categories that are counted, ascending; of all, unless `is_sampled`.
        counts: Occurrences of each.
        texts: Their first 60 characters; None where a sample was read from a file.
        groups: Occurrences of all categories by the last bits of their hashes; empty unless `is_sampled`.
    """

    hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    counts: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    texts: list[str | None] = field(default_factory=list)
    groups: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def is_sampled(self) -> bool:
        """Whether there are more categories than are counted one by one."""
        return len(self.groups) > 0

    @property
    def limit(self) -> int:
        """The largest hash up to which every category is counted."""
        return int(self.hashes[-1]) if self.is_sampled else _LARGEST_HASH

    @property
    def distinct(self) -> int:
        """The number of different categories; of a sample an estimate (standard error 3 %)."""
        return round((len(self.hashes) - 1) / (self.limit / 2**64)) if self.is_sampled else len(self.hashes)

    def grouped(self) -> Ints:
        """Return the occurrences by group of hashes, also where each category is counted."""
        return self.groups if self.is_sampled else _groups(self.hashes, self.counts)

    def add(self, other: "Categories") -> "Categories":
        """Return the categories of both."""
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
    """What a summary holds of a column.

    Attributes:
        kind: Its schema type.
        rows: Rows of the table.
        nulls: Rows without a value.
        infinite: Rows with an infinite number.
        buckets: Of numbers, dates and timestamps the finite values; of text the lengths in characters.
        categories: Of text and booleans.
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
        """Return the column of both tables.

        Raises:
            ValueError: One holds numbers or times, and the other doesn't.
        """
        # A column without any value may be of any type.
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
        facts: What else there is to say, as JSON can hold it, such as where the rows come from.
    """

    columns: dict[str, Column]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The rows of the table."""
        return max((column.rows for column in self.columns.values()), default=0)

    def merge(self, other: "Summary") -> "Summary":
        """Return the summary of the rows of both tables, with the facts of this one.

        Raises:
            ValueError: The tables have other columns, or of another type.
        """
        if self.columns.keys() != other.columns.keys():
            (odd, *_) = sorted(self.columns.keys() ^ other.columns.keys())
            raise ValueError(f"column {odd!r} is in one of the summaries only; summarise equal columns")
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
                # Neighbours are close together, and small numbers take little room.
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
        with outputs.whole(path) as partial:
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
    """Read what `Summary.write` wrote.

    Raises:
        ValueError: There is no file, or it holds no summary.
    """
    if not Path(path).is_file():
        raise ValueError(f"{what} is not there: no file at {path}")
    try:
        facts = json.loads(pl.read_parquet_metadata(path)[_FACTS_KEY])
        if facts.pop("version") != _VERSION:
            raise ValueError("it is of another version")
        columns = {row["name"]: _column_of(row) for row in pl.read_parquet(path).iter_rows(named=True)}
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{what} at {path} is no summary of a table ({reason}); make it again") from None
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
    """Measure columns of a table in one pass; what is held in memory doesn't grow with the table.

    An image column is described by numbers, each a column of its own: NAME.width and NAME.height in pixels,
    NAME.kilobytes, NAME.brightness and NAME.contrast (mean and standard deviation of grey, 0 to 255),
    NAME.red, NAME.green and NAME.blue. Of more than 2,000 images those with the smallest hashes are measured.

    Args:
        frame: The table.
        columns: Its columns to measure; all if None.

    Raises:
        ValueError: The table has no rows, a column is not there or of no schema type, or an image is damaged.
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
    with tables.watched(schema.numbered(frame), "summarising") as watched:
        for batch in tables.batches(watched, _ROWS_AT_ONCE):
            for index, name in enumerate(kinds):
                columns[name] = _grown(columns[name], batch[str(index)])
    return columns


def _grown(column: Column, values: pl.Series) -> Column:
    """Return a column with more values, in the form of `schema.numbered`."""
    there = values.drop_nulls()
    nulls, infinite = len(values) - len(there), 0
    buckets, categories = column.buckets, column.categories
    if column.is_ordered:
        moments = there.cast(pl.Datetime("us")) if column.kind == "date" else there
        numbers = moments.to_physical().cast(pl.Float64).to_numpy()
        if column.kind == "number":
            # NaN is missing here as in every table.
            missing = int(np.isnan(numbers).sum())
            finite = numbers[np.isfinite(numbers)]
            nulls, infinite = nulls + missing, len(numbers) - missing - len(finite)
            numbers = finite
        if len(numbers):
            buckets = buckets.add(_counted(numbers, None, buckets.level))
    elif len(there):
        text = there.cast(pl.String).alias("value")
        tally = text.value_counts(name="count")
        categories = categories.add(_told_apart(tally))
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
    """Count finite values in buckets of a level, or of a higher one if these are too many."""
    # Adding zero makes one zero of the two.
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
    """Return each of the ascending keys once, with the sum of its counts."""
    if not len(keys):
        return keys, counts
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.add.reduceat(counts, first)


def _bounded(buckets: Buckets) -> Buckets:
    """Return the same values in as many buckets as there may be."""
    if len(buckets.keys) <= MAX_BUCKETS:
        return buckets
    # Neighbours become one as soon as the highest bit in which they differ is left out.
    differing = buckets.keys[1:] ^ buckets.keys[:-1]
    shift = 0
    while np.count_nonzero(differing >> np.int64(shift)) + 1 > MAX_BUCKETS:
        shift += 1
    return buckets.at(buckets.level + shift)


def _doubles(keys: Ints) -> Floats:
    """Return the doubles whose bits are in the order of these keys."""
    return (keys ^ ((keys >> np.int64(63)) & _WITHOUT_SIGN)).view(np.float64)


def _told_apart(tally: pl.DataFrame) -> Categories:
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
    """Measure the images of a column, a row each; see `summarise`."""
    image = tables.select(frame, [name])
    hashes = image.select(tables.row_hash([name]).alias("hash")).pipe(tables.collect)["hash"]
    limit = hashes.bottom_k(_MOST_IMAGES).max()
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
