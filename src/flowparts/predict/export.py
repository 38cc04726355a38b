"""Export of tables as files for people and other systems."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.util import outputs, sources
from flowparts.util.masking import masked

_WRITERS: dict[str, Callable[[pl.LazyFrame, Path], Any]] = {
    "csv": lambda frame, file: frame.sink_csv(file, engine="streaming"),
    "parquet": lambda frame, file: frame.sink_parquet(file, compression="zstd", engine="streaming"),
    "jsonl": lambda frame, file: frame.sink_ndjson(file, engine="streaming"),
}


def write_file(frame: pl.LazyFrame, destination: str, file_format: str | None = None) -> None:
    """Write a table to a local path or an object store, atomically.

    Args:
        frame: Rows to write, in order.
        destination: A path, or a URI that fsspec can write to.
        file_format: "csv", "parquet" or "jsonl"; default: by the destination's suffix.

    Raises:
        ValueError: The format is unknown, or the destination is a directory or can't be written.
    """
    chosen = format_of(destination, file_format)
    local = sources.local_path(destination)
    if local is not None:
        outputs.require_no_directory(local)
        with outputs.atomic(local) as partial:
            _write(frame, partial, chosen)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table"
        _write(frame, file, chosen)
        try:
            sources.filesystem(destination.partition("://")[0]).put_file(str(file), destination)
        except Exception as error:  # each store's client has exceptions of its own
            reason = masked(f"{destination}: {type(error).__name__}: {error}")
            raise ValueError(f"can't write {reason}") from None


def format_of(destination: str, file_format: str | None = None) -> str:
    """Return the format of a file, by its suffix unless it is given.

    Raises:
        ValueError: It is unknown.
    """
    chosen = file_format or Path(destination).suffix.removeprefix(".")
    if chosen not in _WRITERS:
        raise ValueError(
            f"can't tell the format of {masked(destination)!r}; end it with .csv, .parquet or .jsonl"
        )
    return chosen


def _write(frame: pl.LazyFrame, file: Path, chosen: str) -> None:
    with tables.reraise_as_damaged(), tables.with_progress(frame, "exporting") as rows:
        _WRITERS[chosen](rows, file)
