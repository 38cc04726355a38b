"""The pod of the model server, the same on every kind of cluster, with secure defaults."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from flowparts import deploy

HTTP_PORT = 8080
GRPC_PORT = 8081
# On SIGTERM a server takes requests until everyone has heard that it leaves, then ends those that it has. It
# does so itself, because Knative takes no hook that would hold the signal back.
LEAVE_SECONDS = 5
END_SECONDS = 60
# Fetching and loading the model come before readiness.
_START_PROBES = 120
_MODELS = "/mnt/models"
# The user of the images. A number, so that Kubernetes can tell it isn't root.
_USER = 65532
_PVC = re.compile(r"pvc://([a-z0-9][a-z0-9.-]*)(?:/(.*))?")
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_IMAGE = re.compile(r"\S+(:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})")


@dataclass(frozen=True)
class ServerPod:
    """A model server for one model.

    Attributes:
        model: Where the server fetches the model from: s3://, gs:// or pvc://CLAIM/PATH. What is there
            doesn't change: another model has another address.
        name: The model's name in requests.
        image: The server's image, with a fixed tag or a digest.
        cpu: Processors, as Kubernetes writes them.
        memory: Memory, likewise.
        environment_from: A Kubernetes Secret whose keys become the server's environment, such as
            AWS_ACCESS_KEY_ID.
        service_account: The pod's account, for clouds that tie access rights to it.

    Raises:
        ValueError: A cluster can't take one of them.
    """

    model: str
    name: str
    image: str
    cpu: str
    memory: str
    environment_from: str = ""
    service_account: str = ""

    def __post_init__(self) -> None:
        if not re.match(r"(s3|gs|minio)://.", self.model) and not _PVC.fullmatch(self.model):
            raise ValueError(
                f"a cluster can't fetch the model from {self.model!r}; put it where the server can: s3://, "
                "gs:// or pvc://CLAIM/PATH"
            )
        if not _IMAGE.fullmatch(self.image) or self.image.endswith(":latest"):
            raise ValueError(
                f"image {self.image!r} must have a fixed tag or a digest, so that every pod is alike"
            )
        deploy.check_name(self.name)
        deploy.cpus(self.cpu)
        deploy.memory_bytes(self.memory)
        for what, given in (
            ("environment_from", self.environment_from),
            ("service_account", self.service_account),
        ):
            if given and not _OBJECT_NAME.fullmatch(given):
                raise ValueError(f"{what} must be the name of an object in the namespace, not {given!r}")

    @property
    def mounted(self) -> bool:
        """Whether the model lies on a volume, so that the server needs no network of its own."""
        return self.model.startswith("pvc://")

    @property
    def revision(self) -> str:
        """The revision's name: "r" and 12 hexadecimal digits for everything that the pod is made of."""
        text = json.dumps([self.spec(), self.container("server")], sort_keys=True)
        return f"r{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def container(
        self, name: str, http: int = HTTP_PORT, grpc: int = GRPC_PORT, repository: str = ""
    ) -> dict[str, Any]:
        """Return the server's container with what every platform lets a pod say.

        Args:
            name: What the platform calls the server's container.
            http: Port of the protocols over HTTP.
            grpc: Port of the Open Inference Protocol over gRPC.
            repository: Where the platform puts models and has them loaded, if the server doesn't fetch its
                own.
        """
        claim = _PVC.fullmatch(self.model)
        # Kubeflow names its own store minio://, which speaks S3.
        address = f"{_MODELS}/{claim[2] or ''}" if claim else self.model.replace("minio://", "s3://", 1)
        mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
        if claim:
            mounts.append({"name": "models", "mountPath": _MODELS, "readOnly": True})
        served = [
            {"name": "FLOWPARTS_SERVING_MODEL", "value": address},
            {"name": "FLOWPARTS_SERVING_NAME", "value": self.name},
        ]
        if repository:
            served = [{"name": "FLOWPARTS_SERVING_REPOSITORY", "value": repository}]
        amounts = {"cpu": self.cpu, "memory": self.memory}
        container: dict[str, Any] = {
            "name": name,
            "image": self.image,
            "env": [
                *served,
                {"name": "FLOWPARTS_SERVING_PORT", "value": str(http)},
                {"name": "FLOWPARTS_SERVING_GRPC_PORT", "value": str(grpc)},
                {"name": "FLOWPARTS_SERVING_DRAIN_SECONDS", "value": str(LEAVE_SECONDS)},
            ],
            "resources": {"requests": amounts, "limits": dict(amounts)},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": mounts,
            "startupProbe": _probe("ready", http, 5, _START_PROBES),
            "readinessProbe": _probe("ready", http, 5, 2),
            "livenessProbe": _probe("live", http, 10, 3),
        }
        if self.environment_from:
            container["envFrom"] = [{"secretRef": {"name": self.environment_from}}]
        return container

    def full_container(self, name: str) -> dict[str, Any]:
        """Return the server's container with what only a plain pod takes: all ports."""
        return {
            **self.container(name),
            "ports": [
                {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
                {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            ],
        }

    def spec(self) -> dict[str, Any]:
        """Return the rest of the pod's specification, without containers."""
        spec: dict[str, Any] = {
            "automountServiceAccountToken": False,
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        }
        if claim := _PVC.fullmatch(self.model):
            source = {"claimName": claim[1], "readOnly": True}
            spec["volumes"].append({"name": "models", "persistentVolumeClaim": source})
        if self.service_account:
            spec["serviceAccountName"] = self.service_account
        return spec

    def full_spec(self, labels: dict[str, str]) -> dict[str, Any]:
        """Return a plain pod's specification.

        Args:
            labels: The pod's labels, by which its replicas are spread over zones and nodes.
        """
        return {
            **self.spec(),
            "containers": [self.full_container("server")],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "fsGroup": _USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": END_SECONDS,
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": key,
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": labels},
                }
                for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
            ],
        }


def _probe(state: str, port: int, seconds: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": f"/v2/health/{state}", "port": port},
        "periodSeconds": seconds,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }
