"""The table contract: a directory of Parquet files, read and written lazily with bounded memory.

A missing value is a null. NaN does not occur: it becomes null when a table is written.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, TypeVar, cast

import polars as pl

from flowparts.util import errors, outputs, progress
from flowparts.util.names import hint, listed

if TYPE_CHECKING:
    import pandas as pd

# Polars reads row groups far ahead, so that memory would grow with the table; measured, one is as fast.
os.environ.setdefault("POLARS_ROW_GROUP_PREFETCH_SIZE", "1")

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

# A sentence that names more columns than this is not read.
_MOST_NAMED = 10

# Small row groups take less memory wherever a table is written or read; a multiple of what DuckDB handles.
ROW_GROUP_ROWS = 61_440

# Columns that row groups of this size are meant for; of wider tables they have fewer rows.
_GROUP_COLUMNS = 64
_LEAST_GROUP_ROWS = 2_048

# What Python code sees of a table at once.
_CHUNK_ROWS = 25_000
# Of a table that holds images, which take more memory than a row of numbers.
_IMAGES_AT_ONCE = 500

# A file without rows beside those that hold them: its footer describes the table. Readers of a directory of
# Parquet files don't notice it; Polars would refuse a directory that holds a file of another kind.
_FACTS_FILE = "part-facts.parquet"
_FACTS_KEY = "flowparts"


class Description(TypedDict):
    """What there is to say about a table.

    Attributes:
        rows: Number of its rows.
        columns: Names of its columns.
        bytes: Of its files.
        fingerprint: Stands for its content, as `fingerprint` says.
        source: Where its rows come from (a URI or the table they were derived from); empty if unknown.
        rows_left_out: Rows of the source that could be read but were left out: a sentence for each kind.
        split: Of a part of a split: how it was split, a sentence.
        split_warning: Likewise: empty if there is nothing to warn of.
        kept_together: Likewise: columns whose equal values are in one part.
        time_column: Likewise: column by which the rows of each part are later than those of the one before;
            empty if they aren't.
    """

    rows: int
    columns: list[str]
    bytes: int
    fingerprint: str
    source: str
    rows_left_out: NotRequired[list[str]]
    split: NotRequired[str]
    split_warning: NotRequired[str]
    kept_together: NotRequired[list[str]]
    time_column: NotRequired[str]


def scan(path: str | Path) -> pl.LazyFrame:
    """Open a table without reading its rows.

    Raises:
        ValueError: There is no table at `path`, or its files are damaged or don't belong together.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise ValueError(f"no table at {directory}: a table is a directory of Parquet files")
    files = _files(directory)
    if not files:
        raise ValueError(f"no table at {directory}: the directory holds no .parquet file")
    schemas = [_schema(file) for file in files]
    for file, schema in zip(files, schemas, strict=True):
        if schema != schemas[0]:
            raise ValueError(
                f"{file} does not have the columns or types of {files[0].name} beside it; "
                "a table's files must be alike"
            )
    # By name, not by pattern: Polars takes some characters of a path for one.
    return pl.scan_parquet(files, glob=False)


def _schema(file: Path) -> dict[str, pl.DataType]:
    try:
        return pl.read_parquet_schema(file)
    # Polars panics at some footers, and that is no PolarsError.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = errors.first_line(error)
        raise ValueError(
            f"{file} is not a whole Parquet file ({reason}); run the step that wrote the table again"
        ) from None


def write(
    frame: pl.LazyFrame | pl.DataFrame,
    path: str | Path,
    source: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Description:
    """Write a table in streaming fashion; it appears whole or not at all.

    Args:
        frame: Rows to write, in order. NaN is written as null.
        path: The directory to make.
        source: Where the rows come from (a URI or the table they were derived from).
        facts: What else a later step must know about the rows, as JSON can hold it.

    Returns:
        What there is to say about the table, as `description` gives it.
    """
    with outputs.whole(path) as partial:
        partial.mkdir()
        write_part(frame, partial / "part-00000.parquet")
    return record(path, source, facts)


def write_part(frame: pl.LazyFrame | pl.DataFrame, file: str | Path) -> None:
    """Write rows in streaming fashion as one of the files of a table."""
    with damage_told():
        frame.lazy().with_columns(pl.selectors.float().fill_nan(None)).sink_parquet(
            file,
            compression="zstd",
            row_group_size=_IMAGES_AT_ONCE if has_images(frame) else group_rows(len(frame.collect_schema())),
            engine="streaming",
        )


def group_rows(columns: int) -> int:
    """Return how many rows a row group has in a file of so many columns."""
    rows = ROW_GROUP_ROWS * _GROUP_COLUMNS // max(columns, _GROUP_COLUMNS)
    return max(_LEAST_GROUP_ROWS, rows // _LEAST_GROUP_ROWS * _LEAST_GROUP_ROWS)


def has_images(frame: pl.LazyFrame | pl.DataFrame) -> bool:
    """Say whether a table holds encoded images."""
    return pl.Binary in frame.collect_schema().dtypes()


def collect(frame: pl.LazyFrame) -> pl.DataFrame:
    """Compute a lazy frame in streaming fashion: `frame.pipe(collect)`.

    Raises:
        ValueError: A file that it reads is damaged behind its intact footer.
    """
    with damage_told():
        return frame.collect(engine="streaming")


def batches(frame: pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    """Compute a lazy frame bit by bit: give its rows in order, so many at a time.

    Raises:
        ValueError: A file that it reads is damaged behind its intact footer.
    """
    with damage_told():
        for batch in frame.collect_batches(chunk_size=rows, maintain_order=True, engine="streaming"):
            yield from batch.iter_slices(rows)


@contextmanager
def watched(frame: pl.LazyFrame, what: str) -> Iterator[pl.LazyFrame]:
    """Give the same rows, for one pass over them; the log says how far it is.

    Args:
        frame: The rows, of a file.
        what: The work, for the log, such as "checking rules".
    """
    done = 0

    def count(rows: pl.DataFrame) -> pl.DataFrame:
        nonlocal done
        done += rows.height
        return rows

    with progress.reported(what, lambda: done, row_count(frame), "rows"):
        yield frame.map_batches(count, projection_pushdown=True, streamable=True)


@contextmanager
def damage_told() -> Iterator[None]:
    """Raise ValueError instead where a file that Polars reads is damaged behind its intact footer."""
    try:
        yield
    except pl.exceptions.ComputeError as error:
        reason = errors.first_line(error)
        if not reason.startswith("parquet: "):
            raise
        raise ValueError(
            f"a file of a table that this step reads is damaged ({reason.removeprefix('parquet: ')}); "
            "run the step that wrote the table again"
        ) from None


def in_chunks(
    frame: pl.LazyFrame,
    function: Callable[[pl.DataFrame], pl.DataFrame],
    schema: Mapping[str, pl.DataType],
    what: str,
) -> pl.LazyFrame:
    """Apply a function to chunks of a table, lazily, in order and one at a time; the log says how far it is.

    Unlike with `LazyFrame.map_batches`, memory does not depend on how many chunks Polars reads ahead.

    Args:
        frame: The rows.
        function: Makes the result's rows from those of a chunk, which has at least one.
        schema: The result's columns.
        what: The work, for the log, such as "scoring".
    """
    from polars.io.plugins import register_io_source

    def results(
        columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        done = 0
        at_once = _IMAGES_AT_ONCE if has_images(frame) else _CHUNK_ROWS
        with progress.reported(what, lambda: done, row_count(frame), "rows"):
            for chunk in batches(frame, at_once):
                result = function(chunk)
                done += chunk.height
                if rows is not None:
                    result = result.head(rows)
                    rows -= result.height
                result = result if predicate is None else result.filter(predicate)
                yield result if columns is None else select(result, columns)
                if rows == 0:
                    return

    return register_io_source(results, schema=pl.Schema(schema))


def record(path: str | Path, source: str = "", further: Mapping[str, Any] | None = None) -> Description:
    """Measure a table and write down in it what was found, for `description`.

    Args:
        path: The table.
        source: Where its rows come from (a URI or the table they were derived from).
        further: What else there is to say.

    Returns:
        What `description` gives from now on.
    """
    described = cast(Description, {**_measured(path), "source": source, **(further or {})})
    with outputs.whole(Path(path) / _FACTS_FILE) as partial:
        empty = pl.DataFrame(schema=scan(path).collect_schema())
        empty.write_parquet(partial, metadata={_FACTS_KEY: json.dumps(described)})
    return described


def description(path: str | Path) -> Description:
    """Return what there is to say about a table; one that this package didn't write is measured.

    Raises:
        ValueError: There is no table at `path`, or its files are damaged or don't belong together.
    """
    scan(path)
    file = Path(path) / _FACTS_FILE
    if not file.is_file():
        return cast(Description, {**_measured(path), "source": ""})
    try:
        facts: Description = json.loads(pl.read_parquet_metadata(file)[_FACTS_KEY])
    except (KeyError, ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = errors.first_line(error)
        raise ValueError(
            f"{file} doesn't describe its table ({reason}); run the step that wrote the table again"
        ) from None
    return facts


def provenance(path: str | Path) -> dict[str, Any]:
    """Return what a table says of its rows' past: which rows were left out, and how it was split.

    A table that is derived from it row by row must say the same, as `facts` of `write`: a training keeps the
    groups of a split together by it, and doesn't mix rows that were split by time.

    Raises:
        ValueError: As `description`.
    """
    return {name: fact for name, fact in description(path).items() if name in Description.__optional_keys__}


def _measured(path: str | Path) -> dict[str, Any]:
    frame = scan(path)
    return {
        "rows": row_count(frame),
        "columns": frame.collect_schema().names(),
        "bytes": sum(file.stat().st_size for file in _files(path)),
        "fingerprint": fingerprint(frame),
    }


def _files(path: str | Path) -> list[Path]:
    """Return the files that hold a table's rows, in their order."""
    return sorted(file for file in Path(path).glob("*.parquet") if file.name != _FACTS_FILE)


def row_count(frame: pl.LazyFrame) -> int:
    """Return the number of rows; Parquet answers this from its footer."""
    return int(frame.select(pl.len()).pipe(collect).item())


def fingerprint(frame: pl.LazyFrame | pl.DataFrame) -> str:
    """Return 16 hexadecimal digits that stand for a table's content.

    Equal for the same columns (names, types, order) and the same rows, in whatever order and in however many
    files the rows are stored; it holds across machines and versions, as `row_hash` does.
    """
    lazy = frame.lazy()
    schema = lazy.collect_schema()
    with watched(lazy, "fingerprinting") as watched_rows:
        sums = watched_rows.select(pl.len(), row_hash(schema.names()).sum().alias("total"))
        rows, total = sums.pipe(collect).row(0)
    columns = [(name, str(dtype.base_type())) for name, dtype in schema.items()]
    return hashlib.sha256(json.dumps([columns, rows, total]).encode()).hexdigest()[:16]


def row_hash(columns: Iterable[str], seed: int = 0) -> pl.Expr:
    """Return an expression that hashes the given columns of each row to UInt64, the same on every machine.

    XXH3 (64 bits, see https://xxhash.com) of the bytes that polars_hash makes of a row in version 1 of its
    encoding: those of the values' meaning, so that integers of any width and equal times hash alike.
    """
    from polars_hash import hash_rows

    return hash_rows([column(name) for name in columns], version=1).nchash.xxh3_64(seed=seed)


def column(name: str) -> pl.Expr:
    """Return the expression of a column, whatever its name: Polars takes `*` and `^...$` for patterns."""
    return pl.selectors.by_name(name).as_expr()


def select(frame: Frame, names: Iterable[str]) -> Frame:
    """Return the named columns, whatever the names; see `column`."""
    return frame.select(pl.selectors.by_name(*names))


def require_columns(frame: pl.LazyFrame | pl.DataFrame, columns: Iterable[str], role: str = "column") -> None:
    """Raise ValueError unless every named column is in the table.

    Args:
        frame: The table.
        columns: Names that must be there.
        role: What the column is to the caller ("label column", "key column"), for the message.
    """
    present = frame.collect_schema().names()
    for name in columns:
        if name not in present:
            near = hint(name, present, cutoff=0.7)
            named = listed(present, _MOST_NAMED)
            raise ValueError(f"{role} {name!r} is not in the table; {near}columns are: {named}")


def require_rows(frame: pl.LazyFrame, what: str = "the table") -> int:
    """Return the number of rows; raise ValueError when there are none."""
    rows = row_count(frame)
    if rows == 0:
        raise ValueError(f"{what} has no rows")
    return rows


def require_times(frame: pl.LazyFrame | pl.DataFrame, name: str, role: str = "time column") -> None:
    """Raise ValueError unless a column is in the table and holds timestamps or dates."""
    require_columns(frame, [name], role)
    dtype = frame.collect_schema()[name]
    if not isinstance(dtype, pl.Date | pl.Datetime):
        raise ValueError(f"{role} {name!r} holds {dtype}; it must hold timestamps or dates")


def to_pandas(frame: pl.DataFrame) -> "pd.DataFrame":
    """Convert to the pandas frame that estimators get, the same in training and in serving.

    Numbers and booleans become float64 with NaN for null, text and categories become objects with None,
    dates and timestamps become datetime64.
    """
    import pandas as pd

    columns = {}
    for series in frame.iter_columns():
        dtype = series.dtype
        if dtype.is_numeric() or dtype == pl.Boolean:
            columns[series.name] = pd.Series(series.cast(pl.Float64).to_numpy())
        elif dtype.is_temporal():
            columns[series.name] = pd.Series(series.cast(pl.Datetime("us")).to_numpy())
        else:
            columns[series.name] = pd.Series(series.cast(pl.String).to_numpy(), dtype=object)
    return pd.DataFrame(columns, index=pd.RangeIndex(frame.height))
