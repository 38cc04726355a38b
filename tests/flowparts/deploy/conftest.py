"""A cluster for the targets that deploy to Kubernetes, and a model server behind it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flowparts import deploy
from tests.flowparts.deploy import kubernetes_api
from tests.flowparts.deploy.kubernetes_api import NAMESPACE, TOKEN, KubernetesApi


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """Run a stand-in for the Kubernetes API, and name it in a kubeconfig as a user's would."""
    monkeypatch.setattr(deploy, "_LOOK_EVERY_SECONDS", 0.02)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with kubernetes_api.serving() as running:
        context = {"cluster": "here", "user": "step", "namespace": NAMESPACE}
        settings = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": context}],
            "clusters": [{"name": "here", "cluster": {"server": running.url}}],
            "users": [{"name": "step", "user": {"token": TOKEN}}],
        }
        file = tmp_path / "kubeconfig"
        file.write_text(yaml.safe_dump(settings))
        monkeypatch.setenv("KUBECONFIG", str(file))
        yield running
