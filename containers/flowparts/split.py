"""Split a table into train, validation and test, the same way whatever the order of the rows."""

import math
from collections.abc import Sequence

import polars as pl

from flowparts import tables

PARTS = ("train", "validation", "test")

# Numbers with more distinct values than this are stratified by decile.
_MOST_NUMERIC_STRATA = 20
_DECILES = 10
# Equal ranges of hashes that are counted to find where a stratum is cut.
_RANGES = 2**12
_SLICE_ROWS = 100_000


def check_options(
    fractions: Sequence[float],
    key: Sequence[str] | None,
    stratify_by: str | None,
    group_by: str | None,
    time_column: str | None,
) -> None:
    """Raise ValueError unless the fractions add up and the ways to split don't contradict each other."""
    for part, fraction in zip(PARTS, fractions, strict=True):
        if not (math.isfinite(fraction) and 0 <= fraction < 1):
            raise ValueError(f"{part}_fraction must be at least 0 and less than 1, not {fraction:g}")
    if fractions[0] == 0:
        raise ValueError("train_fraction must be more than 0, not 0")
    if not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        named = " + ".join(f"{fraction:g}" for fraction in fractions)
        raise ValueError(
            f"train, validation and test fractions must add up to 1, not {named} = {sum(fractions):g}"
        )
    if key is not None and not key:
        raise ValueError("key is an empty list; name its columns, or leave it out to use all columns")
    given = {"key": key, "stratify_by": stratify_by, "group_by": group_by, "time_column": time_column}
    named_options = [name for name, value in given.items() if value]
    if len(named_options) > 1 and named_options != ["key", "stratify_by"]:
        raise ValueError(
            f"{' and '.join(named_options)} contradict each other: give one of them "
            "(only key and stratify_by go together)"
        )


def assign(
    frame: pl.LazyFrame,
    fractions: Sequence[float],
    *,
    key: Sequence[str] | None = None,
    stratify_by: str | None = None,
    group_by: str | None = None,
    time_column: str | None = None,
    seed: int = 0,
) -> pl.Series:
    """Say for each row to which part it belongs.

    Without a `time_column`, a row's place depends on the hash of its key and the seed alone: rows with equal
    keys stay together, and without `stratify_by` more rows never move those that were there.

    Args:
        frame: The rows; only hashes, strata and times are held in memory.
        fractions: Shares of train, validation and test.
        key: Columns that identify a row; all columns if None.
        stratify_by: Column whose values get the same shares in each part, to the row. A number with more than
            20 distinct values counts by decile; missing is a value of its own.
        group_by: Column whose equal values stay together; missing counts as one group.
        time_column: Column by which the oldest rows train and the newest test; equal times stay together.
        seed: Another seed gives another split; `time_column` needs none.

    Returns:
        The index in `PARTS` of each row (UInt8), in the frame's order.

    Raises:
        ValueError: An option is wrong, a column is missing or unfit, or a part would get no rows.
    """
    check_options(fractions, key, stratify_by, group_by, time_column)
    tables.require_columns(frame, key or [], "key column")
    tables.require_columns(frame, [stratify_by] if stratify_by else [], "stratify_by column")
    tables.require_columns(frame, [group_by] if group_by else [], "group_by column")
    tables.require_columns(frame, [time_column] if time_column else [], "time column")
    rows = tables.require_rows(frame)
    hashed = tables.row_hash([group_by] if group_by else key or frame.collect_schema().names(), seed)
    if time_column:
        parts = _by_time(frame, time_column, fractions)
    elif stratify_by:
        parts = _by_stratum(frame, hashed, stratify_by, key, fractions)
    else:
        with tables.watched(frame, "hashing rows") as watched:
            parts = watched.select(_by_hash(hashed, fractions)).pipe(tables.collect).to_series()
    for index, (part, fraction) in enumerate(zip(PARTS, fractions, strict=True)):
        if fraction > 0 and not (parts == index).any():
            what = group_by or time_column or (", ".join(key) if key else None)
            raise ValueError(
                f"the {part} part ({fraction:g} of {rows} rows) would be empty: "
                + (f"column {what!r} has too few distinct values" if what else "the table has too few rows")
                + "; change the fractions or the way to split"
            )
    return parts


def part(frame: pl.LazyFrame, parts: pl.Series, name: str) -> pl.LazyFrame:
    """Return the rows of one part, lazily and in order.

    Args:
        frame: The rows that were given to `assign`.
        parts: What `assign` returned for them.
        name: One of `PARTS`.
    """
    column = "part"
    while column in frame.collect_schema():
        column += "_"
    both = pl.concat([frame, parts.alias(column).to_frame().lazy()], how="horizontal")
    return both.filter(pl.col(column) == PARTS.index(name)).drop(column)


def _by_hash(hashed: pl.Expr, fractions: Sequence[float]) -> pl.Expr:
    train, validation = fractions[0], fractions[0] + fractions[1]
    return _three(hashed < _threshold(train), hashed < _threshold(validation), fractions)


def _three(in_train: pl.Expr, in_train_or_validation: pl.Expr, fractions: Sequence[float]) -> pl.Expr:
    return (
        pl.when(in_train)
        .then(0)
        # Rounding must not leave a sliver to a part that shall be empty.
        .when(pl.lit(fractions[2] == 0) | in_train_or_validation)
        .then(1)
        .otherwise(2)
        .cast(pl.UInt8)
        .alias("part")
    )


def _threshold(fraction: float) -> pl.Expr:
    return pl.lit(min(round(fraction * 2**64), 2**64 - 1), pl.UInt64)


def _by_stratum(
    frame: pl.LazyFrame, hashed: pl.Expr, column: str, key: Sequence[str] | None, fractions: Sequence[float]
) -> pl.Series:
    with tables.watched(frame, "hashing rows") as watched:
        stratum = tables.column(column).alias("stratum")
        found = watched.select(hashed.alias("hash"), stratum).pipe(tables.collect)
    found = found.with_columns(_strata(found["stratum"], column))
    if key:
        mixed = found.unique().height - found["hash"].n_unique()
        if mixed:
            raise ValueError(
                f"{mixed} keys have rows with different values of stratify_by column {column!r}, so their "
                "rows can't stay together; use group_by instead, or leave out key or stratify_by"
            )
    train, validation = (
        pl.col("hash") <= _cut(found, share) for share in (fractions[0], fractions[0] + fractions[1])
    )
    assigned = _three(train, validation, fractions)
    # At once, this would take the memory that the ranges save.
    return pl.concat([some.select(assigned) for some in found.iter_slices(_SLICE_ROWS)])["part"]


def _cut(found: pl.DataFrame, share: float) -> pl.Expr:
    """Return the largest hash within a share of the rows of each stratum; null where that is no row.

    Counts in equal ranges of the hashes tell where the cut is, so that only few hashes are sorted.
    """
    ranges = found.lazy().with_columns((pl.col("hash") // (2**64 // _RANGES)).alias("range"))
    counts = ranges.group_by("stratum", "range").agg(pl.len().cast(pl.Int64).alias("rows"))
    rank = (pl.col("rows").sum().over("stratum") * share).round().cast(pl.Int64)
    before = pl.col("rows").cum_sum().over("stratum", order_by="range") - pl.col("rows")
    places = counts.with_columns(place=rank - before).filter(pl.col("place").is_between(1, pl.col("rows")))
    inside = ranges.join(places, on=["stratum", "range"], nulls_equal=True).group_by("stratum")
    cuts = inside.agg(pl.col("hash").sort().get(pl.col("place").first() - 1)).pipe(tables.collect)
    return pl.col("stratum").replace_strict(cuts["stratum"], cuts["hash"], default=None)


def _strata(values: pl.Series, column: str) -> pl.Series:
    dtype = values.dtype
    if dtype.is_nested() or dtype == pl.Binary:
        raise ValueError(
            f"stratify_by column {column!r} holds {dtype}; stratify by text, numbers or booleans"
        )
    if dtype.is_float():
        values = values.fill_nan(None)
    distinct = values.n_unique()
    if dtype.is_numeric() or dtype.is_temporal():
        if distinct <= _MOST_NUMERIC_STRATA:
            return values.shrink_dtype()
        present = len(values) - values.null_count()
        return ((values.rank("min") - 1) * _DECILES // present).cast(pl.Int8)
    if 2 * distinct > len(values):
        raise ValueError(
            f"stratify_by column {column!r} has {distinct} distinct values in {len(values)} rows, too many "
            "to spread each over the parts; stratify by another column"
        )
    return values


def _by_time(frame: pl.LazyFrame, column: str, fractions: Sequence[float]) -> pl.Series:
    times = tables.select(frame, [column]).pipe(tables.collect).to_series().alias("time")
    dtype = times.dtype
    if not (dtype in (pl.Date, pl.Datetime) or dtype.is_numeric()):
        raise ValueError(f"time column {column!r} holds {dtype}; it must hold timestamps, dates or numbers")
    if dtype.is_float():
        times = times.fill_nan(None)
    if times.null_count():
        raise ValueError(
            f"time column {column!r} is missing in {times.null_count()} rows; "
            "drop these rows or fill the times"
        )
    return times.to_frame("time").select(_by_rank(pl.col("time").rank("min"), pl.len(), fractions))["part"]


def _by_rank(rank: pl.Expr, count: pl.Expr, fractions: Sequence[float]) -> pl.Expr:
    """Cut where the rounded shares end; equal values share the lowest rank and so never straddle a cut."""
    train, validation = fractions[0], fractions[0] + fractions[1]
    return _three(rank <= (count * train).round(), rank <= (count * validation).round(), fractions)
