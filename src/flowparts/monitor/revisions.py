"""Predictions of two revisions that served side by side, with their outcomes."""

from collections.abc import Sequence

import polars as pl

from flowparts import tables
from flowparts.monitor import labels as late_labels
from flowparts.util.names import listed

# Column that is true for predictions of the new revision.
NEW = "new\0"
_OUTCOMES, _ORDER = "outcomes\0", "order\0"


def needed(
    log: pl.LazyFrame,
    labels: pl.LazyFrame | None,
    columns: Sequence[str],
    key: Sequence[str],
    others: Sequence[str],
) -> list[str]:
    """Return the distinct names of the columns that a log must have.

    Args:
        log: A log.
        labels: Table with the outcome, and possibly guardrails; None if the log has them all.
        columns: The outcome, then the guardrails.
        key: Columns that join outcomes to predictions.
        others: Further columns of the log.

    Raises:
        ValueError: A column is missing in the log or the labels.
    """
    wanted = [*columns, *others]
    if labels is not None:
        tables.require_columns(labels, columns[:1], "outcome column of the labels")
        theirs = labels.collect_schema()
        wanted = [*key, *(name for name in columns if name not in theirs), *others]
    tables.require_columns(log, wanted, "column of the prediction log")
    return list(dict.fromkeys(wanted))


def two_logs(current: pl.LazyFrame, new: pl.LazyFrame, columns: Sequence[str]) -> pl.LazyFrame:
    """Concatenate two logs and mark the revision of each row.

    Args:
        current: The log of the current revision.
        new: The log of the new one.
        columns: Columns to keep.

    Raises:
        ValueError: A column is missing in the new log, or has another type there.
    """
    tables.require_columns(new, columns, "column of the new revision's log")
    types = [log.select(map(tables.column, columns)).collect_schema() for log in (current, new)]
    for column in columns:
        first, second = (schema[column] for schema in types)
        if first != second and not (first.is_numeric() and second.is_numeric()):
            raise ValueError(
                f"column {column!r} is {first} in the log of the current revision and {second} in that of "
                "the new one; give both one type"
            )
    parts = [_marked(log, columns, pl.lit(is_new)) for log, is_new in ((current, False), (new, True))]
    return pl.concat(parts, how="vertical_relaxed")


def one_log(
    log: pl.LazyFrame, columns: Sequence[str], version_column: str, new: str | None, current: str | None
) -> pl.LazyFrame:
    """Select the rows of two revisions in one log and mark the revision of each.

    Args:
        log: The log.
        columns: Columns to keep.
        version_column: Column with the revision that answered.
        new: The new revision.
        current: The current revision; None for the only other one.

    Raises:
        ValueError: The column is missing, or the two revisions to compare are ambiguous.
    """
    tables.require_columns(log, [version_column], "version column of the prediction log")
    version = tables.column(version_column).cast(pl.String)
    counted = tables.collect(log.select(version.alias("version").unique().sort()))["version"].drop_nulls()
    versions = counted.to_list()
    known = listed(versions, 10) or "none"
    if new is None:
        raise ValueError(
            f"new_version must say which revision is the new one; the log has: {known}; or give new_log"
        )
    if current is None and len(versions) > 2:
        raise ValueError(
            f"the log has {len(versions)} versions: {known}; give current_version, the one to compare with"
        )
    if len(versions) < 2 or new not in versions or (current or versions[0]) not in versions or new == current:
        raise ValueError(
            f"a test compares two revisions, {new!r} and {current or 'another'!r}; the log has: {known}"
        )
    other = current or next(each for each in versions if each != new)
    return _marked(log.filter(version.is_in([new, other])), columns, version == new)


def with_outcomes(
    log: pl.LazyFrame,
    labels: pl.LazyFrame | None,
    columns: Sequence[str],
    key: Sequence[str],
    time_column: str | None,
) -> pl.DataFrame:
    """Join the outcome and the guardrails to the predictions of both revisions.

    Args:
        log: Predictions as `one_log` or `two_logs` returns them.
        labels: One row per key with the outcome, and guardrails that the log doesn't have; None if the log
            has them all.
        columns: The outcome, then the guardrails. Rows without an outcome are left out.
        key: Columns that join outcomes to predictions.
        time_column: Column of timestamps; None if there is none.

    Raises:
        ValueError: A column holds no numbers, or NaN; or as `labels.join` raises it.
    """
    if labels is not None:
        tables.require_rows(labels, "the table of labels")
        tables.require_columns(labels, key, "column of the labels")
        theirs = [name for name in columns if name in labels.collect_schema()]
        packed = pl.when(tables.column(columns[0]).is_not_null()).then(pl.struct(*map(tables.column, theirs)))
        outcomes = labels.select(*map(tables.column, key), packed.alias(_OUTCOMES))
        # A retried request has one outcome.
        requests = [name for name in key if name == "request_id"]
        log = log.with_row_index(_ORDER)
        joined = late_labels.join(log, outcomes, _OUTCOMES, key, time_column, request_columns=requests)
        # A join may return its rows in any order, and sums of floats depend on it.
        log = joined.rows.sort(_ORDER).drop(_ORDER).lazy().unnest(_OUTCOMES)
    schema = log.collect_schema()
    for name in columns:
        if not (schema[name].is_numeric() or schema[name] == pl.Boolean):
            raise ValueError(
                f"column {name!r} holds {schema[name]}; outcomes and guardrails must be numbers or booleans"
            )
    values = [tables.column(name).cast(pl.Float64) for name in columns]
    rows = tables.collect(log.with_columns(values).filter(tables.column(columns[0]).is_not_null()))
    for name in columns:
        if not rows[name].drop_nulls().is_finite().all():
            raise ValueError(f"column {name!r} holds NaN or infinity; remove these rows or make them missing")
    return rows


def _marked(log: pl.LazyFrame, columns: Sequence[str], is_new: pl.Expr) -> pl.LazyFrame:
    return log.select(*map(tables.column, columns), is_new.alias(NEW))
