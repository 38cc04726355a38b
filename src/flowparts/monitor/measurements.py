"""Measurements: named numbers with labels that monitoring components write and `publish_metrics` sends."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowparts.util import outputs

# Each combination of labels is a time series that every server keeps for months.
MAX_MEASUREMENTS = 10_000
MAX_LABELS = 10
MAX_LABEL_CHARACTERS = 128

# Colons are for recording rules; names with two leading underscores, job and instance are Prometheus's own.
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,99}")
_RESERVED = ("job", "instance")


@dataclass(frozen=True)
class Measurement:
    """A number at the time of a run, a gauge of Prometheus and OpenTelemetry.

    Label values longer than 128 characters are shortened and end with a digest, so different values stay
    different.

    Attributes:
        name: Letters, digits and underscores, with the unit, such as flowparts_drift_psi.
        value: A finite number.
        labels: What was measured, such as {"model": "churn", "column": "age"}; at most 10.
        description: One sentence for people.

    Raises:
        ValueError: The name, the value or a label isn't valid.
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"measurement {self.name!r} isn't a valid name; use a letter, then letters, digits and "
                "underscores, at most 100"
            )
        if not math.isfinite(self.value):
            raise ValueError(f"measurement {self.name} must be a finite number, not {self.value}")
        if len(self.labels) > MAX_LABELS:
            raise ValueError(
                f"measurement {self.name} has {len(self.labels)} labels; at most {MAX_LABELS} are allowed"
            )
        for label in self.labels:
            if not _NAME.fullmatch(label) or label in _RESERVED:
                raise ValueError(
                    f"label {label!r} of measurement {self.name} isn't valid; use a letter, then letters, "
                    f"digits and underscores, but not {' or '.join(_RESERVED)}"
                )
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "labels", {name: _short(value) for name, value in self.labels.items()})


def write(path: str, measurements: Sequence[Measurement]) -> None:
    """Write measurements as JSON.

    Raises:
        ValueError: There are more than 10,000, or two have equal names and labels.
    """
    require_distinct(measurements, "the measurements to write")
    rows = [
        {"name": one.name, "value": one.value, "labels": one.labels, "description": one.description}
        for one in measurements
    ]
    outputs.write_json(path, {"measurements": rows})


def read(path: str) -> list[Measurement]:
    """Read the measurements that `write` wrote.

    Raises:
        ValueError: The file is missing or holds no valid measurements.
    """
    found = outputs.read_json(path, "the file of measurements")
    rows = found.get("measurements") if isinstance(found, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"the file at {path} holds no measurements, but another kind of JSON")
    measurements = [_parsed(row, path) for row in rows]
    require_distinct(measurements, f"the file at {path}")
    return measurements


def _parsed(row: Any, path: str) -> Measurement:
    try:
        name, value, labels = row["name"], row["value"], dict(row.get("labels", {}))
        texts = [name, row.get("description", ""), *labels, *labels.values()]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
    except (TypeError, KeyError, AttributeError, ValueError):
        raise ValueError(
            f"the file at {path} holds a measurement without a name, a number and labels of text: "
            f"{str(row)[:100]}"
        ) from None
    return Measurement(name, value, labels, row.get("description", ""))


def require_distinct(measurements: Sequence[Measurement], where: str) -> None:
    """Raise ValueError if two measurements have the same name and labels, or there are too many."""
    if len(measurements) > MAX_MEASUREMENTS:
        raise ValueError(
            f"{where}: {len(measurements):,} measurements; at most {MAX_MEASUREMENTS:,} are allowed, because "
            "each becomes a time series"
        )
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for one in measurements:
        key = (one.name, tuple(sorted(one.labels.items())))
        if key in seen:
            raise ValueError(f"{where}: measurement {one.name} occurs twice with labels {dict(one.labels)}")
        seen.add(key)


def _short(text: str) -> str:
    if len(text) <= MAX_LABEL_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{text[: MAX_LABEL_CHARACTERS - len(digest) - 1]}~{digest}"
