from typing import NamedTuple, Optional

from kfp.dsl import Dataset, Input

from .. import STORES, runs_in


@runs_in("base", secrets=STORES)
def export_table(
    table: Input[Dataset],
    destination: str,
    file_format: Optional[str] = None,
) -> NamedTuple("Outputs", [("file", str)]):  # type: ignore[valid-type]
    """Write a table as one file to a path or URI, for people and other systems.

    The file is replaced atomically: if the export fails, an earlier one stays.

    Args:
        table: Table to export.
        destination: File to write: a path, or a URI that starts with file://, s3:// or gs://.
        file_format: csv, parquet or jsonl; default: by the destination's suffix.

    Returns:
        file: The destination, with any password or signature masked.
    """
    from flowparts import tables
    from flowparts.predict import export
    from flowparts.util.masking import masked

    export.write_file(tables.scan(table.path), destination, file_format)
    return (str(masked(destination)),)
