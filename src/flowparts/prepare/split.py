"""Split a table into train, validation and test, the same way whatever the order of the rows."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from flowparts import tables
from flowparts.util.names import hint

PARTS = ("train", "validation", "test")
REPEATED_ROWS = ("auto", "spread", "together")

# Numbers with more distinct values than this are stratified by decile.
_MOST_NUMERIC_STRATA = 20
_DECILES = 10
# Equal ranges of hashes that are counted to find where a stratum is cut.
_RANGES = 2**12
_SLICE_ROWS = 100_000
# Rows among which equal hashes are looked for at once.
_BUCKET_ROWS = 1_000_000
# With more rows for each distinct one than this, equal rows are no copies: there are few values to combine.
_MOST_COPIES = 10
# Rows are in the order of a time if the ranks of neighbours differ by at most this share of what random rows
# differ by: also newest first, and a block for each month in any order.
_IN_ORDER = 0.1
_LEAST_ROWS_IN_ORDER = 100
_MOST_CLASSES_NAMED = 3
# Blocks of rows are those of entities if each has so many and they overlap in time: the ranks that they span
# are this many times those of all rows, where blocks that follow one another span them once.
_LEAST_ROWS_OF_ENTITY = 5
_OVERLAPPING = 1.5

# Rows are near copies if they are equal but for rounding to so many digits, and for case and blanks in texts.
_DIGITS = 4
_FIRST_COLUMNS = 4
# Fewer near copies of training rows among the others don't move a score.
_LEAST_NEAR_COPIES, _LEAST_NEAR_SHARE = 5, 0.01

AUTO = "auto"
# One row each to learn a class from, to choose by and to test on.
MIN_CLASS_ROWS = len(PARTS)

_log = logging.getLogger("flowparts")


def check_options(
    fractions: Sequence[float],
    key: Sequence[str] | None,
    group_by: str | None,
    time_column: str | None,
    repeated_rows: str = "auto",
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
    given = {"key": key, "group_by": group_by, "time_column": None if time_column == AUTO else time_column}
    named_options = [name for name, value in given.items() if value]
    if len(named_options) > 1:
        raise ValueError(f"{' and '.join(named_options)} contradict each other: give one of them")
    if repeated_rows not in REPEATED_ROWS:
        near = hint(str(repeated_rows), REPEATED_ROWS)
        raise ValueError(f"repeated_rows is {repeated_rows!r}; {near}use one of: {', '.join(REPEATED_ROWS)}")


class Way(NamedTuple):
    """How a table is split.

    Attributes:
        time_column: The column to split by time by; None for another way.
        described: The way, as a sentence.
        warning: What a person should know about it; empty for nothing.
    """

    time_column: str | None
    described: str
    warning: str = ""

    def facts(self, kept_together: Sequence[str], left_out: Sequence[str] = ()) -> dict[str, Any]:
        """Return what the description of each part says about the split."""
        return {
            "split": self.described,
            "split_warning": self.warning,
            "kept_together": list(kept_together),
            "time_column": self.time_column or "",
            "rows_left_out": list(left_out),
        }


def near_copies(frame: pl.LazyFrame, parts: pl.Series, columns: Iterable[str]) -> str:
    """Warn if many rows outside the training part are near copies of rows in it; empty if not.

    Near copies are equal in the columns but for numbers that agree to 4 digits, case and blanks. Equal rows
    aren't counted.

    Args:
        frame: The rows.
        parts: What `assign` returned for them.
        columns: The features.
    """
    from polars_hash import hash_rows

    schema = frame.collect_schema()
    columns = [name for name in columns if not (schema[name].is_nested() or schema[name] == pl.Binary)]
    rounded = sorted(columns, key=lambda name: (not schema[name].is_float(), schema[name] != pl.String))
    if not any(schema[name].is_float() or schema[name] == pl.String for name in rounded[:1]):
        return ""
    # What is equal in all columns is so in some; hashing these is enough to see that most tables have none.
    for some in (rounded[:_FIRST_COLUMNS], rounded):
        values = [_rounded(name, schema[name]) for name in some]
        alike = hash_rows(values, version=1).nchash.xxh3_64(seed=0)
        train, others = _hashes(frame, alike, parts)
        is_near = others.is_in(train.implode())
        least = max(_LEAST_NEAR_COPIES, _LEAST_NEAR_SHARE * others.len())
        if is_near.sum() < least:
            return ""
    train, equal = _hashes(frame, tables.row_hash(columns), parts)
    count = int((is_near & ~equal.is_in(train.implode())).sum())
    if count < least:
        return ""
    return (
        f"at least {count:,} of the {others.len():,} rows outside the training part equal a training row "
        "but for rounding, case or blanks, so the scores may be too good; remove such copies, or give what "
        "belongs together one value in a column and name it in group_by"
    )


def _hashes(frame: pl.LazyFrame, hashed: pl.Expr, parts: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return the hashes of the training rows and those of the others, in order."""
    with tables.watched(frame, "looking for near copies") as watched:
        found = watched.select(hashed.alias("hash")).pipe(tables.collect).to_series()
    return found.filter(parts == 0), found.filter(parts != 0)


def _rounded(name: str, kind: pl.DataType) -> pl.Expr:
    values = tables.column(name)
    if kind.is_float():
        return values.round_sig_figs(_DIGITS)
    if kind == pl.String:
        return values.str.strip_chars().str.to_lowercase().str.replace_all(r"\s+", " ")
    return values


def check_min_class_rows(rows: int) -> None:
    """Raise ValueError unless a class can be asked to have so many rows."""
    if rows < 1:
        raise ValueError(f"min_class_rows must be at least 1, not {rows}; 1 keeps every class")


def without_rare_classes(
    frame: pl.LazyFrame, label: str, min_class_rows: int = MIN_CLASS_ROWS
) -> tuple[pl.LazyFrame, list[str]]:
    """Leave out the rows of classes that hardly any row has, such as the typing error of another one.

    One row of a third class would turn a binary task into one of three, and nothing can be learned of a class
    or said about it that can't be in every part.

    Args:
        frame: The rows; only the classes and their counts are held in memory.
        label: The column of the classes; a missing one is none.
        min_class_rows: Fewest rows that a class must have.

    Returns:
        The other rows, in order, and a sentence about each class left out, of the first few.

    Raises:
        ValueError: `min_class_rows` is less than 1, or a single class would be left.
    """
    check_min_class_rows(min_class_rows)
    tables.require_columns(frame, [label], "label column")
    if (dtype := frame.collect_schema()[label]).is_nested() or dtype == pl.Binary:
        return frame, []
    classes = (
        tables.select(frame, [label]).rename({label: "class"}).drop_nulls().group_by("class").len("rows")
    )
    counts = classes.pipe(tables.collect).sort("rows", "class")
    rare = counts.filter(pl.col("rows") < min_class_rows)
    # Where hardly any class is common, the label is something else, and what is said of it then is clearer.
    if rare.is_empty() or 2 * counts.height > counts["rows"].sum():
        return frame, []
    said = [
        f"{rows} {'row' if rows == 1 else 'rows'} of class {value!r}"
        for value, rows in rare.head(_MOST_CLASSES_NAMED).iter_rows()
    ]
    if rare.height > len(said):
        others = int(rare["rows"].sum()) - int(rare["rows"].head(len(said)).sum())
        said.append(f"{others:,} rows of {rare.height - len(said):,} more such classes")
    if counts.height - rare.height < 2:
        raise ValueError(
            f"label column {label!r} has only {' and '.join(said)}, too few to learn from, and would have a "
            "single class without; add rows of it, or pass min_class_rows=1 to keep every class"
        )
    said = [f"{each} (fewer than min_class_rows={min_class_rows})" for each in said]
    _log.warning("label column %r: left out %s", label, "; ".join(said))
    kept = ~tables.column(label).is_in(rare["class"].implode())
    return frame.filter(kept.fill_null(value=True)), said


def choose(
    frame: pl.LazyFrame,
    fractions: Sequence[float],
    key: Sequence[str] | None = None,
    group_by: str | None = None,
    time_column: str | None = None,
    label: str | None = None,
) -> Way:
    """Say how to split a table; `time_column` may be "auto".

    By time is chosen if the rows are in the order of a timestamp or date, as those of a log are: a random
    split would train on rows that are later than those it tests. It isn't chosen if that would leave a part
    empty or with classes of the label that training lacks.

    Args:
        frame: The rows.
        fractions: Shares of train, validation and test.
        key: Columns that identify a row.
        group_by: Column whose equal values stay together.
        time_column: Column to split in time by, or "auto" to find one if there is neither key nor group.
        label: The label column.
    """
    automatic = time_column == AUTO
    if automatic:
        time_column = None
    elif time_column:
        return Way(time_column, f"by time ({time_column}): the oldest rows train, the newest test")
    given = f"by {', '.join(key)}" if key else f"by groups of {group_by}" if group_by else ""
    other = Way(None, f"{given}, by hash" if given else "at random, by hash")
    ordering = _ordering_column(frame, label) if automatic else None
    if ordering is None:
        return other
    ordered = f"the rows are in the order of {ordering!r}"
    if given:
        warning = "a model in use meets newer rows, on which it may do worse than on these"
        return other._replace(
            warning=f"{ordered}, but split {given}: {warning}; time_column={ordering} tests on the newest"
        )
    if problem := _unfit_for_time(frame, ordering, label, fractions):
        return other._replace(
            warning=f"{ordered}, but a split by it {problem}, so they are split at random; on newer rows the "
            "model may do worse"
        )
    if entity := _entity_column(frame, ordering, label):
        return Way(
            ordering,
            f"by time ({ordering}), as the rows of each {entity!r} are in its order: the oldest rows train, "
            "the newest test; time_column='' splits at random",
            f"the test has newer rows of the same values of {entity!r} as the training, so it doesn't show "
            f"how good the model is on new ones; group_by={entity} does",
        )
    return Way(
        ordering,
        f"by time ({ordering}), as {ordered}: the oldest rows train, the newest test; time_column='' splits "
        "at random",
    )


def _ordering_column(frame: pl.LazyFrame, label: str | None) -> str | None:
    """Return the timestamp or date that the rows are ordered by, the one that fits best."""
    schema = frame.collect_schema()
    times = [name for name, kind in schema.items() if kind in (pl.Date, pl.Datetime) and name != label]
    if not times or tables.row_count(frame) < _LEAST_ROWS_IN_ORDER:
        return None
    found: dict[str, float] = {}
    for name in times:
        values = tables.select(frame, [name]).pipe(tables.collect).to_series().alias("time")
        if values.null_count() or values.n_unique() < len(PARTS):
            continue
        step = values.to_frame().select(pl.col("time").rank().diff().abs().mean() * 3 / pl.len())
        found[name] = float(step.item())
    best = min(found, key=found.__getitem__, default=None)
    return best if best is not None and found[best] <= _IN_ORDER else None


def _entity_column(frame: pl.LazyFrame, time: str, label: str | None) -> str | None:
    """Return the column that rows are sorted by before the time, as those of many customers or devices are.

    Each value has one block of rows, and the blocks overlap in time; of several such columns, the one with
    most values.
    """
    rows = tables.row_count(frame)
    rank = tables.select(frame, [time]).pipe(tables.collect).to_series().rank().alias("rank")
    most: tuple[int, str | None] = (1, None)
    for name, dtype in frame.collect_schema().items():
        if name in (time, label) or not (dtype.is_integer() or dtype in (pl.String, pl.Boolean)):
            continue
        values = tables.select(frame, [name]).pipe(tables.collect).to_series().alias("value")
        distinct = values.n_unique()
        if not most[0] < distinct <= rows // _LEAST_ROWS_OF_ENTITY or len(values.rle()) != distinct:
            continue
        spans = (
            pl.DataFrame([values, rank]).group_by("value").agg(pl.col("rank").max() - pl.col("rank").min())
        )
        if spans["rank"].sum() > _OVERLAPPING * rows:
            most = distinct, name
    return most[1]


def _unfit_for_time(
    frame: pl.LazyFrame, column: str, label: str | None, fractions: Sequence[float]
) -> str | None:
    """Say what is wrong with a split by time; None if nothing is."""
    parts = _by_time(frame, column, fractions)
    empty = _empty_part(parts, fractions)
    if empty is not None:
        return f"leaves no rows to the {PARTS[empty]} part"
    if not label:
        return None
    labels = tables.select(frame, [label]).pipe(tables.collect).to_series().alias("label")
    if labels.dtype.is_float() or labels.n_unique() > _MOST_NUMERIC_STRATA:
        return None
    classes = pl.DataFrame([labels, parts.alias("part")]).group_by("part").agg(pl.col("label").unique())
    seen = {part: set(values) for part, values in classes.iter_rows()}
    if any(not values <= seen[0] for values in seen.values()):
        return f"has values of {label!r} after the training part that it lacks"
    if min(len(values) for values in seen.values()) < min(2, labels.n_unique()):
        return f"leaves a part with a single value of {label!r}"
    return None


def assign(
    frame: pl.LazyFrame,
    fractions: Sequence[float],
    *,
    key: Sequence[str] | None = None,
    stratify_by: str | None = None,
    group_by: str | None = None,
    time_column: str | None = None,
    exclude_columns: Sequence[str] = (),
    repeated_rows: str = "auto",
    seed: int = 0,
) -> pl.Series:
    """Say for each row to which part it belongs.

    Without a `time_column`, a row's place depends on the seed and a hash: of its key or group if given, else
    of its features, which are all columns but `stratify_by` and `exclude_columns`. So the label has no say in
    it. Without `stratify_by`, more rows never move those that were there.

    Args:
        frame: The rows; only hashes, strata and times are held in memory.
        fractions: Shares of train, validation and test.
        key: Columns that identify a row; rows with equal keys stay together.
        stratify_by: Column, usually the label, whose values get the same shares in each part, to the row. A
            number with more than 20 distinct values counts by decile; missing is a value of its own. Has no
            effect with `group_by` or `time_column`.
        group_by: Column whose equal values stay together; missing counts as one group.
        time_column: Column by which the oldest rows train and the newest test; equal times stay together.
        exclude_columns: Columns that are no features, such as identifiers.
        repeated_rows: What to do with rows of equal features, where no key, group or time is given: "spread"
            distributes them like any other rows, "together" keeps them in one part. "auto" keeps them
            together if they always have the same value of `stratify_by`, as copies of a row do, and spreads
            them otherwise.
        seed: Another seed gives another split; `time_column` needs none.

    Returns:
        The index in `PARTS` of each row (UInt8), in the frame's order.

    Raises:
        ValueError: An option is wrong, a column is missing or unfit, or a part would get no rows.
    """
    check_options(fractions, key, group_by, time_column, repeated_rows)
    tables.require_columns(frame, key or [], "key column")
    tables.require_columns(frame, [stratify_by] if stratify_by else [], "stratify_by column")
    tables.require_columns(frame, [group_by] if group_by else [], "group_by column")
    tables.require_columns(frame, [time_column] if time_column else [], "time column")
    tables.require_columns(frame, exclude_columns, "excluded column")
    rows = tables.require_rows(frame)
    if group_by or time_column:
        stratify_by = None  # where a group or a time goes is settled, whatever the shares
    stratum_type = frame.collect_schema().get(stratify_by or "", pl.Null())
    if stratum_type.is_nested() or stratum_type == pl.Binary:
        raise ValueError(
            f"column {stratify_by!r} holds {stratum_type}, which no part can have a share of; take a label "
            "(stratify_by) of text, numbers or booleans"
        )
    together = [group_by] if group_by else list(key or [])
    what = f"column {group_by or time_column or ', '.join(together)!r} has too few distinct values"
    if time_column:
        parts = _by_time(frame, time_column, fractions)
    elif together and not stratify_by:
        hashed = tables.row_hash(together, seed)
        with tables.watched(frame, "hashing rows") as watched:
            parts = watched.select(_by_hash(hashed, fractions)).pipe(tables.collect).to_series()
    elif together:
        found = _hashed(frame, together, [], stratify_by, seed)
        _require_one_stratum(found, str(stratify_by))
        parts = _cut(found, stratify_by, fractions)
    else:
        parts = _by_features(frame, fractions, stratify_by, exclude_columns, repeated_rows, seed)
        what = "the table has too few rows"
        if repeated_rows == "together":
            what += " with different features (repeated_rows='spread' takes equal ones apart)"
    empty = _empty_part(parts, fractions)
    if empty is not None:
        raise ValueError(
            f"the {PARTS[empty]} part ({fractions[empty]:g} of {rows} rows) would be empty: {what}; "
            "change the fractions or the way to split"
        )
    return parts


def times(frame: pl.LazyFrame, column: str) -> pl.Series:
    """Read a column that rows are ordered by, named "time".

    Raises:
        ValueError: It doesn't hold times or numbers, or some are missing.
    """
    found = tables.select(frame, [column]).pipe(tables.collect).to_series().alias("time")
    dtype = found.dtype
    if not (dtype in (pl.Date, pl.Datetime) or dtype.is_numeric()):
        raise ValueError(f"time column {column!r} holds {dtype}; it must hold timestamps, dates or numbers")
    if dtype.is_float():
        found = found.fill_nan(None)
    if found.null_count():
        raise ValueError(
            f"time column {column!r} is missing in {found.null_count()} rows; "
            "drop these rows or fill the times"
        )
    return found


def identities(
    frame: pl.LazyFrame,
    stratify_by: str,
    together: Sequence[str] = (),
    exclude_columns: Sequence[str] = (),
    seed: int = 0,
) -> pl.DataFrame:
    """Say which rows stay together, and what each part gets equal shares of, as `assign` does.

    Args:
        frame: The rows.
        stratify_by: The label; its values are the strata, or its deciles.
        together: Columns whose equal values stay together; if none, copies of a row do.
        exclude_columns: Columns that are no features.
        seed: Seed of the hashes.

    Returns:
        "hash" and "stratum" of each row, in order; rows of equal values in both stay together.
    """
    if together:
        found = _hashed(frame, together, [], stratify_by, seed)
        if found.unique().height > found["hash"].n_unique():  # a group of several labels has no stratum
            return found.with_columns(stratum=pl.lit(0))
    else:
        found = _feature_hashes(frame, stratify_by, exclude_columns, seed)
        choice = _choice(found)
        if choice == "together":
            found = _joined(found, stratify_by)
        elif choice == "spread":
            found = _spread(found, seed)
    return found.select("hash", _strata(found["stratum"], stratify_by))


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


def _by_features(
    frame: pl.LazyFrame,
    fractions: Sequence[float],
    label: str | None,
    excluded: Sequence[str],
    repeated_rows: str,
    seed: int,
) -> pl.Series:
    found = _feature_hashes(frame, label, excluded, seed)
    choice = repeated_rows
    if choice == "auto":
        choice = _choice(found) if label else "spread"
    if choice == "none":
        return _cut(found, label, fractions)
    if choice == "together":
        parts = _cut(_joined(found, label), label, fractions)
        if repeated_rows == "together" or _empty_part(parts, fractions) is None:
            return parts
    return _cut(_spread(found, seed), label, fractions)


def _feature_hashes(
    frame: pl.LazyFrame, label: str | None, excluded: Sequence[str], seed: int
) -> pl.DataFrame:
    names = frame.collect_schema().names()
    features = [name for name in names if name not in {label, *excluded}]
    others = [name for name in names if name in excluded and name != label]
    return _hashed(frame, features, others, label, seed)


def _hashed(
    frame: pl.LazyFrame, columns: Sequence[str], others: Sequence[str], stratify_by: str | None, seed: int
) -> pl.DataFrame:
    """Return "hash" of the columns of each row, "stratum" and, where there are others, "rest" of them."""
    wanted = [tables.row_hash(columns, seed) if columns else pl.lit(0, pl.UInt64)]
    wanted += [tables.column(stratify_by).alias("stratum")] if stratify_by else []
    wanted += [tables.row_hash(others, seed).alias("rest")] if others else []
    with tables.watched(frame, "hashing rows") as watched:
        return watched.select(wanted[0].alias("hash"), *wanted[1:]).pipe(tables.collect)


def _repeated(found: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Give the rows whose hash occurs more than once, with their number in "row", bucket by bucket."""
    buckets = found.height // _BUCKET_ROWS + 1
    for bucket in range(buckets):
        chosen = found.lazy().with_row_index("row").filter(pl.col("hash") % buckets == bucket)
        yield chosen.filter(pl.col("hash").is_duplicated()).collect()


def _choice(found: pl.DataFrame) -> str:
    """Return what to do with rows of equal features: "together", "spread", or "none" if there are none.

    A copy of a row has the label of its original. Different cases with equal features sooner or later
    differ in the label, and there are many of them.
    """
    distinct = found.height
    for rows in _repeated(found):
        labels = rows.group_by("hash").agg(pl.col("stratum").n_unique().alias("labels"))
        if (labels["labels"] > 1).any():
            return "spread"
        distinct -= rows.height - labels.height
    if distinct == found.height:
        return "none"
    return "together" if distinct * _MOST_COPIES >= found.height else "spread"


def _joined(found: pl.DataFrame, label: str | None) -> pl.DataFrame:
    """Give rows with equal hashes one stratum, the smallest of theirs, so that they stay together."""
    strata = _strata(found["stratum"], label) if label else None
    repeated = 0
    for rows in _repeated(found.select("hash", *([] if strata is None else [strata]))):
        repeated += rows.height
        if strata is not None:
            smallest = rows.select("row", pl.col("stratum").min().over("hash"))
            strata = strata.scatter(smallest["row"], smallest["stratum"])
    if repeated:
        _log.info("rows with equal features stay in one part: %s of %s rows", repeated, found.height)
    return found if strata is None else found.select("hash", strata)


def _spread(found: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Give rows with equal hashes new ones, from their number among each other.

    They are numbered in the order of what else they hold, and rows that differ in nothing can change places,
    so the order of the rows doesn't matter.
    """
    hashes = found["hash"]
    moved = 0
    for rows in _repeated(found):
        place = pl.int_range(pl.len())
        first = pl.when(pl.col("hash").ne_missing(pl.col("hash").shift())).then(place).forward_fill()
        numbered = rows.sort(pl.exclude("row"), maintain_order=True).with_columns(number=place - first)
        further = numbered.filter(pl.col("number") > 0)
        moved += further.height
        hashes = hashes.scatter(
            further["row"], further.select(tables.row_hash(["hash", "number"], seed)).to_series()
        )
    if moved:
        _log.info("rows with equal features are spread over the parts: %s of %s rows", moved, found.height)
    return found.with_columns(hashes)


def _empty_part(parts: pl.Series, fractions: Sequence[float]) -> int | None:
    wanted = (index for index, fraction in enumerate(fractions) if fraction > 0)
    return next((index for index in wanted if not (parts == index).any()), None)


def _by_hash(hashed: pl.Expr, fractions: Sequence[float]) -> pl.Expr:
    train, validation = fractions[0], fractions[0] + fractions[1]
    return _three(hashed < _threshold(train), hashed < _threshold(validation), fractions)


def _three(in_train: pl.Expr, in_train_or_validation: pl.Expr, fractions: Sequence[float]) -> pl.Expr:
    return (
        pl.when(in_train)
        .then(0)
        # Rounding must not leave a sliver to a part that must be empty.
        .when(pl.lit(fractions[2] == 0) | in_train_or_validation)
        .then(1)
        .otherwise(2)
        .cast(pl.UInt8)
        .alias("part")
    )


def _threshold(fraction: float) -> pl.Expr:
    return pl.lit(min(round(fraction * 2**64), 2**64 - 1), pl.UInt64)


def _require_one_stratum(found: pl.DataFrame, column: str) -> None:
    mixed = found.unique().height - found["hash"].n_unique()
    if mixed:
        raise ValueError(
            f"{mixed} keys have rows with different values of {column!r}, whose values are spread over the "
            "parts, so the rows of a key can't stay together; correct these rows, or take the key for a group"
        )


def _cut(found: pl.DataFrame, stratify_by: str | None, fractions: Sequence[float]) -> pl.Series:
    if not stratify_by:
        return found.select(_by_hash(pl.col("hash"), fractions)).to_series()
    found = found.select("hash", _strata(found["stratum"], stratify_by))
    train, validation = (
        pl.col("hash") <= _last(found, share) for share in (fractions[0], fractions[0] + fractions[1])
    )
    assigned = _three(train, validation, fractions)
    # At once, this would take the memory that the ranges save.
    return pl.concat([some.select(assigned) for some in found.iter_slices(_SLICE_ROWS)])["part"]


def _last(found: pl.DataFrame, share: float) -> pl.Expr:
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
            f"column {column!r} has {distinct} distinct values in {len(values)} rows, such as "
            f"{next(iter(values.drop_nulls()), None)!r}, too many to spread over the parts; take another "
            "label (stratify_by)"
        )
    return values


def _by_time(frame: pl.LazyFrame, column: str, fractions: Sequence[float]) -> pl.Series:
    times_of_rows = times(frame, column)
    return times_of_rows.to_frame().select(_by_rank(pl.col("time").rank("min"), pl.len(), fractions))["part"]


def _by_rank(rank: pl.Expr, count: pl.Expr, fractions: Sequence[float]) -> pl.Expr:
    """Cut where the rounded shares end; equal values share the lowest rank and so never straddle a cut."""
    train, validation = fractions[0], fractions[0] + fractions[1]
    return _three(rank <= (count * train).round(), rank <= (count * validation).round(), fractions)
