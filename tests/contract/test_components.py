"""Rules that every component keeps; components are found by walking, so a new one is held to them at once."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kfp.dsl.python_component import PythonComponent

from backends import catalogue, package
from backends.kubeflow import overlay
from backends.vertex import document
from tests.contract import examples

ROOT = Path(__file__).parents[2]
COMPONENTS = catalogue.components()
REFERENCES = package.image_references("registry.example/team", "1.2.3")

every_component = pytest.mark.parametrize(
    ("name", "component"), [pytest.param(name, part, id=name) for name, part in COMPONENTS.items()]
)


def function_source(name: str, component: PythonComponent) -> ast.FunctionDef:
    file = ROOT / "components" / catalogue.stage(component) / f"{name}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert [function.name for function in functions] == [name]
    return functions[0]


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
    for port, details in {**(spec.inputs or {}), **(spec.outputs or {})}.items():
        assert details.description, f"{name}: {port} has no description"


@every_component
def test_has_a_test_of_its_own(name: str, component: PythonComponent) -> None:
    test = ROOT / "tests" / "components" / catalogue.stage(component) / f"test_{name}.py"
    assert f"{name}.python_func(" in test.read_text(encoding="utf-8")


@every_component
def test_is_a_step_of_a_pipeline_or_of_the_example_beside_its_test(
    name: str, component: PythonComponent
) -> None:
    # Its own example first: compiling all takes a while.
    runs = sorted([*examples.pipelines(), *examples.examples()], key=lambda run: run.name != name)
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
    assert not any(re.match(r"(kfp|components|targets|pickle|joblib|dill)\b", module) for module in imported)


@every_component
def test_has_no_optional_whole_number(name: str, component: PythonComponent) -> None:
    # kfp.local 2.17 turns a whole number that isn't given into int(None) and fails; 0 can mean "none".
    inputs = component.component_spec.inputs or {}
    assert not [
        port
        for port, spec in inputs.items()
        if spec.type == "Integer" and spec.optional and spec.default is None
    ]


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
