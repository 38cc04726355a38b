"""Rules that every component keeps; components are discovered, so a new one must keep them, too."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.python_component import PythonComponent
from kfp.dsl.structures import InputSpec, OutputSpec

from backends import catalogue, package
from backends.kubeflow import overlay
from backends.vertex import document
from tests.contract import examples

ROOT = Path(__file__).parents[2]
COMPONENTS = catalogue.components()
REFERENCES = package.image_references("registry.example/team", "1.2.3")

PARTS: dict[str, BaseComponent] = {**COMPONENTS, **catalogue.pipelines()}

every_component = pytest.mark.parametrize(
    ("name", "component"), [pytest.param(name, part, id=name) for name, part in COMPONENTS.items()]
)


def function_source(name: str, component: PythonComponent) -> ast.FunctionDef:
    file = ROOT / "components" / catalogue.stage(component) / f"{name}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert [function.name for function in functions] == [name]
    return functions[0]


def ports(part: BaseComponent) -> dict[str, InputSpec | OutputSpec]:
    return {**(part.component_spec.inputs or {}), **(part.component_spec.outputs or {})}


@every_component
def test_file_holds_one_function_of_its_name_with_a_short_body(name: str, component: PythonComponent) -> None:
    function = function_source(name, component)
    docstring, *body = function.body
    assert isinstance(docstring, ast.Expr)
    told = [statement for statement in body if not isinstance(statement, ast.Import | ast.ImportFrom)]
    assert told[-1].end_lineno - told[0].lineno < 50


@every_component
def test_every_port_is_described(name: str, component: PythonComponent) -> None:
    spec = component.component_spec
    assert spec.description
    ports: dict[str, Any] = {**(spec.inputs or {}), **(spec.outputs or {})}
    for port, details in ports.items():
        assert details.description, f"{name}: {port} has no description"


@every_component
def test_has_a_test_of_its_own(name: str, component: PythonComponent) -> None:
    test = ROOT / "tests" / "components" / catalogue.stage(component) / f"test_{name}.py"
    assert f"{name}.python_func(" in test.read_text(encoding="utf-8")


@every_component
def test_is_a_step_of_a_pipeline_or_of_the_example_beside_its_test(
    name: str, component: PythonComponent
) -> None:
    runs = examples.candidates(name)
    assert any(name in run.components for run in runs), examples.missing(name)


@every_component
def test_body_uses_no_authoring_api_and_no_pickle(name: str, component: PythonComponent) -> None:
    function = function_source(name, component)
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    forbidden = re.compile(r"(kfp|flowparts\.(components|pipelines)|backends|tools|pickle|joblib|dill)\b")
    assert not any(map(forbidden.match, imported))


@every_component
def test_says_not_given_as_all_do(name: str, component: PythonComponent) -> None:
    inputs = component.component_spec.inputs or {}
    empty = [port for port, spec in inputs.items() if spec.default in ("", {}, [])]
    assert not empty, f"{name}: {', '.join(empty)} must have the type Optional[...] and the default None"
    # kfp.local 2.17 turns a whole number that isn't given into int(None) and fails.
    absent = [
        port
        for port, spec in inputs.items()
        if spec.type == "Integer" and spec.optional and spec.default is None
    ]
    assert not absent, f"{name}: {', '.join(absent)} can't be None; write -1 for a whole number not given"


@pytest.mark.parametrize(("name", "part"), PARTS.items(), ids=PARTS)
def test_parts_of_a_whole_are_fractions(name: str, part: BaseComponent) -> None:
    for port, spec in ports(part).items():
        assert not re.search(r"percent|share", port), f"{name}: give {port} as a fraction, named so"
        if port.endswith("fraction"):
            assert spec.type == "Float", f"{name}: {port} must be a float"
            assert 0 <= (getattr(spec, "default", None) or 0.0) <= 1


def test_ports_of_one_name_have_one_type_everywhere() -> None:
    # A pipeline has no input artifacts: there the parameter `log` is the address of what `log` is in a step.
    found: dict[tuple[str, bool], dict[str, str]] = {}
    for name, part in PARTS.items():
        for port, spec in ports(part).items():
            kind = re.sub(r"\[.*|@.*", "", spec.type)
            found.setdefault((port, "." in kind), {}).setdefault(kind, name)
    assert not {port: kinds for port, kinds in found.items() if len(kinds) > 1}


def test_options_of_deployment_have_one_name_everywhere() -> None:
    for name, part in PARTS.items():
        other = {"target", "name", "options", "deployment_target", "endpoint_options"} & ports(part).keys()
        assert not other, f"{name}: name {other} deploy_target, endpoint_name, deploy_options"


@every_component
def test_takes_no_secret_as_a_parameter(name: str, component: PythonComponent) -> None:
    secret = re.compile(r"password|passwd|secret|token|credential|api_key|access_key")
    assert not [port for port in component.component_spec.inputs or {} if secret.search(port)]


@every_component
@pytest.mark.parametrize("check", [overlay.check, document.check], ids=["kubeflow", "vertex"])
def test_compiles_to_yaml_that_the_backend_takes(
    name: str, component: PythonComponent, check: object
) -> None:
    text = package.compiled(component, REFERENCES, "1.2.3")
    assert re.search(r"image: registry\.example/team/flowparts-[a-z]+:1\.2\.3$", text, re.MULTILINE)
    assert "pip install" not in text
    check(text)
    # What is looked for in the source shows only where it is embedded.
    check(package.compiled(component, REFERENCES))


def test_compiles_to_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    def compiled(folder: Path, hash_seed: str) -> dict[str, bytes]:
        subprocess.run(
            [sys.executable, "compile.py", "--out", str(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        )
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.yaml")}

    first, second = compiled(tmp_path / "a", "1"), compiled(tmp_path / "b", "2")
    assert len(first) == len(COMPONENTS) + 2 * len(catalogue.pipelines())
    assert first == second
