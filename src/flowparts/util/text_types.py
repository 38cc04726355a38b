"""Rules for parsing text as values of each type, as SQL expressions for DuckDB.

DuckDB's own casts are too lenient to infer from: '1.5' becomes the integer 2, '007' becomes 7,
'2024-01-02 03:04:05' becomes a date, and an offset is dropped from a timestamp.
"""

from flowparts.util import times

TYPES = ("boolean", "integer", "number", "date", "timestamp", "string")

# Notations of numbers: with a decimal comma (1.234,5) and with commas between thousands (1,234.5).
COMMA, THOUSANDS = "number with a decimal comma", "number with commas between thousands"
NUMBERS = ("number", COMMA, THOUSANDS)
# Notations by decimal separator; all of them include integers and numbers without separators.
WRITTEN_WITH = {".": ("number", THOUSANDS), ",": (COMMA,)}
DECIMALS = tuple(WRITTEN_WITH)

# Types that remain possible for a column of a given type as more of its rows are read.
WIDER: dict[str | None, tuple[str, ...]] = {
    None: ("boolean", "integer", *NUMBERS, "date", "timestamp", "string"),
    "boolean": ("boolean", "string"),
    "integer": ("integer", *NUMBERS, "string"),
    "number": (*NUMBERS, "string"),
    COMMA: (COMMA, "string"),
    THOUSANDS: (THOUSANDS, "string"),
    "date": ("date", "timestamp", "string"),
    "timestamp": ("timestamp", "string"),
    "string": ("string",),
}

# Texts that most programs write for a missing value, such as pandas, R and SQL clients.
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "Null", "null", "None", "?")

# A leading zero marks a code (a postal code, a shop number), and a double may lose digits beyond 15: both
# stay text.
_NUMBER = (
    r"\s*[+-]?(((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|0|[1-9][0-9]{0,14})([eE][+-]?[0-9]+)?"
    r"|(?i:nan|inf|infinity))\s*"
)
_INTEGER = r"\s*[+-]?(0|[1-9][0-9]*)\s*"
_WHOLE = r"\s*[+-]?[0-9]+(\.0*)?\s*"
# LIKE patterns are enough, since the cast that follows checks the digits; a regular expression is slower.
_DATE = "____-__-__"
_TIMESTAMP = "____-__-__%"
_COMMA = r"\s*[+-]?(0|[1-9][0-9]{0,14}|[1-9][0-9]{0,2}(\.[0-9]{3})+)(,[0-9]+)?\s*"
_THOUSANDS = r"\s*[+-]?(0|[1-9][0-9]{0,14}|[1-9][0-9]{0,2}(,[0-9]{3})+)(\.[0-9]+)?\s*"
# A letter next to a digit, a leading zero or too many digits: an identifier rather than a damaged number.
_CODE = r"[[:alpha:]][^ ]*[0-9]|[0-9][^ ]*[[:alpha:]]|^\s*[+-]?0[0-9]|[0-9]{16}"
_MIDNIGHT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]00:00(:00(\.0+)?)?"


def inferred(kind: str, text: str) -> str:
    """Return SQL that parses a text as a type; NULL if the text isn't a value of that type.

    Integers have 64 bits and numbers are doubles. Dates and timestamps follow ISO 8601, in the years 1 to
    9999; a timestamp with an offset is converted to UTC, one without is taken as UTC.

    Args:
        kind: One of `TYPES`, `COMMA` or `THOUSANDS`.
        text: SQL of the text; evaluated more than once.
    """
    match kind:
        case "boolean":
            return (
                f"CASE WHEN {text} IN ('true', 'True', 'TRUE') THEN true "
                f"WHEN {text} IN ('false', 'False', 'FALSE') THEN false END"
            )
        case "integer":
            integer = f"TRY_CAST({text} AS BIGINT)"
            # The round trip is the quick test; the pattern handles unusual notations.
            return (
                f"CASE WHEN CAST({integer} AS VARCHAR) = {text} OR regexp_full_match({text}, '{_INTEGER}') "
                f"THEN {integer} END"
            )
        case "number":
            # Most texts that cast to a double also match the pattern; only doubtful ones are matched against
            # it, because that takes longer than the cast.
            doubtful = (
                f"{text} < '!' OR contains({text}, '_') OR ({text} >= '+' AND {text} < ',') "
                f"OR ({text} >= '00' AND {text} < '0:') OR ({text} >= '-00' AND {text} < '-0:') "
                f"OR (strlen({text}) > 15 AND NOT contains({text}, '.'))"
            )
            return (
                f"CASE WHEN ({doubtful}) AND NOT regexp_full_match({text}, '{_NUMBER}') "
                f"THEN NULL ELSE TRY_CAST({text} AS DOUBLE) END"
            )
        case str() if kind == COMMA:
            plain = f"replace(replace({text}, '.', ''), ',', '.')"
            return f"CASE WHEN regexp_full_match({text}, '{_COMMA}') THEN TRY_CAST({plain} AS DOUBLE) END"
        case str() if kind == THOUSANDS:
            plain = f"replace({text}, ',', '')"
            return f"CASE WHEN regexp_full_match({text}, '{_THOUSANDS}') THEN TRY_CAST({plain} AS DOUBLE) END"
        case "date":
            return _trimmed_if_needed(text, _DATE, "CASE WHEN {0} >= '0001' THEN TRY_CAST({0} AS DATE) END")
        case "timestamp":
            moment = "make_timestamp(epoch_us(TRY_CAST({0} AS TIMESTAMPTZ)))"
            # An offset may lead out of the years 1 to 9999; only texts at both ends need the check.
            ends = "({0} LIKE '9999-12-31%' OR {0} LIKE '0001-01-01%')"
            known = f"{{0}} >= '0001' AND (NOT {ends} OR {in_calendar(moment)})"
            cast = _trimmed_if_needed(text, _TIMESTAMP, f"CASE WHEN {known} THEN {moment} END")
            return f"CASE WHEN regexp_full_match({text}, '{times.PATTERN}') THEN {cast} END"
        case _:
            return f"CASE WHEN NOT contains({text}, chr(0)) THEN {text} END"


def in_calendar(moment: str) -> str:
    """Return SQL that tests whether a date or timestamp is in the years 1 to 9999, which Python can hold."""
    return f"{moment} BETWEEN TIMESTAMP '0001-01-01' AND TIMESTAMP '9999-12-31 23:59:59.999999'"


def checked(kind: str, text: str) -> str:
    """Return SQL like `inferred`, for texts known to be of the type: shorter, so faster to plan."""
    match kind:
        case "integer":
            return f"CAST({text} AS BIGINT)"
        case "number":
            return f"CAST({text} AS DOUBLE)"
        case "string":
            return text
    return inferred(kind, text)


def looks_like_a_code(text: str) -> str:
    """Return SQL that tests whether a text, neither number nor time, is an identifier or a damaged value."""
    return f"(regexp_matches({text}, '{_CODE}') AND NOT {text} LIKE '{_TIMESTAMP}')"


def given(kind: str, text: str) -> str:
    """Return SQL like `inferred`, for a column whose type the user set: more notations are accepted.

    Integers may have leading zeros or end in .0, numbers may have leading zeros, booleans may be 1/0, t/f,
    yes/no or y/n, and a date may carry the time 00:00:00.
    """
    match kind:
        case "boolean":
            return (
                f"CASE WHEN lower(trim({text})) IN ('true', 't', 'yes', 'y', '1') THEN true "
                f"WHEN lower(trim({text})) IN ('false', 'f', 'no', 'n', '0') THEN false END"
            )
        case "integer":
            return f"CASE WHEN regexp_full_match({text}, '{_WHOLE}') THEN TRY_CAST({text} AS BIGINT) END"
        case "number":
            return f"CASE WHEN NOT contains({text}, '_') THEN TRY_CAST({text} AS DOUBLE) END"
        case "date":
            date = f"CASE WHEN regexp_full_match({text}, '{_MIDNIGHT}') THEN TRY_CAST({text} AS DATE) END"
            return f"coalesce({inferred(kind, text)}, {date})"
    return inferred(kind, text)


def rule(kind: str) -> str:
    """Describe a value of a type, for error messages."""
    return {
        "boolean": "a boolean (true or false)",
        "integer": "an integer of at most 64 bits",
        "number": "a number",
        COMMA: "a number with a decimal comma",
        THOUSANDS: "a number with commas between thousands",
        "date": "a date in the years 1 to 9999 (such as 2024-01-31)",
        "timestamp": "a timestamp in the years 1 to 9999 in UTC (such as 2024-01-31T23:59:00)",
    }.get(kind, "text without NUL bytes")


def _trimmed_if_needed(text: str, pattern: str, cast: str) -> str:
    trimmed = f"trim({text})"
    return (
        f"CASE WHEN {text} LIKE '{pattern}' AND NOT {text} LIKE '% ' THEN {cast.format(text)} "
        f"WHEN {trimmed} LIKE '{pattern}' THEN {cast.format(trimmed)} END"
    )
