"""Against the stand-in for the Kubernetes API of tests/flowparts/deploy/kubernetes_api.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from flowparts.components.deploy.deploy_tf_serving import deploy_tf_serving
from flowparts.components.deploy.rollback import rollback
from flowparts.components.deploy.shift_traffic import shift_traffic
from flowparts.components.register.load_champion import load_champion
from flowparts.deploy import endpoint as endpoints
from tests.flowparts.deploy.kubernetes_api import KubernetesApi

OPTIONS = {"endpoint_name": "churn", "timeout_seconds": 5.0}


@dsl.pipeline(name="example")
def example(s3_unread: str) -> None:
    imported = dsl.importer(artifact_uri=s3_unread, artifact_class=dsl.Model)
    deploy_tf_serving(model=imported.output, endpoint_name="churn-network")


@dsl.pipeline(name="example-on-a-cluster")
def example_on_a_cluster(network_champion: str, tracking_uri: str) -> None:
    loaded = load_champion(model_name=network_champion, tracking_uri=tracking_uri)
    deploy_tf_serving(model=loaded.outputs["model"], endpoint_name="digits")


def at(address: str) -> dsl.Model:
    return dsl.Model(name="model", uri=address)


def test_a_model_is_deployed_tried_and_rolled_back(
    cluster: KubernetesApi, artifact: Callable[..., Any]
) -> None:
    endpoint, canary, shifted, back = map(artifact, ("endpoint", "canary", "shifted", "back"))
    first = deploy_tf_serving.python_func(model=at("s3://models/1"), endpoint=endpoint, **OPTIONS)
    assert (first[0], first[2]) == ("http://churn.team.svc", 1.0)
    url, revision, fraction = deploy_tf_serving.python_func(
        model=at("s3://models/2"), endpoint=canary, traffic_fraction=0.5, max_batch_size=32, **OPTIONS
    )
    made = endpoints.read(canary.path)
    assert (made.target, made.url, made.revision, made.percent / 100) == (
        "tf_serving",
        url,
        revision,
        fraction,
    )
    assert made.traffic == {revision: 50, first[1]: 50}
    assert "value: 32" in cluster.get("configmaps", f"churn-{revision}")["data"]["batching.txt"]
    assert shift_traffic.python_func(endpoint=canary, shifted=shifted, traffic_fraction=1.0) == (1.0,)
    rollback.python_func(endpoint=shifted, restored=back, reason="it predicts otherwise")
    assert endpoints.read(back.path).traffic == {first[1]: 100}
    assert cluster.names("configmaps") == [f"churn-{first[1]}"]


def test_a_scikit_learn_model_is_refused_with_the_way_out(
    cluster: KubernetesApi,
    wine_model: Callable[[float], dsl.Model],
    artifact: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Path(wine_model(1.0).path)
    monkeypatch.setattr("flowparts.deploy.common._MOUNTS", {"s3": model.parent})
    with pytest.raises(
        ValueError, match=r"no SavedModel.* or deploy it to another target, such as kubernetes"
    ):
        deploy_tf_serving.python_func(
            model=at(f"s3://{model.name}"), endpoint=artifact("endpoint"), **OPTIONS
        )
    assert cluster.versions() == {}
