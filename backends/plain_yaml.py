"""YAML as people expect it: `no` is text, 1e-05 a number, 2024-01-01 text; non-JSON values are refused."""

import math
import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Resolves scalars by the JSON schema of YAML 1.2, but parses all of YAML 1.1."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    # Numbers with a leading zero are codes.
    "int": r"-?(?:0|[1-9][0-9]*)",
    "float": r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|-?\.[0-9]+(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None)


def load(text: str) -> Any:
    """Parse YAML or JSON; keys of mappings are text.

    Raises:
        ValueError: It isn't YAML, or has values that JSON lacks: infinity, NaN, sets, tags.
    """
    try:
        return _plain(yaml.load(text, _Loader))  # noqa: S506 it's a SafeLoader
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_key(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"it holds {value}, which isn't a JSON number; quote it if it is text")
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"it holds a {type(value).__name__}, which JSON doesn't have; write it in quotes")


def _key(key: Any) -> str:
    if isinstance(key, bool) or not isinstance(key, str | int | float):
        raise ValueError(f"it has the key {key!r}; write it in quotes")
    return str(key)
