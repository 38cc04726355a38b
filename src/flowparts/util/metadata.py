"""Write artifact metadata for people: scalars and short text only.

Backends change metadata on the way (Kubeflow turns a list into `{"list": [...]}`, a boolean into 1, and fails
a step whose metadata holds a null), evaluate `{{...}}` in it, and pass all of it in one argument.
So no step reads the metadata of its inputs: what a later step needs is in the artifact's files.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from flowparts.util import outputs
from flowparts.util.shortening import shorten

# Maximum size of all entries together, as JSON.
MAX_BYTES = 2_000
_MAX_CHARACTERS = 200
# Backends store numbers as doubles, in which larger integers lose digits.
_LARGEST_EXACT = 2**53


class Artifact(Protocol):
    """An output artifact of a step: its file and its metadata."""

    metadata: dict[str, Any]

    @property
    def path(self) -> str:
        """Path to write its file to."""


def describe(artifact: Artifact, facts: Mapping[str, Any]) -> None:
    """Set an artifact's metadata to a short copy of the facts.

    Numbers, booleans and text are kept, text truncated to 200 characters; a list becomes its length. Nulls,
    mappings, NaN and infinity are left out, and so are all facts from the one that exceeds `MAX_BYTES` on.

    Args:
        artifact: The output artifact.
        facts: Name to value, the most important first.
    """
    used = 0
    for name, value in facts.items():
        short = _short(value)
        if short is None:
            continue
        used += len(json.dumps({name: short}, ensure_ascii=False).encode())
        if used > MAX_BYTES:
            return
        artifact.metadata[name] = short


def log_metrics(
    artifact: Artifact, values: Mapping[str, float], content: Mapping[str, Any] | None = None
) -> None:
    """Write metrics to an artifact's file, and to its metadata, which user interfaces show.

    Args:
        artifact: The output artifact.
        values: Name to value.
        content: Content of the file; default: the values.

    Raises:
        ValueError: A value is NaN or infinite, which makes backends fail the step.
    """
    outputs.write_json(artifact.path, values if content is None else content)
    artifact.metadata.update(values)


def plain(text: str) -> str:
    """Return a text with `{{` split into `{ {`, because Kubeflow's workflow engine evaluates `{{...}}`."""
    while "{{" in text:
        text = text.replace("{{", "{ {")
    return text


def _short(value: Any) -> str | int | float | bool | None:
    if isinstance(value, str):
        return shorten(plain(value), _MAX_CHARACTERS)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _LARGEST_EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return len(value)
    return None
