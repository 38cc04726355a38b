"""Discover all components and pipelines in their folders; nothing is listed by hand."""

import importlib
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from kfp.dsl.base_component import BaseComponent
from kfp.dsl.python_component import PythonComponent

import flowparts.components as components_package
import flowparts.pipelines as pipelines_package
from flowparts.util.errors import first_line
from flowparts.util.names import unknown


def components() -> dict[str, PythonComponent]:
    """Return all components by name; their folder is the lifecycle stage."""
    return _walk(components_package, "*/*.py")


def pipelines() -> dict[str, BaseComponent]:
    """Return all pipelines by name."""
    return _walk(pipelines_package, "*.py")


def pipeline(name: str) -> BaseComponent:
    """Return a pipeline by name, with hyphens or underscores.

    Raises:
        ValueError: There is no such pipeline; the message suggests a similar one.
    """
    return find(name, pipelines(), "pipeline")


def find(name: str, among: dict[str, BaseComponent], kind: str) -> BaseComponent:
    """Return the component or pipeline of that name, or raise ValueError with a suggestion."""
    key = name.replace("-", "_")
    if key not in among:
        raise ValueError(unknown(kind, name, list(among)))
    return among[key]


def stage(component: PythonComponent) -> str:
    """Return a component's folder, its stage: ingest, validate, prepare, train and so on."""
    return component.python_func.__module__.split(".")[-2]


def imported(module: str, file: Path) -> ModuleType:
    """Return the module of a component or pipeline.

    Args:
        module: Its name.
        file: Its file.

    Raises:
        ValueError: It can't be imported, or breaks a rule; the message names the line of the file.
    """
    try:
        return importlib.import_module(module)
    except ValueError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
        if isinstance(error, SyntaxError) and Path(error.filename or "").resolve() == file.resolve():
            lines = [error.lineno]
        where = f"{file.name}, line {lines[-1]}" if lines else file.name
        raise ValueError(f"{where}: {type(error).__name__}: {first_line(error)}") from error


def _walk(package: ModuleType, pattern: str) -> dict[str, Any]:
    folder = Path(package.__path__[0])
    found = {}
    for file in sorted(folder.glob(pattern)):
        if file.stem.startswith("_"):
            continue
        place, kind = file.relative_to(folder.parent), package.__name__.rpartition(".")[2].removesuffix("s")
        module = ".".join((package.__name__, *file.relative_to(folder).with_suffix("").parts))
        part = getattr(imported(module, file), file.stem, None)
        if not isinstance(part, BaseComponent):
            raise ValueError(
                f"{place} has no {kind} named {file.stem}; name it like its file, and decorate it"
            )
        if kind == "pipeline":
            _check_pipeline(part, place)
        found[file.stem] = part
    return found


def _check_pipeline(part: BaseComponent, place: Path) -> None:
    """Raise ValueError if a pipeline isn't named like its file, or lacks a default or a description."""
    name = place.stem.replace("_", "-")
    if part.component_spec.name != name:
        raise ValueError(
            f"{place}: the pipeline is named {part.component_spec.name!r}; name it {name!r}, like its file"
        )
    for parameter, details in (part.component_spec.inputs or {}).items():
        if not details.description:
            raise ValueError(
                f"{place}: no description of {parameter}; add a line to the docstring, under Args:"
            )
        if not details.optional:
            raise ValueError(f"{place}: {parameter} has no default; give it one")
