"""Format values for readers, and clean text for HTML."""

import math
import unicodedata
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

from markupsafe import Markup

Block = Markup


_MISSING = "\N{EN DASH}"


def format_number(value: object) -> str:
    """Format a value for readers: four significant digits, thousands separators, a dash if missing."""
    if value is None:
        return _MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="auto")
    if isinstance(value, date):
        return value.isoformat()
    if not _is_number(value):
        return clean(str(value))
    number = float(value)  # type: ignore[arg-type]
    if math.isnan(number):
        return _MISSING
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    if abs(number) >= 1e15:
        return f"{number:.4g}"
    if number == int(number):
        return f"{int(number):,}"
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.4g}" if abs(number) >= 1e-4 else f"{number:.3g}"


def clean(text: str) -> str:
    """Replace the characters that HTML can't hold: control characters and lone surrogates."""
    if isinstance(text, Markup):
        return text
    return "".join(
        "�" if unicodedata.category(mark) in {"Cc", "Cs"} and mark not in "\n\t" else mark for mark in text
    )


def cell(value: object) -> str:
    return value if isinstance(value, Markup) else format_number(value)


def numeric(values: Iterable[Any]) -> bool:
    filled = [value for value in values if value is not None and value != ""]
    return bool(filled) and all(_is_number(value) or _is_percentage(value) for value in filled)


def _is_number(value: object) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool | str)


def _is_percentage(value: object) -> bool:
    return isinstance(value, str) and value.endswith("%") and value[:-1].strip().replace(".", "").isdecimal()


def all_finite(*numbers: float) -> bool:
    return all(math.isfinite(number) for number in numbers)
