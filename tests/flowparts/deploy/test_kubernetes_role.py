"""The role that docs/kubernetes.md gives a step is enough, against the stand-in for the Kubernetes API."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowparts import deploy
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.deploy.test_kubernetes import GATEWAY

PAGE = Path("docs/kubernetes.md")
OPTIONS: dict[str, dict[str, Any]] = {
    "kubernetes": {"gateway": "public", "max_replicas": 3},
    "kserve": {},
    "seldon": {},
    "tf_serving": {"gateway": "public", "max_replicas": 3},
}


@pytest.fixture
def role(api: KubernetesApi) -> KubernetesApi:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    api.put("gateways", GATEWAY)
    api.set_status(("gateways", "public"), {"addresses": [{"value": "192.0.2.7"}]})
    api.role = {
        (verb, resource)
        for rule in yaml.safe_load(text)["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }
    return api


@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_enough_to_deploy_and_to_roll_back(
    name: str, role: KubernetesApi, caplog: pytest.LogCaptureFixture
) -> None:
    target: Any = deploy.target(name)
    options = {"image": "registry.example/server:0.1.0", "timeout_seconds": 5.0, **OPTIONS[name]}
    first = target.deploy("s3://models/churn/1", "churn", **options)
    canary = target.deploy("s3://models/churn/2", "churn", share=20, **options)
    assert target.restarts(canary, canary.revision) == 0
    back = target.rollback(target.shift(canary, 50))
    assert back.traffic == {first.revision: 100}
    role.scenario = "crash"
    with pytest.raises(ValueError, match="last log line: model is damaged") as raised:
        target.deploy("s3://models/churn/3", "churn", **options)
    assert str(raised.value).endswith(f"{first.revision} serves as before")
    role.scenario = "mount"
    with pytest.raises(ValueError, match="FailedMount"):
        target.deploy("s3://models/churn/4", "churn", **(options | {"timeout_seconds": 0.3}))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
