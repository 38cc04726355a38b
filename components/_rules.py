"""Rules for components of this library; breaking one raises a one-line error at import."""

import ast
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Resolved, because flowparts.components is a symbolic link in the repository.
_CONTAINERS = Path(__file__).resolve().parents[1] / "containers"
# Modules that a file may import at the top, because ports are declared with them.
_DECLARING = ("collections", "flowparts.components", "kfp", "typing")


def check_image(image: str, released: Mapping[str, str]) -> None:
    """Raise ValueError unless an image of that name exists.

    Args:
        image: The image's key, such as "base" or "tensorflow-gpu".
        released: References of the images by name, in a released distribution; empty in the repository,
            where each folder under containers/ is an image.
    """
    known = {name.removeprefix("flowparts-") for name in released} or _in_repository()
    if known and image not in known:
        raise ValueError(f"there is no image {image!r}; images are: {', '.join(sorted(known))}")


def check_file(function: Callable[..., Any]) -> None:
    """Raise ValueError unless a function and its file follow the rules for components.

    The rules don't apply outside of components/.
    """
    package, _, file = function.__module__.rpartition(".")
    if "components" not in package.split("."):
        return
    place = f"components/{package.rpartition('.')[2]}/{file}.py"
    if function.__name__ != file:
        raise ValueError(f"{place}: the function is named {function.__name__}; name it {file}, like its file")
    for name in _imported(inspect.getsourcefile(function)):
        if not f"{name}.".startswith(tuple(f"{declaring}." for declaring in _DECLARING)):
            raise ValueError(
                f"{place} imports {name.partition('.')[0]} at the top, which a step doesn't run; "
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
            f"{function.__name__}: no description of {', '.join(missing)}; add a line for each to the "
            "docstring, under Args: or Returns:"
        )


def _in_repository() -> set[str]:
    asked = _CONTAINERS.glob("*/requirements*.in")
    return {f"{file.parent.name}{file.stem.removeprefix('requirements')}" for file in asked}


def _imported(file: str | None) -> list[str]:
    tree = ast.parse(Path(file).read_text(encoding="utf-8")) if file else ast.Module([], [])
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) if not node.level]
    return names
