"""Removing an endpoint leaves nothing, and never happens by accident."""

from typing import Any

import pytest

from flowparts import deploy
from flowparts.deploy import operations
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.deploy.test_kubernetes import GATEWAY

CLUSTERS = ["kubernetes", "tf_serving", "kserve", "seldon"]
IMAGE = {"image": "registry.example/flowparts-serving:0.1.0", "timeout_seconds": 5.0}


def holdings(api: KubernetesApi) -> set[tuple[str, str]]:
    return {key for key in api.objects if key[0] not in ("pods", "events", "gateways", "leases")}


@pytest.mark.parametrize("target", CLUSTERS)
def test_an_endpoint_is_removed_with_all_that_was_made_for_it(target: str, api: KubernetesApi) -> None:
    api.put("gateways", GATEWAY)
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    further: dict[str, Any] = {}
    if target in ("kubernetes", "tf_serving"):
        further = {"gateway": "public", "max_replicas": 3}
    others = holdings(api)
    platform = deploy.target(target)
    platform.deploy("s3://models/1", "other", **IMAGE, **further)
    kept = holdings(api)
    platform.deploy("s3://models/1", "churn", **IMAGE, **further)
    made = platform.deploy("s3://models/2", "churn", percent=50, **IMAGE, **further)
    full = api.versions()
    with pytest.raises(ValueError, match=r"endpoint 'churn' serves \(.* 50 %.*\); set even_if_serving"):
        operations.remove(target, "churn", {})
    said = operations.remove(target, "churn", {}, dry_run=True)
    assert api.versions() == full
    assert operations.remove(target, "churn", {}, even_if_serving=True) == said
    assert any(made.revision in thing for thing in said) or target == "kserve"
    assert holdings(api) == kept != others
    with pytest.raises(ValueError, match=f"there is no endpoint 'churn' on {target}"):
        operations.remove(target, "churn", {})


def test_leftovers_of_a_killed_first_deployment_are_removed(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flowparts.deploy.common.wait", killed)
    with pytest.raises(KeyboardInterrupt):
        deploy.target("kubernetes").deploy("s3://models/1", "churn", **IMAGE)
    assert holdings(api)
    operations.remove("kubernetes", "churn", {})
    assert not holdings(api)


def test_foreign_objects_are_kept(api: KubernetesApi) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "churn", "namespace": "team"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80, "protocol": "TCP"}]},
    }
    api.put("services", theirs, "helm")
    with pytest.raises(ValueError, match="there is no endpoint 'churn' on kubernetes"):
        operations.remove("kubernetes", "churn", {}, even_if_serving=True)
    assert api.names("services") == ["churn"]
