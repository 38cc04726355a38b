"""What opens doors is replaced by *** wherever an address is shown, logged or kept."""

import re
from typing import Any
from urllib.parse import urlsplit

# Passwords may hold any character but blanks and quotes.
_USER = re.compile(r"(\w://)(?:[^\s\"/@]*:[^\s\"]*|[^\s\"/@]*)@")
_QUERY = re.compile(
    r"([?&][^=&\s\"]*(?:sig|token|secret|key|passw|pwd|credential|auth)[^=&\s\"]*=)[^&\s\"]+", re.IGNORECASE
)


def masked(value: Any) -> Any:
    """Return a value whose texts show no user, password, key or signature of an address.

    Args:
        value: A text, or what JSON has, whose texts are masked; anything else stays as it is.
    """
    if isinstance(value, str):
        return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", value)) if "://" in value else value
    if isinstance(value, list):
        return [masked(item) for item in value]
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    return value


def shown(source: str) -> str:
    """Return a source without what may be secret in it: user, password and query (presigned addresses)."""
    if not re.match(r"https?://", source):
        return str(masked(source))
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
