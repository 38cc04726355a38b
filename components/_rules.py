"""What makes a function a component of this library; a mistake is one sentence as soon as it is imported."""

import ast
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Resolved: flowparts.components is a link in the repository.
_CONTAINERS = Path(__file__).resolve().parents[1] / "containers"
# What a file may import outside of its function: what ports are declared with.
_DECLARING = ("collections", "flowparts.components", "kfp", "typing")


def check_image(image: str, released: Mapping[str, str]) -> None:
    """Raise ValueError unless there is an image of that name.

    Args:
        image: Its key, such as "base" or "tensorflow-gpu".
        released: References of the images by name, in a released distribution; empty in the repository,
            where a folder under containers/ is an image.
    """
    known = {name.removeprefix("flowparts-") for name in released} or _in_repository()
    if known and image not in known:
        raise ValueError(f"there is no image {image!r}; images are: {', '.join(sorted(known))}")


def check_file(function: Callable[..., Any]) -> None:
    """Raise ValueError unless a function and its file keep to what every component does.

    Functions outside of components/ may be as they like.
    """
    package, _, file = function.__module__.rpartition(".")
    if "components" not in package.split("."):
        return
    place = f"components/{package.rpartition('.')[2]}/{file}.py"
    if function.__name__ != file:
        raise ValueError(f"{place}: the function is named {function.__name__}; name it {file}, as its file")
    for name in _imported(inspect.getsourcefile(function)):
        if not f"{name}.".startswith(tuple(f"{declaring}." for declaring in _DECLARING)):
            raise ValueError(
                f"{place} imports {name.partition('.')[0]} at the top, where a step doesn't have it; "
                f"import it inside {file}"
            )
    returned = function.__annotations__.get("return")
    if returned is not None and not hasattr(returned, "_fields"):
        raise ValueError(
            f"{place}: its output has no name; write "
            f'-> NamedTuple("Outputs", [("rows", int)]) and return (rows,)'
        )


def check_described(function: Callable[..., Any], ports: Mapping[str, Any]) -> None:
    """Raise ValueError if a port of a component of this library has no description."""
    missing = [name for name, port in ports.items() if not port.description]
    if missing and "components" in function.__module__.split(".")[:-1]:
        raise ValueError(
            f"{function.__name__}: {', '.join(missing)} has no description; add a line for it to the "
            "docstring, under Args: or Returns:"
        )


def _in_repository() -> set[str]:
    asked = [file for folder in _CONTAINERS.glob("*/Dockerfile") for file in folder.parent.glob("*.in")]
    return {f"{file.parent.name}{file.stem.removeprefix('requirements')}" for file in asked}


def _imported(file: str | None) -> list[str]:
    tree = ast.parse(Path(file).read_text(encoding="utf-8")) if file else ast.Module([], [])
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) if not node.level]
    return names
