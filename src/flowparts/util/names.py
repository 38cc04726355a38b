"""Check names that users give, and suggest the right ones."""

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Any


def near(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name most similar to a name, ignoring case; None if none is similar."""
    by_lower = {each.lower(): each for each in known}
    found = get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def hint(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return "did you mean 'NAME'? " for the most similar known name; "" if none is similar."""
    found = near(name, known, cutoff)
    return f"did you mean {found!r}? " if found else ""


def listed(texts: Iterable[str], most: int = 5, separator: str = ", ") -> str:
    """Join the first texts, and append how many more there are: "a, b and 3 more", or "a; b; and 3 more"."""
    names = list(texts)
    more = f"{separator.strip(', ')} and {len(names) - most} more" if len(names) > most else ""
    return f"{separator.join(names[:most])}{more}"


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """Return the error message for an unknown name, with a suggestion if a known one is similar."""
    return f"unknown {kind} {name!r}; {hint(name, known)}known: {', '.join(known)}"


def free(name: str, prefix: str, taken: Collection[str]) -> str:
    """Return a name, prefixed until it differs from all names that are taken."""
    while name in taken:
        name = prefix + name
    return name


def texts(values: Iterable[Any] | None, what: str) -> list[str]:
    """Return the texts of a list, such as column names; [] if there is none.

    Integers become their digits, since YAML and JSON write a column named 2023 that way.

    Raises:
        ValueError: A value is neither text nor an integer; the message names the value and the list.
    """
    if isinstance(values, str):
        raise ValueError(f"{what} must be a list of texts, such as [{values!r}], not {values!r}")
    found = []
    for value in values or []:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(f"{what} must hold texts only, not {value!r}; put it in quotes")
        found.append(str(value))
    return found
