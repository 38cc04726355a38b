"""Record which rows a model has seen, as a sketch of their hashes of bounded size.

A model scores its own training rows too well, so models are compared on other rows. The sketch keeps the
smallest hashes of the training and validation rows, at most a million (KMV, Bar-Yossef et al. 2002,
https://doi.org/10.1007/3-540-45726-7_1): up to that number it holds every seen row; beyond, a row can be
judged only if its hash is small enough. Each hash is stored as four bytes, so one in 4,000 unseen rows counts
as seen by mistake.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import models, tables
from flowparts.models import mlmodel
from flowparts.util import errors, outputs

FILE = "seen_rows.parquet"
MAX_HASHES = 1_000_000

_FACTS_KEY = "flowparts"
_STORED = 2**32
# With more rows per distinct row than this, equal rows are combinations of few values, not copies.
_MAX_COPIES = 10
# Metadata about the origin of the rows.
_TOLD = ("split", "split_warning", "rows_left_out")


def record(model: str | Path, parts: Sequence[str | Path]) -> mlmodel.Card:
    """Write the sketch of the rows that a model has seen, and how they were split, into its directory.

    Args:
        model: The model directory.
        parts: Tables of raw rows: the training rows, and those that it was selected by.

    Returns:
        The model's metadata, with `split`, `split_warning` and `rows_left_out` if `split_table` made the
        parts.
    """
    stored = models.metadata(model)
    return models.annotate(model, write(model, parts, stored["features"], stored["label"]))


def carry_over(learned: str | Path, model: str | Path) -> mlmodel.Card:
    """Copy the sketch beside a preprocessor into the directory of a model that uses it.

    Args:
        learned: The directory of the preprocessor, which may have none.
        model: The model directory.

    Returns:
        The model's metadata, as in `record`.

    Raises:
        ValueError: The sketch is damaged.
    """
    if not (Path(learned) / FILE).is_file():
        return models.metadata(model)
    _, facts = _read(Path(learned) / FILE)
    with outputs.atomic(Path(model) / FILE) as partial:
        shutil.copyfile(Path(learned) / FILE, partial)
    return models.annotate(model, facts["split"])


def write(
    folder: str | Path, parts: Sequence[str | Path], features: Iterable[str], label: str
) -> dict[str, Any]:
    """Write the sketch of the rows of tables into a directory.

    A row is identified by the columns that the split kept together (a key or group, see
    `tables.description`), else by its features and label. Without a key, rows with equal features and
    different labels are ambiguous: which of them a model has seen is unknown, so the sketch then only holds
    rows that occur once.

    Args:
        folder: The directory.
        parts: Tables of raw rows.
        features: The columns that are features.
        label: The label column.

    Returns:
        `split` and `split_warning` if `split_table` made the parts.
    """
    part = tables.description(parts[0])
    key = part.get("kept_together") or []
    split = {name: value for name, value in part.items() if name in _TOLD}
    features = sorted(features)
    frames = [tables.scan(part) for part in parts]
    columns = key or [*features, label]
    wanted = [_hash(columns, frames[0]).alias("row")]
    if not key:
        wanted.append(_hash(features, frames[0]).alias("features"))
    hashes = pl.concat([frame.select(wanted).pipe(tables.collect) for frame in frames])
    if not key and _are_cases(hashes):
        hashes = hashes.filter(pl.col("features").is_unique())
    smallest = hashes["row"].unique().sort().head(MAX_HASHES)
    limit = int(smallest[-1]) if len(smallest) == MAX_HASHES else 2**64 - 1
    facts = {"columns": columns, "limit": limit, "split": split}
    kept = (smallest % _STORED).cast(pl.UInt32).unique().sort().alias("hash").to_frame()
    with outputs.atomic(Path(folder) / FILE) as partial:
        kept.write_parquet(partial, compression="zstd", metadata={_FACTS_KEY: json.dumps(facts)})
    return split


def unseen(model: str | Path, rows: pl.LazyFrame) -> pl.Series | None:
    """Return for each row whether a model certainly hasn't seen it.

    Args:
        model: The model directory.
        rows: Raw rows.

    Returns:
        One boolean per row; None if the model has no sketch or the rows lack a column that it needs.

    Raises:
        ValueError: The sketch is damaged.
    """
    file = Path(model) / FILE
    if not file.is_file():
        return None
    known, facts = _read(file)
    if not set(facts["columns"]) <= set(rows.collect_schema().names()):
        return None
    row = pl.col("row")
    is_known = (row % _STORED).cast(pl.UInt32).is_in(known.implode())
    hashed = rows.select(_hash(facts["columns"], rows).alias("row")).pipe(tables.collect)
    return hashed.select((row <= facts["limit"]) & ~is_known).to_series()


def _read(file: Path) -> tuple[pl.Series, dict[str, Any]]:
    try:
        return pl.read_parquet(file)["hash"], json.loads(pl.read_parquet_metadata(file)[_FACTS_KEY])
    except (KeyError, ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"{FILE} is damaged ({errors.first_line(error)})") from None


def _hash(columns: Sequence[str], frame: pl.LazyFrame) -> pl.Expr:
    """Hash columns independent of their order; numbers as doubles, as types may differ between batches."""
    from polars_hash import hash_rows

    schema = frame.collect_schema()
    values = [
        tables.column(name).cast(pl.Float64) if schema[name].is_numeric() else tables.column(name)
        for name in columns
    ]
    return hash_rows(values, version=1).nchash.xxh3_64(seed=0)


def _are_cases(hashes: pl.DataFrame) -> bool:
    distinct = hashes["features"].n_unique()
    return hashes["row"].n_unique() > distinct or hashes.height > _MAX_COPIES * distinct
