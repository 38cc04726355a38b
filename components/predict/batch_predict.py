from typing import NamedTuple, Optional

from kfp.dsl import Dataset, Input, Model, Output

from .. import runs_in


@runs_in("sklearn")
def batch_predict(
    table: Input[Dataset],
    model: Input[Model],
    predictions: Output[Dataset],
    key_columns: Optional[list[str]] = None,
) -> NamedTuple("Outputs", [("rows", int)]):  # type: ignore[valid-type]
    """Score every row of a table with a model, chunk by chunk, and write the predictions beside the keys.

    Memory doesn't grow with the number of rows. The table's columns and types are checked against the model's
    schema before any row is scored.

    Args:
        table: Raw rows with at least the model's feature columns.
        model: The model, which includes its preprocessing.
        predictions: One row for each row of the table, in the same order: the key columns, prediction, and
            for classifiers probability_<class> for each class.
        key_columns: Columns to keep, such as an identifier; default: all columns of the table.

    Returns:
        rows: Number of rows scored.
    """
    from flowparts import models, tables
    from flowparts.models import scoring
    from flowparts.util import metadata, names

    keys = names.texts(key_columns, "key_columns")
    scored = scoring.score(models.load(model.path), tables.scan(table.path), keys or None)
    source = f"predictions for {table.uri}"
    described = tables.write(scored, predictions.path, source)
    metadata.describe(predictions, described)
    return (int(described["rows"]),)
