from typing import NamedTuple, Optional

from kfp.dsl import Artifact, Dataset, Input, Output

from .. import STORES, runs_in


@runs_in("base", secrets=STORES)
def ingest_table(
    table: Output[Dataset],
    rejected: Output[Dataset],
    source: str = "sample://breast_cancer",
    data_version: Optional[str] = None,
    file_format: Optional[str] = None,
    column_types: Optional[dict] = None,
    null_values: Optional[list[str]] = None,
    on_bad_rows: str = "fail",
    delimiter: Optional[str] = None,
    decimal: Optional[str] = None,
    column_names: Optional[list[str]] = None,
    schema: Input[Artifact] = None,  # type: ignore[assignment] # kfp's form of an optional one
    schema_uri: Optional[str] = None,
    label: Optional[str] = None,
    on_missing_label: str = "drop",
    required_columns: Optional[list[str]] = None,
    time_column: Optional[str] = None,
    window_days: float = 0.0,
) -> NamedTuple("Outputs", [("rows", int), ("rejected_rows", int)]):  # type: ignore[valid-type]
    """Read CSV, JSON Lines or Parquet files into one table, with types inferred over all rows.

    Text is UTF-8, plain or compressed (gzip, Zstandard). Dates and timestamps follow ISO 8601; timestamps
    with an offset become UTC. Numbers are doubles and NaN becomes null, nested JSON values become JSON text.
    Integers with leading zeros or beyond 64 bits stay text, images in Parquet files stay as they are. Values
    that are unlike almost all others of their column, such as "unknown" among numbers, are bad. Files of the
    same columns become one table, in the order of their names.

    Args:
        table: The good rows, a table: a directory of Parquet files.
        rejected: The bad rows, a table of file, line (from 1), column, reason and text; with on_bad_rows=null
            the bad values. Empty if there are none.
        source: A file, a directory or a glob pattern (a path, file://, s3:// or gs://), the address of one
            file (https://, http://), or real example data: sample://breast_cancer, sample://diabetes,
            sample://digits, sample://iris or sample://wine.
        data_version: Names the state of the source, such as a date or a version. With caching on, a source
            whose content changed is read again only when this changes too.
        file_format: csv, jsonl or parquet; by default the file names tell.
        column_types: Types of columns by name: boolean, integer, number, date, timestamp or string. The types
            of the other columns are those of the schema, or inferred.
        null_values: Texts that mean null; they replace the default: the empty text, NA, N/A, n/a, #N/A, <NA>,
            NaN, nan, NULL, Null, null, None and ?. [""] keeps a code such as NA.
        on_bad_rows: What to do with rows that can't be read or hold a value that is not of their column's
            type: fail (with file, line number and reason), quarantine (into rejected), or null (take such a
            value for missing, quarantine what can't be read).
        delimiter: Character between two fields of a CSV file; detected from the start of the file by default.
        decimal: "." if numbers are written as 1,234.5, "," if as 1.234,5; by default detected by column.
        column_names: Names of the columns of CSV files without a header.
        schema: Schema that the table must satisfy, such as a model's: its columns get the types that it says,
            but whole numbers stay such where it says number.
        schema_uri: Reviewed schema as a path or URI of a JSON file: its columns get just these types.
        label: For training: the column to predict, which the source must have.
        on_missing_label: What to do with rows that have no value of the label: drop (and log how many) or
            fail.
        required_columns: Further columns that the source must have, such as those of slices.
        time_column: Column of timestamps or dates that window_days goes by.
        window_days: Keep only rows of so many days up to the newest row; 0 to keep all.

    Returns:
        rows: Number of rows in the table.
        rejected_rows: Number of rows of rejected.
    """
    from flowparts import ingest
    from flowparts.tables import schema as schemas
    from flowparts.util import metadata
    from flowparts.util.names import texts

    reviewed = schema.path if schema else schema_uri
    expected = schemas.read(reviewed).types if reviewed else None
    options = ingest.Options(
        file_format or None,
        column_types,
        texts(null_values, "null_values") or None,
        on_bad_rows,
        delimiter or None,
        decimal or None,
        texts(column_names, "column_names") or None,
        expected,
        bool(schema),
        label or None,
        on_missing_label,
        texts(required_columns, "required_columns"),
        time_column or None,
        window_days,
    )
    good, bad = ingest.ingest(source, table.path, rejected.path, options)
    metadata.describe(table, {**good, "data_version": data_version or ""})
    metadata.describe(rejected, {**bad, "data_version": data_version or ""})
    return good["rows"], bad["rows"]
