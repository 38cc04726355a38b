"""Find text columns whose values don't recur, and so carry nothing over to other rows.

The hour of a flight or the number of a batch, as text, says much about other rows of the same hour or batch,
so estimators rely on it; later rows have other values. Rows drawn at random don't show it, later ones do.
"""

from collections.abc import Sequence

import polars as pl

from flowparts import tables
from flowparts.prepare import preprocess
from flowparts.tables.schema import type_of

# Minimum fraction of the validation rows whose value occurs in the training rows.
MIN_FOUND = 0.1


def not_recurring(table: pl.LazyFrame, validation: pl.LazyFrame, ignored: Sequence[str]) -> list[str]:
    """Return the text columns whose values in the validation rows hardly ever occur in the training rows.

    Free text isn't among them, since its words recur. If no other column were left, none is returned.

    Args:
        table: Raw training rows.
        validation: Raw validation rows.
        ignored: Columns that are no features.
    """
    schema, others = table.collect_schema(), validation.collect_schema()
    features = [name for name in schema if name not in ignored]
    texts = [name for name in features if name in others and type_of(name, schema[name]) == "string"]
    worded = set(preprocess.free_text_columns(table, texts))
    found = [name for name in texts if name not in worded and _recurring(table, validation, name) < MIN_FOUND]
    return found if len(found) < len(features) else []


def warning(name: str) -> str:
    """Return why a column is left out."""
    return (
        f"column {name!r} is left out of the features: fewer than {MIN_FOUND:.0%} of its values in the "
        "validation rows occur in the training rows"
    )


def _recurring(table: pl.LazyFrame, validation: pl.LazyFrame, name: str) -> float:
    """Return the fraction of the validation rows with a value whose value occurs in the training rows."""
    column = tables.column(name).cast(pl.String).alias("value")
    known = table.select(column).unique().drop_nulls().with_columns(known=True)
    rows = validation.select(column).drop_nulls()
    found = rows.join(known, on="value", how="left").select(pl.col("known").fill_null(value=False).mean())
    fraction = found.pipe(tables.collect).item()
    return 1.0 if fraction is None else float(fraction)
