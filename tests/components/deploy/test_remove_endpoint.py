import pytest
from kfp import dsl

from flowparts import deploy
from flowparts.components.deploy.deploy_kubernetes import deploy_kubernetes
from flowparts.components.deploy.remove_endpoint import remove_endpoint
from tests.flowparts.deploy.kubernetes_api import KubernetesApi


@dsl.pipeline(name="example")
def example(s3: str) -> None:
    imported = dsl.importer(artifact_uri=s3, artifact_class=dsl.Model)
    deployed = deploy_kubernetes(model=imported.output, endpoint_name="removed")
    remove_endpoint(deploy_target="kubernetes", endpoint_name="removed", even_if_serving=True).after(deployed)


def test_a_serving_endpoint_is_removed_only_on_explicit_request(cluster: KubernetesApi) -> None:
    made = deploy.target("kubernetes").deploy("s3://models/1", "churn", image="registry.example/server:1")
    with pytest.raises(ValueError, match=f"endpoint 'churn' serves .{made.revision} 100 %.; set even"):
        remove_endpoint.python_func("kubernetes", "churn")
    (removed,) = remove_endpoint.python_func(
        "kubernetes", "churn", {"namespace": "team"}, even_if_serving=True
    )
    assert f"Deployment churn-{made.revision}" in removed
    assert cluster.names("deployments") == cluster.names("services") == []
    assert remove_endpoint.python_func("kubernetes", "churn", {"namespace": "team"}) == ("",)
