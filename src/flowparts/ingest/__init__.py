"""Read files into tables: formats, types, bad rows."""

from flowparts.ingest.ingestion import (
    FORMATS,
    ON_BAD_ROWS,
    ON_MISSING_LABEL,
    SHOWN_CHARACTERS,
    Options,
    ingest,
)

__all__ = [
    "FORMATS",
    "ON_BAD_ROWS",
    "ON_MISSING_LABEL",
    "SHOWN_CHARACTERS",
    "Options",
    "image_files",
    "ingest",
]
