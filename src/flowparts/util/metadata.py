"""What an artifact's metadata says to people: scalars and short text, never more.

Backends change metadata on its way (Kubeflow turns a list into `{"list": [...]}`, a boolean into 1, and fails
a step whose metadata holds a null), evaluate `{{...}}` in it, and pass all of it in one argument.
So no step reads the metadata of its inputs: what a later step needs is in the artifact's files.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from flowparts.util import outputs

# Of all entries together, as JSON.
MAX_BYTES = 2_000
_MAX_CHARACTERS = 200
# Numbers travel as doubles; larger whole numbers would lose digits.
_LARGEST_EXACT = 2**53


class Artifact(Protocol):
    """An output artifact of a step, as far as its file and its metadata go."""

    metadata: dict[str, Any]

    @property
    def path(self) -> str:
        """Where its file belongs."""


def describe(artifact: Artifact, facts: Mapping[str, Any]) -> None:
    """Set an artifact's metadata to a short copy of the facts.

    Numbers, booleans and text are kept, text cut to 200 characters; a list becomes its length. Nulls,
    mappings, NaN and infinity are left out, and so is what would exceed `MAX_BYTES` in all.

    Args:
        artifact: The output artifact.
        facts: What there is to say, the most important first.
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
    """Write metrics to an artifact's file, and to its metadata, where user interfaces find them.

    Args:
        artifact: The output artifact.
        values: Name to value.
        content: What the file holds; the values if not given.

    Raises:
        ValueError: A value is NaN or infinite, which a backend would fail the step for.
    """
    outputs.write_json(artifact.path, values if content is None else content)
    artifact.metadata.update(values)


def plain(text: str) -> str:
    """Return a text with `{{` taken apart, which Kubeflow's workflow engine would evaluate as a template."""
    while "{{" in text:
        text = text.replace("{{", "{ {")
    return text


def _short(value: Any) -> str | int | float | bool | None:
    if isinstance(value, str):
        text = plain(value)
        return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 3] + "..."
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _LARGEST_EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return len(value)
    return None
