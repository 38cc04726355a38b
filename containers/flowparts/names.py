"""Names that somebody got wrong."""

from collections.abc import Sequence
from difflib import get_close_matches


def hint(name: str, known: Sequence[str], cutoff: float = 0.6) -> str:
    """Return "did you mean 'NAME'? " for the known name that is nearest; "" if none is near."""
    near = get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}? " if near else ""


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """Return the sentence for a name that isn't known, with the near one if there is one."""
    return f"unknown {kind} {name!r}; {hint(name, known)}known: {', '.join(known)}"
