"""Quote names and texts for DuckDB."""

from collections import Counter
from collections.abc import Iterable, Sequence


def identifier(name: str) -> str:
    """Return a column's name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as a literal."""
    return "'" + text.replace("'", "''") + "'"


def list_of(texts: Iterable[str | None]) -> str:
    """Return texts as a list of literals; None is NULL."""
    return "[" + ", ".join("NULL" if text is None else literal(text) for text in texts) + "]"


def text_columns(names: Iterable[str]) -> str:
    """Return the `columns` argument of read_csv, with every column as text."""
    return "{" + ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names) + "}"


def alike(names: Sequence[str]) -> set[str]:
    """Return the names that differ from another one only in case, which DuckDB ignores."""
    counts = Counter(name.lower() for name in names)
    return {name for name in names if counts[name.lower()] > 1}


def one_of(text: str, texts: Iterable[str]) -> str:
    """Return SQL that tests whether a text is one of these, which must not hold control characters.

    It searches one constant: for each of a thousand columns, IN takes gigabytes and a pattern seconds.
    """
    written = list(texts)
    longest = max((len(each.encode()) for each in written), default=-1)
    known = literal("".join(f"\x01{each}" for each in written) + "\x01")
    return f"(strlen({text}) <= {longest} AND contains({known}, '\x01' || {text} || '\x01'))"
