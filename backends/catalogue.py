"""Discover all components and pipelines in their folders; nothing is listed by hand."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from kfp.dsl.base_component import BaseComponent
from kfp.dsl.python_component import PythonComponent

import flowparts.components as components_package
import flowparts.pipelines as pipelines_package
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


def _walk(package: ModuleType, pattern: str) -> dict[str, Any]:
    folder = Path(package.__path__[0])
    found = {}
    for file in sorted(folder.glob(pattern)):
        if file.stem.startswith("_"):
            continue
        module = ".".join((package.__name__, *file.relative_to(folder).with_suffix("").parts))
        part = getattr(importlib.import_module(module), file.stem, None)
        if not isinstance(part, BaseComponent):
            place, kind = (
                file.relative_to(folder.parent),
                package.__name__.rpartition(".")[2].removesuffix("s"),
            )
            raise ValueError(
                f"{place} has no {kind} named {file.stem}; name it like its file, and decorate it"
            )
        found[file.stem] = part
    return found
