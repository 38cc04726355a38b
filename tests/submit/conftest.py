"""Services on this machine, and no waiting for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import faults, submission
from backends.kubeflow import client, service
from backends.vertex import service as vertex_service
from tests.submit.kubeflow_server import KubeflowServer
from tests.submit.vertex_server import VertexServer


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(faults, "PAUSES_SECONDS", (0.01,) * 5)
    monkeypatch.setattr(submission, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(client, "TIMEOUT_SECONDS", (5, 1))
    monkeypatch.setattr(service, "SETTLE_SECONDS", 0.0)
    monkeypatch.setenv("FLOWPARTS_GIT_COMMIT", "0123456789abcdef")
    for variable in ("TOKEN", "COOKIE", "PROFILE", "ENDPOINT"):
        monkeypatch.delenv(f"FLOWPARTS_{variable}", raising=False)


@pytest.fixture
def kubeflow() -> Iterator[KubeflowServer]:
    server = KubeflowServer()
    yield server
    server.close()


@pytest.fixture
def vertex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexServer]:
    server = VertexServer()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(server.credentials_file(tmp_path)))
    monkeypatch.setattr(vertex_service, "TIMEOUT_SECONDS", 0.5)
    yield server
    server.close()
