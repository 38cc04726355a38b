"""What holds for the metadata of every artifact: a backend keeps it, and nothing depends on it."""

import ast
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl.python_component import PythonComponent

from backends import catalogue
from flowparts.util import metadata
from tests.contract.conftest import Recorded

COMPONENTS = catalogue.components()

every_component = pytest.mark.parametrize("name", list(COMPONENTS))


@every_component
def test_no_step_reads_or_writes_metadata_itself(name: str) -> None:
    component: PythonComponent = COMPONENTS[name]
    tree = ast.parse(inspect.getsource(component.python_func))
    used = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "metadata"
        and not (isinstance(node.value, ast.Name) and node.value.id == "models")
    ]
    assert not used, "read the artifact's files, and write with flowparts.util.metadata.describe"


@every_component
def test_metadata_is_short_and_what_every_backend_keeps(name: str, recorded: Recorded) -> None:
    outputs = recorded.step(name).executor_input["outputs"]
    ports = COMPONENTS[name].component_spec.outputs or {}
    written = json.loads(Path(outputs["outputFile"]).read_text()).get("artifacts", {})
    for port, artifacts in written.items():
        for artifact in artifacts["artifacts"]:
            if ports[port].type.startswith("system.ClassificationMetrics"):
                continue  # kfp's own format for curves, which no step takes as an input
            kept: dict[str, Any] = artifact["metadata"]
            assert all(isinstance(value, str | int | float | bool) for value in kept.values()), (port, kept)
            assert len(json.dumps(kept, allow_nan=False).encode()) <= metadata.MAX_BYTES
            assert "{{" not in json.dumps(kept)
