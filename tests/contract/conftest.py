"""One small run of every pipeline, whose steps the tests of this folder run again."""

import contextlib
import fcntl
import itertools
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
from components.evaluate.select_best import select_best
from components.ingest.ingest_table import ingest_table
from components.predict.batch_predict import batch_predict
from components.prepare.fit_preprocessor import fit_preprocessor
from components.prepare.split_table import split_table
from components.register.load_champion import load_champion
from components.train.train_keras_tabular import train_keras_tabular
from components.train.train_sklearn import train_sklearn
from targets import catalogue, docker, graph, package
from tests import clouds
from tests.conftest import IMAGES
from tests.contract.steps import Step, from_command
from tests.endpoints import new_name
from tests.flowparts.deploy import kubernetes_api
from tests.flowparts.deploy.sagemaker_service import ROLE, SageMakerService
from tests.flowparts.deploy.vertex_service import VertexService

QUICK = [
    {"estimator": "Linear", "parameters": {}},
    {"estimator": "XGB", "parameters": {"n_estimators": 20}},
]
WATCH = {"name": "{endpoint}", "requests": 10, "seconds": 1.0, "options": {"memory": "512Mi"}}


@dsl.pipeline(name="deploy-and-roll-back")
def deploy_and_roll_back(name: str, rolled_out: str, tracking_uri: str = "") -> None:
    """Run the parts of a rollout one by one, which no pipeline of the library does; each can be run again."""
    first = load_champion(model_name="tabular-training", tracking_uri=tracking_uri)
    second = load_champion(model_name="diabetes", tracking_uri=tracking_uri).outputs["model"]
    rows = ingest_table(source="sample://diabetes").outputs["table"]
    predicted = batch_predict(table=rows, model=second).outputs["predictions"]
    deployed = deploy_docker(model=first.outputs["model"], name=name, memory="512Mi")
    canary = deploy_docker(model=second, name=name, memory="512Mi", share=10)
    rollback(endpoint=canary.after(deployed).outputs["endpoint"], reason="to see it go")
    there = deploy_model(model=second, target="docker", name=rolled_out, options=WATCH["options"])
    shifted = shift_traffic(endpoint=there.outputs["endpoint"], percent=100).outputs["shifted"]
    probe_endpoint(endpoint=shifted, model=second, predictions=predicted, requests=10, seconds=1.0)


@dsl.pipeline(name="deploy-to-clusters")
def deploy_to_clusters(uri: str) -> None:
    """Deploy to each kind of cluster, a stand-in for its API, what is in a bucket."""
    imported = dsl.importer(artifact_uri=uri, artifact_class=dsl.Model)
    deployed = deploy_kubernetes(model=imported.output, name="churn")
    remove_endpoint(target="kubernetes", name="churn", even_if_serving=True).after(deployed)
    deploy_kserve(model=imported.output, name="churn")
    deploy_seldon(model=imported.output, name="churn")
    deploy_tf_serving(model=imported.output, name="churn-network")


@dsl.pipeline(name="deploy-to-clouds")
def deploy_to_clouds(uri: str, role: str, storage: str, tracking_uri: str = "") -> None:
    """Deploy to Vertex AI what is in its bucket, and to SageMaker what is here, to stand-ins for both."""
    imported = dsl.importer(artifact_uri=uri, artifact_class=dsl.Model)
    deploy_vertex(model=imported.output, name="churn")
    champion = load_champion(model_name="tabular-training", tracking_uri=tracking_uri)
    deploy_sagemaker(model=champion.outputs["model"], name="churn", role=role, storage=storage)


@dsl.pipeline(name="train-by-parts")
def train_by_parts(source: str = "sample://breast_cancer", candidates: list = QUICK) -> None:
    """Train with the components whose work train_tabular does in one step."""
    table = ingest_table(source=source).outputs["table"]
    parts = split_table(table=table, stratify_by="target").outputs
    rows = {"train": parts["train"], "validation": parts["validation"], "label": "target"}
    prepared = fit_preprocessor(**rows).outputs
    with dsl.ParallelFor(candidates) as candidate:
        trained = train_sklearn(
            train_features=prepared["train_features"],
            validation_features=prepared["validation_features"],
            preprocessor=prepared["preprocessor"],
            estimator=candidate.estimator,
            parameters=candidate.parameters,
        )
    select_best(candidates=dsl.Collected(trained.outputs["model"]))
    train_keras_tabular(**rows, epochs=3)


# What the pipelines' parameters are here; one that isn't named runs after these, with its defaults.
# The last step of a component is the one that is run again: of a table, where there is one.
RUNS: list[tuple[str, dict[str, Any]]] = [
    ("image_training", {"epochs": 3}),
    ("train_by_parts", {}),
    ("tabular_training", {"trainer": "keras", "network": {"epochs": 3}, "model_name": "network"}),
    ("tabular_training", {"candidates": QUICK}),
    (
        "tabular_training",
        {
            "source": "sample://diabetes",
            "task": "regression",
            "candidates": QUICK[:1],
            "model_name": "diabetes",
        },
    ),
    ("batch_prediction", {"destination": "{outside}/predictions.csv"}),
    ("deploy_with_canary", WATCH),
    ("deploy_with_canary", {**WATCH, "model_name": "diabetes", "source": "sample://diabetes"}),
    ("deploy_and_roll_back", {"name": "{endpoint}-too", "rolled_out": "{endpoint}"}),
    ("deploy_to_clusters", {"uri": "{s3}"}),
    ("deploy_to_clouds", {"uri": "{bucket}", "role": ROLE, "storage": f"s3://{clouds.ARCHIVES}/models"}),
]
PIPELINES = {
    **catalogue.pipelines(),
    "train_by_parts": train_by_parts,
    "deploy_and_roll_back": deploy_and_roll_back,
    "deploy_to_clusters": deploy_to_clusters,
    "deploy_to_clouds": deploy_to_clouds,
}
# Run only where a Docker engine has the images.
NEED_DOCKER = {"deploy_with_canary", "deploy_and_roll_back"}


@dataclass(frozen=True)
class Recorded:
    """The steps of the runs, one for each component, and the folder outside of the run that they write to."""

    steps: dict[str, Step]
    outside: Path
    missing: str  # why some pipelines were not run; empty if all were

    def step(self, component: str) -> Step:
        """Return the step of a component; skip the test where its pipeline can't be run."""
        if component not in self.steps and self.missing and os.environ.get("CI") != "true":
            pytest.skip(self.missing)
        found = self.steps.get(component)
        assert found, f"no run in conftest.RUNS has a step of {component}; add one that has. {self.missing}"
        return found


@pytest.fixture(scope="session")
def platforms(
    tmp_path_factory: pytest.TempPathFactory,
    served: tuple[clouds.Served, clouds.Served],
    cloud_storage: str,
) -> Iterator[dict[str, str]]:
    """Run a stand-in for every platform that is deployed to; give the variables by which steps find them."""
    folder = tmp_path_factory.mktemp("platforms")
    with kubernetes_api.serving() as cluster, clouds.amazon() as moto_server:
        vertex_ai, sagemaker_ai = VertexService(), SageMakerService(moto_server)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(cluster.kubeconfig)
        yield {
            "KUBECONFIG": str(kubeconfig),
            "STORAGE_EMULATOR_HOST": cloud_storage,
            **vertex_ai.environment(folder),
            **sagemaker_ai.environment(),
        }
        vertex_ai.close()
        sagemaker_ai.close()


@pytest.fixture
def recorded(
    tmp_path_factory: pytest.TempPathFactory,
    platforms: dict[str, str],
    served: tuple[clouds.Served, clouds.Served],
    monkeypatch: pytest.MonkeyPatch,
) -> Recorded:
    """Run every pipeline once, however many test processes there are."""
    for name, value in platforms.items():
        monkeypatch.setenv(name, value)
    clouds.fill_buckets(served)
    missing = ""
    try:
        containers = docker.prepare(IMAGES)
        for image in ("serving", "deploy"):
            monkeypatch.setenv(f"FLOWPARTS_{image.upper()}_IMAGE", containers.reference(f"flowparts-{image}"))
    except ValueError as error:
        missing = str(error)
    return _recorded(tmp_path_factory, missing, served[0])


def _recorded(tmp_path_factory: pytest.TempPathFactory, missing: str, model: clouds.Served) -> Recorded:
    base = tmp_path_factory.getbasetemp()
    # The workers of pytest-xdist have folders beside each other.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "recorded"
    folder.mkdir(exist_ok=True)
    file, outside = folder / "steps.json", folder / "outside"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            with pytest.MonkeyPatch.context() as patch:
                steps = _run_pipelines(folder, outside, patch, missing, model)
            file.write_text(json.dumps([asdict(step) for step in steps]))
    steps = [Step(**step) for step in json.loads(file.read_text())]
    return Recorded({step.component: step for step in steps}, outside, missing)


def _run_pipelines(
    folder: Path, outside: Path, patch: pytest.MonkeyPatch, missing: str, model: clouds.Served
) -> list[Step]:
    from kfp import components, local
    from kfp.local import config, logging_utils, subprocess_task_handler

    steps: list[Step] = []
    numbers = itertools.count()

    def run_here(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        step = from_command(full_command)
        steps.append(step)
        log = folder / f"{next(numbers):03}-{step.component}.log"
        log.touch()
        ended = step.run(log)
        assert ended.exit_code == 0, f"{step.component} failed: {ended.log}"
        return ended.exit_code

    patch.setattr(subprocess_task_handler, "run_local_subprocess", run_here)
    patch.setattr(config.LocalExecutionConfig, "instance", None)
    # It replaces the function print, and tasks that run at once put each other's back.
    patch.setattr(logging_utils, "indented_print", contextlib.nullcontext)
    others: list[tuple[str, dict[str, Any]]] = [
        (name, {}) for name in PIPELINES if name not in {name for name, _ in RUNS}
    ]
    # An endpoint for this session; tests/conftest.py removes it at the end.
    places = {
        "outside": str(outside),
        "endpoint": new_name("contract"),
        "bucket": model.gs,
        "s3": model.s3,
    }
    if not missing:
        (folder / "endpoints").write_text(f"{places['endpoint']} {places['endpoint']}-too")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runner's remarks about the names of images
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder), raise_on_error=True)
        for name, parameters in [*RUNS, *others]:
            if missing and name in NEED_DOCKER:
                continue
            given = {
                key: value.format(**places) if isinstance(value, str) else value
                for key, value in parameters.items()
            }
            if "tracking_uri" in PIPELINES[name].component_spec.inputs:
                given["tracking_uri"] = f"sqlite:///{folder / 'mlflow.db'}"
            text = package.compiled(PIPELINES[name], lambda image: f"{image}:here")
            # Steps that share a component would share a folder, and overwrite each other's outputs.
            document = graph.unshared(package.documents(text)[0])
            components.load_component_from_text(package.dumped(document))(**given)
    return steps
