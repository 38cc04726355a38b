"""Each package says in `__all__` what other packages may import from it."""

import ast
import importlib
import importlib.util
from functools import cache
from pathlib import Path

import pytest

import flowparts

_ROOT = Path(__file__).parents[2]
_SOURCE = _ROOT / "src" / "flowparts"
# What components, pipelines and backends import counts, too.
_FILES = [
    file
    for folder in (_SOURCE, *(_ROOT / name for name in ("components", "pipelines", "backends", "tools")))
    for file in folder.rglob("*.py")
]
PACKAGES = sorted(
    file.parent.name
    for file in _SOURCE.glob("*/__init__.py")
    if file.parent.name not in ("components", "pipelines")
)


@cache
def _imported() -> dict[str, set[str]]:
    """Return for each package the names that files outside of it import from it."""
    found: dict[str, set[str]] = {package: set() for package in PACKAGES}
    for file in _FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.level:
                continue
            first, second, *rest = [*(node.module or "").split("."), ""]
            if first == flowparts.__name__ and second in found and _SOURCE / second not in file.parents:
                found[second] |= {rest[0]} if rest[0] else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_exports_what_others_import(package: str) -> None:
    module = importlib.import_module(f"flowparts.{package}")
    assert module.__doc__
    assert _imported()[package] <= set(module.__all__)
    assert not [name for name in module.__all__ if name.startswith("_")]
    for name in module.__all__:
        assert hasattr(module, name) or importlib.util.find_spec(f"flowparts.{package}.{name}"), name
