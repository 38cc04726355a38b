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

    Text must be UTF-8, plain or compressed (gzip, Zstandard). Dates and timestamps follow ISO 8601;
    timestamps with an offset are converted to UTC. Numbers are doubles, NaN becomes null, and nested JSON
    values become JSON text. Integers with leading zeros or beyond 64 bits stay text; images in Parquet files
    stay as they are. A value that differs in kind from almost all others in its column, such as "unknown"
    among numbers, is bad. Files with the same columns become one table, in the order of their names.

    Args:
        table: The good rows, a table: a directory of Parquet files.
        rejected: The bad rows: a table of file, line (from 1), column, reason and text, empty if there are
            none; with on_bad_rows=null, also the bad values.
        source: A file, a directory or a glob pattern (a path, file://, s3:// or gs://), the address of one
            file (https://, http://), or real example data: sample://breast_cancer, sample://diabetes,
            sample://digits, sample://iris or sample://wine.
        data_version: Version of the source, such as a date. With caching on, a source whose content changed
            is read again only if this changes too.
        file_format: csv, jsonl or parquet; default: inferred from the file names.
        column_types: Types of columns by name: boolean, integer, number, date, timestamp or string. Other
            columns get their type from the schema, or an inferred one.
        null_values: Strings to read as null; they replace the default: the empty string, NA, N/A, n/a, #N/A,
            <NA>, NaN, nan, NULL, Null, null, None and ?. [""] keeps a code such as NA.
        on_bad_rows: What to do with rows that can't be read or hold a value that isn't of their column's
            type: fail (with file, line number and reason), quarantine (into rejected), or null (read such a
            value as null, quarantine rows that can't be read).
        delimiter: Field separator of CSV files, one character; default: detected from the start of the file.
        decimal: "." if numbers are written as 1,234.5, "," if as 1.234,5; default: detected for each column.
        column_names: Names of the columns of CSV files without a header.
        schema: Schema that the table must satisfy, such as a model's. Columns get its types, except that
            integers stay integers where it says number.
        schema_uri: Reviewed schema, the path or URI of a JSON file: columns get exactly its types.
        label: For training: the column to predict, which the source must have.
        on_missing_label: What to do with rows without a label: drop (and log how many) or fail.
        required_columns: Further columns that the source must have, such as those of slices.
        time_column: Column of timestamps or dates for window_days.
        window_days: Length in days of the rolling window to keep, which ends with the newest row that isn't
            dated in the future; 0 to keep all rows.

    Returns:
        rows: Number of rows in the table.
        rejected_rows: Number of rows in rejected.
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
