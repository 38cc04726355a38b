from collections.abc import Callable
from typing import Any

import pytest
from kfp import dsl

from flowparts.components.deploy.deploy_docker import deploy_docker
from flowparts.components.deploy.rollback import rollback
from flowparts.components.register.load_champion import load_champion
from flowparts.deploy import endpoint as endpoints


@dsl.pipeline(name="example")
def example(champion: str, other_champion: str, docker_endpoint: str, tracking_uri: str) -> None:
    first = load_champion(model_name=champion, tracking_uri=tracking_uri).outputs["model"]
    second = load_champion(model_name=other_champion, tracking_uri=tracking_uri).outputs["model"]
    deployed = deploy_docker(model=first, endpoint_name=docker_endpoint, memory="512Mi")
    canary = deploy_docker(
        model=second, endpoint_name=docker_endpoint, memory="512Mi", traffic_fraction=0.1
    ).after(deployed)
    rollback(endpoint=canary.outputs["endpoint"], reason="to see it go")


@pytest.mark.container
def test_the_previous_revision_serves_alone_afterwards(
    deployed: Callable[..., Any], artifact: Callable[..., Any]
) -> None:
    endpoint, restored = deployed(1.0, 0.1, percent=10), artifact("restored")
    before = endpoints.read(endpoint.path)
    (revision,) = rollback.python_func(endpoint=endpoint, restored=restored, reason="too slow")
    after = endpoints.read(restored.path)
    assert revision == after.revision == before.previous_revision
    assert after.traffic == {revision: 100}
    assert restored.metadata["rolled_back"] == before.revision
    assert restored.metadata["reason"] == "too slow"
    with pytest.raises(ValueError, match="no previous revision to roll back to"):
        rollback.python_func(endpoint=restored, restored=artifact("other"))
