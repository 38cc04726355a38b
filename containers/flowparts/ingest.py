# Every name and text that goes into a query is quoted by flowparts.sql.
# ruff: noqa: S608
"""Ingestion: CSV, JSON Lines and Parquet files become one table, streamed through DuckDB.

A text file is read once when all goes well: types are inferred from its first rows, and the pass that writes
the table checks every value against them. A value that doesn't fit makes a second pass over the whole input
infer again. Only when a line can't be read, or a value isn't of the type that a person named, are lines
looked at one by one (`flowparts.screening`).
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowparts import outputs, progress, screening, sources, sql, tables, text_types
from flowparts.names import hint
from flowparts.screening import BadRows
from flowparts.sources import File
from flowparts.text_files import PLACE, SAMPLE_ROWS, Csv, JsonLines, TextFiles

if TYPE_CHECKING:
    import duckdb

FORMATS = ("csv", "jsonl", "parquet")
ON_BAD_ROWS = ("fail", "quarantine")
SHOWN_CHARACTERS = 100
# In JSON these are not written as strings.
UNQUOTED_KINDS = ("boolean", "integer", "number")

MAX_THREADS = 8
# Measured, not derived: what the reader's buffers and the writer's row groups take.
MEMORY_MB = 200
MEMORY_MB_PER_THREAD = 100

# A dictionary of more values than this takes longer to build than it saves.
_PARQUET = (
    f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {tables.ROW_GROUP_ROWS}, DICTIONARY_SIZE_LIMIT 5000"
)


@dataclass(frozen=True)
class Options:
    """How to read a source; what is wrong with them is said before anything is read.

    Attributes:
        file_format: "csv", "jsonl" or "parquet"; by default the files' suffixes tell.
        column_types: Types of columns by name, each one of `text_types.TYPES`; the others are inferred.
        null_values: Texts that mean null; by default the empty field of a CSV file.
        on_bad_rows: "fail" or "quarantine".
    """

    file_format: str | None = None
    column_types: Mapping[str, str] | None = None
    null_values: Sequence[str] | None = None
    on_bad_rows: str = "fail"

    def __post_init__(self) -> None:
        if self.file_format is not None:
            _require_known(self.file_format, FORMATS, "file_format")
        _require_known(self.on_bad_rows, ON_BAD_ROWS, "on_bad_rows")
        for column, kind in (self.column_types or {}).items():
            _require_known(kind, text_types.TYPES, f"column_types[{column!r}]")
        if isinstance(self.null_values, str) or not all(
            isinstance(text, str) for text in self.null_values or []
        ):
            raise ValueError(f"null_values is {self.null_values!r}; give a list of texts, such as ['', 'NA']")


def ingest(
    source: str, table: str | Path, rejected: str | Path, options: Options | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a source into a table and set bad rows apart; both tables appear whole, or neither does.

    Types are inferred over all rows, except for columns whose type is given. Integers are 64 bits wide,
    numbers are doubles (NaN becomes null), timestamps have microseconds and no zone (those with an offset
    become UTC), nested JSON values become JSON text, and a column without values is a string. Integers with
    leading zeros or too large for 64 bits are codes more often than counts: their column is a string.

    Args:
        source: What `sources.fetch` takes; files of the same columns make one table, in the order of their
            names.
        table: Where to write the table.
        rejected: Where to write the bad rows: file, line, column, reason and text; empty if there are none.
        options: How to read; the defaults of `Options` where not given.

    Returns:
        What there is to say about both tables, as `tables.description` gives it.

    Raises:
        ValueError: The source can't be read, or holds bad rows and `on_bad_rows` is "fail", or no good row.
    """
    options = options or Options()
    with (
        tempfile.TemporaryDirectory(prefix="flowparts-") as scratch_name,
        outputs.whole(table) as whole_table,
        outputs.whole(rejected) as whole_rejected,
    ):
        scratch = Path(scratch_name)
        files = sources.fetch(source, _folder(scratch, "remote"))
        file_format = sources.format_of(files, options.file_format)
        if file_format != "parquet":
            unpacked = _folder(scratch, "unpacked")
            files = [sources.decompressed(file, unpacked) for file in files]
        whole_table.mkdir()
        read = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}[file_format]
        target = whole_table / "part-00000.parquet"
        with BadRows(scratch / "bad.jsonl") as bad:
            if not read(_Job(files, _links(files, scratch), options, scratch, target, bad)):
                reason = f"has no good row; {bad.listed()}" if bad.count else "has no rows"
                raise ValueError(f"{sources.shown(source)} {reason}")
            tables.write(bad.frame(), whole_rejected)
    shown = sources.shown(source)
    return tables.record(table, shown), tables.record(rejected, shown)


@dataclass(frozen=True)
class _Job:
    files: Sequence[File]
    links: Sequence[Path]
    options: Options
    scratch: Path
    target: Path
    bad: BadRows

    @property
    def names(self) -> str:
        first = self.files[0].name
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"

    @property
    def given(self) -> Mapping[str, str]:
        return self.options.column_types or {}

    @property
    def megabytes(self) -> float:
        return sum(file.path.stat().st_size for file in self.files) / 1e6


@dataclass(frozen=True)
class _Column:
    """A column of the table, as SQL over what was read.

    Attributes:
        name: Its name.
        value: Its value; null also where a text can't be converted.
        text: The text that is converted.
        kind: The type it is converted to; None where nothing is converted.
    """

    name: str
    value: str
    text: str = "NULL"
    kind: str | None = None


@dataclass(frozen=True)
class _Rows:
    """Rows of columns that are read from a query, which may also yield `PLACE`."""

    columns: Sequence[_Column]
    scan: str

    def query(self, strictly: bool = False) -> str:
        """Return a query for the good rows; where `strictly`, it fails at a bad one instead."""
        selected = []
        for place, column in enumerate(self.columns):
            value = f"v{place}"
            if strictly and place == 0:
                value = f"CASE WHEN {self._is_bad} THEN error('bad') ELSE {value} END"
            if column.kind == "number":
                # DuckDB takes NaN for equal to NaN.
                value = f"nullif({value}, 'NaN'::DOUBLE)"
            selected.append(f"{value} AS {sql.identifier(column.name)}")
        where = "" if strictly else f" WHERE NOT ({self._is_bad})"
        return f"SELECT {', '.join(selected)} FROM ({self._converted()}){where}"

    def bad_values(self) -> str:
        """Return a query for the first value of each row that can't be converted: place, column and text."""
        bad = [place for place, column in enumerate(self.columns) if column.kind]
        whens = " ".join(f"WHEN v{place} IS NULL AND t{place} IS NOT NULL THEN {place}" for place in bad)
        texts = " ".join(f"WHEN v{place} IS NULL AND t{place} IS NOT NULL THEN t{place}" for place in bad)
        return (
            f"SELECT {', '.join(PLACE)}, CASE {whens} END, CASE {texts} END "
            f"FROM ({self._converted(*PLACE)}) WHERE {self._is_bad} ORDER BY position, line"
        )

    def _converted(self, *further: str) -> str:
        # A query of its own, so that a value is computed once, however often it is looked at.
        values = [f"{column.value} AS v{place}" for place, column in enumerate(self.columns)]
        texts = [f"{column.text} AS t{place}" for place, column in enumerate(self.columns) if column.kind]
        return f"SELECT {', '.join([*values, *texts, *further])} FROM ({self.scan})"

    @property
    def _is_bad(self) -> str:
        bad = [place for place, column in enumerate(self.columns) if column.kind]
        return " OR ".join(f"(v{place} IS NULL AND t{place} IS NOT NULL)" for place in bad) or "false"


def _read_csv(job: _Job) -> int:
    return _read_text(job, Csv(job.files, job.links, job.options.null_values))


def _read_jsonl(job: _Job) -> int:
    return _read_text(job, JsonLines(job.files, job.links, job.options.null_values))


def _read_text(job: _Job, files: TextFiles) -> int:
    import duckdb

    with _database(job.scratch) as database:
        for everything in (False, True):
            # Whatever goes wrong here, the last attempt finds the lines it goes wrong at.
            with suppress(duckdb.Error):
                rows = _text_rows(database, files, job.given, everything)
                return _copy(database, job, rows.query(strictly=True))
        try:
            return _read_screened(database, job, files)
        except duckdb.Error as error:
            raise ValueError(_cannot_read(job, error)) from None


def _read_screened(database: "duckdb.DuckDBPyConnection", job: _Job, files: TextFiles) -> int:
    good, read = job.scratch / "good.txt", 0.0
    with progress.reported(f"looking for bad lines in {job.names}", lambda: read, job.megabytes, "MB"):
        for megabytes in files.screen(good, job.bad):
            read = megabytes
    if not good.stat().st_size:
        _refuse_bad_rows(job)
        return 0
    rows = _text_rows(database, files, job.given, everything=True)
    _note_bad_values(database, job, rows)
    return _copy(database, job, rows.query())


def _text_rows(
    database: "duckdb.DuckDBPyConnection", files: TextFiles, given: Mapping[str, str], everything: bool
) -> _Rows:
    files.look(database, everything)
    _require_columns(given, files.names)
    places = {name: f"t{position}" for position, name in enumerate(files.names)}
    unknown = [place for name, place in places.items() if name not in given]
    kinds = _infer(database, files, unknown, everything)
    columns = [
        _Column(name, text_types.given(given[name], text), text, given[name])
        if name in given
        else _inferred(files, name, text, kinds[text])
        for name, text in places.items()
    ]
    return _Rows(columns, files.scan())


def _infer(
    database: "duckdb.DuckDBPyConnection", files: TextFiles, places: Sequence[str], everything: bool
) -> dict[str, str | None]:
    """Return the narrowest type that every value of each column has; None where there are no values."""
    scan = files.scan()
    kinds: dict[str, str | None] = dict.fromkeys(places)
    for rows in (f"{scan} LIMIT {SAMPLE_ROWS}", scan) if everything else (f"{scan} LIMIT {SAMPLE_ROWS}",):
        counts = {
            (place, kind): f"count({_inferred(files, '', place, kind).value})"
            for place in places
            for kind in text_types.WIDER[kinds[place]]
        }
        if not counts:
            break
        values = database.execute(f"SELECT {', '.join(counts.values())} FROM ({rows})").fetchall()[0]
        found = dict(zip(counts, values, strict=True))
        for place in places:
            # Every text counts as a string, the last candidate.
            texts = found[place, "string"]
            fitting = (kind for kind in text_types.WIDER[kinds[place]] if found[place, kind] == texts)
            kinds[place] = next(fitting) if texts else None
    return kinds


def _inferred(files: TextFiles, name: str, text: str, kind: str | None) -> _Column:
    if kind is None:
        # Any value after all makes the row bad, and so the next attempt look at all rows.
        return _Column(name, "CAST(NULL AS VARCHAR)", text, "string")
    literal = files.unquoted(text) if kind in UNQUOTED_KINDS else text
    return _Column(name, text_types.inferred(kind, literal), text, kind)


def _note_bad_values(database: "duckdb.DuckDBPyConnection", job: _Job, rows: _Rows) -> None:
    """Take note of values that can't be converted; raise ValueError if there are bad rows and none may be."""
    if any(column.kind for column in rows.columns):
        found = database.execute(rows.bad_values())
        while values := found.fetchmany(1000):
            for position, line, start, length, place, text in values:
                file, column = job.files[position], rows.columns[place]
                shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
                reason = f"{shown!r} is not {text_types.rule(str(column.kind))}"
                row = text if length is None else screening.text_at(file.path, start, length)
                job.bad.add(position, file, line, column.name, reason, row)
    _refuse_bad_rows(job)


def _refuse_bad_rows(job: _Job) -> None:
    if job.bad.count and job.options.on_bad_rows == "fail":
        raise ValueError(
            f"{job.bad.listed()}. Correct the source, or pass on_bad_rows='quarantine' to set them apart"
        )


def _read_parquet(job: _Job) -> int:
    import duckdb

    try:
        with _database(job.scratch) as database:
            names: list[str] = []
            for file, link in zip(job.files, job.links, strict=True):
                found = _parquet_names(database, file, link)
                names = names or found
                sources.require_distinct(file, found)
                sources.require_same_columns(job.files[0], names, file, found)
            _require_columns(job.given, names)
            source = f"read_parquet({sql.list_of(map(str, job.links))}, union_by_name=true)"
            types = {
                row[0]: row[1] for row in database.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
            }
            place = "file_index AS position, file_row_number + 1 AS line, NULL AS start, NULL AS length"
            columns = [_parquet_column(job, name, types[name]) for name in names]
            rows = _Rows(columns, f"SELECT *, {place} FROM {source}")
            _note_bad_values(database, job, rows)
            return _copy(database, job, rows.query())
    except duckdb.Error as error:
        raise ValueError(_cannot_read(job, error)) from None


def _parquet_names(database: "duckdb.DuckDBPyConnection", file: File, link: Path) -> list[str]:
    """Return the columns' names as the file has them: DuckDB renames those that differ only in case."""
    with file.path.open("rb") as stream:
        first = stream.read(4)
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4))
        last = stream.read(4)
    if first != b"PAR1":
        raise ValueError(f"{file.name} is not a Parquet file: it does not begin with PAR1")
    if last != b"PAR1":
        raise ValueError(f"{file.name} is a truncated Parquet file: it does not end with PAR1; copy it again")
    fields = database.execute(
        f"SELECT name, num_children FROM parquet_schema({sql.literal(str(link))})"
    ).fetchall()
    names, inside = [], 0
    for name, children in fields[1:]:
        if inside:
            inside -= 1
        else:
            names.append(name)
        # Nested fields follow their parent, depth first.
        inside += children or 0
    return names


def _parquet_column(job: _Job, name: str, sql_type: str) -> _Column:
    column = sql.identifier(name)
    nulls = job.options.null_values
    match sql_type.partition("(")[0]:
        case nested if nested.endswith("]") or nested in ("STRUCT", "MAP", "UNION", "VARIANT", "JSON"):
            value = f"CAST(to_json({column}) AS VARCHAR)"
        case "BLOB" | "BIT" | "GEOMETRY":
            raise ValueError(
                f"column {name!r} of {job.names} holds binary values; store it as text or leave it out"
            )
        case "DOUBLE" | "FLOAT":
            # Not nullif(): statistics in Parquet files leave NaN out, and DuckDB concludes there is none.
            value = f"CASE WHEN NOT isnan({column}) THEN {column} END"
        case "DECIMAL" | "HUGEINT" | "UHUGEINT" | "BIGNUM":
            value = f"CAST({column} AS DOUBLE)"
        case "TIMESTAMP WITH TIME ZONE":
            value = f"make_timestamp(epoch_us({column}))"
        case kind if kind.startswith("TIMESTAMP"):
            value = f"CAST({column} AS TIMESTAMP)"
        case "VARCHAR" | "ENUM" if nulls:
            value = f"CAST({column} AS VARCHAR)"
            value = f"CASE WHEN {value} NOT IN {sql.list_of(nulls)} THEN {value} END"
        case "BOOLEAN" | "DATE":
            value = column
        case kind if kind.endswith("INT") or kind == "INTEGER" or kind == "UINTEGER":
            value = column
        case _:
            value = f"CAST({column} AS VARCHAR)"
    if name not in job.given:
        return _Column(name, value)
    text = f"CAST({value} AS VARCHAR)"
    return _Column(name, text_types.given(job.given[name], text), text, job.given[name])


def _copy(database: "duckdb.DuckDBPyConnection", job: _Job, query: str) -> int:
    total = job.megabytes

    def done() -> float:
        return total * max(database.query_progress(), 0.0) / 100

    with progress.reported(f"ingesting {job.names}", done, total, "MB"):
        written = database.execute(
            f"COPY ({query}) TO {sql.literal(str(job.target))} ({_PARQUET})"
        ).fetchall()
    return int(written[0][0])


@contextmanager
def _database(scratch: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    import duckdb

    threads = min(len(os.sched_getaffinity(0)), MAX_THREADS)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "threads": threads,
        "memory_limit": f"{MEMORY_MB + threads * MEMORY_MB_PER_THREAD}MB",
        "temp_directory": str(_folder(scratch, "spill")),
        "preserve_insertion_order": True,
        # Nothing is fetched while a step runs, and all that is needed is built in.
        "autoinstall_known_extensions": False,
    }
    with duckdb.connect(config=settings) as database:
        database.execute("SET TimeZone = 'UTC'")
        # Without the bar query_progress() has nothing to say.
        database.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        yield database


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir(exist_ok=True)
    return folder


def _links(files: Sequence[File], scratch: Path) -> list[Path]:
    """Give the files plain names, as DuckDB takes some characters of a path for a pattern."""
    folder = _folder(scratch, "links")
    links = [folder / f"{position:06d}" for position in range(len(files))]
    for link, file in zip(links, files, strict=True):
        link.symlink_to(file.path.resolve())
    return links


def _cannot_read(job: _Job, error: Exception) -> str:
    first = str(error).strip().splitlines()[0]
    for link, file in zip(job.links, job.files, strict=True):
        first = first.replace(str(link), file.name)
    return f"{job.names} can't be read: {first}"


def _require_known(value: object, known: Sequence[str], what: str) -> None:
    if value not in known:
        near = hint(str(value).lower(), known)
        raise ValueError(f"{what} is {value!r}; {near}use one of: {', '.join(known)}")


def _require_columns(given: Mapping[str, str], names: Sequence[str]) -> None:
    for name in given:
        if name not in names:
            near = hint(name, names)
            raise ValueError(
                f"column {name!r} of column_types is not in the source; {near}columns are: {', '.join(names)}"
            )
