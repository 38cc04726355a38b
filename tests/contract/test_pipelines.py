"""Rules that every pipeline keeps."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.dsl.base_component import BaseComponent

from backends import catalogue, graph, package, resources
from backends.kubeflow import overlay, plan, workflow_size
from backends.strict import backend
from backends.vertex import document
from tests.contract import examples

PIPELINES = catalogue.pipelines()
REFERENCES = package.image_references("registry.example/team", "1.2.3")

every_pipeline = pytest.mark.parametrize(
    ("name", "pipeline"), [pytest.param(name, part, id=name) for name, part in PIPELINES.items()]
)


@every_pipeline
def test_is_named_after_its_file_and_described(name: str, pipeline: BaseComponent) -> None:
    assert pipeline.pipeline_spec.pipeline_info.name == name.replace("_", "-")
    assert pipeline.component_spec.description


@every_pipeline
def test_every_parameter_has_a_default_and_a_description_that_the_interfaces_show(
    name: str, pipeline: BaseComponent
) -> None:
    for parameter, details in pipeline.component_spec.inputs.items():
        assert details.optional, f"{parameter} has no default"
        assert details.description, f"{parameter} has no description"


@every_pipeline
def test_reads_well_in_the_lists_and_the_graph_of_the_interfaces(name: str, pipeline: BaseComponent) -> None:
    spec = package.documents(package.compiled(pipeline, REFERENCES, "1.2.3"))[0]
    assert re.fullmatch(r"[A-Z][\w ,-]{3,50}", spec["pipelineInfo"]["displayName"])
    assert spec["pipelineInfo"]["description"].splitlines()[0].endswith(".")
    for dag in [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]:
        # More are too many for one screen: they go into a nested pipeline, which is one box.
        assert len(dag["tasks"]) <= 15
        for key, task in dag["tasks"].items():
            shown = task["taskInfo"]["name"]
            assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", shown)
            if "triggerPolicy" in task and "condition" in task["triggerPolicy"]:
                assert shown != key, f"{key}: give the condition a name, as dsl.If(..., name='promoted')"


@every_pipeline
def test_has_a_page_that_the_interfaces_open(name: str, pipeline: BaseComponent) -> None:
    spec = package.documents(package.compiled(pipeline, REFERENCES, "1.2.3"))[0]
    artifacts = [
        artifact["artifactType"]["schemaTitle"]
        for part in spec["components"].values()
        for artifact in part.get("outputDefinitions", {}).get("artifacts", {}).values()
    ]
    assert "system.HTML" in artifacts


@every_pipeline
@pytest.mark.parametrize("check", [overlay.check, document.check], ids=["kubeflow", "vertex"])
def test_compiles_to_yaml_that_the_backend_takes(name: str, pipeline: BaseComponent, check: object) -> None:
    text = package.compiled(pipeline, REFERENCES, "1.2.3")
    check(text)


# On Kubeflow each step costs 20 s and each group 10 s, whatever they do, and nobody opens nested groups.
STEPS, LEVELS, WORKFLOW = 6, 2, 0.58
# A decision and its condition stand before the training, in which the deployment is a condition as always.
OTHERS = {"deploy_with_canary": (4, 1, WORKFLOW), "continuous_training": (STEPS + 1, LEVELS + 1, 0.7)}


@every_pipeline
def test_is_short_flat_and_small_on_kubeflow(name: str, pipeline: BaseComponent) -> None:
    whole = plan.of(package.compiled(pipeline, REFERENCES, "1.2.3"))
    path, (steps, levels, workflow) = whole.longest.path, OTHERS.get(name, (STEPS, LEVELS, WORKFLOW))
    assert path.steps <= steps
    assert path.levels <= levels
    assert whole.yaml_bytes <= 60_000
    assert whole.workflow_bytes(whole.usual) <= 0.5 * workflow_size.MAX_WORKFLOW_BYTES
    assert whole.workflow_bytes(whole.longest) <= workflow * workflow_size.MAX_WORKFLOW_BYTES


@every_pipeline
def test_runs_beside_kubeflow_on_a_laptops_node(name: str, pipeline: BaseComponent) -> None:
    text = package.compiled(pipeline, REFERENCES, "1.2.3")
    overlay.check_fits(text, backend.NODE)
    # Even all that may run at the same time, so that nothing waits.
    cpus, memory = plan.of(text).longest.asked_at_once()
    free = resources.node(backend.NODE)
    assert cpus <= free.cpus_requested
    assert memory <= free.memory_requested


@every_pipeline
def test_kubeflow_has_nothing_to_warn_of(name: str, pipeline: BaseComponent) -> None:
    assert overlay.warnings(package.compiled(pipeline, REFERENCES, "1.2.3")) == []


def component_of(task: dict[str, Any]) -> str:
    return task["componentRef"]["name"]


@every_pipeline
def test_steps_that_act_on_the_world_are_never_cached(name: str, pipeline: BaseComponent) -> None:
    spec = package.documents(package.compiled(pipeline, REFERENCES, "1.2.3"))[0]
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    for dag in dags:
        for task_name, task in dag["tasks"].items():
            acts = ("register", "deploy", "shift", "roll", "probe", "monitor")
            if task_name.startswith(acts) and "executorLabel" in spec["components"][component_of(task)]:
                assert not task["cachingOptions"], task_name


@every_pipeline
def test_no_two_artifacts_of_its_steps_are_named_alike(name: str, pipeline: BaseComponent) -> None:
    # A user interface shows an artifact by the name of the output alone.
    spec = graph.unshared(package.documents(package.compiled(pipeline, REFERENCES, "1.2.3"))[0])
    parts = [spec["components"][step.component] for step in graph.steps(spec)]
    written = [key for part in parts for key in part.get("outputDefinitions", {}).get("artifacts", {})]
    # What only other steps read may be alike where the pipeline's test says so.
    alike = getattr(examples.test_module("pipelines", name), "ALIKE", ())
    written = [key for key in written if key not in alike]
    assert sorted(written) == sorted(set(written))


@pytest.mark.parametrize("name", ["tabular_training", "image_training"])
def test_a_training_pipeline_shows_all_of_its_steps_but_those_of_the_deployment(name: str) -> None:
    spec = package.documents(package.compiled(PIPELINES[name], REFERENCES, "1.2.3"))[0]
    tasks = spec["root"]["dag"]["tasks"]
    groups = [key for key, task in tasks.items() if "dag" in spec["components"][component_of(task)]]
    assert [tasks[key]["taskInfo"]["name"] for key in groups] == ["deploy"]
    assert max(step.key.count("/") for step in graph.steps(spec)) == 1
    assert len(graph.layers(graph.steps(spec))) <= STEPS


@every_pipeline
@pytest.mark.filterwarnings("ignore")  # the client library warns about its own future
def test_vertex_client_makes_a_job_of_the_compiled_file(
    name: str, pipeline: BaseComponent, tmp_path: Path
) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform

    file = tmp_path / f"{name}.yaml"
    file.write_text(package.compiled(pipeline, REFERENCES, "1.2.3"), encoding="utf-8")
    job = aiplatform.PipelineJob(
        display_name=name,
        template_path=str(file),
        pipeline_root="gs://bucket/root",
        project="project",
        location="europe-west4",
        credentials=AnonymousCredentials(),
    )
    given = yaml.safe_load(file.read_text(encoding="utf-8"))["pipelineInfo"]["name"]
    assert job.pipeline_spec["pipelineInfo"]["name"] == given
