"""Rules that every pipeline keeps."""

from pathlib import Path

import pytest
import yaml
from kfp.dsl.base_component import BaseComponent

from targets import catalogue, kubeflow, package, vertex

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
@pytest.mark.parametrize("check", [kubeflow.check, vertex.check], ids=["kubeflow", "vertex"])
def test_compiles_to_yaml_that_the_backend_takes(name: str, pipeline: BaseComponent, check: object) -> None:
    text = package.compiled(pipeline, REFERENCES)
    check(text)
    # Some Argo set-ups store no more than this.
    assert len(text.encode()) < 256_000


@every_pipeline
def test_steps_that_act_on_the_world_are_never_cached(name: str, pipeline: BaseComponent) -> None:
    spec = package.documents(package.compiled(pipeline, REFERENCES))[0]
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    for dag in dags:
        for task_name, task in dag["tasks"].items():
            if task_name.startswith(("register", "deploy", "monitor", "compare-with-champion")):
                assert not task["cachingOptions"], task_name


@every_pipeline
@pytest.mark.filterwarnings("ignore")  # the client library warns about its own future
def test_vertex_client_makes_a_job_of_the_compiled_file(
    name: str, pipeline: BaseComponent, tmp_path: Path
) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform

    file = tmp_path / f"{name}.yaml"
    file.write_text(package.compiled(pipeline, REFERENCES), encoding="utf-8")
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
