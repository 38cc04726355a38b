"""Columns of images in Parquet files, such as the prediction log of their model, copied as they are.

DuckDB handles 2,048 rows at once, however large their values are, and fails where these don't fit its memory.
So it converts all other columns, and images are put beside them a few at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from flowparts import tables
from flowparts.util import images, progress

# Where a row was read: the number of its file from 0, and of the row in it from 1.
PLACE = ("position", "line")

_BYTES_AT_ONCE = 32_000_000


def holds_images(files: Sequence[Path], name: str) -> bool:
    """Return whether the binary values of a column are images, by the first of them.

    Args:
        files: Parquet files that have the column.
        name: The column.
    """
    for file in files:
        values = pl.scan_parquet(file, glob=False).select(tables.column(name).alias("value")).drop_nulls()
        for value in tables.collect(values.head(1))["value"]:
            try:
                return bool(images.media_type(value))
            except ValueError:
                return False
    return True


def write(
    target: Path, columns: Mapping[str, str | None], others: Path, files: Sequence[Path], what: str
) -> None:
    """Write a table of converted columns, and of images from the files that these were read from.

    Args:
        target: The Parquet file to write.
        columns: By name, what `others` calls each column of the table; None for images.
        others: Parquet file with the converted columns and `PLACE`, in the order of the files.
        files: The Parquet files that hold the images, by position.
        what: The work, for the log.
    """
    from polars.io.plugins import register_io_source

    named = {name: f"image{number}" for number, name in enumerate(columns) if columns[name] is None}
    # Not cast: only columns as they are in the file let Polars skip row groups by their statistics.
    converted = pl.scan_parquet(others, glob=False)
    types = converted.collect_schema()
    schema = pl.Schema({name: types[called] if called else pl.Binary() for name, called in columns.items()})
    position, line = map(pl.col, PLACE)
    done, total = 0, sum(file.stat().st_size for file in files)
    rows = sum(tables.row_count(pl.scan_parquet(file, glob=False)) for file in files)
    at_once = max(1, min(tables.ROWS_WITH_IMAGES, _BYTES_AT_ONCE * rows // total))

    # One file after the other: Polars would read many of them at once.
    def parts(*_: object) -> Iterator[pl.DataFrame]:
        nonlocal done
        for number, file in enumerate(files):
            images_of = pl.scan_parquet(file, glob=False).select(
                tables.column(name).alias(called) for name, called in named.items()
            )
            start = 1
            for some in tables.batches(images_of, at_once):
                end = start + some.height
                found = tables.collect(
                    converted.filter((position == number) & line.is_between(start, end - 1))
                )
                beside = some[found["line"] - start]
                done += total * some.height // rows
                yield pl.DataFrame(
                    {
                        name: found[called] if called else beside[named[name]]
                        for name, called in columns.items()
                    }
                )
                start = end

    with progress.reported(what, lambda: done / 1e6, total / 1e6, "MB"):
        tables.write_part(register_io_source(parts, schema=schema), target, at_once)
