"""Why estimators couldn't be trained, grouped by cause for messages and pages."""

import re
from collections.abc import Iterable

from flowparts.util.shortening import shorten

# Causes in a message, and characters of each: the estimator and what it refuses must be readable.
_MAX_CAUSES, _MAX_CHARACTERS = 3, 300


def causes(failures: Iterable[tuple[str, str]]) -> list[str]:
    """Return the causes, the most frequent first: "LGBM (3 times): reason".

    Reasons that differ in numbers only are one cause, of which the first is shown.

    Args:
        failures: Name of an estimator and the reason, for each failure.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for name, reason in failures:
        alike.setdefault((name, re.sub(r"\d+(\.\d+)?", "0", reason)), []).append(reason)
    ranked = sorted(alike.items(), key=lambda item: -len(item[1]))
    return [f"{_times(name, len(reasons))}: {reasons[0]}" for (name, _), reasons in ranked]


def in_short(failures: Iterable[tuple[str, str]]) -> str:
    """Return the most frequent causes as part of a sentence, long ones shortened."""
    found = causes(failures)
    shown = [shorten(cause, _MAX_CHARACTERS) for cause in found[:_MAX_CAUSES]]
    more = len(found) - len(shown)
    return "; ".join([*shown, *([f"and {more} more cause{'s'[: more > 1]}"] if more else [])])


def _times(name: str, count: int) -> str:
    return name if count == 1 else f"{name} ({count} times)"
