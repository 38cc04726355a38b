"""A cluster for the targets that deploy to Kubernetes, and a model server behind it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowparts import models
from flowparts.models import agreement
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.serving.conftest import Server, rows, start, train, wait


@pytest.fixture
def api(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> KubernetesApi:
    monkeypatch.setattr("flowparts.deploy.targets.seldon._MESH_SECONDS", 0.1)
    return cluster


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("behind-clusters") / "model")


@pytest.fixture(scope="session")
def server(model: Path) -> Iterator[Server]:
    """Run the model server that a cluster would, for an endpoint called churn."""
    running = wait(start(model, "--name=churn"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def records() -> list[dict[str, Any]]:
    return agreement.to_records(rows().drop("plan", "amount").head(5))


@pytest.fixture(scope="session")
def expected(model: Path) -> list[Any]:
    """Give what the model predicts offline for `records`."""
    return models.load(model).predict(rows().head(5))["prediction"].to_list()
