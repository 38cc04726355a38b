from typing import NamedTuple, Optional

from kfp.dsl import Dataset, Output

from .. import runs_in


@runs_in("base")
def ingest_table(
    table: Output[Dataset],
    rejected: Output[Dataset],
    source: str = "sample://breast_cancer",
    data_version: str = "",
    file_format: Optional[str] = None,
    column_types: Optional[dict] = None,
    null_values: Optional[list[str]] = None,
    on_bad_rows: str = "fail",
) -> NamedTuple("Outputs", [("rows", int), ("rejected_rows", int)]):  # type: ignore[valid-type]
    """Read CSV, JSON Lines or Parquet files into one table, with types inferred over all rows.

    Text is UTF-8, plain or compressed (gzip, Zstandard). Dates and timestamps follow ISO 8601; timestamps
    with an offset become UTC. Numbers are doubles and NaN becomes null, nested JSON values become JSON text.
    Integers with leading zeros or beyond 64 bits stay text. Files of the same columns become one table, in
    the order of their names.

    Args:
        table: The good rows, a table: a directory of Parquet files.
        rejected: The bad rows, a table of file, line (from 1), column, reason and text; empty if there are
            none.
        source: A file, a directory or a glob pattern (a path, file://, s3:// or gs://), the address of one
            file (https://, http://), or real example data: sample://breast_cancer, sample://diabetes,
            sample://digits, sample://iris or sample://wine.
        data_version: Names the state of the source, such as a date or a version. With caching on, a source
            whose content changed is read again only when this changes too.
        file_format: csv, jsonl or parquet; by default the file names tell.
        column_types: Types of columns by name: boolean, integer, number, date, timestamp or string. The types
            of the other columns are inferred.
        null_values: Texts that mean null, such as NA; they replace the default, which is the empty field of a
            CSV file.
        on_bad_rows: What to do with rows that can't be read or hold a value that is not of the given type:
            fail (with file, line number and reason) or quarantine (into rejected).

    Returns:
        rows: Number of rows in the table.
        rejected_rows: Number of bad rows that were set apart.
    """
    from flowparts import ingest, metadata

    options = ingest.Options(file_format or None, column_types, null_values or None, on_bad_rows)
    good, bad = ingest.ingest(source, table.path, rejected.path, options)
    metadata.describe(table, {**good, "data_version": data_version})
    metadata.describe(rejected, {**bad, "data_version": data_version})
    return good["rows"], bad["rows"]
