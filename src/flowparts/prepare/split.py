"""Split a table into train, validation and test, independently of the order of the rows."""

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
_MAX_NUMERIC_STRATA = 20
_DECILES = 10
# Number of equal ranges in which hashes are counted to find the cuts of a stratum.
_RANGES = 2**12
_SLICE_ROWS = 100_000
# Rows searched for equal hashes at once.
_BUCKET_ROWS = 1_000_000
# With more rows than this for each distinct one, equal rows aren't copies: the features have few values.
_MAX_COPIES = 10
# Rows are ordered by a time if the ranks of neighbours differ by at most this fraction of the difference
# between random rows. That includes newest first, and blocks of months in any order.
_IN_ORDER = 0.1
_MIN_ROWS_IN_ORDER = 100
_MAX_CLASSES_NAMED = 3
# Blocks of rows belong to entities if each has this many rows and they overlap in time: together they span
# this many times the ranks of all rows, which consecutive blocks span once.
_MIN_ROWS_OF_ENTITY = 5
_OVERLAPPING = 1.5

# Rows are near copies if they are equal after rounding to this many digits and ignoring case and white space.
_DIGITS = 4
_FIRST_COLUMNS = 4
# Fewer near copies of training rows in the other parts don't change a score.
_MIN_NEAR_COPIES, _MIN_NEAR_FRACTION = 5, 0.01

AUTO = "auto"
# One row of a class for each part.
MIN_CLASS_ROWS = len(PARTS)

_log = logging.getLogger("flowparts")


def check_options(
    fractions: Sequence[float],
    key: Sequence[str] | None,
    group_by: str | None,
    time_column: str | None,
    repeated_rows: str = "auto",
) -> None:
    """Raise ValueError unless the fractions add up to 1 and the options don't contradict each other."""
    for part, fraction in zip(PARTS, fractions, strict=True):
        if not (math.isfinite(fraction) and 0 <= fraction < 1):
            raise ValueError(f"{part}_fraction must be at least 0 and less than 1, not {fraction:g}")
    if fractions[0] == 0:
        raise ValueError("train_fraction must be above 0, not 0")
    if not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        named = " + ".join(f"{fraction:g}" for fraction in fractions)
        raise ValueError(
            f"train, validation and test fractions must add up to 1, not {named} = {sum(fractions):g}"
        )
    if key is not None and not key:
        raise ValueError("key must not be an empty list; name its columns, or leave it out to use all")
    options = {"key": key, "group_by": group_by, "time_column": None if time_column == AUTO else time_column}
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} contradict each other; give one of them")
    if repeated_rows not in REPEATED_ROWS:
        near = hint(str(repeated_rows), REPEATED_ROWS)
        raise ValueError(f"repeated_rows is {repeated_rows!r}; {near}use one of: {', '.join(REPEATED_ROWS)}")


class Strategy(NamedTuple):
    """The strategy to split a table by.

    Attributes:
        time_column: The column to split by time; None if the split isn't by time.
        described: Description of the strategy, a phrase.
        warning: Warning about it; empty if there is none.
    """

    time_column: str | None
    described: str
    warning: str = ""

    def facts(self, kept_together: Sequence[str], left_out: Sequence[str] = ()) -> dict[str, Any]:
        """Return the entries about the split for the description of each part."""
        return {
            "split": self.described,
            "split_warning": self.warning,
            "kept_together": list(kept_together),
            "time_column": self.time_column or "",
            "rows_left_out": list(left_out),
        }


def near_copies(frame: pl.LazyFrame, parts: pl.Series, columns: Iterable[str]) -> str:
    """Return a warning if many rows outside the training part are near copies of training rows, or "".

    Near copies have equal columns after rounding numbers to 4 digits and ignoring case and white space. Equal
    rows aren't counted.

    Args:
        frame: The rows.
        parts: The result of `assign` for them.
        columns: The features.
    """
    from polars_hash import hash_rows

    schema = frame.collect_schema()
    columns = [name for name in columns if not (schema[name].is_nested() or schema[name] == pl.Binary)]
    rounded = sorted(columns, key=lambda name: (not schema[name].is_float(), schema[name] != pl.String))
    if not any(schema[name].is_float() or schema[name] == pl.String for name in rounded[:1]):
        return ""
    # Rows that are equal in all columns are equal in the first few, whose hashes rule out most tables.
    for some in (rounded[:_FIRST_COLUMNS], rounded):
        values = [_rounded(name, schema[name]) for name in some]
        alike = hash_rows(values, version=1).nchash.xxh3_64(seed=0)
        train, others = _hashes(frame, alike, parts)
        is_near = others.is_in(train.implode())
        least = max(_MIN_NEAR_COPIES, _MIN_NEAR_FRACTION * others.len())
        if is_near.sum() < least:
            return ""
    train, equal = _hashes(frame, tables.row_hash(columns), parts)
    count = int((is_near & ~equal.is_in(train.implode())).sum())
    if count < least:
        return ""
    return (
        f"at least {count:,} of the {others.len():,} rows outside the training part equal a training row "
        "except for rounding, case or white space, so the scores may be too good; remove such copies, or "
        "give rows that belong together the same value in a column, and pass that column as group_by"
    )


def _hashes(frame: pl.LazyFrame, hashed: pl.Expr, parts: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return the hashes of the training rows and of the other rows, in order."""
    with tables.with_progress(frame, "looking for near copies") as counted:
        found = counted.select(hashed.alias("hash")).pipe(tables.collect).to_series()
    return found.filter(parts == 0), found.filter(parts != 0)


def _rounded(name: str, kind: pl.DataType) -> pl.Expr:
    values = tables.column(name)
    if kind.is_float():
        return values.round_sig_figs(_DIGITS)
    if kind == pl.String:
        return values.str.strip_chars().str.to_lowercase().str.replace_all(r"\s+", " ")
    return values


def check_min_class_rows(rows: int) -> None:
    """Raise ValueError if min_class_rows is invalid."""
    if rows < 1:
        raise ValueError(f"min_class_rows must be at least 1, not {rows}; 1 keeps every class")


def without_rare_classes(
    frame: pl.LazyFrame, label: str, min_class_rows: int = MIN_CLASS_ROWS
) -> tuple[pl.LazyFrame, list[str]]:
    """Leave out the rows of very rare classes, such as a misspelling of another class.

    One row of a third class would make a binary task multiclass, and a class that can't be in every part can
    neither be learned nor evaluated.

    Args:
        frame: The rows; only the classes and their counts are held in memory.
        label: The column of the classes; missing values don't count as a class.
        min_class_rows: Minimum number of rows of a class.

    Returns:
        The other rows, in order, and descriptions of the first few classes that were left out.

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
    # If nearly all classes are rare, the label isn't a class, and later checks explain that better.
    if rare.is_empty() or 2 * counts.height > counts["rows"].sum():
        return frame, []
    left_out = [
        f"{rows} {'row' if rows == 1 else 'rows'} of class {value!r}"
        for value, rows in rare.head(_MAX_CLASSES_NAMED).iter_rows()
    ]
    if rare.height > len(left_out):
        others = int(rare["rows"].sum()) - int(rare["rows"].head(len(left_out)).sum())
        left_out.append(f"{others:,} rows of {rare.height - len(left_out):,} more such classes")
    if counts.height - rare.height < 2:
        raise ValueError(
            f"label column {label!r} has only {' and '.join(left_out)}, too few to learn from, and would "
            "have a single class without them; add rows, or pass min_class_rows=1 to keep every class"
        )
    left_out = [f"{each} (fewer than min_class_rows={min_class_rows})" for each in left_out]
    _log.warning("label column %r: left out %s", label, "; ".join(left_out))
    kept = ~tables.column(label).is_in(rare["class"].implode())
    return frame.filter(kept.fill_null(value=True)), left_out


def choose(
    frame: pl.LazyFrame,
    fractions: Sequence[float],
    key: Sequence[str] | None = None,
    group_by: str | None = None,
    time_column: str | None = None,
    label: str | None = None,
) -> Strategy:
    """Choose how to split a table; `time_column` may be "auto".

    With "auto", rows that are ordered by a timestamp or date, like those of a log, are split by time, because
    a random split would train on later rows than it tests. They are split at random if a split by time would
    leave a part empty or with classes that training lacks.

    Args:
        frame: The rows.
        fractions: Fractions of train, validation and test.
        key: Columns that identify a row.
        group_by: Column whose equal values stay together.
        time_column: Column to split by time, or "auto" to look for one if neither key nor group is given.
        label: The label column.
    """
    automatic = time_column == AUTO
    if automatic:
        time_column = None
    elif time_column:
        return Strategy(time_column, f"by time ({time_column}): oldest rows in train, newest in test")
    given = f"by {', '.join(key)}" if key else f"by groups of {group_by}" if group_by else ""
    other = Strategy(None, f"{given}, by hash" if given else "at random, by hash")
    ordering = _ordering_column(frame, label) if automatic else None
    if ordering is None:
        return other
    ordered = f"the rows are ordered by {ordering!r}"
    if given:
        return other._replace(
            warning=f"{ordered}, but split {given}: on newer rows, a deployed model may do worse than in the "
            f"test; time_column={ordering} tests on the newest rows"
        )
    if problem := _unfit_for_time(frame, ordering, label, fractions):
        return other._replace(
            warning=f"{ordered}, but a split by time {problem}, so they are split at random; on newer rows "
            "the model may do worse than in the test"
        )
    if entity := _entity_column(frame, ordering, label):
        return Strategy(
            ordering,
            f"by time ({ordering}), because the rows of each {entity!r} are ordered by it: oldest rows in "
            "train, newest in test; time_column='' splits at random",
            f"train and test share values of {entity!r}, so the test doesn't show how good the model "
            f"is for new ones; group_by={entity} does",
        )
    return Strategy(
        ordering,
        f"by time ({ordering}), because {ordered}: oldest rows in train, newest in test; time_column='' "
        "splits at random",
    )


def _ordering_column(frame: pl.LazyFrame, label: str | None) -> str | None:
    """Return the timestamp or date that best orders the rows, if any does."""
    schema = frame.collect_schema()
    times = [name for name, kind in schema.items() if kind in (pl.Date, pl.Datetime) and name != label]
    if not times or tables.row_count(frame) < _MIN_ROWS_IN_ORDER:
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
    """Return the column, such as a customer or device, that rows are sorted by before the time, if any.

    Each value has one block of rows, and the blocks overlap in time. If there are several such columns, the
    one with the most values is returned.
    """
    rows = tables.row_count(frame)
    rank = tables.select(frame, [time]).pipe(tables.collect).to_series().rank().alias("rank")
    most: tuple[int, str | None] = (1, None)
    for name, dtype in frame.collect_schema().items():
        if name in (time, label) or not (dtype.is_integer() or dtype in (pl.String, pl.Boolean)):
            continue
        values = tables.select(frame, [name]).pipe(tables.collect).to_series().alias("value")
        distinct = values.n_unique()
        if not most[0] < distinct <= rows // _MIN_ROWS_OF_ENTITY or len(values.rle()) != distinct:
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
    """Return the problem with a split by time; None if there is none."""
    parts = _by_time(frame, column, fractions)
    empty = _empty_part(parts, fractions)
    if empty is not None:
        return f"leaves the {PARTS[empty]} part empty"
    if not label:
        return None
    labels = tables.select(frame, [label]).pipe(tables.collect).to_series().alias("label")
    if labels.dtype.is_float() or labels.n_unique() > _MAX_NUMERIC_STRATA:
        return None
    classes = pl.DataFrame([labels, parts.alias("part")]).group_by("part").agg(pl.col("label").unique())
    seen = {part: set(values) for part, values in classes.iter_rows()}
    if any(not values <= seen[0] for values in seen.values()):
        return f"has values of {label!r} in later parts that the training part lacks"
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
    """Assign each row to a part.

    Without `time_column`, a row's part depends on the seed and a hash: of its key or group if given,
    otherwise of its features, which are all columns except `stratify_by` and `exclude_columns`. So the label
    doesn't influence it. Without `stratify_by`, new rows never move existing ones.

    Args:
        frame: The rows; only hashes, strata and times are held in memory.
        fractions: Fractions of train, validation and test.
        key: Columns that identify a row; rows with equal keys stay together.
        stratify_by: Column, usually the label, whose values get the same proportions in each part, exact to
            the row. Numbers with more than 20 distinct values are stratified by decile; a missing value
            counts as a value. Has no effect with `group_by` or `time_column`.
        group_by: Column whose equal values stay together; missing values are one group.
        time_column: Column to split by time, the oldest rows to train, the newest to test; equal times stay
            together.
        exclude_columns: Columns that aren't features, such as identifiers.
        repeated_rows: What to do with rows of equal features if no key, group or time is given: "spread"
            distributes them like other rows, "together" keeps them in one part. "auto" keeps them together
            if they always have the same value of `stratify_by`, as copies of a row do, otherwise it spreads
            them.
        seed: Seed of the split; `time_column` doesn't use it.

    Returns:
        The index in `PARTS` of each row (UInt8), in the frame's order.

    Raises:
        ValueError: An option is invalid, a column is missing or unsuitable, or a part would be empty.
    """
    check_options(fractions, key, group_by, time_column, repeated_rows)
    tables.require_columns(frame, key or [], "key column")
    tables.require_columns(frame, [stratify_by] if stratify_by else [], "stratify_by column")
    tables.require_columns(frame, [group_by] if group_by else [], "group_by column")
    tables.require_columns(frame, [time_column] if time_column else [], "time column")
    tables.require_columns(frame, exclude_columns, "excluded column")
    rows = tables.require_rows(frame)
    if group_by or time_column:
        stratify_by = None  # groups and times determine the parts, whatever the proportions
    stratum_type = frame.collect_schema().get(stratify_by or "", pl.Null())
    if stratum_type.is_nested() or stratum_type == pl.Binary:
        raise ValueError(
            f"column {stratify_by!r} holds {stratum_type}, which can't be stratified; use a label "
            "(stratify_by) of text, numbers or booleans"
        )
    together = [group_by] if group_by else list(key or [])
    what = f"column {group_by or time_column or ', '.join(together)!r} has too few distinct values"
    if time_column:
        parts = _by_time(frame, time_column, fractions)
    elif together and not stratify_by:
        hashed = tables.row_hash(together, seed)
        with tables.with_progress(frame, "hashing rows") as counted:
            parts = counted.select(_by_hash(hashed, fractions)).pipe(tables.collect).to_series()
    elif together:
        found = _hashed(frame, together, [], stratify_by, seed)
        _require_one_stratum(found, str(stratify_by))
        parts = _cut(found, stratify_by, fractions)
    else:
        parts = _by_features(frame, fractions, stratify_by, exclude_columns, repeated_rows, seed)
        what = "the table has too few rows"
        if repeated_rows == "together":
            what += " with different features (repeated_rows='spread' separates equal ones)"
    empty = _empty_part(parts, fractions)
    if empty is not None:
        raise ValueError(
            f"the {PARTS[empty]} part ({fractions[empty]:g} of {rows} rows) would be empty: {what}; "
            "change the fractions or the columns to split by"
        )
    return parts


def times(frame: pl.LazyFrame, column: str) -> pl.Series:
    """Read the column to split by time, as a series named "time".

    Raises:
        ValueError: It doesn't hold times or numbers, or values are missing.
    """
    found = tables.select(frame, [column]).pipe(tables.collect).to_series().alias("time")
    dtype = found.dtype
    if not (dtype in (pl.Date, pl.Datetime) or dtype.is_numeric()):
        raise ValueError(f"time column {column!r} must hold timestamps, dates or numbers, not {dtype}")
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
    """Return the identity and the stratum of each row, as `assign` determines them.

    Args:
        frame: The rows.
        stratify_by: The label, whose values or deciles are the strata.
        together: Columns whose equal values stay together; if none, copies of a row do.
        exclude_columns: Columns that aren't features.
        seed: Seed of the hashes.

    Returns:
        "hash" and "stratum" of each row, in order; rows that are equal in both stay together.
    """
    if together:
        found = _hashed(frame, together, [], stratify_by, seed)
        if found.unique().height > found["hash"].n_unique():  # groups with several labels have no stratum
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
        frame: The rows that were passed to `assign`.
        parts: The result of `assign` for them.
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
    """Return for each row the "hash" of the columns, the "stratum" and, if there are others, their "rest"."""
    wanted = [tables.row_hash(columns, seed) if columns else pl.lit(0, pl.UInt64)]
    wanted += [tables.column(stratify_by).alias("stratum")] if stratify_by else []
    wanted += [tables.row_hash(others, seed).alias("rest")] if others else []
    with tables.with_progress(frame, "hashing rows") as counted:
        return counted.select(wanted[0].alias("hash"), *wanted[1:]).pipe(tables.collect)


def _repeated(found: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the rows whose hash occurs more than once, with their index in "row", bucket by bucket."""
    buckets = found.height // _BUCKET_ROWS + 1
    for bucket in range(buckets):
        chosen = found.lazy().with_row_index("row").filter(pl.col("hash") % buckets == bucket)
        yield chosen.filter(pl.col("hash").is_duplicated()).collect()


def _choice(found: pl.DataFrame) -> str:
    """Choose how to treat rows of equal features: "together", "spread", or "none" if there are none.

    A copy of a row has the label of the original. Different cases with equal features are numerous, and some
    of them have different labels.
    """
    distinct = found.height
    for rows in _repeated(found):
        labels = rows.group_by("hash").agg(pl.col("stratum").n_unique().alias("labels"))
        if (labels["labels"] > 1).any():
            return "spread"
        distinct -= rows.height - labels.height
    if distinct == found.height:
        return "none"
    return "together" if distinct * _MAX_COPIES >= found.height else "spread"


def _joined(found: pl.DataFrame, label: str | None) -> pl.DataFrame:
    """Give rows with equal hashes the same stratum, the smallest of theirs, so that they stay together."""
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
    """Give rows with equal hashes new hashes, derived from a number within the group.

    The numbers follow the order of the rows' other columns, and identical rows are interchangeable, so the
    order of the table doesn't matter.
    """
    hashes = found["hash"]
    moved = 0
    for rows in _repeated(found):
        place = pl.int_range(pl.len())
        first = pl.when(pl.col("hash").ne_missing(pl.col("hash").shift())).then(place).forward_fill()
        ordered = rows.sort(pl.exclude("row"), maintain_order=True).with_columns(number=place - first)
        further = ordered.filter(pl.col("number") > 0)
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
        # Rounding must not leave a few rows to a part that must be empty.
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
            f"{mixed} keys have rows with different values of {column!r}, by which the parts are stratified, "
            "so the rows of a key can't stay together; correct these rows, or pass the key as group_by"
        )


def _cut(found: pl.DataFrame, stratify_by: str | None, fractions: Sequence[float]) -> pl.Series:
    if not stratify_by:
        return found.select(_by_hash(pl.col("hash"), fractions)).to_series()
    found = found.select("hash", _strata(found["stratum"], stratify_by))
    train, validation = (
        pl.col("hash") <= _last(found, fraction) for fraction in (fractions[0], fractions[0] + fractions[1])
    )
    assigned = _three(train, validation, fractions)
    # In slices; all rows at once would need the memory that the ranges save.
    return pl.concat([some.select(assigned) for some in found.iter_slices(_SLICE_ROWS)])["part"]


def _last(found: pl.DataFrame, fraction: float) -> pl.Expr:
    """Return the largest hash within a fraction of the rows of each stratum; null if that is no row.

    Counts in equal ranges of hashes locate the cut, so that only few hashes are sorted.
    """
    ranges = found.lazy().with_columns((pl.col("hash") // (2**64 // _RANGES)).alias("range"))
    counts = ranges.group_by("stratum", "range").agg(pl.len().cast(pl.Int64).alias("rows"))
    rank = (pl.col("rows").sum().over("stratum") * fraction).round().cast(pl.Int64)
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
        if distinct <= _MAX_NUMERIC_STRATA:
            return values.shrink_dtype()
        present = len(values) - values.null_count()
        return ((values.rank("min") - 1) * _DECILES // present).cast(pl.Int8)
    if 2 * distinct > len(values):
        raise ValueError(
            f"column {column!r} has {distinct} distinct values in {len(values)} rows, such as "
            f"{next(iter(values.drop_nulls()), None)!r}, too many to stratify by; use another label "
            "(stratify_by)"
        )
    return values


def _by_time(frame: pl.LazyFrame, column: str, fractions: Sequence[float]) -> pl.Series:
    times_of_rows = times(frame, column)
    return times_of_rows.to_frame().select(_by_rank(pl.col("time").rank("min"), pl.len(), fractions))["part"]


def _by_rank(rank: pl.Expr, count: pl.Expr, fractions: Sequence[float]) -> pl.Expr:
    """Cut at the rounded fractions; equal values have the same, lowest rank, so they stay together."""
    train, validation = fractions[0], fractions[0] + fractions[1]
    return _three(rank <= (count * train).round(), rank <= (count * validation).round(), fractions)
