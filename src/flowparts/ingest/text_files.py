# Every name and text that goes into a query is quoted by flowparts.util.sql.
# ruff: noqa: S608
"""Present CSV and JSON Lines files to DuckDB as queries over text columns."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowparts.ingest import csv_head, screening
from flowparts.ingest.screening import BadRows
from flowparts.util import sources, sql
from flowparts.util.sources import File

if TYPE_CHECKING:
    import duckdb

# Number of values, and least and most rows, to infer the columns' types from at first.
_SAMPLE_VALUES = 1_000_000
_SAMPLE_ROWS = (100, 5_000)

# Position of a screened line: index of its file, line number, first byte and length in bytes.
PLACE = ("position", "line", "start", "length")

# DuckDB's default buffers hold 16 of the longest lines, several at a time, and would dominate its memory.
_LINE_BYTES = 2 * screening.MAX_LINE_BYTES
_BUFFERS = f"max_line_size={_LINE_BYTES}, buffer_size={4 * _LINE_BYTES}"

# Lines are rarely longer than this.
_GLANCE_BYTES = 16_384

# Means "no text is null", which DuckDB has no option for: no line that is read holds a NUL byte.
_NOTHING = "\0"


class TextFiles:
    """Files of a text format, as a query for DuckDB.

    Attributes:
        files: The files.
        names: The names of their columns, whose texts are t0, t1, … in `scan`.
        parts: Prefixes of the columns of `scan`, which the number of a column follows.
    """

    parts: tuple[str, ...] = ("t",)
    # Written forms of null values, which `scan` looks for only in columns that need it, to save time.
    null_forms: Sequence[str] = ()

    def __init__(self, files: Sequence[File], links: Sequence[Path]):
        """Store the files, and links to them under plain names."""
        self.files, self._links = files, list(links)
        self.names: list[str] = []
        self._screened: Path | None = None
        self._with_nulls: set[int] = set()

    @property
    def sample_rows(self) -> int:
        """Number of rows to infer the columns' types from at first."""
        fewest, most = _SAMPLE_ROWS
        return min(max(fewest, _SAMPLE_VALUES // max(1, len(self.names))), most)

    def look(self, database: "duckdb.DuckDBPyConnection", everything: bool) -> None:
        """Find the names of the columns in the first rows, or in all rows."""

    def look_for_nulls(self, places: Iterable[int]) -> None:
        """Make `scan` look for `null_forms` in these columns too."""
        self._with_nulls.update(places)

    def has_long_lines(self) -> bool:
        """Return whether a line may exceed DuckDB's buffer; if it is the last, DuckDB silently drops it."""
        return any(_has_long_line(file.path) for file in self.files)

    def scan(self) -> str:
        """Return a query for the columns (and `PLACE`, once screened) that fails if a line can't be read."""
        raise NotImplementedError

    def screen(self, good: Path, bad: BadRows) -> Iterator[float]:
        """Copy the good lines to a file, which `scan` reads from then on; yield the megabytes read."""
        before = 0
        with good.open("w", encoding="latin-1", newline="") as stream:
            for position, file in enumerate(self.files):
                source = screening.Source(position, file)
                for read in self._screen(source, screening.Sink(stream, bad)):
                    yield (before + read) / 1e6
                before += file.path.stat().st_size
        self._screened = good

    def _screen(self, source: screening.Source, sink: screening.Sink) -> Iterator[int]:
        raise NotImplementedError

    def unquoted(self, text: str) -> str:
        """Return SQL for a text that parses as a number or boolean only if it wasn't written as a string."""
        return text

    def _where(self, place: str) -> str:
        return ", ".join(
            f"split_part({place}, ':', {part})::BIGINT AS {name}" for part, name in enumerate(PLACE, 2)
        )


def _has_long_line(path: Path) -> bool:
    """Look for a line end in each stretch of half a buffer; a longer line fills at least one stretch.

    Usually there is a line end near the beginning of the stretch, so little of the file is read.
    """
    stretch = 2 * _LINE_BYTES
    with path.open("rb", buffering=0) as stream:
        for start in range(0, path.stat().st_size - stretch, stretch):
            stream.seek(start)
            for length in (_GLANCE_BYTES, stretch - _GLANCE_BYTES):
                part = stream.read(length)
                if b"\n" in part or b"\r" in part:
                    break
            else:
                return True
    return False


class Csv(TextFiles):
    """Comma-separated values of RFC 4180, with one of `csv_head.DELIMITERS` or another given delimiter."""

    def __init__(
        self,
        files: Sequence[File],
        links: Sequence[Path],
        null_values: Sequence[str],
        delimiter: str | None = None,
        column_names: Sequence[str] | None = None,
        names_options: bool = True,
    ):
        """Read the headers of the files.

        Args:
            files: The files.
            links: Links to them under plain names.
            null_values: Texts to read as null.
            delimiter: The field separator; default: detected from the start of each file.
            column_names: Names for files without a header.
            names_options: As for `csv_head.read`.

        Raises:
            ValueError: A header can't be read, or the files have different headers.
        """
        super().__init__(files, links)
        self._null_values = [*null_values] or [_NOTHING]
        self._headers = [csv_head.read(file, delimiter, column_names, names_options) for file in files]
        names, self._delimiter = self._headers[0].names, self._headers[0].delimiter
        for file, header in zip(files, self._headers, strict=True):
            sources.require_same_columns(files[0], names, file, header.names)
            if header.delimiter != self._delimiter:
                raise ValueError(
                    f"{file.name} has the delimiter {header.delimiter!r} but {files[0].name} has "
                    f"{self._delimiter!r}; ingest them separately"
                )
        self.header = self._headers[0]
        of_folders = sources.partitions(files)
        self._fields = len(names)
        self._partitions = [values for name, values in of_folders.items() if name not in names]
        self.names = [*names, *(name for name in of_folders if name not in names)]

    def scan(self) -> str:
        """Return a query for the columns."""
        names = [f"t{position}" for position in range(self._fields)]
        if self._screened:
            rows = self._query([self._screened], ["place", *names], 0, ", new_line='\\n'")
            rows = f"SELECT {self._where('place')}, {', '.join(names)} FROM ({rows})"
            return self._with_partitions(f"SELECT * FROM ({rows})", "position")
        pairs = zip(self._links, self._headers, strict=True)
        more = ", filename=true" if self._partitions else ""
        rows = " UNION ALL ".join(
            self._query([link for link, _ in group], names, lines, more)
            for lines, group in itertools.groupby(pairs, key=lambda pair: pair[1].lines)
        )
        # The links' names are the positions of their files.
        return self._with_partitions(rows, "CAST(parse_filename(filename) AS BIGINT)")

    def _with_partitions(self, rows: str, position: str) -> str:
        if not self._partitions:
            return rows
        values = ", ".join(
            f"{sql.list_of(values)}[{position} + 1] AS t{self._fields + place}"
            for place, values in enumerate(self._partitions)
        )
        return f"SELECT *, {values} FROM ({rows})"

    def _query(self, paths: list[Path], names: list[str], skip: int, more: str = "") -> str:
        return (
            f"SELECT * FROM read_csv({sql.list_of(map(str, paths))}, columns={sql.text_columns(names)}, "
            f"auto_detect=false, header=false, skip={skip}, delim={sql.literal(self._delimiter)}, "
            f"quote='\"', escape='\"', compression='none', nullstr={sql.list_of(self._null_values)}, "
            f"{_BUFFERS}{more})"
        )

    def _screen(self, source: screening.Source, sink: screening.Sink) -> Iterator[int]:
        skip = self._headers[source.position].lines
        # The same rule as DuckDB's.
        blank_rows = self._fields == 1 and "" in self._null_values
        return screening.screen_csv(source, sink, self._delimiter, self._fields, skip, blank_rows)


class JsonLines(TextFiles):
    """JSON Lines: one object per line. The columns are all keys, in order of first appearance."""

    parts = ("t", "j")

    def __init__(self, files: Sequence[File], links: Sequence[Path], null_values: Sequence[str]):
        """Check the first bytes of the files.

        Args:
            files: The files.
            links: Links to them under plain names.
            null_values: Texts to read as null, in quotes or not.

        Raises:
            ValueError: A file doesn't look like JSON Lines.
        """
        super().__init__(files, links)
        self.null_forms = list(dict.fromkeys(form for text in null_values for form in _json_forms(text)))
        if sources.partitions(files):
            raise ValueError(
                f"{files[0].name} is in a partition folder, which isn't supported for JSON Lines; write it "
                "as CSV or Parquet"
            )
        for file in files:
            head = csv_head.head(file)
            if head.removeprefix(screening.UTF8_BOM).lstrip().startswith(b"["):
                raise ValueError(
                    f"{file.name} is a JSON array, not JSON Lines; write one object per line, "
                    "for example with: jq -c '.[]'"
                )

    def look(self, database: "duckdb.DuckDBPyConnection", everything: bool) -> None:
        """Find the keys of the first objects, or of all objects."""
        limit = "" if everything else f"LIMIT {_SAMPLE_ROWS[1]}"
        numbered = f"SELECT j, row_number() OVER () AS n FROM ({self._lines()}) {limit}"
        keys = (
            "SELECT n, unnest(json_keys(j)) AS key, generate_subscripts(json_keys(j), 1) AS place "
            f"FROM ({numbered})"
        )
        found = database.execute(f"SELECT key FROM ({keys}) GROUP BY key ORDER BY min((n, place))")
        self.names = [key for (key,) in found.fetchall()]
        sources.require_distinct(self.files[0], self.names)
        if everything and (not self.names or not all(self.names)):
            raise ValueError(
                f"{self.files[0].name} has an object without keys, or with an empty key; name all keys"
            )

    def scan(self) -> str:
        """Return a query for the columns; j0, j1, … are their values as JSON."""
        place = f"{self._where('place')}, " if self._screened else ""
        kept = "".join(f"{name}, " for name in PLACE) if self._screened else ""
        alike = sql.alike(self.names)
        plain = [name for name in self.names if name not in alike]
        structure = sql.literal(json.dumps(dict.fromkeys(plain, "JSON"), ensure_ascii=False))
        fields = [_by_path(name) if name in alike else _of_struct(name) for name in self.names]
        known = f"json_type(j) = 'OBJECT' AND list_has_all({sql.list_of(self.names)}, json_keys(j))"
        objects = f"CASE WHEN {known} THEN json_transform(j, {structure}) ELSE error(j) END"
        values = "".join(f", {self._value(place, field)} AS j{place}" for place, field in enumerate(fields))
        texts = ", ".join(f"j{position}->>'$' AS t{position}" for position in range(len(self.names)))
        lines = f"SELECT {place}{objects} AS s{', j' * bool(alike)} FROM ({self._lines()})"
        return f"SELECT *, {texts} FROM (SELECT {kept}{values.removeprefix(', ')} FROM ({lines}))"

    def unquoted(self, text: str) -> str:
        """Return SQL for a column's JSON, in which strings still have their quotes."""
        return f"CAST(j{text.removeprefix('t')} AS VARCHAR)"

    def _lines(self) -> str:
        paths, names = (self._links, ["j"]) if not self._screened else ([self._screened], ["place", "j"])
        return (
            f"SELECT * FROM read_csv({sql.list_of(map(str, paths))}, columns={sql.text_columns(names)}, "
            f"auto_detect=false, header=false, delim={sql.literal(screening.JSON_SEPARATOR)}, "
            f"quote='', escape='', compression='none', {_BUFFERS}) "
            "WHERE trim(j, ' \t') <> ''"
        )

    def _value(self, place: int, value: str) -> str:
        if not self.null_forms or place not in self._with_nulls:
            return value
        return f"CASE WHEN NOT {sql.one_of(f'CAST({value} AS VARCHAR)', self.null_forms)} THEN {value} END"

    def _screen(self, source: screening.Source, sink: screening.Sink) -> Iterator[int]:
        return screening.screen_jsonl(source, sink)


def _of_struct(name: str) -> str:
    return f"struct_extract(s, {sql.literal(name)})"


def _by_path(name: str) -> str:
    """Return SQL for a key that differs from another only in case, which structs can't hold; null is NULL."""
    found = f"json_extract(j, {sql.literal('/' + name.replace('~', '~0').replace('/', '~1'))})"
    return f"CASE WHEN json_type({found}) <> 'NULL' THEN {found} END"


def _json_forms(text: str) -> list[str]:
    """Return how a text may be written as a JSON value: as a string, and bare if it can be, such as -999."""
    quoted = [json.dumps(text, ensure_ascii=ascii_only) for ascii_only in (True, False)]
    bare = [text] if text[:1] in {*"-0123456789tf"} else []
    return [*bare, *quoted, *(form.replace("/", "\\/") for form in quoted)]
