"""Against the stand-in for the Kubernetes API of tests/flowparts/deploy/kubernetes_api.py."""

from collections.abc import Callable
from typing import Any

import pytest
from kfp import dsl

from flowparts.components.deploy.deploy_kserve import deploy_kserve
from flowparts.components.deploy.rollback import rollback
from flowparts.components.deploy.shift_traffic import shift_traffic
from flowparts.deploy import endpoint as endpoints
from tests.flowparts.deploy.kubernetes_api import KubernetesApi

OPTIONS = {
    "endpoint_name": "churn",
    "image": "registry.example/flowparts-serving:0.1.0",
    "timeout_seconds": 5.0,
}


@dsl.pipeline(name="example")
def example(s3: str) -> None:
    imported = dsl.importer(artifact_uri=s3, artifact_class=dsl.Model)
    deploy_kserve(model=imported.output, endpoint_name="churn")


def at(address: str) -> dsl.Model:
    return dsl.Model(name="model", uri=address)


def test_a_model_is_deployed_tried_and_rolled_back(
    cluster: KubernetesApi, artifact: Callable[..., Any]
) -> None:
    endpoint, canary, shifted, back = map(artifact, ("endpoint", "canary", "shifted", "back"))
    first = deploy_kserve.python_func(model=at("s3://models/1"), endpoint=endpoint, **OPTIONS)
    assert (first[0], first[2]) == ("http://churn.team.example.com", 1.0)
    url, revision, fraction = deploy_kserve.python_func(
        model=at("s3://models/2"), endpoint=canary, traffic_fraction=0.5, **OPTIONS
    )
    made = endpoints.read(canary.path)
    assert (made.target, made.url, made.revision, made.percent / 100) == ("kserve", url, revision, fraction)
    assert made.traffic == {revision: 50, first[1]: 50}
    assert made.settings["namespace"] == "team"
    assert shift_traffic.python_func(endpoint=canary, shifted=shifted, traffic_fraction=1.0) == (1.0,)
    rollback.python_func(endpoint=shifted, restored=back, reason="it predicts otherwise")
    assert endpoints.read(back.path).traffic == {first[1]: 100}


def test_a_model_that_no_server_can_fetch_is_refused(
    cluster: KubernetesApi, artifact: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match="can't fetch the model from '/models/1'; put it where its pods can"):
        deploy_kserve.python_func(model=at("/models/1"), endpoint=artifact("endpoint"), **OPTIONS)
    assert cluster.versions() == {}
