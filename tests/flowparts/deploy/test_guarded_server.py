"""A server that requires a token is asked through the API server, whose Authorization is the user's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowparts.deploy.targets import kubernetes
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.serving.conftest import Server, start, wait

OPTIONS: dict[str, Any] = {"image": "registry.example/flowparts-serving:0.1.0", "timeout_seconds": 30.0}


@pytest.fixture
def guarded(model: Path) -> Iterator[Server]:
    running = wait(start(model, "--name=churn", environment={"FLOWPARTS_SERVING_TOKEN": "sesame"}))
    yield running
    running.stop()


def test_the_token_goes_in_a_header_of_its_own_and_its_lack_is_reported(
    api: KubernetesApi,
    guarded: Server,
    records: list[dict[str, Any]],
    expected: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api.backend = lambda service: guarded.url
    made = kubernetes.deploy("s3://models/churn/1", "churn", **OPTIONS)
    for token in ("", "wrong"):
        monkeypatch.setenv("FLOWPARTS_SERVING_TOKEN", token)
        with pytest.raises(
            ValueError, match=r"the server behind service churn requires a token.*FLOWPARTS_SERVING_TOK"
        ):
            kubernetes.predict(made, records)
    monkeypatch.setenv("FLOWPARTS_SERVING_TOKEN", "sesame")
    assert [row["prediction"] for row in kubernetes.predict(made, records)] == expected
