"""Names that somebody gives, and those that somebody got wrong."""

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from typing import Any


def near(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is nearest, whatever its case; None if none is near."""
    by_lower = {each.lower(): each for each in known}
    found = get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def hint(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return "did you mean 'NAME'? " for the known name that is nearest; "" if none is near."""
    found = near(name, known, cutoff)
    return f"did you mean {found!r}? " if found else ""


def listed(texts: Iterable[str], most: int = 5) -> str:
    """Return the first texts, separated by commas, and how many more there are."""
    names = list(texts)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """Return the sentence for a name that isn't known, with the near one if there is one."""
    return f"unknown {kind} {name!r}; {hint(name, known)}known: {', '.join(known)}"


def free(name: str, prefix: str, taken: Collection[str]) -> str:
    """Return a name with as many prefixes as it takes to be none of those that are taken."""
    while name in taken:
        name = prefix + name
    return name


def texts(values: Iterable[Any] | None, what: str) -> list[str]:
    """Return the texts of a list, such as names of columns; [] if there is none.

    A whole number is taken for its digits, since YAML and JSON write a column named 2023 that way.

    Raises:
        ValueError: A value is neither; the sentence names it and the list.
    """
    if isinstance(values, str):
        raise ValueError(f"{what} is {values!r}; give a list of texts, such as [{values!r}]")
    found = []
    for value in values or []:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(f"{what} holds {value!r}, which is no text; write it in quotes")
        found.append(str(value))
    return found
