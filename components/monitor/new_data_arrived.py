from typing import NamedTuple, Optional

from kfp.dsl import Artifact, Dataset, Input, Output

from .. import STORES, runs_in


@runs_in("base", secrets=STORES)
def new_data_arrived(
    table: Input[Dataset], mark: Output[Artifact], state_uri: str, column: Optional[str] = None
) -> NamedTuple("Outputs", [("new_data", bool), ("new_rows", int), ("reason", str)]):  # type: ignore[valid-type]
    """Check whether a table holds rows that the last successful run didn't see.

    This step only looks. mark_data_seen records the data once the steps that use it have succeeded, so a
    failed run loses no data. Both must run with caching off.

    Args:
        table: The current content of the source.
        mark: High-water mark of its rows as JSON, for mark_data_seen.
        state_uri: Path or URI (s3://, gs://) of a JSON file that persists between runs, one for each source.
            If it doesn't exist, all rows are new.
        column: Column of times or increasing numbers, such as an identifier: rows beyond the highest value
            seen are new, and so are rows that arrived late. Default: any change of the content counts.

    Returns:
        new_data: Whether there are new rows or the content changed.
        new_rows: Number of new rows; without a column, by how much the table has grown.
        reason: Reason for the answer, in one sentence.
    """
    from flowparts import tables
    from flowparts.monitor import new_data
    from flowparts.util import metadata, outputs

    seen = new_data.seen(state_uri)
    rows = tables.scan(table.path)
    now = new_data.mark(rows, column)
    found = new_data.compare(rows, now, seen.mark if seen else None)
    outputs.write_json(mark.path, now.to_dict())
    metadata.describe(mark, {"new_data": found.new_data, "new_rows": found.new_rows, "reason": found.reason})
    return found.new_data, found.new_rows, found.reason
