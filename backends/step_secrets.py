"""Choose the secrets of a profile for each step of a compiled pipeline: those that its component asks for."""

import itertools
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from backends import catalogue
from flowparts.components import SECRETS


def require_requested(variables: Iterable[str]) -> None:
    """Raise ValueError if no component asks for one of the variables, so that no step would get it."""
    catalogue.components()  # importing them fills SECRETS
    for variable in variables:
        if not any(_asks(patterns, variable) for patterns in SECRETS.values()):
            raise ValueError(
                f"no step asks for the secret variable {variable!r}; correct its name, or have a component "
                f"ask for it: runs_in(..., secrets=({variable!r},))"
            )


def requested(container: Mapping[str, Any], variables: Iterable[str]) -> list[str]:
    """Return the variables that a compiled step asks for.

    Args:
        container: The executor's container.
        variables: Names of variables.
    """
    patterns = SECRETS.get(_component(container), ())
    return [variable for variable in variables if _asks(patterns, variable)]


def _component(container: Mapping[str, Any]) -> str:
    """Return the name of the component that a container runs, from the image or embedded source."""
    for words in (container.get("command") or [], container.get("args") or []):
        for before, word in itertools.pairwise(words):
            if before in ("flowparts.step", "--function_to_execute"):
                return str(word)
    return ""


def _asks(patterns: Iterable[str], variable: str) -> bool:
    return any(fnmatchcase(variable, pattern) for pattern in patterns)
