"""Vertex AI's contract: its variables, and its own client sent to a local server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flowparts.serving.conftest import Server, same

PREDICT = "/v1/projects/1/locations/europe-west4/endpoints/7:predict"
HEALTH = "/v1/endpoints/7/deployedModels/9"


@pytest.fixture
def vertex(serve: Callable[..., Server], model: Path) -> Server:
    # AIP_STORAGE_URI is a gs:// address there; any address of a directory will do.
    return serve(
        "", environment={
            "AIP_PREDICT_ROUTE": PREDICT, "AIP_HEALTH_ROUTE": HEALTH, "AIP_STORAGE_URI": model.as_uri(),
        },
    )  # fmt: skip


def test_its_documented_paths_answer(vertex: Server, records: Any, expected: Any) -> None:
    assert vertex.call(HEALTH)[0] == 200
    status, body, _ = vertex.call(PREDICT, {"instances": records, "parameters": {}})
    assert status == 200
    same(body["predictions"], expected)
    assert b'flowparts_requests_total{code="200",protocol="vertex"} 2.0' in vertex.call("/metrics")[1]


# The client's own libraries warn about their future.
@pytest.mark.filterwarnings("ignore")
def test_googles_client_predicts(vertex: Server, records: Any, expected: Any) -> None:
    """The real client with its REST transport; the server stands where Google's front end does."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.aiplatform_v1.services.prediction_service import PredictionServiceClient
    from google.cloud.aiplatform_v1.services.prediction_service.transports.rest import (
        PredictionServiceRestTransport,
    )

    transport = PredictionServiceRestTransport(
        host=f"127.0.0.1:{vertex.port}", credentials=AnonymousCredentials(), url_scheme="http"
    )
    client = PredictionServiceClient(transport=transport)
    answer = client.predict(endpoint="projects/1/locations/europe-west4/endpoints/7", instances=records)
    same([dict(row) for row in answer.predictions], expected)
