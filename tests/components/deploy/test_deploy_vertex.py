"""Against the stand-in for Vertex AI of tests/flowparts/deploy/vertex_service.py; the servers are real."""

from collections.abc import Callable
from typing import Any

import pytest
from kfp import dsl

from flowparts.components.deploy.deploy_vertex import deploy_vertex
from tests.clouds import Served
from tests.flowparts.deploy.vertex_service import VertexService

IMAGE = "europe-west4-docker.pkg.dev/shop/images/flowparts-serving:0.1.0"

# Google's client libraries warn about their own future.
pytestmark = pytest.mark.filterwarnings("ignore")


@dsl.pipeline(name="example")
def example(gs: str) -> None:
    imported = dsl.importer(artifact_uri=gs, artifact_class=dsl.Model)
    deploy_vertex(model=imported.output, endpoint_name="churn")


def test_a_model_is_deployed_tried_promoted_and_rolled_back(
    vertex_ai: VertexService, served: tuple[Served, Served], try_canary: Callable[..., None]
) -> None:
    first, second = ((model.gs, model.path) for model in served)
    try_canary(deploy_vertex, first, second, endpoint_name="churn", image=IMAGE, timeout_seconds=20.0)


def test_a_model_that_is_not_in_a_bucket_of_google_cloud_is_refused(
    vertex_ai: VertexService, artifact: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=r"reads models from gs:// only, not ./models/1.; copy it"):
        deploy_vertex.python_func(
            model=dsl.Model(uri="/models/1"),
            endpoint=artifact("endpoint"),
            endpoint_name="churn",
            image=IMAGE,
        )
    assert vertex_ai.writes() == []
