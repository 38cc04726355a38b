"""Names and texts, quoted for DuckDB."""

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
    """Return what read_csv takes as its columns, all of them text."""
    return "{" + ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names) + "}"


def alike(names: Sequence[str]) -> set[str]:
    """Return the names that differ from another one only in case, which is no difference to DuckDB."""
    counts = Counter(name.lower() for name in names)
    return {name for name in names if counts[name.lower()] > 1}


def one_of(text: str, texts: Iterable[str]) -> str:
    """Return SQL that says whether a text is one of these, which hold no control characters.

    A search in one constant: asked of each of a thousand columns, IN takes gigabytes and a pattern seconds.
    """
    written = list(texts)
    longest = max((len(each.encode()) for each in written), default=-1)
    known = literal("".join(f"\x01{each}" for each in written) + "\x01")
    return f"(strlen({text}) <= {longest} AND contains({known}, '\x01' || {text} || '\x01'))"
