from typing import Optional

from kfp.dsl import Artifact, Dataset, Input, Output

from .. import runs_in


@runs_in("sklearn")
def baseline_table(
    table: Input[Dataset], baseline: Output[Artifact], exclude_columns: Optional[list[str]] = None
) -> None:
    """Summarise a table as a baseline that later data is compared with, in some ten kilobytes.

    Trained models carry a baseline of their training rows already; this is for any other table. Of columns
    with more than 1,000 different texts no text is stored.

    Args:
        table: The table, such as a month of data that is known to be good.
        baseline: Parquet file with the distribution of each column, its missing values and categories.
        exclude_columns: Columns to leave out, such as identifiers.
    """
    from flowparts.monitor import baselines
    from flowparts.util import metadata, names

    found = baselines.of_table(table.path, names.texts(exclude_columns, "exclude_columns"))
    found.write(baseline.path)
    metadata.describe(baseline, {"rows": found.rows, "columns": len(found.columns), **found.facts})
