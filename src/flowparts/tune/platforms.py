"""The platforms whose tuners suggest and run trials, by name."""

import importlib
from collections.abc import Mapping
from typing import Any

from flowparts.deploy import options
from flowparts.tune.remote import Platform
from flowparts.util.names import unknown

# Imported on demand, since each needs its client library.
_CLASSES = {"katib": ("flowparts.tune.katib", "Katib"), "vertex": ("flowparts.tune.vertex", "Vertex")}


def platform(name: str, given: Mapping[str, Any]) -> Platform:
    """Return a platform with its options.

    Raises:
        ValueError: There is no such platform, or an option is unknown or can't be used.
    """
    if name not in _CLASSES:
        raise ValueError(unknown("platform", name, list(_CLASSES)))
    module, kind = _CLASSES[name]
    found = getattr(importlib.import_module(module), kind)
    made: Platform = found(**options.checked(name, found, given))
    return made
