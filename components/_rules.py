"""Rules for components of this library; breaking one raises a one-line error at import."""

import ast
import inspect
from collections.abc import Callable, Mapping
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

# Resolved, because flowparts.components is a symbolic link in the repository.
_CONTAINERS = Path(__file__).resolve().parents[1] / "containers"
# Modules that a file may import at the top, because ports are declared with them.
_DECLARING = ("collections", "kfp", "typing")


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
    tree = ast.parse(Path(inspect.getsourcefile(function) or "").read_text(encoding="utf-8"))
    for name in _imported(tree, package):
        if name.partition(".")[0] not in _DECLARING and name != "flowparts.components":
            raise ValueError(
                f"{place} imports {name} at the top, which a step doesn't run; import it inside {file}"
            )
    for name in _assigned(tree):
        raise ValueError(
            f"{place} defines {name} outside of {file}, where a step that runs the function alone doesn't "
            f"find it; move it into {file}, or into a module of flowparts"
        )
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.annotation is parameter.empty:
            raise ValueError(f"{place}: parameter {name} has no type; write one, such as {name}: str")
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


def _imported(tree: ast.Module, package: str) -> list[str]:
    """Return the modules that a file imports at the top, by their absolute names."""
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return names + [resolve_name("." * node.level + (node.module or ""), package) for node in imported]


def _assigned(tree: ast.Module) -> list[str]:
    """Return the names of a file's constants and of its functions that aren't decorated."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names += [ast.unparse(target) for target in node.targets]
        elif isinstance(node, ast.AnnAssign):
            names.append(ast.unparse(node.target))
        elif isinstance(node, ast.FunctionDef) and not node.decorator_list:
            names.append(node.name)
    return names
