"""Every pipeline, and every component, runs as on a real Kubeflow backend; see backends/strict/backend.py."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from kfp.dsl.base_component import BaseComponent

from backends import catalogue, package
from backends.local import runner
from backends.strict import backend
from flowparts.register import registry
from tests import clouds
from tests.contract import examples
from tests.contract.conftest import CHAMPIONS
from tests.flowparts.deploy import kubernetes_api
from tests.flowparts.deploy.sagemaker_service import ROLE, SageMakerService
from tests.flowparts.deploy.vertex_service import VertexService
from tests.flowparts.serving.conftest import start, wait
from tools import images

# On a cluster steps have no Docker engine; what it says of that is all that it can do there.
NEED_DOCKER = {"deploy_docker": "no Docker engine answers"}


# Where there is no Docker engine, and one champion. A server in the cluster answers for what is deployed.
GIVEN = {
    "champion": CHAMPIONS["champion"],
    "network_champion": "image-training",
    "s3": f"s3://{clouds.BUCKET}/classification",
    "gs": f"gs://{clouds.BUCKET}/classification",
    "role": ROLE,
    "storage": f"s3://{clouds.ARCHIVES}/models",
    "outside": f"s3://{clouds.ARCHIVES}",
    "tracking_uri": "",  # the environment's
    "docker_endpoint": "churn",
    "cluster_endpoint": "parts",
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
    found: dict[str, list[list[str]]] = {}
    for model in served:
        for scheme in ("s3", "gs"):
            shutil.copytree(model.path, runs / ".strict" / "objects" / scheme / clouds.BUCKET / model.key)
    with _platforms(runs, served, storage) as (cluster, variables, volume), ExitStack() as servers:
        for run in [*examples.pipelines(on_a_cluster=True), *examples.examples()]:
            if not run.needs <= GIVEN.keys():
                continue
            record = backend.run(
                _compiled(run.pipeline),
                run.filled(GIVEN),
                runs,
                environment=variables,
                volumes={str(volume): volume},
            )
            steps = found.setdefault(run.name, [])
            steps += [
                [_component(task), task.state, task.error if task.state == "failed" else ""]
                for task in record.tasks
            ]
            if record.problem:
                steps.append(["", "failed", record.problem])
            if run.name == "tabular_training" and record.succeeded:
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


def _compiled(pipeline: BaseComponent) -> str:
    version = images.version()
    return package.compiled(pipeline, lambda image: f"flowparts/{image}:{version}", version)


def _component(task: runner.Task) -> str:
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
    assert ran, examples.missing(component)
    if component in NEED_DOCKER:
        assert NEED_DOCKER[component] in ran[0].error
    else:
        assert [step for step in ran if step.state == "failed"] == []
