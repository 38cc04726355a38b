"""Fast path for small, wide files with plain values only, without a database.

DuckDB plans a query column by column, which takes far longer than reading if there are thousands of columns
and few rows. A file is read here only if the general path (`flowparts.ingest.ingestion`) certainly gives the
same table: each column of a text file holds numbers in the usual notation, booleans, or texts that begin with
a letter, and each column of a Parquet file integers, doubles, booleans or texts. For anything else, such as a
quote or a line with another number of fields, the result is None, and the general path takes over.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flowparts.ingest.csv_head import Header
from flowparts.util import text_types

# In larger files the cost of planning no longer matters, and here all values are held in memory.
MAX_BYTES = 4 << 20
MIN_COLUMNS = 100

_INTEGER = r"^-?(0|[1-9][0-9]{0,14})$"
_NUMBER = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$"
_TEXT = r"^[A-Za-z]"
# Texts that begin with a letter but may be values of other types.
_WORDS = r"^(?i:true|false|nan|inf|infinity)$"
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
# Numbers of at most 15 digits are exact both as integers and as doubles.
_BELOW = 10**15
_MANY_DIGITS = re.compile(r"[0-9]{15}[eE]")
_KINDS = {"integer": pl.Int64(), "number": pl.Float64(), "boolean": pl.Boolean(), "string": pl.String()}

_STORED = {*_KINDS.values(), pl.Int8(), pl.Int16(), pl.Int32()}


class _NotPlainError(Exception):
    """The file needs the general path."""


def read_csv(
    path: Path, header: Header, given: Mapping[str, str], integers: Collection[str]
) -> pl.DataFrame | None:
    """Read a CSV file whose values are plain.

    Args:
        path: The file.
        header: Its columns, delimiter and number of lines before the first row.
        given: Types of columns by name; other types are inferred.
        integers: Columns given as numbers that become integers if all their values are whole.

    Returns:
        The table; None if the meaning of a value isn't certain.
    """
    if len(header.names) < MIN_COLUMNS or path.stat().st_size > MAX_BYTES:
        return None
    text = _content(path)
    if text is None or '"' in text or (not header.lines and text.startswith("\ufeff")):
        return None
    lines = text.split("\n")[header.lines :]
    width = len(header.names)
    if not lines or any(line.count(header.delimiter) != width - 1 for line in lines):
        return None
    cells = pl.Series(header.delimiter.join(lines).split(header.delimiter), dtype=pl.String)
    # Column by column.
    target, rows = pl.int_range(len(cells), eager=True), len(cells) // width
    cells = cells.gather((target % rows) * width + target // rows)
    is_missing = cells.is_in(text_types.MISSING)
    table = pl.select(value=pl.when(~is_missing).then(cells))
    value = pl.col("value")
    kinds = {
        "boolean": value.is_in(list(_BOOLEANS)),
        "integer": value.str.contains(_INTEGER),
        "number": value.str.contains(_NUMBER),
        "string": value.str.contains(_TEXT) & ~value.str.contains(_WORDS),
    }
    fits = table.select(**{kind: test.fill_null(value=True) for kind, test in kinds.items()})
    columns = {kind: _in_all_rows(fits[kind], width) for kind in kinds}
    values = table.select(
        boolean=value.replace_strict(_BOOLEANS, default=None, return_dtype=pl.Boolean),
        integer=value.cast(pl.Int64, strict=False),
        number=value.cast(pl.Float64, strict=False),
        string=value,
    )
    empty = _in_all_rows(is_missing, width)
    found = []
    try:
        for place, name in enumerate(header.names):
            fitting = [] if empty[place] else [kind for kind in kinds if columns[kind][place]]
            kind = _chosen(fitting, empty[place], given.get(name), name in integers)
            found.append(values[kind].slice(place * len(lines), len(lines)).alias(name))
    except _NotPlainError:
        return None
    return pl.DataFrame(found)


def _in_all_rows(holds: pl.Series, width: int) -> list[bool]:
    """Return for each column whether a condition holds in all its rows."""
    grid: Any = holds.to_numpy().reshape(width, -1)
    return list(grid.all(axis=1))


def read_jsonl(
    path: Path, types_of: Callable[[Sequence[str]], Mapping[str, str]], integers: Collection[str]
) -> pl.DataFrame | None:
    """Read a JSON Lines file whose objects have the same keys in the same order and whose values are plain.

    Args:
        path: The file.
        types_of: Returns the set types of columns by name; other types are inferred.
        integers: As for `read_csv`.

    Returns:
        The table; None if the meaning of a value isn't certain.
    """
    if path.stat().st_size > MAX_BYTES:
        return None
    text = _content(path)
    # Python accepts escaped lone surrogates, which can't be stored.
    if text is None or "\\u" in text or _MANY_DIGITS.search(text):
        return None
    lines = text.split("\n")
    try:
        first = _pairs(lines[0])
        names = [name for name, _ in first]
        if len(names) < MIN_COLUMNS or len({*names}) < len(names) or not all(names):
            return None
        rows = [first, *map(_pairs, lines[1:])]
        if any([name for name, _ in row] != names for row in rows):
            return None
        given = types_of(names)
        columns = zip(*([value for _, value in row] for row in rows), strict=True)
        return pl.DataFrame(
            [
                _column(name, values, given.get(name), name in integers)
                for name, values in zip(names, columns, strict=True)
            ]
        )
    except _NotPlainError:
        return None


def read_parquet(path: Path, types_of: Callable[[Sequence[str]], Mapping[str, str]]) -> pl.DataFrame | None:
    """Read a Parquet file that has the same types as the table.

    Args:
        path: The file.
        types_of: Returns the set types of columns by name; there must be none.

    Returns:
        The table; None if a value must be converted.
    """
    if path.stat().st_size > MAX_BYTES:
        return None
    try:
        schema = pl.read_parquet_schema(path)
        known = len(schema) >= MIN_COLUMNS and {*schema.values()} <= _STORED
        if not known or types_of(list(schema)):
            return None
        table = pl.read_parquet(path, glob=False, hive_partitioning=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    texts = pl.selectors.string()
    return table.with_columns(pl.when(~texts.is_in(text_types.MISSING)).then(texts))


def _content(path: Path) -> str | None:
    """Return a file's text without a final line end, and with line feeds only; None if it isn't plain."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    text = text.replace("\r\n", "\n").removesuffix("\n")
    if not text or text.startswith("\n") or text.endswith("\n"):
        return None
    return None if "\r" in text or "\0" in text or "\n\n" in text else text


def _chosen(fitting: Sequence[str], is_empty: bool, given: str | None, keeps_integers: bool) -> str:
    """Return the type of a column: the given one, or the first one that fits all values."""
    if is_empty:
        fitting = [given or "string"]
    if keeps_integers and "integer" in fitting:
        return "integer"
    kind = given or next(iter(fitting), "")
    if kind not in fitting or kind not in _KINDS:
        raise _NotPlainError
    return kind


def _pairs(line: str) -> list[tuple[str, Any]]:
    def refuse(_: str) -> None:
        raise _NotPlainError

    try:
        pairs = json.loads(line, object_pairs_hook=list, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise _NotPlainError from None
    if not line.startswith("{") or not isinstance(pairs, list):
        raise _NotPlainError
    return pairs


def _column(name: str, values: Sequence[Any], given: str | None, keeps_integers: bool) -> pl.Series:
    kinds = {*map(type, values)}
    if str in kinds:
        values = [None if type(value) is str and value in text_types.MISSING else value for value in values]
        kinds = {*map(type, values)}
    kinds.discard(type(None))
    if not kinds:
        fitting = []
    elif kinds == {bool}:
        fitting = ["boolean"]
    elif kinds <= {int, float} and all(value is None or -_BELOW < value < _BELOW for value in values):
        fitting = ["number"] if float in kinds else ["integer", "number"]
    elif kinds == {str} and all(value is None or _is_text(value) for value in values):
        fitting = ["string"]
    else:
        raise _NotPlainError
    return pl.Series(name, values, _KINDS[_chosen(fitting, not kinds, given, keeps_integers)], strict=False)


def _is_text(value: str) -> bool:
    return re.match(_TEXT, value) is not None and not re.match(_WORDS, value)
