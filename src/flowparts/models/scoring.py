"""Score tables of any size with a model."""

from collections.abc import Sequence

import polars as pl

from flowparts import tables
from flowparts.models import Model
from flowparts.tables import schema


def score(model: Model, frame: pl.LazyFrame, keep: Sequence[str] | None = None) -> pl.LazyFrame:
    """Return the kept columns and the model's predictions for each row, lazily and in order.

    Args:
        model: The model.
        frame: Raw rows with at least the model's features.
        keep: Columns to keep; all of the frame's if None.

    Returns:
        The kept columns, followed by those of `Model.predict`.

    Raises:
        ValueError: The frame violates the model's schema, has no rows, lacks a column to keep, or keeps one
            with the name of a prediction column.
    """
    types = frame.collect_schema()
    kept = list(types) if keep is None else list(keep)
    predicted = model.prediction_schema
    tables.require_columns(frame, kept, "key column")
    for name in kept:
        if name in predicted:
            raise ValueError(f"column {name!r} is named like a prediction; name other key columns")
    tables.require_rows(frame, "the table to score")
    if anomalies := schema.validate(frame, schema.Schema.from_dict(model.metadata["schema"])):
        raise ValueError(schema.summary(anomalies))

    def chunk(rows: pl.DataFrame) -> pl.DataFrame:
        return tables.select(rows, kept).hstack(model.predict(rows))

    result = {name: types[name] for name in kept} | predicted
    columns = list(dict.fromkeys([*kept, *model.features]))
    return tables.in_chunks(tables.select(frame, columns), chunk, result, "scoring")
