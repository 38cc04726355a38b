"""The table contract: a directory of Parquet files, read and written lazily with bounded memory.

A missing value is null. NaN doesn't occur: it becomes null when a table is written.
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

# Polars reads many row groups ahead, so memory would grow with the table; one is as fast, as measured.
os.environ.setdefault("POLARS_ROW_GROUP_PREFETCH_SIZE", "1")

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

# Maximum number of columns that an error message names.
_MAX_NAMED = 10

# Small row groups need less memory for reading and writing; a multiple of DuckDB's vector size.
ROW_GROUP_ROWS = 61_440

# Maximum number of columns for row groups of this size; in wider tables they have fewer rows.
_GROUP_COLUMNS = 64
_MIN_GROUP_ROWS = 2_048

# Rows that Python code gets at once.
_CHUNK_ROWS = 25_000
# The same for tables of images, which take more memory than numbers.
ROWS_WITH_IMAGES = 500

# A Parquet file without rows, whose footer describes the table. Other readers of the directory ignore it;
# Polars would refuse a directory with a file of another format.
_FACTS_FILE = "part-facts.parquet"
_FACTS_KEY = "flowparts"


class Description(TypedDict):
    """The description of a table.

    The optional entries exist for tables from which rows were left out, and for the parts of a split.

    Attributes:
        rows: Number of rows.
        columns: Names of the columns.
        bytes: Size of the files.
        fingerprint: Fingerprint of the content, from `fingerprint`.
        source: Origin of the rows (a URI or the table they were derived from); empty if unknown.
        rows_left_out: Readable rows of the source that were left out: a sentence for each kind.
        split: How the table was split, in one sentence.
        split_warning: Warning about the split; empty if there is none.
        kept_together: Columns whose equal values are in the same part.
        time_column: Column by which the rows of each part are later than those of the part before; empty if
            the split wasn't by time.
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
        ValueError: There is no table at `path`, or its files are damaged or don't match.
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
                f"{file} has other columns or types than {files[0].name}; all files of a table must have the "
                "same: run the step that wrote the table again"
            )
    # Without globbing: Polars would take some characters of a path for a pattern.
    return pl.scan_parquet(files, glob=False)


def _schema(file: Path) -> dict[str, pl.DataType]:
    try:
        return pl.read_parquet_schema(file)
    # Polars panics on some footers, which isn't a PolarsError.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = errors.first_line(error)
        raise ValueError(
            f"{file} is not a complete Parquet file ({reason}); run the step that wrote the table again"
        ) from None


def write(
    frame: pl.LazyFrame | pl.DataFrame,
    path: str | Path,
    source: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Description:
    """Write a table with bounded memory; it appears whole or not at all.

    Args:
        frame: Rows to write, in order. NaN is written as null.
        path: The directory to create.
        source: Origin of the rows (a URI or the table they were derived from).
        facts: Further entries of the description that later steps need, as JSON values.

    Returns:
        The table's description, as `description` returns it.
    """
    with outputs.atomic(path) as partial:
        partial.mkdir()
        write_part(frame, partial / "part-00000.parquet")
    return record(path, source, facts)


def write_part(frame: pl.LazyFrame | pl.DataFrame, file: str | Path, rows: int | None = None) -> None:
    """Write rows with bounded memory as one of the files of a table.

    Args:
        frame: The rows, in order.
        file: The file.
        rows: Rows of a row group, which is held in memory; by default what suits most tables.
    """
    with reraise_as_damaged():
        frame.lazy().with_columns(pl.selectors.float().fill_nan(None)).sink_parquet(
            file,
            compression="zstd",
            row_group_size=rows
            or (ROWS_WITH_IMAGES if has_images(frame) else group_rows(len(frame.collect_schema()))),
            engine="streaming",
        )


def group_rows(columns: int) -> int:
    """Return the number of rows in a row group, by a file's number of columns."""
    rows = ROW_GROUP_ROWS * _GROUP_COLUMNS // max(columns, _GROUP_COLUMNS)
    return max(_MIN_GROUP_ROWS, rows // _MIN_GROUP_ROWS * _MIN_GROUP_ROWS)


def has_images(frame: pl.LazyFrame | pl.DataFrame) -> bool:
    """Return whether a table holds encoded images."""
    return pl.Binary in frame.collect_schema().dtypes()


def collect(frame: pl.LazyFrame) -> pl.DataFrame:
    """Compute a lazy frame with the streaming engine: `frame.pipe(collect)`.

    Raises:
        ValueError: A file that it reads is damaged although its footer is intact.
    """
    with reraise_as_damaged():
        return frame.collect(engine="streaming")


def batches(frame: pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    """Compute a lazy frame in batches, and yield its rows in order, at most `rows` at a time.

    Raises:
        ValueError: A file that it reads is damaged although its footer is intact.
    """
    with reraise_as_damaged():
        for batch in frame.collect_batches(chunk_size=rows, maintain_order=True, engine="streaming"):
            yield from batch.iter_slices(rows)


@contextmanager
def with_progress(frame: pl.LazyFrame, what: str) -> Iterator[pl.LazyFrame]:
    """Yield the same rows for one pass over them, whose progress is logged.

    Args:
        frame: The rows of a file.
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
def reraise_as_damaged() -> Iterator[None]:
    """Turn Polars' error for a file that is damaged although its footer is intact into a ValueError."""
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
    """Apply a function to the chunks of a table, lazily, in order and one at a time; progress is logged.

    Unlike with `LazyFrame.map_batches`, memory doesn't depend on how many chunks Polars reads ahead.

    Args:
        frame: The rows.
        function: Returns the result's rows for a chunk of at least one row.
        schema: The result's columns.
        what: The work, for the log, such as "scoring".
    """
    from polars.io.plugins import register_io_source

    def results(
        columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        done = 0
        at_once = ROWS_WITH_IMAGES if has_images(frame) else _CHUNK_ROWS
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
    """Describe a table and store the description in it.

    Args:
        path: The table.
        source: Origin of its rows (a URI or the table they were derived from).
        further: Further entries of the description.

    Returns:
        The description, which `description` returns from now on.
    """
    described = cast(Description, {**_measured(path), "source": source, **(further or {})})
    with outputs.atomic(Path(path) / _FACTS_FILE) as partial:
        empty = pl.DataFrame(schema=scan(path).collect_schema())
        empty.write_parquet(partial, metadata={_FACTS_KEY: json.dumps(described)})
    return described


def description(path: str | Path) -> Description:
    """Return the description of a table; it is computed for tables that this package didn't write.

    Raises:
        ValueError: There is no table at `path`, or its files are damaged or don't match.
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
    """Return the provenance of a table's rows: which rows were left out, and how the table was split.

    Pass it on, as `facts` of `write`, to a table that is derived row by row: it tells a training which groups
    the split kept together, and that rows split by time must not be mixed.

    Raises:
        ValueError: As for `description`.
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
    """Return the files with a table's rows, in order."""
    return sorted(file for file in Path(path).glob("*.parquet") if file.name != _FACTS_FILE)


def row_count(frame: pl.LazyFrame) -> int:
    """Return the number of rows, which Parquet stores in its footer."""
    return int(frame.select(pl.len()).pipe(collect).item())


def fingerprint(frame: pl.LazyFrame | pl.DataFrame) -> str:
    """Return a fingerprint of a table's content, 16 hexadecimal digits.

    It is equal for equal columns (names, types, order) and equal rows, whatever their order and the number of
    files, and the same on all machines and versions, like `row_hash`.
    """
    lazy = frame.lazy()
    schema = lazy.collect_schema()
    with with_progress(lazy, "fingerprinting") as counted:
        sums = counted.select(pl.len(), row_hash(schema.names()).sum().alias("total"))
        rows, total = sums.pipe(collect).row(0)
    columns = [(name, str(dtype.base_type())) for name, dtype in schema.items()]
    return hashlib.sha256(json.dumps([columns, rows, total]).encode()).hexdigest()[:16]


def row_hash(columns: Iterable[str], seed: int = 0) -> pl.Expr:
    """Return an expression that hashes the given columns of each row to UInt64, the same on every machine.

    It is XXH3 (64 bits, see https://xxhash.com) of a row in version 1 of polars_hash's encoding, which
    depends on the meaning of values: integers of any width and equal times have equal hashes.
    """
    from polars_hash import hash_rows

    return hash_rows([column(name) for name in columns], version=1).nchash.xxh3_64(seed=seed)


def column(name: str) -> pl.Expr:
    """Return the expression of a column by its literal name: `pl.col` takes `*` and `^...$` for patterns."""
    return pl.selectors.by_name(name).as_expr()


def select(frame: Frame, names: Iterable[str]) -> Frame:
    """Select columns by their literal names; see `column`."""
    return frame.select(pl.selectors.by_name(*names))


def require_columns(frame: pl.LazyFrame | pl.DataFrame, columns: Iterable[str], role: str = "column") -> None:
    """Raise ValueError unless every named column is in the table.

    Args:
        frame: The table.
        columns: Names of the required columns.
        role: Role of the columns ("label column", "key column"), for the error message.
    """
    present = frame.collect_schema().names()
    for name in columns:
        if name not in present:
            near = hint(name, present, cutoff=0.7)
            named = listed(present, _MAX_NAMED)
            raise ValueError(f"{role} {name!r} is not in the table; {near}columns are: {named}")


def require_rows(frame: pl.LazyFrame, what: str = "the table") -> int:
    """Return the number of rows; raise ValueError if there are none."""
    rows = row_count(frame)
    if rows == 0:
        raise ValueError(f"{what} has no rows, and needs at least one")
    return rows


def require_times(frame: pl.LazyFrame | pl.DataFrame, name: str, role: str = "time column") -> None:
    """Raise ValueError unless a column is in the table and holds timestamps or dates."""
    require_columns(frame, [name], role)
    dtype = frame.collect_schema()[name]
    if not isinstance(dtype, pl.Date | pl.Datetime):
        raise ValueError(f"{role} {name!r} must hold timestamps or dates, not {dtype}")


def to_pandas(frame: pl.DataFrame) -> "pd.DataFrame":
    """Convert to the pandas frame that estimators take, the same in training and in serving.

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
