"""Against the stand-in for the Kubernetes API of tests/flowparts/deploy/kubernetes_api.py."""

from collections.abc import Callable
from typing import Any

import pytest
from kfp import dsl

from flowparts.components.deploy.deploy_kubernetes import deploy_kubernetes
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
    deploy_kubernetes(model=imported.output, endpoint_name="churn")


def at(address: str) -> dsl.Model:
    return dsl.Model(name="model", uri=address)


def test_a_model_is_deployed_tried_and_rolled_back(
    cluster: KubernetesApi, artifact: Callable[..., Any]
) -> None:
    endpoint, canary, shifted, back = map(artifact, ("endpoint", "canary", "shifted", "back"))
    first = deploy_kubernetes.python_func(model=at("s3://models/1"), endpoint=endpoint, **OPTIONS)
    assert (first[0], first[2]) == ("http://churn.team.svc", 1.0)
    url, revision, fraction = deploy_kubernetes.python_func(
        model=at("s3://models/2"), endpoint=canary, traffic_fraction=0.5, **OPTIONS
    )
    made = endpoints.read(canary.path)
    assert (made.target, made.url, made.revision, made.percent / 100) == (
        "kubernetes",
        url,
        revision,
        fraction,
    )
    assert made.traffic == {revision: 50, first[1]: 50}
    assert made.settings["namespace"] == "team"
    assert shift_traffic.python_func(endpoint=canary, shifted=shifted, traffic_fraction=1.0) == (1.0,)
    rollback.python_func(endpoint=shifted, restored=back, reason="it predicts otherwise")
    assert endpoints.read(back.path).traffic == {first[1]: 100}


def test_a_model_that_no_server_can_fetch_is_refused(
    cluster: KubernetesApi, artifact: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match="can't fetch the model from '/models/1'; put it where its pods can"):
        deploy_kubernetes.python_func(model=at("/models/1"), endpoint=artifact("endpoint"), **OPTIONS)
    assert cluster.versions() == {}


def test_omitted_options_keep_the_endpoints_values(
    cluster: KubernetesApi, artifact: Callable[..., Any]
) -> None:
    def bring(address: str, **given: Any) -> Any:
        endpoint = artifact(f"endpoint-{address[-1]}")
        options = {"endpoint_name": "churn", "timeout_seconds": 5.0, **given}
        deploy_kubernetes.python_func(model=at(address), endpoint=endpoint, **options)
        return endpoints.read(endpoint.path)

    given = {"image": OPTIONS["image"], "replicas": 3, "memory": "1Gi"}
    assert bring("s3://models/1", **given).settings["options"] == given
    made = bring("s3://models/2", replicas=2)
    assert made.settings["options"] == {**given, "replicas": 2}
    deployment = cluster.get("deployments", f"churn-{made.revision}")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "1Gi"
    assert bring("s3://models/3", image=given["image"], reset=True).settings["options"] == {
        "image": given["image"]
    }
