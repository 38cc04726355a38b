"""An endpoint keeps what it was deployed with, and loses what it is deployed without on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flowparts import deploy
from flowparts.deploy import operations
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import docker, kubernetes
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.deploy.test_kubernetes import GATEWAY

FIRST, SECOND, THIRD = (f"s3://models/churn/{number}" for number in range(3))
IMAGE = {"image": "registry.example/flowparts-serving:0.1.0", "timeout_seconds": 5.0}
EVERYTHING = {"gateway": "public", "max_replicas": 4, "replicas": 3.0, "memory": "1Gi"}


def bring_up(target: str, model: str, percent: int = 100, **named: Any) -> Endpoint:
    """Deploy as a step does."""
    with operations.changing(target, "churn", operations.options(target, named)) as chosen:
        return deploy.target(target).deploy(model, "churn", percent=percent, **chosen)


@pytest.fixture
def first(api: KubernetesApi) -> Endpoint:
    api.put("gateways", GATEWAY)
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    return bring_up("kubernetes", FIRST, **IMAGE, **EVERYTHING)


def test_a_deployment_changes_only_the_options_that_it_names(api: KubernetesApi, first: Endpoint) -> None:
    made = bring_up("kubernetes", SECOND, 50, memory="512Mi")
    assert made.settings["options"] == {"image": IMAGE["image"], **EVERYTHING, "memory": "512Mi"}
    (rule,) = api.get("httproutes", "churn")["spec"]["rules"]
    assert {backend["name"] for backend in rule["backendRefs"]} == {f"churn-{each}" for each in made.traffic}
    assert len(api.names("horizontalpodautoscalers")) == 2
    (server,) = api.get("deployments", f"churn-{made.revision}")["spec"]["template"]["spec"]["containers"]
    assert server["resources"]["limits"]["memory"] == "512Mi"
    # They outlive shifts, and go with the revision that was given them.
    assert bring_up("kubernetes", SECOND, 50).settings == made.settings
    shifted = kubernetes.shift(made, 100)
    assert shifted.settings["options"] == made.settings["options"]
    assert kubernetes.rollback(shifted).settings == first.settings


def test_objects_that_an_endpoint_no_longer_needs_are_removed(api: KubernetesApi, first: Endpoint) -> None:
    made = bring_up("kubernetes", SECOND, gateway="", max_replicas=0)
    assert api.names("httproutes") == api.names("horizontalpodautoscalers") == []
    assert made.url == "http://churn.team.svc"
    assert made.settings["options"]["replicas"] == 3


def test_reset_leaves_the_options_that_are_named_alone(api: KubernetesApi, first: Endpoint) -> None:
    made = bring_up("kubernetes", SECOND, reset=True, **IMAGE)
    assert made.settings["options"] == {"image": IMAGE["image"]}
    assert api.names("httproutes") == []
    assert api.get("deployments", f"churn-{made.revision}")["spec"]["replicas"] == 2


def test_a_plan_uses_the_endpoints_options(api: KubernetesApi, first: Endpoint) -> None:
    with operations.changing("kubernetes", "churn", {}) as chosen:
        assert operations.plan("kubernetes", "churn", [10], chosen).percentages == {10: 10}


def test_the_options_of_an_earlier_version_are_taken_by_their_present_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = {"directory": "/log", "share": 0.1}
    kept = {"options": {"cpu": "2", "prediction_log": log}}
    before = Endpoint("docker", "churn", "http://127.0.0.1:8000", "r1", {"r1": 100}, settings=kept)

    @contextmanager
    def writing(name: str, *, wait_seconds: float = 0.0) -> Iterator[Endpoint]:
        yield before

    monkeypatch.setattr(docker, "writing", writing)
    with operations.changing("docker", "churn", {"memory": "1Gi"}) as chosen:
        assert docker.Options(**chosen).prediction_log == {"directory": "/log", "fraction": 0.1}
        assert (chosen["cpu"], chosen["memory"]) == ("2", "1Gi")
