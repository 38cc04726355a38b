"""Call a component's function on real files, as a task would, without Kubeflow."""

import inspect
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.dsl.python_component import PythonComponent


def run(component: PythonComponent, out: Path, **inputs: Any) -> tuple[dict[str, Any], Any]:
    """Return the artifacts that the component wrote under `out`, by name, and what it returned."""
    ports = component.component_spec.outputs or {}
    written = {
        name: artifact(out / name, getattr(dsl, port.type.split("@")[0].removeprefix("system.")))
        for name, port in ports.items()
        if name in inspect.signature(component.python_func).parameters
    }
    return written, component.python_func(**inputs, **written)


def artifact(path: Path, kind: type[dsl.Artifact] = dsl.Artifact) -> dsl.Artifact:
    return kind(name=path.name, uri=str(path))
