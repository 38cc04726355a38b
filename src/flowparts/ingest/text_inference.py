# Every name and text that goes into a query is quoted by flowparts.util.sql.
# ruff: noqa: S608
"""Infer what the columns of a text file hold from their values.

A column is of the narrowest kind that all its values have. If almost all have one and the others don't look
like identifiers, it is of that kind too, and the others are bad values: one "unknown" must not turn numbers
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

# In JSON these are not written as strings.
_UNQUOTED = ("boolean", "integer", *NUMBERS)
# What is counted first: quick to tell, and all that most columns hold.
_PLAIN = ("boolean", "integer", "number")
# A number whose column a person or a schema says to hold numbers; accepts more than the inferred kind.
_GIVEN = "given number"

# Of at least this many values, one in so many may be bad.
_MIN_VALUES = 20
_MOST_BAD = 1 / 20
# One text that is repeated is a mark of what is missing, and may be more frequent.
_MOST_MARKS = 1 / 2

_Counts = Mapping[str, int]


@dataclass(frozen=True)
class Kind:
    """What a column holds.

    Attributes:
        name: One of `text_types.TYPES`, `COMMA` or `THOUSANDS`; None if there are no values.
        values: How many values there are.
        bad: How many of them are not of this kind.
        ambiguous: Whether its numbers may have a decimal comma or commas between thousands: 1,234.
        nan: Whether NaN may be among its values.
    """

    name: str | None
    values: int = 0
    bad: int = 0
    ambiguous: bool = False
    nan: bool = True


class Inferred(NamedTuple):
    """The kinds of the columns, and whether all rows were looked at."""

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
    """Find out what each column holds.

    Args:
        database: The database to ask.
        files: The files.
        given: Types of columns by name. Of these only how numbers are written is found out.
        decimal: The character between whole and decimal digits; None to tell it for each column.
        everything: Whether to look at all rows; otherwise at the first ones, `TextFiles.sample_rows`.
        integers: Columns given as numbers that are integers if all their values are whole.
    """
    candidates = [
        ["integer"] * (name in integers) + _candidates(given.get(name), decimal) for name in files.names
    ]
    # Most columns turn out to be of one of these, so that the patterns of the others needn't be tried.
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
        # Any kind that some of the first values are not of can't be that of all values.
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
        # One further down shows in a column of numbers, but not among texts.
        files.look_for_nulls(place for place, kind in enumerate(kinds) if kind.name in ("string", None))
    return Inferred(kinds, everything or complete)


def _is_kept(name: str, kind: Kind, integers: Collection[str]) -> bool:
    """Say whether what was found out about a column of a given type says more than that type."""
    return kind.name in (COMMA, THOUSANDS) or (name in integers and kind.name == "integer" and not kind.bad)


def value(files: TextFiles, text: str, kind: str) -> str:
    """Return SQL for the value of a column's text in a kind, NULL if it is not of that kind."""
    if kind == _GIVEN:
        return text_types.given("number", text)
    return text_types.inferred(kind, files.unquoted(text) if kind in _UNQUOTED else text)


def checked(files: TextFiles, text: str, kind: Kind) -> str:
    """Return SQL like `value`, NULL for NaN, where it is known that all texts are of the kind."""
    name = str(kind.name)
    found = text_types.checked(name, files.unquoted(text) if name in _UNQUOTED else text)
    # DuckDB takes NaN for equal to NaN.
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
    # Of few values nothing can be said yet.
    return almost if values < _MIN_VALUES or _may_be_bad(almost, marks=True) else Kind("string", values)


def _count_first(
    database: "duckdb.DuckDBPyConnection", files: TextFiles, candidates: Mapping[int, Sequence[str]]
) -> tuple[dict[int, dict[str, int]], bool]:
    """Count the first values of each kind: one expression for each kind, however many columns there are.

    Returns:
        The counts for each of the columns whose places are given, and whether there are no more rows.
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
    """Make strings of the columns that are of their kind only in part."""
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
    most = _MOST_MARKS if marks and kind.name != "boolean" else _MOST_BAD
    return kind.values >= _MIN_VALUES and kind.bad <= most * kind.values
