# Every name and text that goes into a query is quoted by flowparts.util.sql.
# ruff: noqa: S608
"""Infer the types of a text file's columns from their values.

A column gets the narrowest type that fits all its values. It also gets a type that fits almost all of them,
if the others don't look like identifiers; the others are then bad values: one "unknown" must not turn numbers
into text.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from flowparts.ingest.text_files import TextFiles
from flowparts.util import sql, text_types
from flowparts.util.text_types import COMMA, NUMBERS, THOUSANDS, WIDER

if TYPE_CHECKING:
    import duckdb

# JSON doesn't write these as strings.
_UNQUOTED = ("boolean", "integer", *NUMBERS)
# Counted first, because they are quick to test and most columns hold them.
_PLAIN = ("boolean", "integer", "number")
# Numbers of a column that the user or a schema declares to hold numbers; accepts more than the inferred type.
_GIVEN = "given number"

# Minimum number of values for some to be bad, and the maximum fraction of bad ones.
_MIN_VALUES = 20
_MAX_BAD = 1 / 20
# The same if all bad values are one text, which then marks missing values.
_MAX_MARKS = 1 / 2

_Counts = Mapping[str, int]


@dataclass(frozen=True)
class Kind:
    """The type of a column's values.

    Attributes:
        name: One of `text_types.TYPES`, `COMMA` or `THOUSANDS`; None if there are no values.
        values: Number of values.
        bad: Number of values that aren't of this type.
        ambiguous: Whether commas in its numbers may separate decimals or thousands: 1,234.
        nan: Whether NaN may be among its values.
    """

    name: str | None
    values: int = 0
    bad: int = 0
    ambiguous: bool = False
    nan: bool = True


class Inferred(NamedTuple):
    """The types of the columns, and whether all rows were read."""

    kinds: list[Kind]
    complete: bool


def infer(
    database: "duckdb.DuckDBPyConnection",
    files: TextFiles,
    given: Mapping[str, str],
    decimal: str | None,
    everything: bool,
    integers: Collection[str] = (),
) -> Inferred:
    """Infer the type of each column.

    Args:
        database: The database to query.
        files: The files.
        given: Types of columns by name. For these, only the notation of numbers is inferred.
        decimal: The decimal separator; None to infer it for each column.
        everything: Whether to read all rows; otherwise the first `TextFiles.sample_rows`.
        integers: Columns given as numbers that become integers if all their values are whole.
    """
    candidates = [
        ["integer"] * (name in integers) + _candidates(given.get(name), decimal) for name in files.names
    ]
    # Most columns have one of these types, so the other patterns needn't be tried.
    plain = [[kind for kind in known if kind in _PLAIN] for known in candidates]
    counts, complete = _count_first(database, files, dict(enumerate(plain)))
    further = {
        place: [kind for kind in known if kind not in plain[place]]
        for place, known in enumerate(candidates)
        if not any(counts[place][kind] == counts[place]["texts"] for kind in plain[place])
    }
    for place, more in _count_first(database, files, further)[0].items():
        counts[place] |= more
    kinds = [_kind(counts[place], known) for place, known in enumerate(candidates)]
    files.look_for_nulls(place for place, own in counts.items() if own["marks"])
    if everything and not complete:
        # A type that doesn't fit the first values can't fit all of them.
        candidates = [
            [each for each in known if each == _GIVEN or each in WIDER.get(kind.name, known)]
            for kind, known in zip(kinds, candidates, strict=True)
        ]
        files.look_for_nulls(range(len(candidates)))
        all_counts = _count_all(database, files, candidates)
        kinds = [_kind(own, known) for own, known in zip(all_counts, candidates, strict=True)]
    kinds = _without_codes(database, files, kinds, None if everything else files.sample_rows)
    kinds = [
        Kind(given[name], kind.values) if name in given and not _is_kept(name, kind, integers) else kind
        for name, kind in zip(files.names, kinds, strict=True)
    ]
    if not complete:
        # A null further down is detected in a column of numbers, but not in a column of text.
        files.look_for_nulls(place for place, kind in enumerate(kinds) if kind.name in ("string", None))
    return Inferred(kinds, everything or complete)


def _is_kept(name: str, kind: Kind, integers: Collection[str]) -> bool:
    """Return whether the inferred type of a column is more precise than its given type."""
    return kind.name in (COMMA, THOUSANDS) or (name in integers and kind.name == "integer" and not kind.bad)


def value(files: TextFiles, text: str, kind: str) -> str:
    """Return SQL that parses a column's text as a type; NULL if the text isn't of that type."""
    if kind == _GIVEN:
        return text_types.given("number", text)
    return text_types.inferred(kind, files.unquoted(text) if kind in _UNQUOTED else text)


def checked(files: TextFiles, text: str, kind: Kind) -> str:
    """Return SQL like `value`, for texts known to be of the type; NaN becomes NULL."""
    name = str(kind.name)
    found = text_types.checked(name, files.unquoted(text) if name in _UNQUOTED else text)
    # In DuckDB, NaN equals NaN.
    return f"nullif({found}, 'NaN'::DOUBLE)" if kind.name == "number" and kind.nan else found


def _candidates(given: str | None, decimal: str | None) -> list[str]:
    if given is not None and given != "number":
        return []
    known = WIDER[None] if given is None else (_GIVEN, COMMA, THOUSANDS)
    unwanted = {None: (), ",": ("number", _GIVEN, THOUSANDS), ".": (COMMA,)}[decimal]
    return [kind for kind in known if kind not in unwanted]


def _kind(counts: _Counts, candidates: Sequence[str]) -> Kind:
    values = counts["texts"]
    typed = [kind for kind in candidates if kind != "string"]
    if not values or not candidates:
        return Kind(None, values)
    if not typed:
        return Kind("string", values)
    fitting = [kind for kind in typed if counts.get(kind) == values]
    if fitting:
        ambiguous = fitting[0] == COMMA and THOUSANDS in fitting
        return Kind(fitting[0], values, ambiguous=ambiguous, nan=counts.get("nan", 1) > 0)
    best = max(typed, key=lambda kind: counts[kind])
    almost = Kind(best, values, values - counts[best])
    # With few values, nothing is certain yet.
    return almost if values < _MIN_VALUES or _may_be_bad(almost, marks=True) else Kind("string", values)


def _count_first(
    database: "duckdb.DuckDBPyConnection", files: TextFiles, candidates: Mapping[int, Sequence[str]]
) -> tuple[dict[int, dict[str, int]], bool]:
    """Count the first values of each type, with one expression for each type, however many the columns.

    Returns:
        The counts for each column that is a key of `candidates`, and whether there are no more rows.
    """
    if not candidates:
        return {}, False
    kinds = list(dict.fromkeys(kind for known in candidates.values() for kind in known if kind != "string"))
    lists = ", ".join(
        f"unnest([{', '.join(f'{name}{place}' for place in candidates)}]) AS {name}" for name in files.parts
    )
    first = f"{files.scan()} LIMIT {files.sample_rows}"
    rows = f"SELECT unnest([{', '.join(map(str, candidates))}]) AS place, {lists} FROM ({first})"
    mark = "false"
    if files.null_forms:
        null = sql.one_of("CAST(j AS VARCHAR)", files.null_forms)
        columns = ", ".join(f"CASE WHEN NOT {null} THEN {name} END AS {name}" for name in files.parts)
        rows, mark = f"SELECT place, {null} AS mark, {columns} FROM ({rows})", "mark"
    nan = "count(*) FILTER (t ILIKE '%nan%')"
    counts = ", ".join(
        [
            "count(*)",
            f"count(*) FILTER ({mark})",
            "count(t)",
            nan,
            *(f"count({value(files, 't', kind)})" for kind in kinds),
        ]
    )
    answer = database.execute(f"SELECT place, {counts} FROM ({rows}) GROUP BY place").fetchall()
    names = ["marks", "texts", "nan", *kinds]
    found = {place: dict(zip(names, own, strict=True)) for place, _, *own in answer}
    seen = max((count for _, count, *_ in answer), default=0)
    nothing = dict.fromkeys(names, 0)
    return {place: found.get(place, dict(nothing)) for place in candidates}, seen < files.sample_rows


def _count_all(
    database: "duckdb.DuckDBPyConnection", files: TextFiles, candidates: Sequence[Sequence[str]]
) -> Sequence[_Counts]:
    counts = {
        (place, kind): f"count({value(files, f't{place}', kind)})"
        for place, known in enumerate(candidates)
        for kind in known
        if kind != "string"
    }
    counts |= {(place, "texts"): f"count(t{place})" for place in range(len(candidates))}
    answer = database.execute(f"SELECT {', '.join(counts.values())} FROM ({files.scan()})").fetchall()[0]
    found: list[dict[str, int]] = [{} for _ in candidates]
    for (place, kind), count in zip(counts, answer, strict=True):
        found[place][kind] = count
    return found


def _without_codes(
    database: "duckdb.DuckDBPyConnection", files: TextFiles, kinds: Sequence[Kind], rows: int | None
) -> list[Kind]:
    """Turn columns into strings if too many values, or codes, don't fit their type."""
    result = list(kinds)
    places = [place for place, kind in enumerate(kinds) if kind.bad and _may_be_bad(kind, marks=True)]
    if places:
        limit = "" if rows is None else f" LIMIT {rows}"
        asked = []
        for place in places:
            bad = f"{value(files, f't{place}', str(kinds[place].name))} IS NULL AND t{place} IS NOT NULL"
            code = text_types.looks_like_a_code(f"t{place}")
            ends = f"min(t{place}) FILTER ({bad}) = max(t{place}) FILTER ({bad})"
            asked += [f"count(*) FILTER ({bad} AND {code})", ends]
        answer = database.execute(f"SELECT {', '.join(asked)} FROM ({files.scan()}{limit})").fetchall()[0]
        codes, marks = answer[::2], answer[1::2]
    for place, kind in enumerate(kinds):
        if kind.bad and not (
            place in places
            and not codes[places.index(place)]
            and _may_be_bad(kind, marks[places.index(place)])
        ):
            result[place] = Kind("string", kind.values)
    return result


def _may_be_bad(kind: Kind, marks: bool) -> bool:
    most = _MAX_MARKS if marks and kind.name != "boolean" else _MAX_BAD
    return kind.values >= _MIN_VALUES and kind.bad <= most * kind.values
