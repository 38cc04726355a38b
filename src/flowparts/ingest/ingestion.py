# Every name and text that goes into a query is quoted by flowparts.util.sql.
# ruff: noqa: S608
"""Read CSV, JSON Lines and Parquet files into one table, streamed through DuckDB.

In the normal case a text file is read once: types are inferred from its first rows, and the pass that writes
the table checks every value against them. A value that doesn't fit starts a second pass, which infers the
types from all rows. Only if a line can't be read, or a value isn't of a type that the user set, are lines
checked one by one (`flowparts.ingest.screening`).
"""

import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from flowparts import tables
from flowparts.ingest import image_columns, plain_files, row_selection, screening, text_inference
from flowparts.ingest.screening import BadRows
from flowparts.ingest.text_files import PLACE, Csv, JsonLines, TextFiles
from flowparts.ingest.text_inference import Kind
from flowparts.util import errors, masking, outputs, progress, sources, sql, text_types
from flowparts.util.names import hint
from flowparts.util.sources import File

if TYPE_CHECKING:
    import duckdb

FORMATS = ("csv", "jsonl", "parquet")
ON_BAD_ROWS = ("fail", "quarantine", "null")
ON_MISSING_LABEL = ("drop", "fail")
SHOWN_CHARACTERS = 100

MAX_THREADS = 8
# Measured memory of the reader's buffers and the writer's row groups.
MEMORY_MB = 200
MEMORY_MB_PER_THREAD = 100

# Additional memory for each column of tables with many columns.
MEMORY_KB_PER_COLUMN = 500
MANY_COLUMNS = 100
# Their planning time grows with the square of the number of columns.
_SLOW_OPTIMIZERS = "common_subexpressions,expression_rewriter,statistics_propagation"

# The name that pandas gives to an unnamed index.
_PANDAS_INDEX = re.compile("__index_level_[0-9]+__")
# Integers below these are exact.
_EXACT_BELOW = {"DOUBLE": 2**53, "FLOAT": 2**24}
_FOLDER_KINDS = ("integer", "date")

_log = logging.getLogger("flowparts")


@dataclass(frozen=True)
class Options:
    """Options for reading a source; invalid ones raise ValueError before anything is read.

    Attributes:
        file_format: "csv", "jsonl" or "parquet"; default: inferred from the files' suffixes.
        column_types: Types of columns by name, from `text_types.TYPES`; other types are inferred.
        null_values: Texts to read as null; default: `text_types.MISSING`.
        on_bad_rows: What to do with rows that can't be read or hold a value that isn't of its column's type:
            "fail", "quarantine", or "null" to read such values as null and quarantine unreadable rows.
        delimiter: The field separator of CSV files; default: detected from the start of each file.
        decimal: The decimal separator, "." or ","; the other one separates thousands; default: detected for
            each column of a text file.
        column_names: Names of the columns of CSV files without a header.
        expected_types: Types of columns by name, from a schema; ignored for columns that the source lacks or
            that are in `column_types`.
        keep_integers: Whether columns expected to hold numbers hold integers if all values are whole.
        label: A column that the source must have; rows without a value in it are useless for training.
        on_missing_label: What to do with such rows: "drop" or "fail".
        required_columns: Further columns that the source must have.
        time_column: Column of timestamps or dates for `window_days`.
        window_days: Length in days of the window to keep, which ends with the newest row; 0 for all rows.
        named_in_messages: Whether messages may suggest these options, which not every caller offers.
    """

    file_format: str | None = None
    column_types: Mapping[str, str] | None = None
    null_values: Sequence[str] | None = None
    on_bad_rows: str = "fail"
    delimiter: str | None = None
    decimal: str | None = None
    column_names: Sequence[str] | None = None
    expected_types: Mapping[str, str] | None = None
    keep_integers: bool = False
    label: str | None = None
    on_missing_label: str = "drop"
    required_columns: Sequence[str] = ()
    time_column: str | None = None
    window_days: float = 0.0
    named_in_messages: bool = True

    def __post_init__(self) -> None:
        if self.file_format is not None:
            _require_known(self.file_format, FORMATS, "file_format")
        _require_known(self.on_bad_rows, ON_BAD_ROWS, "on_bad_rows")
        _require_known(self.on_missing_label, ON_MISSING_LABEL, "on_missing_label")
        for column, kind in (self.column_types or {}).items():
            _require_known(kind, text_types.TYPES, f"column_types[{column!r}]")
        if isinstance(self.null_values, str) or not all(
            isinstance(text, str) for text in self.null_values or []
        ):
            raise ValueError(
                f"null_values must be a list of texts, such as ['', 'NA'], not {self.null_values!r}"
            )
        if self.decimal is not None:
            _require_known(self.decimal, text_types.DECIMALS, "decimal")
        if self.delimiter is not None and not (
            len(self.delimiter) == 1 and not self.delimiter.isalnum() and self.delimiter not in '" \r\n\0'
        ):
            raise ValueError(
                "delimiter must be one character other than a letter, digit, space, line end or quote, not "
                f"{self.delimiter!r}"
            )
        if isinstance(self.column_names, str) or not all(
            isinstance(name, str) for name in self.column_names or []
        ):
            raise ValueError(f"column_names must be a list of names, not {self.column_names!r}")
        row_selection.check_window(self.window_days, self.time_column)

    @property
    def nulls(self) -> Sequence[str]:
        """Texts to read as null, in files of all formats."""
        return text_types.MISSING if self.null_values is None else self.null_values

    @property
    def integers(self) -> set[str]:
        """Columns that are expected to hold numbers and may have integers."""
        expected = self.expected_types or {} if self.keep_integers else {}
        return {name for name, kind in expected.items() if kind == "number"} - {*(self.column_types or {})}

    def types_of(self, names: Sequence[str]) -> dict[str, str]:
        """Return the set or expected types of the columns that a source has.

        Raises:
            ValueError: The source lacks a column of `column_types`, the label or a required column.
        """
        wanted = {
            **dict.fromkeys(self.required_columns, "column {!r}"),
            **({self.time_column: "time column {!r}"} if self.time_column and self.window_days else {}),
            **dict.fromkeys(self.column_types or {}, "column {!r} of column_types"),
            **({self.label: "label column {!r}"} if self.label else {}),
        }
        for name, what in wanted.items():
            if name not in names:
                near = hint(name, names)
                raise ValueError(
                    f"{what.format(name)} is not in the source; {near}columns are: {', '.join(names)}"
                )
        known = {**(self.expected_types or {}), **(self.column_types or {})}
        return {name: kind for name, kind in known.items() if name in names and kind in text_types.TYPES}


def ingest(
    source: str, table: str | Path, rejected: str | Path, options: Options | None = None
) -> tuple[tables.Description, tables.Description]:
    """Read a source into a table, and its bad rows into another; both appear whole, or neither does.

    Types are inferred from all rows, except for columns whose type is set. Integers have 64 bits, numbers are
    doubles (NaN becomes null), timestamps have microseconds and no zone (those with an offset are converted
    to UTC), nested JSON values become JSON text, and a column without values is a string. A column of
    integers with leading zeros or beyond 64 bits is a string, since such numbers are usually codes.

    Args:
        source: A source as for `sources.fetch`; files with the same columns become one table, sorted by name.
        table: Where to write the table.
        rejected: Where to write the bad rows: file, line, column, reason and text; empty if there are none.
        options: Options for reading; default: the defaults of `Options`.

    Returns:
        The descriptions of both tables, as from `tables.description`.

    Raises:
        ValueError: The source can't be read, holds bad rows and `on_bad_rows` is "fail", or has no good row.
    """
    options = options or Options()
    with (
        tempfile.TemporaryDirectory(prefix="flowparts-") as scratch_name,
        outputs.atomic(table) as partial_table,
        outputs.atomic(rejected) as partial_rejected,
    ):
        scratch = Path(scratch_name)
        files = sources.fetch(source, _folder(scratch, "remote"))
        # Spark writes an empty file for a part without rows.
        files = [file for file in files if file.path.stat().st_size] or files
        file_format = sources.format_of(files, options.file_format, options.named_in_messages)
        if file_format != "csv" and (options.delimiter or options.column_names):
            named = "delimiter" if options.delimiter else "column_names"
            raise ValueError(
                f"{named} is for CSV files only, but {masking.shown(source)} is {file_format}; leave it out"
            )
        if file_format != "parquet":
            unpacked = _folder(scratch, "unpacked")
            files = [sources.decompressed(file, unpacked) for file in files]
        partial_table.mkdir()
        read = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}[file_format]
        target = partial_table / "part-00000.parquet"
        with BadRows(scratch / "bad.jsonl") as bad:
            if not read(_Job(files, _links(files, scratch), options, scratch, target, bad)):
                reason = f"has no good row; {bad.listed()}" if bad.count else "has no rows"
                raise ValueError(f"{masking.shown(source)} {reason}")
            if bad.count:
                _log.warning("%s", bad.listed())
            selected = _selected(target, options, masking.shown(source))
            described = tables.write(bad.frame(), partial_rejected, masking.shown(source))
    return tables.record(table, masking.shown(source), selected), described


def _selected(file: Path, options: Options, source: str) -> dict[str, Any]:
    """Drop unwanted rows from a table's only file; return the entries for the table's description."""
    older: dict[str, Any] = {}
    unlabeled: dict[str, Any] = {}
    if options.window_days and options.time_column:
        older = row_selection.keep_newest(file, options.time_column, options.window_days, source)
    if options.label:
        unlabeled = row_selection.drop_unlabeled(file, options.label, options.on_missing_label, source)
    left_out = [*older.get("rows_left_out", []), *unlabeled.get("rows_left_out", [])]
    return {**unlabeled, "rows_left_out": left_out} if left_out else {}


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
    def megabytes(self) -> float:
        return sum(file.path.stat().st_size for file in self.files) / 1e6


@dataclass(frozen=True)
class _Column:
    """A column of the table, as SQL over the query that reads the source.

    Attributes:
        name: Its name.
        value: Its value; null also if the text can't be converted.
        kind: Its type; None if nothing is converted.
        text: The text to convert; None if all texts are known to be convertible.
    """

    name: str
    value: str
    kind: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class _Rows:
    """Rows of columns over a query, which may also yield `PLACE`."""

    columns: Sequence[_Column]
    scan: str

    def query(self, on_bad_rows: str, names: Sequence[str]) -> str:
        """Return a query for the rows that fails at a bad value, drops its row, or returns null for it.

        Args:
            on_bad_rows: "fail", "quarantine" or "null".
            names: Names of the columns in the query.
        """
        if not self._doubtful:
            named = zip(self.columns, names, strict=True)
            columns = (f"{column.value} AS {sql.identifier(name)}" for column, name in named)
            return f"SELECT {', '.join(columns)} FROM ({self.scan})"
        bad = " OR ".join(map(_bad, self._doubtful))
        selected = []
        for place, (column, name) in enumerate(zip(self.columns, names, strict=True)):
            value = f"v{place}"
            if column.kind in text_types.NUMBERS and column.text is not None:
                # In DuckDB, NaN equals NaN.
                value = f"nullif({value}, 'NaN'::DOUBLE)"
            if on_bad_rows == "fail" and place == 0:
                value = f"CASE WHEN {bad} THEN error('bad') ELSE {value} END"
            selected.append(f"{value} AS {sql.identifier(name)}")
        where = f" WHERE NOT ({bad})" if on_bad_rows == "quarantine" else ""
        return f"SELECT {', '.join(selected)} FROM ({self._converted()}){where}"

    def bad_values(self, first: bool) -> str:
        """Return a query for values that can't be converted, or the first of a row: place, column, text."""
        bad = ", ".join(
            f"CASE WHEN {_bad(place)} THEN {{'place': {place}, 'text': t{place}}} END"
            for place in self._doubtful
        )
        listed = f"list_filter([{bad}], lambda bad: bad IS NOT NULL)" + ("[:1]" if first else "")
        places = ", ".join(PLACE)
        rows = f"SELECT {places}, unnest({listed}) AS bad FROM ({self._converted(*PLACE)})"
        return f"SELECT {places}, bad.place, bad.text FROM ({rows}) ORDER BY position, line"

    @property
    def _doubtful(self) -> list[int]:
        return [place for place, column in enumerate(self.columns) if column.text is not None]

    def _converted(self, *further: str) -> str:
        # A subquery, so that each value is computed once however often it is used.
        values = [f"{column.value} AS v{place}" for place, column in enumerate(self.columns)]
        texts = [f"{self.columns[place].text} AS t{place}" for place in self._doubtful]
        return f"SELECT {', '.join([*values, *texts, *further])} FROM ({self.scan})"


def _bad(place: int) -> str:
    return f"(v{place} IS NULL AND t{place} IS NOT NULL)"


def _read_csv(job: _Job) -> int:
    options = job.options
    files = Csv(
        job.files,
        job.links,
        options.nulls,
        options.delimiter,
        options.column_names,
        options.named_in_messages,
    )
    if _may_be_plain(job) and files.names == files.header.names:
        given = options.types_of(files.names)
        table = plain_files.read_csv(job.files[0].path, files.header, given, options.integers)
        if table is not None:
            return _write_plain(job, table)
    return _read_text(job, files)


def _read_jsonl(job: _Job) -> int:
    files = JsonLines(job.files, job.links, job.options.nulls)
    if _may_be_plain(job):
        table = plain_files.read_jsonl(job.files[0].path, job.options.types_of, job.options.integers)
        if table is not None:
            return _write_plain(job, table)
    return _read_text(job, files)


def _may_be_plain(job: _Job) -> bool:
    return len(job.files) == 1 and job.options.null_values is None and job.options.decimal != ","


def _write_plain(job: _Job, table: pl.DataFrame) -> int:
    tables.write_part(table, job.target)
    return table.height


def _read_text(job: _Job, files: TextFiles) -> int:
    import duckdb

    with _database(job.scratch) as database:
        for everything in () if files.has_long_lines() else (False, True):
            # Errors are ignored here, because the screening below finds the lines that cause them.
            with suppress(duckdb.Error):
                rows, bad = _text_rows(database, files, job, everything)
                if not bad:
                    return _copy(database, job, rows, "fail")
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
    rows, almost = _text_rows(database, files, job, everything=True)
    _note_bad_values(database, job, rows, almost)
    return _copy(database, job, rows, "null" if job.options.on_bad_rows == "null" else "quarantine")


def _text_rows(
    database: "duckdb.DuckDBPyConnection", files: TextFiles, job: _Job, everything: bool
) -> tuple[_Rows, dict[str, Kind]]:
    """Return the rows as a query, and the columns in which some values aren't of the type of the others."""
    files.look(database, everything)
    _allow_for(database, len(files.names))
    given = job.options.types_of(files.names)
    inferred = text_inference.infer(
        database, files, given, job.options.decimal, everything, job.options.integers
    )
    columns, almost = [], {}
    for place, (name, kind) in enumerate(zip(files.names, inferred.kinds, strict=True)):
        text = f"t{place}"
        if kind.ambiguous:
            if not inferred.complete:
                return _Rows([], files.scan()), {name: kind}
            raise ValueError(
                f"column {name!r} of {job.names} holds numbers such as 1,234, whose comma may separate "
                "decimals or thousands; pass decimal=',' or '.', or column_types for a string"
            )
        if kind.bad:
            almost[name] = kind
        if kind.name is None:
            # A value further down makes its row bad, so that the next attempt reads all rows.
            columns.append(_Column(name, "CAST(NULL AS VARCHAR)", "string", text))
        elif name in given and kind.name == given[name]:
            columns.append(_Column(name, text_types.given(given[name], text), kind.name, text))
        elif inferred.complete and not kind.bad and kind.name != "string":
            columns.append(_Column(name, text_inference.checked(files, text, kind), kind.name))
        else:
            columns.append(_Column(name, text_inference.value(files, text, kind.name), kind.name, text))
    return _Rows(columns, files.scan()), almost


def _note_bad_values(
    database: "duckdb.DuckDBPyConnection", job: _Job, rows: _Rows, almost: Mapping[str, Kind] | None = None
) -> None:
    """Record values that can't be converted; raise ValueError if bad rows must fail."""
    if any(column.text is not None for column in rows.columns):
        found = database.execute(rows.bad_values(first=job.options.on_bad_rows != "null"))
        while values := found.fetchmany(1000):
            for position, line, start, length, place, text in values:
                file, column = job.files[position], rows.columns[place]
                shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
                reason = f"{shown!r} is not {text_types.rule(str(column.kind))}"
                row = text if length is None else screening.text_at(file.path, start, length)
                job.bad.add(position, file, line, column.name, reason, row)
    _refuse_bad_rows(job, almost)


def _refuse_bad_rows(job: _Job, almost: Mapping[str, Kind] | None = None) -> None:
    if job.bad.count and job.options.on_bad_rows == "fail":
        fixes = "Correct the source, or pass on_bad_rows='quarantine' to leave them out"
        for name, kind in [*(almost or {}).items()][:1]:
            fixes += (
                f"; {kind.values - kind.bad:,} of {kind.values:,} values of {name!r} are each "
                f"{text_types.rule(str(kind.name))}: on_bad_rows='null' or null_values make the others null, "
                f"column_types={{{name!r}: 'string'}} keeps all as text"
            )
        raise ValueError(f"{job.bad.listed()}. {fixes}")


def _read_parquet(job: _Job) -> int:
    import duckdb

    if _may_be_plain(job) and not sources.partitions(job.files):
        table = plain_files.read_parquet(job.files[0].path, job.options.types_of)
        if table is not None and not any(map(_PANDAS_INDEX.fullmatch, table.columns)):
            return _write_plain(job, table)
    try:
        with _database(job.scratch) as database:
            fields = [
                _parquet_fields(database, file, link) for file, link in zip(job.files, job.links, strict=True)
            ]
            names = _without_index(fields[0])
            for file, found in zip(job.files, fields, strict=True):
                sources.require_distinct(file, found)
                sources.require_same_columns(job.files[0], names, file, _without_index(found))
            folders = {
                name: values for name, values in sources.partitions(job.files).items() if name not in names
            }
            given = job.options.types_of([*names, *folders])
            source = f"read_parquet({sql.list_of(map(str, job.links))}, union_by_name=true)"
            types = _parquet_types(database, source, [name for found in fields for name in found])
            _require_exact(database, job, fields, {name: types[name] for name in names})
            # Renamed, because a column may have the name of a column of `PLACE`, or differ from another one
            # only in case.
            kept = [place for place, name in enumerate(types) if not _PANDAS_INDEX.fullmatch(name)]
            read = [f"f{field} AS c{place}" for place, field in enumerate(kept)]
            read += [
                f"{sql.list_of(values)}[CAST(file_index AS BIGINT) + 1] AS c{len(names) + place}"
                for place, values in enumerate(folders.values())
            ]
            where = "file_index AS position, file_row_number + 1 AS line, NULL AS start, NULL AS length"
            scan = f"SELECT {', '.join(read)}, {where} FROM {_positional(source, len(types))}"
            columns = [
                _parquet_column(database, job, name, f"c{place}", types[name], given.get(name), scan)
                for place, name in enumerate(names)
            ]
            for place, (name, values) in enumerate(folders.items(), len(names)):
                kind = given.get(name) or _kind_of_folders(database, values)
                value = (text_types.given if name in given else text_types.inferred)(kind, f"c{place}")
                columns.append(_Column(name, value, kind, f"c{place}"))
            rows = _Rows(columns, scan)
            _note_bad_values(database, job, rows)
            return _copy(database, job, rows, "null" if job.options.on_bad_rows == "null" else "quarantine")
    except duckdb.Error as error:
        raise ValueError(_cannot_read(job, error)) from None


def _parquet_fields(database: "duckdb.DuckDBPyConnection", file: File, link: Path) -> list[str]:
    """Return the columns' names in the file: DuckDB renames those that differ only in case."""
    with file.path.open("rb") as stream:
        first = stream.read(4)
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4))
        last = stream.read(4)
    if first != b"PAR1":
        raise ValueError(
            f"{file.name} is not a Parquet file: it doesn't begin with PAR1; correct file_format or the file"
        )
    if last != b"PAR1":
        raise ValueError(f"{file.name} is a truncated Parquet file: it doesn't end with PAR1; copy it again")
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


def _without_index(names: Sequence[str]) -> list[str]:
    """Leave out an unnamed index of a pandas frame: it numbers rows, which may leak the label."""
    return [name for name in names if not _PANDAS_INDEX.fullmatch(name)]


def _positional(source: str, count: int) -> str:
    return f"{source} AS fields({', '.join(f'f{place}' for place in range(count))})"


def _parquet_types(
    database: "duckdb.DuckDBPyConnection", source: str, names: Sequence[str]
) -> dict[str, str]:
    """Return the SQL type of each column, in DuckDB's order."""
    described = database.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    return dict(zip(dict.fromkeys(names), (row[1] for row in described), strict=True))


def _require_exact(
    database: "duckdb.DuckDBPyConnection",
    job: _Job,
    fields: Sequence[Sequence[str]],
    types: Mapping[str, str],
) -> None:
    """Raise ValueError if a column has integers in one file that its floats in another can't hold."""
    inexact = [name for name, kind in types.items() if kind in _EXACT_BELOW]
    if not inexact or len(job.files) == 1:
        return
    for file, link, names in zip(job.files, job.links, fields, strict=True):
        source = f"read_parquet({sql.literal(str(link))})"
        own = _parquet_types(database, source, names)
        whole = [name for name in inexact if own[name] not in _EXACT_BELOW]
        if not whole:
            continue
        largest = ", ".join(f"max(abs(CAST(f{names.index(name)} AS DOUBLE)))" for name in whole)
        answer = database.execute(f"SELECT {largest} FROM {_positional(source, len(names))}").fetchall()[0]
        for name, most in zip(whole, answer, strict=True):
            if most is not None and most >= _EXACT_BELOW[types[name]]:
                raise ValueError(
                    f"column {name!r} is {own[name]} in {file.name} but {types[name]} in another file, which "
                    f"can't hold numbers such as {most:.0f} exactly; write it with the same type in all files"
                )


def _kind_of_folders(database: "duckdb.DuckDBPyConnection", values: Sequence[str | None]) -> str:
    counts = ", ".join(f"count({text_types.inferred(kind, 't')}) = count(t)" for kind in _FOLDER_KINDS)
    fits = database.execute(f"SELECT {counts} FROM (SELECT unnest({sql.list_of(values)}) AS t)").fetchall()[0]
    return next((kind for kind, all_fit in zip(_FOLDER_KINDS, fits, strict=True) if all_fit), "string")


def _whole(database: "duckdb.DuckDBPyConnection", column: str, scan: str) -> str:
    """Return SQL for integers of more than 64 bits: 64-bit integers if all values fit, otherwise text."""
    integer = f"TRY_CAST({column} AS BIGINT)"
    large = f"SELECT count(*) FROM ({scan}) WHERE {column} IS NOT NULL AND {integer} IS NULL"
    return f"CAST({column} AS VARCHAR)" if database.execute(large).fetchall()[0][0] else integer


def _parquet_column(
    database: "duckdb.DuckDBPyConnection",
    job: _Job,
    name: str,
    column: str,
    sql_type: str,
    given: str | None,
    scan: str,
) -> _Column:
    nulls = job.options.nulls
    match sql_type.partition("(")[0]:
        case nested if nested.endswith("]") or nested in ("STRUCT", "MAP", "UNION", "VARIANT", "JSON"):
            value = f"CAST(to_json({column}) AS VARCHAR)"
        case "BLOB" if image_columns.holds_images(job.links, name):
            return _Column(name, column, "image")
        case "BLOB" | "BIT" | "GEOMETRY":
            raise ValueError(
                f"column {name!r} of {job.names} holds binary values that aren't images; store it as text or "
                "leave it out"
            )
        case "DOUBLE" | "FLOAT":
            # Not nullif(): statistics in Parquet files ignore NaN, so DuckDB concludes that there is none.
            value = f"CASE WHEN NOT isnan({column}) THEN {column} END"
        case "DECIMAL" if not sql_type.endswith(",0)"):
            value = f"CAST({column} AS DOUBLE)"
        case "DECIMAL" | "HUGEINT" | "UHUGEINT" | "BIGNUM" | "UBIGINT":
            value = _whole(database, column, scan)
        case "TIMESTAMP WITH TIME ZONE" | "TIMESTAMPTZ_NS":
            value = f"make_timestamp(epoch_us(CAST({column} AS TIMESTAMPTZ)))"
        case kind if kind.startswith("TIMESTAMP"):
            value = f"CAST({column} AS TIMESTAMP)"
        case "DATE":
            value = column
        case "VARCHAR" | "ENUM" if nulls:
            value = f"CAST({column} AS VARCHAR)"
            value = f"CASE WHEN NOT {sql.one_of(value, nulls)} THEN {value} END"
        case "BOOLEAN":
            value = column
        case kind if kind.endswith("INT") or kind == "INTEGER" or kind == "UINTEGER":
            value = column
        case _:
            value = f"CAST({column} AS VARCHAR)"
    if name in job.options.integers and value == column and sql_type.endswith(("INT", "INTEGER")):
        given = None
    if given is None and (sql_type == "DATE" or sql_type.startswith("TIMESTAMP")):
        known = f"CASE WHEN {text_types.in_calendar(value)} THEN {value} END"
        return _Column(
            name, known, "date" if sql_type == "DATE" else "timestamp", f"CAST({value} AS VARCHAR)"
        )
    if given is None:
        return _Column(name, value)
    text = f"CAST({value} AS VARCHAR)"
    return _Column(name, text_types.given(given, text), given, text)


def _copy(database: "duckdb.DuckDBPyConnection", job: _Job, rows: _Rows, on_bad_rows: str) -> int:
    """Write the rows as the table's only file; return how many there are."""
    names = [column.name for column in rows.columns]
    if any(column.kind == "image" for column in rows.columns):
        return _copy_with_images(database, job, rows, on_bad_rows)
    # DuckDB would rename columns that differ only in case.
    written_as = [f"c{place}" for place in range(len(names))] if sql.alike(names) else names
    count = _write(database, job, rows.query(on_bad_rows, written_as), len(names), job.target)
    if written_as != names:
        renamed = dict(zip(written_as, names, strict=True))
        row_selection.rewrite(job.target, pl.scan_parquet(job.target, glob=False).rename(renamed))
    return count


def _copy_with_images(database: "duckdb.DuckDBPyConnection", job: _Job, rows: _Rows, on_bad_rows: str) -> int:
    others = [column for column in rows.columns if column.kind != "image"]
    columns: dict[str, str | None] = {column.name: None for column in rows.columns}
    columns |= {column.name: f"c{place}" for place, column in enumerate(others)}
    written_as = [*(f"c{place}" for place in range(len(others))), *image_columns.PLACE]
    placed = _Rows([*others, *(_Column(place, place) for place in image_columns.PLACE)], rows.scan)
    converted = job.scratch / "converted.parquet"
    count = _write(database, job, placed.query(on_bad_rows, written_as), len(written_as), converted)
    if count:
        image_columns.write(job.target, columns, converted, job.links, f"copying images of {job.names}")
    return count


def _write(database: "duckdb.DuckDBPyConnection", job: _Job, query: str, columns: int, target: Path) -> int:
    total = job.megabytes
    _allow_for(database, columns)

    def done() -> float:
        return total * max(database.query_progress(), 0.0) / 100

    group = tables.group_rows(columns)
    # A dictionary with more values than a twelfth of the rows takes longer to build than it saves.
    form = "FORMAT parquet, COMPRESSION zstd"
    form += f", ROW_GROUP_SIZE {group}, DICTIONARY_SIZE_LIMIT {group // 12}"
    with progress.reported(f"ingesting {job.names}", done, total, "MB"):
        copied = database.execute(f"COPY ({query}) TO {sql.literal(str(target))} ({form})").fetchall()
    return int(copied[0][0])


def _allow_for(database: "duckdb.DuckDBPyConnection", columns: int) -> None:
    """Raise the memory limit for many columns, and disable optimizers that are quadratic in their number."""
    if columns > MANY_COLUMNS:
        database.execute(f"SET memory_limit = '{_memory_mb() + columns * MEMORY_KB_PER_COLUMN // 1000}MB'")
        database.execute(f"SET disabled_optimizers = '{_SLOW_OPTIMIZERS}'")


def _threads() -> int:
    return min(len(os.sched_getaffinity(0)), MAX_THREADS)


def _memory_mb() -> int:
    return MEMORY_MB + _threads() * MEMORY_MB_PER_THREAD


@contextmanager
def _database(scratch: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "threads": _threads(),
        "memory_limit": f"{_memory_mb()}MB",
        "temp_directory": str(_folder(scratch, "spill")),
        "preserve_insertion_order": True,
        # Steps download nothing, and all required extensions are built in.
        "autoinstall_known_extensions": False,
    }
    with duckdb.connect(config=settings) as database:
        database.execute("SET TimeZone = 'UTC'")
        # query_progress() works only if the progress bar is enabled.
        database.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        yield database


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir(exist_ok=True)
    return folder


def _links(files: Sequence[File], scratch: Path) -> list[Path]:
    """Link the files under plain names, because DuckDB takes some characters of a path for a pattern."""
    folder = _folder(scratch, "links")
    links = [folder / f"{position:06d}" for position in range(len(files))]
    for link, file in zip(links, files, strict=True):
        link.symlink_to(file.path.resolve())
    return links


def _cannot_read(job: _Job, error: Exception) -> str:
    first = errors.first_line(error)
    for link, file in zip(job.links, job.files, strict=True):
        first = first.replace(str(link), file.name)
    return f"{job.names} can't be read: {first}"


def _require_known(value: object, known: Sequence[str], what: str) -> None:
    if value not in known:
        near = hint(str(value), known)
        raise ValueError(f"{what} is {value!r}; {near}use one of: {', '.join(known)}")
