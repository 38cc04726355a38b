"""The formulas against what was measured on Kubeflow Pipelines 2.17.0 with its stock settings.

Measured are workflow objects of three pipelines of this repository as they were, with their source embedded.
"""

import json

import pytest
from kfp import dsl
from kfp.dsl import HTML, Dataset, Metrics, Output

from backends import package
from backends.kubeflow import workflow_size

# Bytes of the components, containers, tasks and Kubernetes settings quoted; tasks; groups; bytes of the spec.
SPECIFICATIONS = {
    "tabular-training": (229_163, 55, 26, 301_755),
    "image-training": (157_442, 40, 18, 211_376),
    "deploy-with-canary": (73_886, 26, 13, 108_274),
}
# Bytes of the pod-spec-patches, one of each step; of specifications; nodes; bytes of all nodes.
STATUSES = {
    "tabular-training": (143_820, 171_246, 172, 1_551_915),
    "image-training": (83_793, 87_953, 82, 855_933),
    "deploy-with-canary": (80_170, 77_779, 103, 844_372),
}
# Bytes of the executor input, component and command quoted, and of the pod-spec-patch that quotes them.
PATCHES = {
    "ingest-table": (1_270, 2_164, 3_093, 7_712),
    "infer-schema": (1_677, 776, 1_422, 5_130),
    "train-keras-images": (3_432, 4_470, 5_248, 14_472),
    "compare-with-champion": (5_128, 3_014, 4_471, 13_868),
    "select-best": (9_810, 1_168, 2_104, 14_403),
    "summarize-run": (8_380, 1_532, 2_042, 13_212),
}


@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_estimates_the_specification(name: str) -> None:
    quoted, tasks, groups, measured = SPECIFICATIONS[name]
    assert workflow_size.of_specification(quoted, tasks, groups) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("name", STATUSES)
def test_estimates_the_status(name: str) -> None:
    patches, specifications, nodes, measured = STATUSES[name]
    # All as one step, and the other nodes as one group.
    others = workflow_size.of_group(0, nodes - workflow_size.STEP_NODES)
    assert workflow_size.of_step(patches, specifications) + others == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("name", PATCHES)
def test_estimates_the_patch_of_a_pod(name: str) -> None:
    executor_input, component, command, measured = PATCHES[name]
    assert workflow_size.of_patch(executor_input, component, command) == pytest.approx(measured, rel=0.03)


@dsl.component(base_image="registry.example/image:1", install_kfp_package=False)
def write(table: Output[Dataset], page: Output[HTML], scores: Output[Metrics], rows: int = 2) -> str:
    return "text"


def test_estimates_an_executor_input() -> None:
    spec = package.documents(package.compiled(write, str))[0]
    imagined = workflow_size.executor_input(
        "rec-io", "io-write", spec["components"]["comp-write"], {"rows": 2}, {}
    )
    assert imagined["inputs"] == {"parameterValues": {"rows": 2}, "artifacts": {}}
    assert list(imagined["outputs"]["artifacts"]) == ["page", "scores", "table", "executor-logs"]
    assert len(json.dumps(imagined, separators=(",", ":"))) == pytest.approx(1_249, rel=0.05)  # as measured


def test_a_list_of_artifacts_is_as_long_as_its_loop() -> None:
    component = {"inputDefinitions": {"artifacts": {"models": {"isArtifactList": True}}}}
    imagined = workflow_size.executor_input("p", "t", component, {}, {"models": 4})
    assert len(imagined["inputs"]["artifacts"]["models"]["artifacts"]) == 4


def test_strings_are_quoted_as_in_go() -> None:
    # json.Marshal of a text that holds JSON: "{\"a\":\"\u003cé\\n\"}", é in two bytes.
    assert workflow_size.quoted({"a": "<é\n"}) == len(r'"{\"a\":\"\u003cé\\n\"}"'.encode())
