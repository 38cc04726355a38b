from typing import Optional

from kfp.dsl import Artifact, Dataset, Input, Output

from .. import runs_in


@runs_in("sklearn")
def baseline_table(
    table: Input[Dataset], baseline: Output[Artifact], exclude_columns: Optional[list[str]] = None
) -> None:
    """Summarise a table as a small baseline, about 10 kB, to compare later data with.

    Trained models already carry a baseline of their training rows; this is for any other table. For columns
    with more than 1,000 distinct texts, no text is stored.

    Args:
        table: The table, such as a month of data that is known to be good.
        baseline: Parquet file with the distribution of each column, its missing values and its categories.
        exclude_columns: Columns to leave out, such as identifiers.
    """
    from flowparts.monitor import baselines
    from flowparts.util import metadata, names

    found = baselines.of_table(table.path, names.texts(exclude_columns, "exclude_columns"))
    found.write(baseline.path)
    metadata.describe(baseline, {"rows": found.rows, "columns": len(found.columns), **found.facts})
