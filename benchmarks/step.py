"""Run a component on real files without Kubeflow: as a task's process, or by calling its function."""

import inspect
import json
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.dsl.python_component import PythonComponent


def command(component: PythonComponent, out: Path, **inputs: Any) -> list[str]:
    """Return the command line of a task that writes its outputs under `out`."""
    container = component.component_spec.implementation.container
    assert container
    given = {name: value for name, value in inputs.items() if isinstance(value, dsl.Artifact)}
    written = outputs(component, out)
    returned = set(component.component_spec.outputs or {}) - set(written)
    executor_input = {
        "inputs": {
            "parameterValues": {name: value for name, value in inputs.items() if name not in given},
            "artifacts": {name: described(value) for name, value in given.items()},
        },
        "outputs": {
            "parameters": {name: {"outputFile": str(out / name)} for name in returned},
            "artifacts": {name: described(value) for name, value in written.items()},
            "outputFile": str(out / "executor_output.json"),
        },
    }
    words = [*container.command, *container.args]
    return [json.dumps(executor_input) if word == "{{$}}" else word for word in words]


def run(component: PythonComponent, out: Path, **inputs: Any) -> tuple[dict[str, Any], Any]:
    """Call the function; return the artifacts that it wrote under `out`, by name, and what it returned."""
    written = outputs(component, out)
    return written, component.python_func(**inputs, **written)


def outputs(component: PythonComponent, out: Path) -> dict[str, dsl.Artifact]:
    ports = component.component_spec.outputs or {}
    parameters = inspect.signature(component.python_func).parameters
    return {
        name: artifact(out / name, getattr(dsl, port.type.split("@")[0].removeprefix("system.")))
        for name, port in ports.items()
        if name in parameters
    }


def artifact(path: Path, kind: type[dsl.Artifact] = dsl.Artifact) -> dsl.Artifact:
    return kind(name=path.name, uri=str(path))


def described(value: dsl.Artifact) -> dict[str, Any]:
    about = {"name": value.name, "uri": value.uri, "type": {"schemaTitle": value.schema_title}}
    return {"artifacts": [about]}
