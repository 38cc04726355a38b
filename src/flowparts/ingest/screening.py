"""Separate the lines that can't be read from the others, each with its number and the reason.

This is the slow and exact way to read a text file, used when the fast one fails: line numbers match those of
an editor, and a bad line affects no other line.
"""

import json
import re
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

import polars as pl

from flowparts.util.sources import File

MAX_LINE_BYTES = 2_000_000
MAX_TEXT_CHARACTERS = 10_000
SHOWN_ROWS = 5

UTF8_BOM = b"\xef\xbb\xbf"
NOT_UTF8 = "is not UTF-8 text; convert the file, for example with: iconv -f WINDOWS-1252 -t UTF-8"

_TOO_LONG = f"is longer than {MAX_LINE_BYTES:,} bytes"

# A quoted field up to its end, or the end of the line; quotes inside are doubled.
_OPENING = re.compile(' *"')
_CLOSING = re.compile('[^"]*(?:""[^"]*)*"(?!") *')
_OPEN = "opens a quote that isn't closed, or not at the end of the value"
_AFTER = "has text after a closing quote; a quote inside a value must be doubled"

# Can't occur in a line of JSON, in which control characters are escaped.
JSON_SEPARATOR = "\x01"


class BadRows:
    """Collect bad rows in a file, since there may be millions; a context manager that closes the file."""

    SCHEMA = pl.Schema(
        {
            "file": pl.String(),
            "line": pl.Int64(),
            "column": pl.String(),
            "reason": pl.String(),
            "text": pl.String(),
        }
    )

    def __init__(self, path: Path):
        self._path = path
        self._stream = path.open("w", encoding="utf-8")
        weakref.finalize(self, self._stream.close)
        self._stored = pl.Schema([*self.SCHEMA.items(), ("position", pl.Int64())])
        self.count = 0

    def __enter__(self) -> "BadRows":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def add(self, position: int, file: File, line: int, column: str | None, reason: str, text: str) -> None:
        """Record a bad row.

        Args:
            position: The file's position in the source.
            file: The file.
            line: The number of the line (of the row in a Parquet file), counted from 1.
            column: The column at fault, if it is a single one.
            reason: The problem, as the predicate of a sentence about the line.
            text: The line.
        """
        row = {
            "file": file.name,
            "line": line,
            "column": column,
            "reason": reason,
            "text": text.rstrip("\r\n")[:MAX_TEXT_CHARACTERS],
            "position": position,
        }
        self._stream.write(json.dumps(row) + "\n")
        self.count += 1

    def frame(self) -> pl.LazyFrame:
        """Return the bad rows in the order of the source: file, line, column, reason and text."""
        if not self._stream.closed:
            self._stream.flush()
        if not self.count:
            return pl.LazyFrame(schema=self.SCHEMA)
        rows = pl.scan_ndjson(self._path, schema=self._stored)
        return rows.sort("position", "line", maintain_order=True).select(self.SCHEMA.names())

    def listed(self) -> str:
        """Return the number of bad rows, and the problems of the first few."""
        first = self.frame().head(SHOWN_ROWS).collect().to_dicts()
        listed = "; ".join(
            f"{row['file']} line {row['line']}"
            + (f", column {row['column']!r}: " if row["column"] is not None else " ")
            + row["reason"]
            for row in first
        )
        more = f"; and {self.count - len(first):,} more" if self.count > len(first) else ""
        rows = "1 bad row" if self.count == 1 else f"{self.count:,} bad rows"
        return f"{rows}: {listed}{more}"


class _Record(NamedTuple):
    line: int
    start: int
    length: int
    text: str
    fields: list[str] | None
    error: str


class Source(NamedTuple):
    """A file to screen, and its position among the files of the source."""

    position: int
    file: File


class Sink(NamedTuple):
    """The destinations of lines.

    Attributes:
        good: Stream for the good lines, each after a field ":position:line:start byte:length in bytes". Its
            encoding is Latin-1, so that each character is a byte of the file.
        bad: Collector of the bad rows.
    """

    good: TextIO
    bad: BadRows


def screen_csv(
    source: Source, sink: Sink, delimiter: str, columns: int, skip: int, blank_rows: bool
) -> Iterator[int]:
    """Split a CSV file into records that hold one field for each column, and bad rows.

    Args:
        source: The file.
        sink: Destinations of the records.
        delimiter: The field separator.
        columns: Number of fields that a record must have.
        skip: Number of lines of the header.
        blank_rows: Whether a blank line is a row, whose only value is missing.

    Yields:
        The number of bytes read so far.
    """
    position, file = source
    with file.path.open("rb") as raw:
        start = 3 if raw.read(3) == UTF8_BOM else 0
        raw.seek(start)
        for record in _csv_records(raw, start, delimiter):
            if record.line <= skip:
                continue
            yield record.start
            reason = record.error or _text_error(record.text)
            if record.length > MAX_LINE_BYTES:
                reason = reason or _TOO_LONG
            if record.fields is not None and not reason:
                if not record.fields and not blank_rows:
                    continue
                if len(record.fields) == columns + 1 and not record.fields[-1]:
                    # Some programs write a delimiter after the last field too.
                    record.fields.pop()
                found = max(len(record.fields), 1)
                if found != columns:
                    reason = (
                        f"has {found} {'field' if found == 1 else 'fields'} where the header has {columns}"
                    )
            if reason:
                sink.bad.add(position, file, record.line, None, reason, _decoded(record.text))
                continue
            place = f":{position}:{record.line}:{record.start}:{record.length}"
            sink.good.write(_csv_line([place, *(record.fields or [""])], delimiter))


def screen_jsonl(source: Source, sink: Sink) -> Iterator[int]:
    """Split a JSON Lines file into lines with an object and bad rows, like `screen_csv`."""
    position, file = source
    with file.path.open("rb") as raw:
        start = 3 if raw.read(3) == UTF8_BOM else 0
        raw.seek(start)
        for number, (text, length) in enumerate(_lines(raw), 1):
            yield start
            if text.strip():
                reason = _TOO_LONG if len(text) >= MAX_LINE_BYTES else _text_error(text) or _json_error(text)
                if reason:
                    sink.bad.add(position, file, number, None, reason, _decoded(text))
                else:
                    place = f":{position}:{number}:{start}:{length}"
                    sink.good.write(f"{place}{JSON_SEPARATOR}{text.strip()}\n")
            start += length


def text_at(path: Path, start: int, length: int) -> str:
    """Return the text of a record by its position in a file."""
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(min(length, 4 * MAX_TEXT_CHARACTERS)).decode("utf-8", "replace")


def csv_records(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """Split lines into records: a list of fields each, empty for a blank line.

    A quoted field, with spaces around the quotes allowed, may hold delimiters, line ends and doubled quotes.
    In a field that doesn't begin with a quote, quotes are ordinary text.

    Raises:
        ValueError: A quote isn't closed, or text follows a closing quote.
    """
    fields: list[str] = []
    inside: list[str] | None = None
    for line in lines:
        content = line.rstrip("\r\n")
        if inside is None and '"' not in content:
            yield content.split(delimiter) if content else []
            continue
        place = 0
        while True:
            if inside is None:
                opening = _OPENING.match(content, place)
                if not opening:
                    end = content.find(delimiter, place)
                    end = len(content) if end < 0 else end
                    fields.append(content[place:end])
                    place = end
                else:
                    inside, place = [], opening.end()
            if inside is not None:
                closing = _CLOSING.match(line, place)
                if not closing:
                    inside.append(line[place:])
                    break
                inside.append(closing[0].rstrip(" ")[:-1])
                fields.append("".join(inside).replace('""', '"'))
                inside, place = None, closing.end()
                if place < len(content) and content[place] != delimiter:
                    raise ValueError(_AFTER)
            if place >= len(content):
                yield fields
                fields = []
                break
            place += 1
    if inside is not None:
        raise ValueError(_OPEN)


def _csv_records(raw: BinaryIO, start: int, delimiter: str) -> Iterator[_Record]:
    source = _lines(raw)
    again: deque[tuple[str, int]] = deque()
    taken: list[tuple[str, int]] = []

    def lines() -> Iterator[str]:
        characters = 0
        while following := again.popleft() if again else next(source, None):
            taken.append(following)
            characters = characters + len(following[0]) if len(taken) > 1 else len(following[0])
            if characters >= MAX_LINE_BYTES:
                raise ValueError(_OPEN if len(taken) > 1 else _TOO_LONG)
            yield following[0]

    number = 1
    while True:
        try:
            for fields in csv_records(lines(), delimiter):
                length = sum(size for _, size in taken)
                yield _Record(number, start, length, "".join(text for text, _ in taken), fields, "")
                start, number = start + length, number + len(taken)
                taken.clear()
            return
        except ValueError as error:
            # The lines after the first may be fine: a stray quote swallows lines up to the next quote.
            (text, length), *rest = taken
            again.extendleft(reversed(rest))
            taken.clear()
            yield _Record(number, start, length, text, None, _OPEN if rest else str(error))
            start, number = start + length, number + 1


def _csv_line(fields: list[str], delimiter: str) -> str:
    line = delimiter.join(fields)
    if '"' in line or line.count(delimiter) >= len(fields) or "\n" in line or "\r" in line:
        line = delimiter.join('"' + field.replace('"', '""') + '"' for field in fields)
    return line + "\n"


def _lines(raw: BinaryIO) -> Iterator[tuple[str, int]]:
    """Yield each line as Latin-1 text and its length in bytes; too long lines are truncated."""
    import io

    stream = io.TextIOWrapper(raw, encoding="latin-1", newline="")
    try:
        while text := stream.readline(MAX_LINE_BYTES):
            length = len(text)
            if length == MAX_LINE_BYTES and text[-1] not in "\r\n":
                while rest := stream.readline(MAX_LINE_BYTES):
                    length += len(rest)
                    if rest[-1] in "\r\n":
                        break
            yield text, length
    finally:
        stream.detach()


def _text_error(text: str) -> str:
    if "\0" in text:
        return "holds a NUL byte; check that the file is UTF-8 text"
    if text.isascii():
        return ""
    try:
        text.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return NOT_UTF8
    return ""


def _json_error(text: str) -> str:
    try:
        value = json.loads(text.encode("latin-1").decode("utf-8"))
        if not isinstance(value, dict):
            return f"is not a JSON object but a {type(value).__name__}"
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        return f"is not valid JSON: {error.msg} at character {error.pos + 1}"
    except RecursionError:
        return "is nested too deeply"
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which isn't valid text"
    except ValueError as error:
        return f"can't be read as JSON: {error}"
    return ""


def _decoded(text: str) -> str:
    return text[: 4 * MAX_TEXT_CHARACTERS].encode("latin-1").decode("utf-8", "replace")
