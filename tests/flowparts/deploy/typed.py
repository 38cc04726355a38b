"""Checks a manifest by the typed models of an OpenAPI client: unknown fields and other types are refused.

The clients' own deserializers pass over what they don't know. Run as a script, it reads a manifest from
standard input and takes its kind and the models' modules as arguments, so that a client in an environment of
its own can check.
"""

import datetime
import json
import re
import sys
from types import ModuleType
from typing import Any

# By the clients' names of them; an IntOrString and a quantity are objects to them.
PLAIN: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def check_typed(manifest: dict[str, Any], kind: str, *clients: ModuleType) -> str:
    """Raise TypeError unless a manifest fits its model; return the model's name.

    Args:
        manifest: What would be applied.
        kind: Its kind.
        clients: Modules with models, the first that has one of that name counts; the Kubernetes client's if
            none.
    """
    if not clients:
        from kubernetes import client

        clients = (client,)
    version = manifest["apiVersion"].rpartition("/")[2]
    name = f"{version[0].upper()}{version[1:]}{kind}"
    _check(manifest, name, kind, clients)
    return name


def _check(value: Any, wanted: str, where: str, clients: tuple[ModuleType, ...]) -> None:
    if match := re.fullmatch(r"[lL]ist\[(.+)\]", wanted):
        _require(isinstance(value, list), value, wanted, where)
        for number, entry in enumerate(value):
            _check(entry, match[1], f"{where}[{number}]", clients)
    elif match := re.fullmatch(r"(?:dict\(|Dict\[)str, (.+)[)\]]", wanted):
        _require(isinstance(value, dict), value, wanted, where)
        for key, entry in value.items():
            _check(entry, match[1], f"{where}.{key}", clients)
    elif wanted in PLAIN:
        _require(
            isinstance(value, PLAIN[wanted]) and not (wanted == "int" and value is True), value, wanted, where
        )
    elif wanted == "datetime":
        datetime.datetime.fromisoformat(value)
    elif model := next((getattr(of, wanted) for of in clients if hasattr(of, wanted)), None):
        _require(isinstance(value, dict), value, wanted, where)
        types = {name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()}
        for key, entry in value.items():
            if key not in types:
                raise TypeError(f"{where}: {wanted} has no field {key}")
            _check(entry, types[key], f"{where}.{key}", clients)
    else:
        raise TypeError(f"{where}: the client has no model {wanted}")


def _require(fits: bool, value: Any, wanted: str, where: str) -> None:
    if not fits:
        raise TypeError(f"{where}: {value!r} is not {wanted}")


if __name__ == "__main__":
    import importlib

    kind, *names = sys.argv[1:]
    print(check_typed(json.load(sys.stdin), kind, *map(importlib.import_module, names)))
