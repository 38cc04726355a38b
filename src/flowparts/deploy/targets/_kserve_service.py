"""The common part of KServe's modes: an InferenceService, and a record beside it.

The endpoint and the predictor of each revision are stored in a ConfigMap: a retried step finds them, and a
rollback applies the previous predictor again. They can't be on the InferenceService, whose annotations become
those of its pods, so that each change would restart them.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from flowparts.deploy import prometheus
from flowparts.deploy.cluster import Cluster, Manifest
from flowparts.deploy.common import Plan
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.model_pod import MODELS
from flowparts.deploy.server_pod import ServerPod

API = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
MODE = "serving.kserve.io/deploymentMode"
REVISION = "flowparts/revision"
# Label of all pods of an InferenceService.
_SERVICE = "serving.kserve.io/inferenceservice"
# KServe's name for the model server's container.
CONTAINER = "kserve-container"
# Restoring the previous state may take longer than the deployment's timeout.
UNDO_SECONDS = 120.0


@dataclass(frozen=True)
class StoredPod(ServerPod):
    """A model server with a model from KServe's storage initializer.

    KServe itself adds that init container to the pods, in both modes, so Knative doesn't need its features
    for init containers or volumes. Its credentials come from the pods' service account.
    """

    @property
    def mounted(self) -> bool:
        """Whether the pod mounts the model: KServe adds the mount for STORAGE_URI."""
        return False

    def container(self, name: str, *arguments: Any, **options: Any) -> Manifest:
        """Return the server's container, which names the model for KServe and has no store credentials."""
        container = super().container(name, *arguments, **{**options, "fetched": MODELS})
        # Kubeflow names its own store minio://, which speaks S3.
        stored = self.model.replace("minio://", "s3://", 1)
        return {**container, "env": [*container["env"], {"name": "STORAGE_URI", "value": stored}]}


@dataclass(frozen=True)
class Service(ABC):
    """An InferenceService.

    Attributes:
        mode: The value of its annotation for the mode.
        metrics_port: Name of its pods' port with metrics.
        cluster: The namespace.
        name: Its name, which is the endpoint's.
    """

    mode: ClassVar[str]
    metrics_port: ClassVar[str]

    cluster: Cluster
    name: str

    @abstractmethod
    def predictor(self, pod: StoredPod, replicas: int, max_replicas: int) -> Manifest:
        """Return the part of an InferenceService that defines a pod's revision."""

    @abstractmethod
    def check_percent(self, percent: int) -> None:
        """Raise ValueError unless a revision can get this percentage."""

    def plan(self, percentages: Sequence[int]) -> Plan:
        """Return the traffic that a revision would get beside the current one."""
        return Plan({percent: percent for percent in percentages})

    @abstractmethod
    def state(self) -> tuple[Endpoint | None, dict[str, Manifest]]:
        """Return the current endpoint, and its revisions' predictors."""

    @abstractmethod
    def move(
        self,
        before: Endpoint | None,
        after: Endpoint,
        predictors: dict[str, Manifest],
        timeout_seconds: float = 600.0,
    ) -> Endpoint:
        """Apply the requested endpoint, wait for it, and return it with its address."""

    @abstractmethod
    def restore(self, before: Endpoint, predictors: dict[str, Manifest], timeout_seconds: float) -> None:
        """Request the previous state."""

    @abstractmethod
    def predict(self, endpoint: Endpoint, rows: list[dict[str, Any]], revision: str) -> list[dict[str, Any]]:
        """Send rows by the V1 protocol, by the traffic split or to a given revision."""

    @abstractmethod
    def request_server(self, endpoint: Endpoint, path: str) -> Any:
        """Get JSON at a path from the servers of the current revision."""

    @abstractmethod
    def release(self, endpoint: Endpoint) -> None:
        """Scale a previous revision without traffic to zero, unless KServe has done so."""

    @property
    def where(self) -> str:
        return f"in namespace {self.cluster.namespace}"

    def pods_of(self, revision: str) -> dict[str, str]:
        """Return the labels of a revision's pods."""
        return {_SERVICE: self.name, REVISION: revision}

    def monitor(self) -> prometheus.Monitor:
        """Return the endpoint's monitor for Prometheus."""
        return prometheus.Monitor(self.cluster, self.name, prometheus.PODS, f"{self.name}-kserve")

    def watched(self) -> Manifest:
        """Return its targets."""
        ours = {
            "matchLabels": {_SERVICE: self.name},
            "matchExpressions": [{"key": REVISION, "operator": "Exists"}],
        }
        return prometheus.by_pods(self.name, ours, self.metrics_port, REVISION)

    def fetch(self) -> Manifest:
        """Return the InferenceService; empty if it doesn't exist."""
        return self.cluster.get(API, KIND, self.name) or {}

    def applied_revision(self) -> str:
        """Return the last applied revision; empty if there is none."""
        return label(self.fetch().get("spec", {}).get("predictor", {}))

    def undo(
        self,
        revision: str,
        before: Endpoint | None,
        predictors: dict[str, Manifest],
        timeout_seconds: float,
    ) -> None:
        """Undo the deployment of a revision that failed to start.

        Raises:
            ValueError: Another step has deployed to the endpoint since, and this would undo its work.
        """
        if (
            (now := self.applied_revision())
            and now != revision
            and (before is None or now not in before.traffic)
        ):
            raise ValueError(f"another step has deployed revision {now} since, which stays")
        if before:
            self.restore(before, predictors, max(timeout_seconds, UNDO_SECONDS))
        elif now == revision:
            self.remove()

    def remove(self) -> None:
        """Delete the service and its other objects."""
        self.cluster.delete(API, KIND, self.name)
        self.cluster.delete("v1", "ConfigMap", self._kept)

    def apply(self, spec: Manifest, annotations: Mapping[str, str] | None = None) -> None:
        """Apply the InferenceService."""
        self.cluster.apply(
            {
                "apiVersion": API,
                "kind": KIND,
                "metadata": {
                    **self._metadata(self.name),
                    "annotations": {MODE: self.mode, **(annotations or {})},
                },
                "spec": spec,
            }
        )

    def record(self) -> tuple[Endpoint | None, dict[str, Manifest]]:
        """Return the endpoint from the last step, and the recorded predictors."""
        kept = self.cluster.get("v1", "ConfigMap", self._kept)
        if not kept:
            return None, {}
        return Endpoint(**json.loads(kept["data"]["endpoint"])), json.loads(kept["data"]["predictors"])

    def keep(self, endpoint: Endpoint, predictors: dict[str, Manifest], *coming: str) -> None:
        """Write the record: an endpoint, with the predictors of its revisions and others."""
        revisions = {*endpoint.traffic, *coming}
        known = {name: predictor for name, predictor in predictors.items() if name in revisions}
        data = {"endpoint": asdict(endpoint), "predictors": known}
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": self._metadata(self._kept),
                "data": {name: json.dumps(content, sort_keys=True) for name, content in data.items()},
            }
        )

    def known(self, revision: str, predictors: Mapping[str, Manifest]) -> Manifest:
        """Return a revision's predictor.

        Raises:
            ValueError: The record doesn't have it.
        """
        if revision not in predictors:
            raise ValueError(
                f"endpoint {self.name!r} holds no predictor of revision {revision}; deploy its model again"
            )
        return predictors[revision]

    @property
    def _kept(self) -> str:
        return f"{self.name}-endpoint"

    def _metadata(self, name: str) -> Manifest:
        return {"name": name, "namespace": self.cluster.namespace, "labels": self.cluster.labels(self.name)}


def label(predictor: Manifest) -> str:
    """Return a predictor's revision; empty if it isn't ours."""
    return str(predictor.get("labels", {}).get(REVISION, ""))
