"""How components and pipelines are run for the contract tests: the test of each says so itself.

A pipeline runs with its default parameters. Its test module may have

- `RUNS`: a list of other parameters, one run each;
- `ON_A_CLUSTER`: parameters for the strict runner, where there is no Docker engine;
- `AFTER`: the pipelines whose results it needs.

A component runs as a step of a pipeline. Where no pipeline of the library has it, its test module has one,
in a function whose name starts with `example`.

What needs a service names it: as a parameter of the example, or in braces in RUNS, such as
"{outside}/rows.csv". conftest.py and test_strict.py say what there is; what needs something else is left out.
"""

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

from kfp.dsl.base_component import BaseComponent

from backends import catalogue, package

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """A pipeline with parameters.

    Attributes:
        name: The pipeline's name in the catalogue; for an example, that of the component it stands with.
        pipeline: What is run.
        parameters: What it is run with; texts may hold {NEED}.
    """

    name: str
    pipeline: BaseComponent
    parameters: Mapping[str, Any]

    @property
    def is_example(self) -> bool:
        return self.name not in catalogue.pipelines()

    @property
    def needs(self) -> set[str]:
        """What it needs beside this library, by name."""
        inputs = self.pipeline.component_spec.inputs or {}
        asked = {name for name, spec in inputs.items() if not spec.optional}
        texts = [value for value in self.parameters.values() if isinstance(value, str)]
        return asked.union(*(re.findall(r"\{(\w+)\}", text) for text in texts))

    @cached_property
    def components(self) -> set[str]:
        """The components that are steps of the pipeline."""
        spec = package.documents(package.compiled(self.pipeline, lambda name: f"registry/{name}:1", "1"))[0]
        executors = spec["deploymentSpec"]["executors"].values()
        return {executor["container"]["command"][3] for executor in executors if "container" in executor}

    def filled(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Return the parameters with what is given for the needs."""
        texts = {
            name: value.format_map(given) if isinstance(value, str) else value
            for name, value in self.parameters.items()
        }
        inputs = self.pipeline.component_spec.inputs or {}
        return {name: value for name, value in given.items() if name in inputs} | texts


def test_module(folder: str, name: str) -> ModuleType | None:
    """Import the test of a component or pipeline, if there is one."""
    file = ROOT / "tests" / folder / f"test_{name}.py"
    return importlib.import_module(f"tests.{folder.replace('/', '.')}.test_{name}") if file.exists() else None


@cache
def pipelines(on_a_cluster: bool = False) -> list[Run]:
    """Return the runs of every pipeline, those that others need first."""
    modules = {name: test_module("pipelines", name) for name in catalogue.pipelines()}
    order = TopologicalSorter({name: getattr(module, "AFTER", ()) for name, module in modules.items()})
    order.prepare()
    runs: list[Run] = []
    while ready := sorted(order.get_ready()):
        order.done(*ready)
        for name in ready:
            if on_a_cluster:
                chosen = [getattr(modules[name], "ON_A_CLUSTER", {})]
            else:
                chosen = getattr(modules[name], "RUNS", [{}])
            runs += [Run(name, catalogue.pipelines()[name], parameters) for parameters in chosen]
    return runs


@cache
def examples() -> list[Run]:
    """Return the examples beside the tests of components."""
    return [run for name in catalogue.components() for run in examples_beside(name)]


@cache
def examples_beside(name: str) -> list[Run]:
    """Return the examples beside the test of a component."""
    folder = f"components/{catalogue.stage(catalogue.components()[name])}"
    file = ROOT / "tests" / folder / f"test_{name}.py"
    # Importing every test takes a while.
    if not file.exists() or not re.search(r"^def example", file.read_text("utf-8"), re.MULTILINE):
        return []
    parts = vars(test_module(folder, name))
    return [Run(name, parts[key], {}) for key in sorted(parts) if key.startswith("example")]


def candidates(component: str) -> Iterator[Run]:
    """Yield the runs that may have a component as a step, those first that are known at little cost."""
    yield from examples_beside(component)
    yield from _shipped()
    yield from examples()


@cache
def _shipped() -> list[Run]:
    """Return every pipeline of the library once, without its test's parameters."""
    return [Run(name, pipeline, {}) for name, pipeline in catalogue.pipelines().items()]


def missing(component: str) -> str:
    """Say what to do for a component that nothing runs."""
    stage = catalogue.stage(catalogue.components()[component])
    return (
        f"nothing runs {component}: give tests/components/{stage}/test_{component}.py a pipeline `example` "
        "that has it as a step"
    )
