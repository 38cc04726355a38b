"""Every pipeline, and every component, runs as on a real Kubeflow backend; see targets/strict.py."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.deploy.deploy_docker import deploy_docker
from components.deploy.deploy_kserve import deploy_kserve
from components.deploy.deploy_kubernetes import deploy_kubernetes
from components.deploy.deploy_model import deploy_model
from components.deploy.deploy_sagemaker import deploy_sagemaker
from components.deploy.deploy_seldon import deploy_seldon
from components.deploy.deploy_tf_serving import deploy_tf_serving
from components.deploy.deploy_vertex import deploy_vertex
from components.deploy.probe_endpoint import probe_endpoint
from components.deploy.remove_endpoint import remove_endpoint
from components.deploy.rollback import rollback
from components.deploy.shift_traffic import shift_traffic
from components.ingest.ingest_table import ingest_table
from components.predict.batch_predict import batch_predict
from components.predict.export_table import export_table
from components.register.load_champion import load_champion
from flowparts import registry
from targets import catalogue, images, local, package, strict
from tests import clouds
from tests.contract.conftest import train_by_parts
from tests.flowparts.deploy import kubernetes_api
from tests.flowparts.deploy.sagemaker_service import ROLE, SageMakerService
from tests.flowparts.deploy.vertex_service import VertexService
from tests.flowparts.serving.conftest import start, wait

WATCH = {"requests": 10, "seconds": 0.5, "max_slowdown": 100.0}
# On a cluster steps have no Docker engine; what it says of that is all that it can do there.
NEED_DOCKER = {"deploy_docker": "no Docker engine answers"}


@dsl.pipeline(name="deploy-in-parts")
def deploy_in_parts(s3: str, gs: str, role: str, storage: str, destination: str) -> None:
    """Run the components that no pipeline of the library runs."""
    imported = dsl.importer(artifact_uri=s3, artifact_class=dsl.Model).output
    for deploy in (deploy_kubernetes, deploy_kserve, deploy_seldon):
        deploy(model=imported, name="churn")
    deploy_vertex(model=dsl.importer(artifact_uri=gs, artifact_class=dsl.Model).output, name="churn")
    deploy_tf_serving(model=load_champion(model_name="image-training").outputs["model"], name="digits")
    deploy_sagemaker(model=imported, name="churn", role=role, storage=storage)
    deploy_docker(model=imported, name="churn")
    champion = load_champion(model_name="tabular-training").outputs["model"]
    rows = ingest_table(source="sample://breast_cancer").outputs["table"]
    predictions = batch_predict(table=rows, model=champion).outputs["predictions"]
    export_table(table=predictions, destination=destination)
    deployed = deploy_model(model=champion, target="kubernetes", name="parts")
    again = deploy_model(model=imported, target="kubernetes", name="parts", share=50).after(deployed)
    shifted = shift_traffic(endpoint=again.outputs["endpoint"], percent=75).outputs["shifted"]
    probed = probe_endpoint(endpoint=shifted, model=champion, predictions=predictions, **WATCH)
    before = rollback(endpoint=shifted, reason="to see it go").after(probed)
    remove_endpoint(target="kubernetes", name="parts", even_if_serving=True).after(before)


# With their default parameters, in an order in which each finds what it needs; on a cluster, a server that
# runs in it is the target.
RUNS: list[tuple[str, dict[str, Any]]] = [
    ("tabular_training", {}),
    ("image_training", {}),
    ("train_by_parts", {}),
    ("batch_prediction", {}),
    ("deploy_with_canary", {"target": "kubernetes", **WATCH}),
    (
        "deploy_in_parts",
        {
            "s3": f"s3://{clouds.BUCKET}/classification",
            "gs": f"gs://{clouds.BUCKET}/classification",
            "role": ROLE,
            "storage": f"s3://{clouds.ARCHIVES}/models",
            "destination": f"s3://{clouds.ARCHIVES}/predictions.csv",
        },
    ),
]
PIPELINES = {
    **catalogue.pipelines(),
    "train_by_parts": train_by_parts,
    "deploy_in_parts": deploy_in_parts,
}
COMPONENTS = list(catalogue.components())


@dataclass(frozen=True)
class Outcome:
    """How a step ended: its pipeline, state and error."""

    pipeline: str
    component: str
    state: str
    error: str


@pytest.fixture(scope="session")
def outcomes(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, list[Outcome]]:
    """Run every pipeline once, however many test processes there are; give the steps by pipeline."""
    base = tmp_path_factory.getbasetemp()
    # The workers of pytest-xdist have folders beside each other.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "strict"
    folder.mkdir(exist_ok=True)
    file = folder / "outcomes.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            served, storage = (request.getfixturevalue(name) for name in ("served", "cloud_storage"))
            found = _run_all(folder / "runs", served, storage)
            file.write_text(json.dumps(found))
    return {
        pipeline: [Outcome(pipeline, *step) for step in steps]
        for pipeline, steps in json.loads(file.read_text()).items()
    }


def _run_all(
    runs: Path, served: tuple[clouds.Served, clouds.Served], storage: str
) -> dict[str, list[list[str]]]:
    found = {}
    for model in served:
        for scheme in ("s3", "gs"):
            shutil.copytree(model.path, runs / ".strict" / "objects" / scheme / clouds.BUCKET / model.key)
    with _platforms(runs, served, storage) as (cluster, variables, volume), ExitStack() as servers:
        for name, given in [*RUNS, *((name, {}) for name in PIPELINES if name not in dict(RUNS))]:
            record = strict.run(
                _compiled(name), given, runs, environment=variables, volumes={str(volume): volume}
            )
            found[name] = [
                [_component(task), task.state, task.error if task.state == "failed" else ""]
                for task in record.tasks
            ]
            if record.problem:
                found[name].append(["", "failed", record.problem])
            if name == "tabular_training" and record.succeeded:
                uri = f"sqlite:///{runs / '.strict' / 'mlflow' / 'mlflow.db'}"
                model = registry.download("tabular-training", "1", runs, uri)
                server = wait(start(model, "--name=tabular-training"))
                servers.callback(server.stop)
                cluster.backend = lambda service, url=server.url: url
    return found


@contextmanager
def _platforms(
    runs: Path, served: tuple[clouds.Served, clouds.Served], storage: str
) -> Iterator[tuple[kubernetes_api.KubernetesApi, dict[str, str], Path]]:
    """Run a stand-in for every platform that is deployed to; give what steps find there, and a volume."""
    volume = runs / "volume"
    volume.mkdir(parents=True)
    with (
        kubernetes_api.serving() as cluster,
        clouds.amazon() as amazon,
        pytest.MonkeyPatch.context() as patch,
    ):
        vertex_ai, sagemaker_ai = VertexService(), SageMakerService(amazon)
        vertex_ai.servers = {model.gs: model.server.url for model in served}
        for model in served:
            sagemaker_ai.serve(model.path, model.server.url)
        (volume / "kubeconfig").write_text(cluster.kubeconfig)
        variables = {
            "KUBECONFIG": str(volume / "kubeconfig"),
            "STORAGE_EMULATOR_HOST": storage,
            **vertex_ai.environment(volume),
            **sagemaker_ai.environment(),
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        clouds.fill_buckets(served)
        for path in [volume, *volume.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield cluster, variables, volume
        vertex_ai.close()
        sagemaker_ai.close()


def _compiled(name: str) -> str:
    version = images.version()
    return package.compiled(PIPELINES[name], lambda image: f"flowparts/{image}:{version}", version)


def _component(task: local.Task) -> str:
    return task.component.removeprefix("comp-").rpartition("/")[2].rstrip("-0123456789").replace("-", "_")


@pytest.mark.parametrize("pipeline", list(catalogue.pipelines()))
def test_every_pipeline_is_green_as_on_a_real_backend(
    pipeline: str, outcomes: dict[str, list[Outcome]]
) -> None:
    failed = [step for step in outcomes[pipeline] if step.state == "failed"]
    assert failed == []
    assert outcomes[pipeline]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_runs_as_on_a_real_backend(
    component: str, outcomes: dict[str, list[Outcome]]
) -> None:
    ran = [step for steps in outcomes.values() for step in steps if step.component == component]
    assert ran, f"no run in RUNS has a step of {component}; add one that has"
    if component in NEED_DOCKER:
        assert NEED_DOCKER[component] in ran[0].error
    else:
        assert [step for step in ran if step.state == "failed"] == []
