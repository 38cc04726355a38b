"""Find text columns whose values don't recur, and so carry nothing over to other rows.

The hour of a flight or the number of a batch, as text, says much about other rows of the same hour or batch,
so estimators rely on it; later rows have other values. Rows drawn at random don't show it, later ones do.
"""

import logging
from collections.abc import Sequence

import polars as pl

from flowparts import tables
from flowparts.prepare import preprocess
from flowparts.prepare.preprocess import Examined

# Minimum fraction of the validation rows whose value occurs in the training rows.
MIN_FOUND = 0.1
# With fewer validation rows, values may fail to recur by chance.
MIN_ROWS = 20
# Training rows whose values are looked for in a first pass over all columns, which most columns need no more
# than; it bounds the memory, too.
_ROWS_READ = 10_000

_log = logging.getLogger("flowparts")


def not_recurring(table: pl.LazyFrame, validation: pl.LazyFrame, examined: Examined) -> list[str]:
    """Return the text columns whose values in the validation rows hardly ever occur in the training rows.

    A missing value recurs, and that a value is missing may say much about the label. Free text isn't among
    the columns, since its words recur. If no other feature were left, none is returned.

    Args:
        table: Raw training rows.
        validation: Raw validation rows.
        examined: What `preprocess.examine` found in the training rows.
    """
    others = validation.collect_schema()
    texts = [
        name
        for name, kind in examined.features.items()
        if kind == "string" and name in others and _is_plain(others[name])
    ]
    if not texts or tables.row_count(validation) < MIN_ROWS:
        return []
    worded = set(preprocess.free_text_columns(table, texts))
    found = [
        name
        for name in _doubtful(table, validation, [name for name in texts if name not in worded])
        if _recurring(table, validation, name) < MIN_FOUND
    ]
    return found if len(found) < len(examined.features) else []


def warnings(columns: Sequence[str]) -> list[str]:
    """Return why each of these columns is left out, and log it."""
    found = [
        f"column {name!r} is left out of the features: fewer than {MIN_FOUND:.0%} of its values in the "
        "validation rows occur in the training rows"
        for name in columns
    ]
    for sentence in found:
        _log.warning("%s", sentence)
    return found


def _is_plain(dtype: pl.DataType) -> bool:
    # Others can't be read as text, which is found when the rows are transformed.
    return not (dtype.is_nested() or dtype in (pl.Binary, pl.Object))


def _doubtful(table: pl.LazyFrame, validation: pl.LazyFrame, names: Sequence[str]) -> list[str]:
    """Return the columns of which too few values occur in the first of the training rows."""
    head = tables.select(table, names).head(_ROWS_READ).pipe(tables.collect)
    fractions = [
        (_text(name).is_null() | _text(name).is_in(head[name].cast(pl.String).unique().implode()))
        .fill_null(value=False)
        .mean()
        .alias(f"{place}")
        for place, name in enumerate(names)
    ]
    found = validation.select(fractions).pipe(tables.collect).row(0) if names else ()
    return [name for name, fraction in zip(names, found, strict=True) if fraction < MIN_FOUND]


def _recurring(table: pl.LazyFrame, validation: pl.LazyFrame, name: str) -> float:
    """Return the fraction of the validation rows whose value is missing or occurs in the training rows."""
    known = table.select(_text(name).alias("value")).unique().drop_nulls().with_columns(known=True)
    rows = validation.select(_text(name).alias("value")).join(known, on="value", how="left")
    found = pl.col("value").is_null() | pl.col("known").fill_null(value=False)
    return float(rows.select(found.mean()).pipe(tables.collect).item())


def _text(name: str) -> pl.Expr:
    return tables.column(name).cast(pl.String)
