"""What both modes of KServe have in common: an InferenceService, and the record that stands beside it.

The endpoint, and the predictor of each revision, stand in a ConfigMap: a step that is tried again finds them,
and a rollback applies the previous predictor again. Not on the InferenceService, whose annotations become
those of its pods, so that each change of them would load the model again.
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
# On all pods of an InferenceService.
_SERVICE = "serving.kserve.io/inferenceservice"
# Bears the model server; KServe finds it by this name.
CONTAINER = "kserve-container"
# What was there before may come back slower than a deployment has been given.
UNDO_SECONDS = 120.0


@dataclass(frozen=True)
class StoredPod(ServerPod):
    """A model server whose model KServe's storage initializer puts beside it.

    KServe adds that init container to the pods themselves, in both modes, so that Knative needs none of its
    features for init containers or volumes. Its credentials are those of the pods' service account.
    """

    @property
    def mounted(self) -> bool:
        """Whether the pod mounts the model: KServe adds what STORAGE_URI names."""
        return False

    def container(self, name: str, *arguments: Any, **options: Any) -> Manifest:
        """Return the server's container, which names the model for KServe and has no keys to the store."""
        container = super().container(name, *arguments, **{**options, "fetched": MODELS})
        # Kubeflow names its own store minio://, which speaks S3.
        stored = self.model.replace("minio://", "s3://", 1)
        return {**container, "env": [*container["env"], {"name": "STORAGE_URI", "value": stored}]}


@dataclass(frozen=True)
class Service(ABC):
    """An InferenceService.

    Attributes:
        mode: The value of its annotation that asks for the mode.
        metrics_port: Name of the port at which its pods have metrics.
        there: The namespace.
        name: Its name, which is the endpoint's.
    """

    mode: ClassVar[str]
    metrics_port: ClassVar[str]

    there: Cluster
    name: str

    @abstractmethod
    def predictor(self, pod: StoredPod, replicas: int, max_replicas: int) -> Manifest:
        """Return the part of an InferenceService that makes a revision of a pod."""

    @abstractmethod
    def check_share(self, share: int) -> None:
        """Raise ValueError unless the service can give a revision this share."""

    def plan(self, shares: Sequence[int]) -> Plan:
        """Return what a revision would get of the requests beside the one that serves."""
        return Plan({share: share for share in shares})

    @abstractmethod
    def state(self) -> tuple[Endpoint | None, dict[str, Manifest]]:
        """Return the endpoint as it is now, and its revisions' predictors."""

    @abstractmethod
    def move(
        self,
        before: Endpoint | None,
        after: Endpoint,
        predictors: dict[str, Manifest],
        timeout_seconds: float = 600.0,
    ) -> Endpoint:
        """Make the service what is asked for, wait for it, and return the endpoint with its address."""

    @abstractmethod
    def restore(self, before: Endpoint, predictors: dict[str, Manifest], timeout_seconds: float) -> None:
        """Ask for what was there before."""

    @abstractmethod
    def predict(self, endpoint: Endpoint, rows: list[dict[str, Any]], revision: str) -> list[dict[str, Any]]:
        """Send rows by the V1 protocol, to whichever revision the shares pick or to a certain one."""

    @abstractmethod
    def tell(self, endpoint: Endpoint, path: str) -> Any:
        """Return the JSON that the servers of the current revision have at a path."""

    @abstractmethod
    def release(self, endpoint: Endpoint) -> None:
        """Take the pods from a previous revision without requests, if KServe hasn't already."""

    @property
    def where(self) -> str:
        return f"in namespace {self.there.namespace}"

    def pods_of(self, revision: str) -> dict[str, str]:
        """Return the labels of a revision's pods."""
        return {_SERVICE: self.name, REVISION: revision}

    def monitor(self) -> prometheus.Monitor:
        """Return what Prometheus watches the endpoint by."""
        return prometheus.Monitor(self.there, self.name, prometheus.PODS, f"{self.name}-kserve")

    def watched(self) -> Manifest:
        """Return whom it scrapes."""
        ours = {
            "matchLabels": {_SERVICE: self.name},
            "matchExpressions": [{"key": REVISION, "operator": "Exists"}],
        }
        return prometheus.by_pods(self.name, ours, self.metrics_port, REVISION)

    def found(self) -> Manifest:
        """Return the InferenceService; empty if it isn't there."""
        return self.there.get(API, KIND, self.name) or {}

    def asked(self) -> str:
        """Return the revision that was applied last; empty if there is none."""
        return label(self.found().get("spec", {}).get("predictor", {}))

    def undo(
        self,
        revision: str,
        before: Endpoint | None,
        predictors: dict[str, Manifest],
        timeout_seconds: float,
    ) -> None:
        """Take a revision back that didn't come up.

        Raises:
            ValueError: Another step has deployed to the endpoint since, whose work this would undo.
        """
        if (now := self.asked()) and now != revision and (before is None or now not in before.traffic):
            raise ValueError(f"another step has deployed revision {now} since, which stays")
        if before:
            self.restore(before, predictors, max(timeout_seconds, UNDO_SECONDS))
        elif now == revision:
            self.remove()

    def remove(self) -> None:
        """Delete the service, and what stands around it."""
        self.there.delete(API, KIND, self.name)
        self.there.delete("v1", "ConfigMap", self._kept)

    def apply(self, spec: Manifest, annotations: Mapping[str, str] | None = None) -> None:
        """Apply the InferenceService."""
        self.there.apply(
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
        """Return the endpoint as the last step left it, and the predictors that are known."""
        kept = self.there.get("v1", "ConfigMap", self._kept)
        if not kept:
            return None, {}
        return Endpoint(**json.loads(kept["data"]["endpoint"])), json.loads(kept["data"]["predictors"])

    def keep(self, endpoint: Endpoint, predictors: dict[str, Manifest], *coming: str) -> None:
        """Write the record: an endpoint, with the predictors of its revisions and of further ones."""
        revisions = {*endpoint.traffic, *coming}
        known = {name: predictor for name, predictor in predictors.items() if name in revisions}
        data = {"endpoint": asdict(endpoint), "predictors": known}
        self.there.apply(
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
            ValueError: The record doesn't hold it.
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
        return {"name": name, "namespace": self.there.namespace, "labels": self.there.labels(self.name)}


def label(predictor: Manifest) -> str:
    """Return the revision that a predictor is of; empty if it isn't one of ours."""
    return str(predictor.get("labels", {}).get(REVISION, ""))
