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
