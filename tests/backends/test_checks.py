"""Each test breaks one thing in a valid document and expects the backend's refusal in words."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from kfp import dsl, kubernetes

from backends import package
from backends.kubeflow import overlay
from backends.vertex import document

IMAGE = {"base_image": "registry.example/python:3.11", "install_kfp_package": False}


@dsl.component(**IMAGE)
def produce() -> str:
    return "a"


@dsl.component(**IMAGE)
def consume(text: str) -> None:
    print(text)


@dsl.pipeline(name="small")
def small() -> None:
    consume(text=produce().output)


def compiled(pipeline: Any = small) -> dict[str, Any]:
    return package.documents(package.compiled(pipeline, str))[0]


def test_a_valid_document_passes_both_backends() -> None:
    text = yaml.safe_dump(compiled())
    overlay.check(text)
    document.check(text)


def set_name(spec: dict[str, Any]) -> None:
    spec["pipelineInfo"]["name"] = "Small_Pipeline"


def set_long_name(spec: dict[str, Any]) -> None:
    spec["pipelineInfo"]["name"] = "a" * 114


def set_schema_version(spec: dict[str, Any]) -> None:
    spec["schemaVersion"] = "2.0.0"


def add_unknown_field(spec: dict[str, Any]) -> None:
    spec["root"]["dag"]["custom_path"] = "x"


def add_unknown_executor_field(spec: dict[str, Any]) -> None:
    spec["deploymentSpec"]["executors"]["exec-produce"]["container"]["imagee"] = "x"


def remove_component(spec: dict[str, Any]) -> None:
    del spec["components"]["comp-produce"]


def remove_executor(spec: dict[str, Any]) -> None:
    del spec["deploymentSpec"]["executors"]["exec-produce"]


def remove_producer(spec: dict[str, Any]) -> None:
    del spec["root"]["dag"]["tasks"]["produce"]


def remove_tasks(spec: dict[str, Any]) -> None:
    spec["root"]["dag"]["tasks"] = {}


def unpin_image(spec: dict[str, Any]) -> None:
    spec["deploymentSpec"]["executors"]["exec-produce"]["container"]["image"] = "registry.example:5000/python"


def latest_image(spec: dict[str, Any]) -> None:
    spec["deploymentSpec"]["executors"]["exec-produce"]["container"]["image"] = "team/python:latest"


def empty_variable(spec: dict[str, Any]) -> None:
    container = spec["deploymentSpec"]["executors"]["exec-produce"]["container"]
    container["env"] = [{"name": "EMPTY", "value": ""}]


def large_default(spec: dict[str, Any]) -> None:
    spec["root"]["inputDefinitions"] = {
        "parameters": {"text": {"parameterType": "STRING", "defaultValue": "x" * 10_001}}
    }


def not_a_number(spec: dict[str, Any]) -> None:
    spec["root"]["inputDefinitions"] = {
        "parameters": {"rates": {"parameterType": "LIST", "defaultValue": [0.5, float("inf")]}}
    }


def large_document(spec: dict[str, Any]) -> None:
    spec["deploymentSpec"]["executors"]["exec-produce"]["container"]["args"].append("x" * 700_000)


def not_ascii(spec: dict[str, Any]) -> None:
    spec["pipelineInfo"]["description"] = "größer"


def loop_over_artifacts(spec: dict[str, Any]) -> None:
    spec["root"]["dag"]["tasks"]["consume"]["artifactIterator"] = {
        "itemInput": "x",
        "items": {"inputArtifact": "y"},
    }


@pytest.mark.parametrize(
    ("breakage", "sentence"),
    [
        (set_name, "must start with a letter"),
        (set_long_name, "at most 113"),
        (set_schema_version, r"schemaVersion must be 2\.1\.0"),
        (add_unknown_field, "not a valid pipeline specification"),
        (add_unknown_executor_field, "not a valid pipeline specification"),
        (remove_component, "names 'comp-produce', which does not exist"),
        (remove_executor, "names the executor 'exec-produce', which does not exist"),
        (remove_producer, "waits for 'produce', which is not in its group"),
        (remove_tasks, "has no task"),
        (unpin_image, "fixed version or a digest"),
        (latest_image, "fixed version or a digest"),
        (empty_variable, "sets EMPTY to nothing"),
        (large_default, "'text' takes 10,00"),
        (not_a_number, "the default of 'rates' is NaN or infinite"),
        (large_document, "a workflow may take 700,000"),
        (not_ascii, "'ö' is not ASCII"),
        (loop_over_artifacts, "loops over artifacts"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
@pytest.mark.parametrize("check", [overlay.check, document.check], ids=["kubeflow", "vertex"])
def test_a_refusal_gives_a_one_line_error(
    breakage: Callable[[dict[str, Any]], None], sentence: str, check: Callable[[str], None]
) -> None:
    spec = copy.deepcopy(compiled())
    breakage(spec)
    with pytest.raises(ValueError, match=sentence):
        check(yaml.safe_dump(spec, allow_unicode=True))


def test_a_loop_inside_an_exit_handler_is_refused() -> None:
    @dsl.pipeline(name="handled")
    def handled() -> None:
        with dsl.ExitHandler(produce()), dsl.ParallelFor(["a", "b"]) as text:
            consume(text=text)

    with pytest.raises(ValueError, match="holds a ParallelFor"):
        overlay.check(yaml.safe_dump(compiled(handled)))


def test_an_importer_inside_a_loop_is_refused() -> None:
    @dsl.component(**IMAGE)
    def read(data: dsl.Input[dsl.Dataset]) -> None:
        print(data.uri)

    @dsl.pipeline(name="looped")
    def looped() -> None:
        with dsl.ParallelFor(["a", "b"]):
            read(data=dsl.importer(artifact_uri="gs://b/x", artifact_class=dsl.Dataset).output)

    with pytest.raises(ValueError, match="holds an importer"):
        overlay.check(yaml.safe_dump(compiled(looped)))


@dsl.pipeline(name="with-secret")
def with_secret() -> None:
    kubernetes.use_secret_as_env(produce(), "credentials", {"password": "PASSWORD"})


def test_vertex_refuses_a_second_document_and_kubeflow_takes_it() -> None:
    text = package.compiled(with_secret, str)
    overlay.check(text)
    with pytest.raises(ValueError, match="a single document"):
        document.check(text)


def test_kubeflow_refuses_unknown_kubernetes_settings() -> None:
    text = package.compiled(with_secret, str).replace("secretName:", "secretNaame:")
    with pytest.raises(ValueError, match="Kubernetes settings of exec-produce are not valid"):
        overlay.check(text)


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({"cpuLimit": 128.0}, "128 CPUs"),
        ({"memoryLimit": 700.0}, "700 GB"),
        ({"accelerator": {"resourceType": "nvidia.com/gpu", "resourceCount": "1"}}, "a Kubernetes name"),
    ],
    ids=["cpu", "memory", "accelerator"],
)
def test_vertex_refuses_resources_it_does_not_have(resources: dict[str, Any], sentence: str) -> None:
    spec = compiled()
    spec["deploymentSpec"]["executors"]["exec-produce"]["container"]["resources"] = resources
    with pytest.raises(ValueError, match=sentence):
        document.check(yaml.safe_dump(spec))
