"""A running Kubeflow Pipelines from end to end: make test-cluster ENDPOINT=http://localhost:8080.

The runs start beside each other when the first test asks for one, and each test waits for its own.
"""

import math
import re
from typing import Any

import pytest
from kfp import dsl

from backends import catalogue
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.predict.export_table import export_table
from flowparts.components.validate.profile_table import profile_table
from tests.cluster.backend import Backend

# What keeps a run short; everything else stays at its default.
SMALL: dict[str, dict[str, Any]] = {
    "tabular-training": {"candidates": [{"estimator": "Linear", "parameters": {}}]},
    "image-training": {"epochs": 2},
    "deploy-with-canary": {"deploy_target": "kubernetes", "requests": 50, "seconds": 5.0},
}
# These need the champion that tabular-training has registered.
OF_A_CHAMPION = ("batch-prediction", "deploy-with-canary")
AWS = ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"]


@dsl.pipeline(name="look")
def look(source: str = "sample://iris") -> None:
    profile_table(table=ingest_table(source=source).outputs["table"])


@dsl.pipeline(name="too-large")
def too_large(source: str = "sample://iris") -> None:
    ingest_table(source=source).set_cpu_request("900").set_cpu_limit("900")


@dsl.pipeline(name="there-and-back")
def there_and_back(destination: str, source: str = "sample://iris") -> None:
    table = ingest_table(source=source).outputs["table"]
    exported = export_table(table=table, destination=destination).set_caching_options(False)
    ingest_table(source=destination).after(exported).set_caching_options(False)


@dsl.container_component
def remove_endpoint(name: str) -> dsl.ContainerSpec:
    """Remove the objects of an endpoint from the step's own namespace."""
    program = """
import sys
from pathlib import Path
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

def delete(call, name):
    try:
        call(name, namespace)
    except ApiException as error:
        if error.status != 404:  # an endpoint that didn't come up has not all of it
            raise

config.load_incluster_config()
namespace = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text()
name, apps, core = sys.argv[1], client.AppsV1Api(), client.CoreV1Api()
for found in apps.list_namespaced_deployment(namespace).items:
    if found.metadata.name.startswith(f"{name}-"):
        delete(apps.delete_namespaced_deployment, found.metadata.name)
        delete(core.delete_namespaced_service, found.metadata.name)
delete(core.delete_namespaced_service, name)
delete(client.PolicyV1Api().delete_namespaced_pod_disruption_budget, name)
delete(client.NetworkingV1Api().delete_namespaced_network_policy, name)
"""
    image = catalogue.components()["rollback"].component_spec.implementation.container.image
    return dsl.ContainerSpec(image=image, command=["python", "-c", program], args=[name])


@dsl.pipeline(name="undeploy")
def undeploy(name: str) -> None:
    remove_endpoint(name=name).set_caching_options(False)


# Runs of the pipelines here: what is run, with which parameters.
OWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "look": (look, {}),
    "failing": (look, {"source": "sample://nothing"}),
    "too-large": (too_large, {}),
}


def parameters(backend: Backend, key: str, inputs: Any) -> dict[str, Any]:
    """Return what a shipped pipeline is given."""
    own = {"tracking_uri": backend.tracking_uri, "endpoint_name": backend.name("endpoint")}
    own["model_name"] = backend.name("tabular-training" if key in OF_A_CHAMPION else key)
    given: dict[str, Any] = {name: value for name, value in own.items() if name in inputs and value}
    if key == "deploy-with-canary":
        # One small pod, so that it fits beside the other runs on a node of two processors.
        small = {"replicas": 1, "cpu": "200m", "memory": "1Gi"}
        given["deploy_options"] = {"environment_from": backend.bucket_secret, **small}
    return {**given, **SMALL.get(key, {})}


def start(backend: Backend, key: str) -> None:
    """Start the run of a key: one of a pipeline here, or of a shipped one."""
    if key in OWN:
        pipeline, given = OWN[key]
        backend.start(key, backend.package(key, pipeline), given)
        return
    pipeline = catalogue.pipeline(key)
    inputs = pipeline.component_spec.inputs or {}
    backend.start(key, backend.package(key, pipeline), parameters(backend, key, inputs))


@pytest.fixture(scope="session")
def started(backend: Backend, request: pytest.FixtureRequest) -> Backend:
    """Start the runs that the chosen tests need, beside each other."""
    needed = {
        key for item in request.session.items for mark in item.iter_markers("needs") for key in mark.args
    }
    for key in sorted(needed):
        start(backend, key)
    return backend


@pytest.fixture
def green(started: Backend) -> Any:
    """Return a run when it has ended, or fail with what its steps say: `green("look")`."""

    def wait(key: str) -> Any:
        run = started.ended(key)
        said = [f"{task.name}: {task.error}" for task in run.failed] or [run.error]
        assert run.state == "succeeded", f"{run.url} {run.state}: {'; '.join(said)}"
        return run

    return wait


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=pytest.mark.needs(key))
        for key in (name.replace("_", "-") for name in catalogue.pipelines())
        if key not in OF_A_CHAMPION
    ],
)
def test_a_pipeline_is_green(green: Any, key: str) -> None:
    run = green(key)
    assert {task.state for task in run.tasks} <= {"succeeded", "cached", "skipped"}


@pytest.mark.needs("tabular-training")
@pytest.mark.parametrize("key", OF_A_CHAMPION)
def test_a_pipeline_that_uses_a_champion_is_green(started: Backend, green: Any, key: str) -> None:
    if not started.tracking_uri:
        pytest.skip(
            "needs an MLflow server that the cluster reaches: TRACKING_URI=http://mlflow.mlflow.svc:5000"
        )
    deploys = key == "deploy-with-canary"
    if deploys and not started.bucket:
        pytest.skip("needs S3=s3://BUCKET/FOLDER, from which the server fetches the model; docs/kubeflow.md")
    green("tabular-training")
    start(started, key)
    try:
        green(key)
    finally:
        if deploys:
            started.start(
                "undeploy", started.package("undeploy", undeploy), {"name": started.name("endpoint")}
            )
            green("undeploy")


@pytest.mark.needs("tabular-training")
def test_metrics_are_numbers_on_an_artifact(started: Backend, green: Any) -> None:
    metrics = artifacts(started, green("tabular-training"), "system.Metrics")
    numbers = [value for each in metrics for value in each.metadata.values() if isinstance(value, float)]
    assert numbers
    assert all(map(math.isfinite, numbers))


@pytest.mark.needs("tabular-training")
def test_a_roc_curve_is_drawn(started: Backend, green: Any) -> None:
    curves = artifacts(started, green("tabular-training"), "system.ClassificationMetrics")
    points = [
        point for each in curves for point in each.metadata.get("confidenceMetrics", {}).get("list", [])
    ]
    assert len(points) > 2
    assert {"confidenceThreshold", "falsePositiveRate", "recall"} <= set(points[0])


@pytest.mark.needs("tabular-training")
def test_reports_are_whole_pages(started: Backend, green: Any) -> None:
    pages = artifacts(started, green("tabular-training"), "system.HTML")
    assert pages
    for page in pages:
        text = started.store.read(page, started.settings.namespace or "kubeflow").decode()
        assert re.match(r"(?i)\s*<!doctype html>", text), page.uri
        assert text.rstrip().endswith("</html>"), page.uri


@pytest.mark.needs("tabular-training")
def test_every_artifact_has_a_name_that_says_what_it_is(started: Backend, green: Any) -> None:
    shown = artifacts(started, green("tabular-training"), "")
    assert shown
    assert {each.name.lower() for each in shown} & {"", "output", "artifact", "out", "data"} == set()


@pytest.mark.needs("look")
def test_a_second_run_is_served_from_the_cache(
    started: Backend, green: Any, capsys: pytest.CaptureFixture
) -> None:
    green("look")
    started.start("look", started.package("look", look), {}, again="-again")
    again = green("look-again")
    assert {task.state for task in again.tasks} == {"cached"}


@pytest.mark.needs("failing")
def test_a_failing_step_says_why(started: Backend, capsys: pytest.CaptureFixture) -> None:
    run = started.ended("failing")
    assert run.state == "failed"
    assert [task.name for task in run.failed] == ["ingest-table"]
    capsys.readouterr()
    started.submit("status", started.runs["failing"], expected=1)
    assert "nothing" in run.failed[0].error
    assert run.failed[0].error in " ".join(capsys.readouterr().out.split())


@pytest.mark.needs("too-large")
def test_a_step_that_fits_no_node_is_reported_with_the_reason_and_can_be_cancelled(
    started: Backend, capsys: pytest.CaptureFixture
) -> None:
    def told() -> str:
        capsys.readouterr()
        started.submit("status", started.runs["too-large"])
        said = capsys.readouterr().out
        return said if "Insufficient cpu" in said else ""

    started.eventually(told, "the reason why a step waits", seconds=300)
    started.submit("cancel", started.runs["too-large"])
    assert started.ended("too-large").state == "cancelled"


def test_a_schedule_starts_runs_until_it_is_removed(started: Backend) -> None:
    named = ("--package", str(started.package("look", look)), "--schedule-name", started.name("minutely"))
    started.submit("schedule", started.name("look"), *named, "--cron", "* * * * *")

    def scheduled() -> Any:
        listed = started.client.list_runs(
            page_size=20, sort_by="created_at desc", namespace=started.settings.namespace or None
        )
        return next(
            (
                run
                for run in listed.runs or []
                if (run.display_name or "").startswith(started.name("minutely"))
            ),
            None,
        )

    run = started.eventually(scheduled, "the first run of a schedule", seconds=180)
    assert run.recurring_run_id
    started.submit("schedule", started.name("look"), *named, "--remove", "--wait")
    assert started.service.schedules(started.name("minutely")) == []


def test_steps_reach_a_bucket_that_a_secret_describes(started: Backend, green: Any) -> None:
    if not started.bucket:
        pytest.skip(
            "needs a bucket for the steps, S3=s3://BUCKET/FOLDER, and its secret, as docs/kubeflow.md says"
        )
    file = started.package("there-and-back", there_and_back, {started.bucket_secret: AWS})
    destination = f"{started.bucket}/{started.prefix}/iris.csv"
    started.start("there-and-back", file, {"destination": destination})
    green("there-and-back")


def artifacts(backend: Backend, run: Any, kind: str) -> list[Any]:
    """Return the artifacts of a run, those of one type or all."""
    try:
        found = backend.store.artifacts(run.key)
    except LookupError as error:
        pytest.skip(str(error))
    return [each for each in found if kind in each.type and "executor-logs" not in each.uri]
