"""Checks a manifest by the typed models of an OpenAPI client: unknown fields and other types are refused.

The clients' own deserializers pass over what they don't know. Run as a script, it reads a manifest from standard
input and takes the models' module and the class as arguments, so that a client in an environment of its own can check.
"""

import datetime
import json
import re
import sys
from types import ModuleType
from typing import Any

# By the clients' names of them; an IntOrString and a quantity are objects to them.
PLAIN: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def check_typed(manifest: dict[str, Any], kind: str, models: Any = None) -> str:
    """Raise TypeError unless a manifest fits its model; return the model's name."""
    if models is None:
        from kubernetes import client as models
    version = manifest["apiVersion"].rpartition("/")[2]
    name = f"{version[0].upper()}{version[1:]}{kind}"
    _check(manifest, name, kind, models)
    return name


def _check(value: Any, wanted: str, where: str, models: ModuleType) -> None:
    if match := re.fullmatch(r"list\[(.+)\]", wanted):
        _require(isinstance(value, list), value, wanted, where)
        for number, entry in enumerate(value):
            _check(entry, match[1], f"{where}[{number}]", models)
    elif match := re.fullmatch(r"dict\(str, (.+)\)", wanted):
        _require(isinstance(value, dict), value, wanted, where)
        for key, entry in value.items():
            _check(entry, match[1], f"{where}.{key}", models)
    elif wanted in PLAIN:
        _require(
            isinstance(value, PLAIN[wanted]) and not (wanted == "int" and value is True), value, wanted, where
        )
    elif wanted == "datetime":
        datetime.datetime.fromisoformat(value)
    elif hasattr(models, wanted):
        model = getattr(models, wanted)
        _require(isinstance(value, dict), value, wanted, where)
        types = {name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()}
        for key, entry in value.items():
            if key not in types:
                raise TypeError(f"{where}: {wanted} has no field {key}")
            _check(entry, types[key], f"{where}.{key}", models)
    else:
        raise TypeError(f"{where}: the client has no model {wanted}")


def _require(fits: bool, value: Any, wanted: str, where: str) -> None:
    if not fits:
        raise TypeError(f"{where}: {value!r} is not {wanted}")


if __name__ == "__main__":
    import importlib

    module, kind = sys.argv[1:]
    print(check_typed(json.load(sys.stdin), kind, importlib.import_module(module)))
