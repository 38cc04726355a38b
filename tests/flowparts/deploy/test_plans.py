"""What is said before a rollout: the shares that come out, and what would be applied."""

from collections.abc import Callable
from typing import Any

import pytest

from flowparts import deploy
from flowparts.deploy import operations
from flowparts.deploy.targets import kserve, kubernetes
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.deploy.test_kubernetes import GATEWAY

IMAGE = "registry.example/flowparts-serving:0.1.0"
FIRST, SECOND = "s3://models/churn/1", "s3://models/churn/2"
WISHED = [10, 50, 100]


def options(**further: Any) -> dict[str, Any]:
    return {"image": IMAGE, "timeout_seconds": 30.0, **further}


def test_a_traffic_split_by_pods_is_announced_and_a_gateway_is_suggested(
    api: KubernetesApi,
) -> None:
    assert operations.plan("kubernetes", "churn", WISHED, options()).percentages == dict.fromkeys(WISHED, 100)
    kubernetes.deploy(FIRST, "churn", **options(replicas=2))
    plan = operations.plan("kubernetes", "churn", WISHED, options(replicas=2))
    assert plan.percentages == {10: 33, 50: 50, 100: 100}
    assert plan.note == (
        "without a Gateway the share is a ratio of pods, so 10 % is 33 %; more replicas bring it nearer, and "
        "a Gateway, which this cluster knows, makes it exact (option gateway)"
    )
    api.unknown.add("gateway.networking.k8s.io/v1")
    assert "makes it exact" not in operations.plan("kubernetes", "churn", WISHED, options(replicas=2)).note
    # What is said is what comes out.
    assert kubernetes.deploy(SECOND, "churn", percent=10, **options(replicas=2)).percent == 33


def test_stages_with_equal_traffic_are_tried_once(api: KubernetesApi) -> None:
    kubernetes.deploy(FIRST, "churn", **options(replicas=1))
    plan = operations.plan("kubernetes", "churn", WISHED, options(replicas=1))
    assert plan.percentages == {10: 50, 50: 50, 100: 100}
    assert plan.stages() == [10, 100]


def test_a_gateway_gives_what_is_asked_for(api: KubernetesApi) -> None:
    api.put("gateways", {**GATEWAY, "metadata": {"name": "public", "namespace": "gateways"}})
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    kubernetes.deploy(FIRST, "churn", **options(gateway="gateways/public"))
    plan = operations.plan("kubernetes", "churn", WISHED, options(gateway="gateways/public"))
    assert (plan.percentages, plan.note) == ({10: 10, 50: 50, 100: 100}, "")


@pytest.mark.parametrize("has_knative", [True, False])
def test_kserve_without_a_traffic_split_is_reported(has_knative: bool, api: KubernetesApi) -> None:
    if not has_knative:
        api.unknown.add("serving.knative.dev/v1")
    kserve.deploy(FIRST, "churn", **options())
    assert operations.plan("kserve", "churn", WISHED, options()).stages() == WISHED
    for key in [key for key in api.objects if key[0] == "httproutes"]:
        del api.objects[key]
    api.has_gateway = False
    plan = operations.plan("kserve", "churn", WISHED, options())
    assert plan.stages() == (WISHED if has_knative else [0, 100])
    assert ("watched without requests of clients" in plan.note) is not has_knative


def test_a_platform_with_exact_traffic_splits_needs_no_plan() -> None:
    assert operations.plan("docker", "churn", WISHED, {}).percentages == {10: 10, 50: 50, 100: 100}


@pytest.mark.parametrize("target", ["kubernetes", "kserve", "seldon"])
def test_a_dry_run_has_the_manifests_checked_and_changes_nothing(
    target: str, api: KubernetesApi, manifests_of: Callable[..., list[str]]
) -> None:
    first = manifests_of(target, FIRST)
    assert api.objects == {}
    deploy.target(target).deploy(FIRST, "churn", **options())
    applied = {thing["kind"] for thing in api.objects.values() if thing.get("kind")}
    assert {kind for kind in first if kind != "ServiceMonitor"} <= applied
    before = api.versions()
    assert manifests_of(target, SECOND, fraction=0.1)
    assert api.versions() == before
    api.denied.add(
        ("patch", {"kubernetes": "deployments", "kserve": "inferenceservices"}.get(target, "models"))
    )
    with pytest.raises(ValueError, match="no permission to PATCH"):
        manifests_of(target, SECOND)


@pytest.fixture
def manifests_of() -> Callable[..., list[str]]:
    def made(target: str, model: str, fraction: float = 1.0) -> list[str]:
        found = operations.manifests(target, model, "churn", fraction, options())
        return [manifest["kind"] for manifest in found]

    return made


def test_targets_outside_clusters_have_no_manifests() -> None:
    with pytest.raises(ValueError, match="the target docker has no manifests"):
        operations.manifests("docker", FIRST, "churn", 1.0, {})
