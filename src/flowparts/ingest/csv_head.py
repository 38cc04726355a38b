"""Detect the delimiter and the column names of a CSV file from its start."""

import codecs
import io
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from flowparts.ingest import screening
from flowparts.util import sources
from flowparts.util.names import listed
from flowparts.util.sources import File

DELIMITERS = (",", ";", "\t", "|")
MAX_HEAD_BYTES = 1 << 20
# Records read to detect the delimiter and the header: fewer if there are many columns.
_RECORDS = (10, 100)
_CELLS = 5_000

# Excel reads the delimiter from such a line, and writes it too.
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[\r\n]*')
_ANY_DELIMITER = re.compile("[,;\t|]")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?[0-9.]*,[0-9]+\s*")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]+)?\s*")
_YEARS = range(1900, 2101)


@dataclass(frozen=True)
class Header:
    """The header of a CSV file.

    Attributes:
        names: The columns' names, all different.
        delimiter: The field separator.
        lines: Number of lines before the first row.
    """

    names: list[str]
    delimiter: str
    lines: int


def read(
    file: File,
    delimiter: str | None = None,
    column_names: Sequence[str] | None = None,
    names_options: bool = True,
) -> Header:
    """Find the delimiter and the columns of a file.

    Args:
        file: An uncompressed CSV file.
        delimiter: The field separator; default: that of a line such as `sep=;`, of the suffix .tsv, or the
            one detected in the first records.
        column_names: Names for a file without a header. If the first line holds the same names, it is a
            header.
        names_options: Whether a message may suggest `column_names`, which not every caller offers.

    Raises:
        ValueError: The file is empty or not text, its header can't be read or has a duplicate name, or its
            first line is a row rather than a header.
    """
    lines = _lines(file)
    separator = _SEPARATOR_LINE.fullmatch(lines[0])
    before = 1 if separator else 0
    if delimiter is None:
        if separator:
            delimiter = separator[1]
        elif sources.suffix(file.name) == ".tsv":
            delimiter = "\t"
        else:
            delimiter = _delimiter(lines)
    rest = iter(lines[before:])
    try:
        fields = next(filter(None, screening.csv_records(rest, delimiter)), None)
    except ValueError as error:
        raise ValueError(f"the header of {file.name} {error}") from None
    if fields is None:
        raise ValueError(f"{file.name} has no header; add a first line with the names of the columns")
    taken = len(lines) - len(list(rest))
    try:
        names = [field.encode("latin-1").decode("utf-8").strip() for field in fields]
    except UnicodeDecodeError:
        raise ValueError(f"the header of {file.name} {screening.NOT_UTF8}") from None
    if column_names is None:
        _require_header(file, names, _records(lines[taken:], delimiter), names_options)
    elif names != [*column_names]:
        if len(names) != len(column_names):
            raise ValueError(
                f"column_names has {len(column_names)} names, but the first line of {file.name} has "
                f"{len(names)} fields separated by {delimiter!r}; give one name for each field"
            )
        names, taken = [*column_names], before
    names = [name or f"column_{position}" for position, name in enumerate(names, 1)]
    sources.require_distinct(file, names)
    return Header(names, delimiter, taken)


def head(file: File) -> bytes:
    """Return the first bytes of a text file, at most `MAX_HEAD_BYTES`.

    Raises:
        ValueError: The file is empty, or isn't UTF-8 text.
    """
    with file.path.open("rb") as stream:
        content = stream.read(MAX_HEAD_BYTES)
    if not content.removeprefix(screening.UTF8_BOM).strip():
        raise ValueError(f"{file.name} is empty; give a file with rows")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(
            f"{file.name} is UTF-16 text; convert it, for example with: iconv -f UTF-16 -t UTF-8"
        )
    if b"\0" in content[:4096]:
        raise ValueError(
            f"{file.name} holds NUL bytes, so it is binary or not UTF-8; convert it to UTF-8 text"
        )
    return content


def _lines(file: File) -> list[str]:
    content = head(file)
    # Latin-1 preserves every byte, so quotes and delimiters are found in any encoding.
    text = content.removeprefix(screening.UTF8_BOM).decode("latin-1")
    lines = list(io.StringIO(text, newline=""))
    if len(content) == MAX_HEAD_BYTES:
        # The last line may be truncated.
        lines.pop()
    if not lines:
        raise ValueError(
            f"the header of {file.name} is longer than {MAX_HEAD_BYTES:,} bytes; check that it is a CSV file"
        )
    return lines


def _records(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Return the first records, up to the first that can't be read."""
    records: list[list[str]] = []
    with suppress(ValueError):
        for record in filter(None, screening.csv_records(lines, delimiter)):
            records.append(record)
            fewest, most = _RECORDS
            if len(records) > min(max(fewest, _CELLS // len(record)), most):
                break
    return records


def _delimiter(lines: Sequence[str]) -> str:
    """Return the delimiter that splits most records into as many intact values as there are names."""
    best, best_score = DELIMITERS[0], (0.0, 0)
    for delimiter in DELIMITERS:
        records = _records(lines, delimiter)
        if not records:
            continue
        names, rows = records[0], records[1:]
        if len(names) == 1 and any(other in names[0] for other in DELIMITERS):
            continue
        agreeing = [row for row in rows if _width(row, names) == len(names)]
        cells = [cell for row in agreeing or [names] for cell in row]
        whole = sum(_is_whole(cell, delimiter) for cell in cells) / len(cells)
        score = (whole * (len(agreeing) / len(rows) if rows else 1), len(names))
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _width(row: Sequence[str], names: Sequence[str]) -> int:
    # Some programs write a delimiter after the last field too.
    return len(row) - 1 if len(row) == len(names) + 1 and not row[-1] else len(row)


def _is_whole(cell: str, delimiter: str) -> bool:
    if not _ANY_DELIMITER.search(cell) or (delimiter != "," and _DECIMAL_COMMA.fullmatch(cell)):
        return True
    return not any(other in cell for other in DELIMITERS if other != delimiter)


def _are_positions(names: Sequence[str]) -> bool:
    """Return whether names are the numbers that some programs write for unnamed columns.

    Up to two such numbers may also be a row: 0,1.
    """
    return len(names) > 2 and any([*names] == [str(start + i) for i in range(len(names))] for start in (0, 1))


def _are_years(names: Sequence[str]) -> bool:
    numbers = [int(name) if name.isdecimal() else 0 for name in names]
    return numbers[0] in _YEARS and all(after == before + 1 for before, after in pairwise(numbers))


def _are_years_below(places: Sequence[int], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether a column holds only years, so that a year in the header may be a value too."""
    for place in places:
        values = [row[place].strip() for row in rows if len(row) > place and row[place].strip()]
        if all(value.isdecimal() and int(value) in _YEARS for value in values):
            return True
    return False


def _require_header(
    file: File, names: Sequence[str], rows: Sequence[Sequence[str]], names_options: bool
) -> None:
    """Raise ValueError if the first line holds numbers in all columns where the rows below it do."""
    numeric = [
        place
        for place, name in enumerate(names)
        if any(len(row) > place and row[place].strip() for row in rows)
        and all(_NUMBER.fullmatch(row[place]) for row in rows if len(row) > place and row[place].strip())
    ]
    heading = [names[place] for place in numeric]
    if not heading or not all(_NUMBER.fullmatch(name) for name in heading):
        return
    if _are_positions(names) or (_are_years(heading) and not _are_years_below(numeric, rows)):
        return
    shown = listed(map(repr, names))
    option = ", or pass column_names (those of this line, if they are names)" if names_options else ""
    raise ValueError(
        f"{file.name} seems to have no header: its first line holds numbers like the others: {shown}; "
        f"add a line with the names above it{option}"
    )
