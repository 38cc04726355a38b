"""Replace credentials in addresses by *** before they are shown, logged or stored."""

import re
from typing import Any
from urllib.parse import urlsplit

# Passwords may hold any character except white space and quotes.
_USER = re.compile(r"(\w://)(?:[^\s\"/@]*:[^\s\"]*|[^\s\"/@]*)@")
_QUERY = re.compile(
    r"([?&][^=&\s\"]*(?:sig|token|secret|key|passw|pwd|credential|auth)[^=&\s\"]*=)[^&\s\"]+", re.IGNORECASE
)


def masked(value: Any) -> Any:
    """Mask the users, passwords, keys and signatures of addresses in a value.

    Args:
        value: A text, or a JSON value, in which all texts are masked; anything else is returned unchanged.
    """
    if isinstance(value, str):
        return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", value)) if "://" in value else value
    if isinstance(value, list):
        return [masked(item) for item in value]
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    return value


def shown(source: str) -> str:
    """Return a source without its possible secrets: user, password and query (presigned addresses)."""
    if not re.match(r"https?://", source):
        return str(masked(source))
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
