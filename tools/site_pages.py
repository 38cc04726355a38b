"""Generated pages of the site: the package reference and the index of the decision records."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flowparts

ROOT = Path(__file__).parents[1]
# Pages in no other group are in the last one.
_GROUPS = {
    "Start": ["getting-started", "concepts", "run", "troubleshooting"],
    "Write": ["authoring", "features", "tuning", "pytorch", "migrating"],
    "Compile and submit": ["compile", "images", "submit", "triggers", "kubeflow", "vertex"],
    "Serve, deploy, monitor": ["serve", "deploy", "kubernetes", "kserve", "sagemaker", "monitoring"],
    "Background": ["compatibility", "architecture"],
}


def grouped() -> dict[str, list[str]]:
    """Return the names of the pages in docs/, by job."""
    pages = {file.stem for file in (ROOT / "docs").glob("*.md")}
    groups = {group: [name for name in names if name in pages] for group, names in _GROUPS.items()}
    known = {name for names in groups.values() for name in names}
    groups["Background"] += sorted(pages - known)
    return groups


def decisions(folder: Path) -> str:
    """Return the index of the decision records by theme, as Markdown."""
    themes: dict[str, list[str]] = {}
    for file in sorted(folder.glob("[0-9]*.md")):
        found = re.search(r"^- Theme: (.+)$", file.read_text("utf-8"), re.MULTILINE)
        if not found:
            raise ValueError(f"the decision record {file.name} has no line '- Theme: ...'")
        themes.setdefault(found[1], []).append(file.stem)
    return "\n".join(
        f"```{{toctree}}\n:caption: {theme}\n:maxdepth: 1\n\n" + "\n".join(names) + "\n```\n"
        for theme, names in themes.items()
    )


def reference() -> dict[str, str]:
    """Return a Markdown page for each subpackage, by name.

    It has the classes, functions and constants in `__all__`, the modules that the documentation's snippets
    and the templates import, and the purpose of each public module.
    """
    shown = _imported_by_examples()
    pages = {}
    for room in _rooms():
        package = importlib.import_module(f"flowparts.{room}")
        parts = [f"# flowparts.{room}\n", inspect.getdoc(package) or "", ""]
        exported = [name for name in package.__all__ if not _is_module(getattr(package, name, None))]
        parts += [_directive(f"flowparts.{room}", name) for name in exported]
        modules = dict(_modules(Path(next(iter(package.__path__)))))
        for name in sorted(shown.get(room, set()) & modules.keys()):
            parts += [
                f"## flowparts.{room}.{name}\n",
                f"```{{eval-rst}}\n.. automodule:: flowparts.{room}.{name}\n   :members:\n```\n",
            ]
        if modules:
            parts += ["## Modules\n", "| module | purpose |", "|---|---|"]
            parts += [
                f"| `{name}` | {purpose.replace('|', chr(92) + '|')} |" for name, purpose in modules.items()
            ]
        pages[room] = "\n".join(parts) + "\n"
    return pages


def _rooms() -> list[str]:
    found = (module for module in pkgutil.iter_modules(flowparts.__path__) if module.ispkg)
    return sorted(room.name for room in found if room.name not in ("components", "pipelines"))


def _modules(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the public modules of a folder and the first line of their docstrings, without imports."""
    for file in sorted(folder.glob("*.py")):
        purpose = ast.get_docstring(ast.parse(file.read_text("utf-8")))
        if not file.stem.startswith("_") and purpose:
            yield file.stem, " ".join(purpose.partition("\n\n")[0].split())


def _imported_by_examples() -> dict[str, set[str]]:
    """Return for each subpackage the names that the pages' snippets and the templates import from it."""
    found: dict[str, set[str]] = {}
    for file in (*(ROOT / "docs").glob("*.md"), *(ROOT / "tools/templates").iterdir()):
        for room, names in re.findall(r"^ *from flowparts\.(\w+) import ([\w, ]+)$", file.read_text(), re.M):
            found.setdefault(room, set()).update(name.strip() for name in names.split(","))
    return found


def _is_module(exported: Any) -> bool:
    """Return whether an export of a package is one of its modules, which may not have been imported yet."""
    return exported is None or inspect.ismodule(exported)


def _directive(room: str, name: str) -> str:
    """Return the directive for an exported name, with its signature and docstring."""
    exported = getattr(importlib.import_module(room), name)
    if inspect.isclass(exported):
        kind, options = "autoclass", "   :members:\n"
    elif callable(exported):
        kind, options = "autofunction", ""
    else:
        # Sphinx would show the docstring of the value's type.
        kind, options = "py:data", f"   :value: {exported!r}\n"
    return f"```{{eval-rst}}\n.. {kind}:: {room}.{name}\n{options}```\n"
