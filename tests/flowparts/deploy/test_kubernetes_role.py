"""The roles that docs/kubernetes.md gives a step are enough and no more, against the stand-in for the API."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowparts import deploy
from flowparts.deploy import operations
from flowparts.deploy.cluster import Cluster
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.deploy.test_kubernetes import GATEWAY
from tests.flowparts.deploy.test_pod_log import claim
from tests.flowparts.serving.conftest import Server

PAGE = Path("docs/kubernetes.md")
FLEET = {"gateway": "gateways/public", "max_replicas": 3}
LOG = {"prediction_log": {"directory": "pvc://logs/churn"}}
TARGETS: dict[str, dict[str, Any]] = {
    "kubernetes": FLEET | LOG,
    "tf_serving": FLEET,
    "kserve": LOG,
    "seldon": LOG,
}
COMMON = {"image": "registry.example/server:0.1.0", "timeout_seconds": 5.0, "monitoring": True}


def granted() -> set[tuple[str, str, str, str]]:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (text,) = [block for block in blocks if "kind: Role" in block]
    return {
        (role["metadata"]["namespace"], group, resource, verb)
        for role in yaml.safe_load_all(text)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


def test_the_documented_permissions_are_those_that_deployments_need(
    api: KubernetesApi,
    server: Server,
    records: list[Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flowparts.deploy._lease._RENEW_SECONDS", 0.01)
    api.put("gateways", {**GATEWAY, "metadata": {"name": "public", "namespace": "gateways"}})
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    api.put("persistentvolumeclaims", claim())
    api.backend = lambda _: server.url
    api.role = granted()
    for name, options in TARGETS.items():
        use(name, {**COMMON, **options}, api, records)
    api.unknown.add("serving.knative.dev/v1")  # another cluster, with the same role
    for plural, name in list(api.objects):
        if plural == "inferenceservices":
            api.delete(plural, name)
    use("kserve", COMMON, api, records)
    assert api.needed == api.role
    # Knative's addresses lead nowhere here.
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert not [text for text in warned if "can't check which model" not in text]


def use(name: str, options: dict[str, Any], api: KubernetesApi, records: list[Any]) -> None:
    """Do with a target all that the pipelines do."""
    target: Any = deploy.target(name)
    endpoint = name.replace("_", "-")
    api.scenario = "ready"
    first = target.deploy("s3://models/churn/1", endpoint, **options)
    canary = target.deploy("s3://models/churn/2", endpoint, percent=20, **options)
    assert set(target.crashes(canary, canary.revision).values()) == {0}
    if name == "kubernetes":
        assert len(target.predict(canary, records, canary.revision)) == len(records)
    if name == "tf_serving":
        # As it asks for the types of a model's inputs.
        found = Cluster().ask_service(f"{endpoint}-{canary.revision}", "v2/health/ready")
        assert found == {"ready": True}
    assert endpoint in [found.name for found in operations.endpoints(name, {})]
    back = target.rollback(target.shift(canary, 50))
    assert back.traffic == {first.revision: 100}
    for scenario, reason in {"crash": "last log line: model is damaged", "mount": "FailedMount"}.items():
        api.scenario = scenario
        with pytest.raises(ValueError, match=reason):
            target.deploy("s3://models/churn/3", f"{endpoint}-too", **(options | {"timeout_seconds": 0.3}))
    operations.remove(name, endpoint, {}, even_if_serving=True)
