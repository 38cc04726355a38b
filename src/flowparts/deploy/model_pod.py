"""The common part of all model servers' pods, with secure defaults."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from flowparts.deploy import common
from flowparts.deploy.pod_options import PodOptions
from flowparts.util import trees

# The model is downloaded and loaded before readiness.
START_PROBES = 120
MODELS = "/mnt/models"
TOKEN = "FLOWPARTS_SERVING_TOKEN"  # noqa: S105 a variable's name
# The most restrictive security context of a container.
LOCKED_DOWN = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}

# Kubeflow's steps are outside of its mesh, and services inside refuse them.
OUTSIDE_MESH = {"sidecar.istio.io/inject": "false"}

# The user of the images. A number, so that Kubernetes can tell it isn't root.
USER = 65532
# A network is stored three times on disk and once in memory; logs and scratch files come on top.
_DISK_PER_MEMORY = 4
_SCRATCH_MIB = 1024
_DISK_REQUEST = "100Mi"
_PVC = re.compile(r"pvc://([a-z0-9][a-z0-9.-]*)(?:/(.*))?")
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_IMAGE = re.compile(r"\S+(:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})")


@dataclass(frozen=True)
class ModelPod(ABC):
    """A server for one model.

    Attributes:
        http_port: Port of the protocols over HTTP.
        grpc_port: Port of those over gRPC.
        metrics_path: Where Prometheus finds the server's metrics.
        end_seconds: Termination grace period of the pod.
        digest_path: Path where the server reports its model's digest; empty if it can't.
        has_files: Whether the server reads files of a ConfigMap.
        model: Where to download it: s3://, gs:// or pvc://CLAIM/PATH. Its content doesn't change: another
            model has another URI.
        name: The model's name in requests.
        image: The server's image, with a fixed tag or a digest.
        cpu: CPUs in Kubernetes' notation.
        memory: Memory in Kubernetes' notation.
        environment_from: A Kubernetes Secret whose keys become the environment of the download, such as
            AWS_ACCESS_KEY_ID. The server gets only its token.
        service_account: The pod's service account, such as one with cloud access.
        digest: Required digest of the model's files (`trees.digest`); pods refuse any other. Empty if it
            isn't known.
        options: Scheduling and labels of its pods.

    Raises:
        ValueError: A value isn't possible on a cluster.
    """

    http_port: ClassVar[int]
    grpc_port: ClassVar[int]
    metrics_path: ClassVar[str]
    end_seconds: ClassVar[int]
    digest_path: ClassVar[str] = ""
    has_files: ClassVar[bool] = False

    model: str
    name: str
    image: str
    cpu: str
    memory: str
    environment_from: str = ""
    service_account: str = ""
    digest: str = field(default="", kw_only=True)
    options: PodOptions = field(default_factory=PodOptions, kw_only=True)

    def __post_init__(self) -> None:
        if not re.match(r"(s3|gs|minio)://.", self.model) and not _PVC.fullmatch(self.model):
            raise ValueError(
                f"a cluster can't fetch the model from {self.model!r}; put it where its pods can: s3://, "
                "gs:// or pvc://CLAIM/PATH, or name such a place in FLOWPARTS_MODEL_STORE of this step's "
                "environment, and models of this machine are copied there"
            )
        if (claim := _PVC.fullmatch(self.model)) and (path := (claim[2] or "").rstrip("/")):
            trees.inside(Path(MODELS), path)
        check_image(self.image)
        common.check_name(self.name)
        common.cpus(self.cpu)
        common.memory_bytes(self.memory)
        for what, given in (
            ("environment_from", self.environment_from),
            ("service_account", self.service_account),
        ):
            check_object(what, given)

    @property
    def mounted(self) -> bool:
        """Whether the model is on a volume, so that the pod needs no outgoing network."""
        return self.model.startswith("pvc://")

    @property
    def address(self) -> str:
        """The model's location for the pod: a directory or a URI."""
        if claim := _PVC.fullmatch(self.model):
            return f"{MODELS}/{claim[2] or ''}"
        # Kubeflow names its own store minio://, which speaks S3.
        return self.model.replace("minio://", "s3://", 1)

    @property
    def revision(self) -> str:
        """The revision's name: "r" and 12 hexadecimal digits of a hash of everything that defines the pod."""
        # Labels and annotations are included only if there are any.
        labelled = [self.options.metadata()] if self.options.metadata() else []
        text = json.dumps([*self.parts(), *labelled], sort_keys=True)
        return f"r{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def files(self) -> dict[str, str]:
        """Files that the server reads, by name: the data of a ConfigMap."""
        return {}

    @abstractmethod
    def parts(self) -> list[Any]:
        """Return everything that identifies the revision."""

    @abstractmethod
    def full_container(self, name: str) -> dict[str, Any]:
        """Return the server's container with all ports and probes."""

    @property
    def disk(self) -> str:
        """The limit of a volume's or container's ephemeral storage."""
        model = _DISK_PER_MEMORY * common.memory_bytes(self.memory) // 2**20
        return f"{model + _SCRATCH_MIB}Mi"

    def resources(self) -> dict[str, Any]:
        """Return a container's resources; with the limit of storage, a pod that fills the disk is evicted."""
        amounts = {"cpu": self.cpu, "memory": self.memory}
        return {
            "requests": {**amounts, "ephemeral-storage": _DISK_REQUEST},
            "limits": {**amounts, "ephemeral-storage": self.disk},
        }

    def mounts(self) -> list[dict[str, Any]]:
        """Return the mounts of a container: scratch space and a mounted model."""
        mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
        if self.mounted:
            mounts.append({"name": "models", "mountPath": MODELS, "readOnly": True})
        return mounts

    def secrets(self) -> dict[str, Any]:
        """Return the part of a container that gives it access to the model."""
        return {"envFrom": [{"secretRef": {"name": self.environment_from}}]} if self.environment_from else {}

    def token(self) -> list[dict[str, Any]]:
        """Return the server's variable with the token for clients, if there is one."""
        if not self.environment_from:
            return []
        key = {"name": self.environment_from, "key": TOKEN, "optional": True}
        return [{"name": TOKEN, "valueFrom": {"secretKeyRef": key}}]

    def spec(self) -> dict[str, Any]:
        """Return the rest of the pod's specification, without containers."""
        spec: dict[str, Any] = {
            "automountServiceAccountToken": False,
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": self.disk}}],
            **self.options.spec(),
        }
        if self.mounted and (claim := _PVC.fullmatch(self.model)):
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
            "securityContext": {**pod_security(), "runAsUser": USER, "runAsGroup": USER},
            # No variables for every Service of the namespace.
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": self.end_seconds,
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


def pod_security() -> dict[str, Any]:
    """Return the security context of a pod, for all containers and users."""
    return {
        "runAsNonRoot": True,
        "fsGroup": USER,
        # Don't walk a volume with many files, such as half a year's prediction log, at each start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def check_object(what: str, name: str) -> None:
    """Raise ValueError unless this is a valid object name that the step's environment allows."""
    if name and not _OBJECT_NAME.fullmatch(name):
        raise ValueError(f"{what} must be the name of an object in the namespace, not {name!r}")
    common.require_allowed(what, name)


def check_image(image: str) -> None:
    """Raise ValueError unless an image has a fixed tag or a digest."""
    if not _IMAGE.fullmatch(image) or image.endswith(":latest"):
        raise ValueError(f"image {image!r} must have a fixed tag or a digest, so that all pods are the same")


def port(name: str, number: int) -> dict[str, Any]:
    """Return a container's port."""
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def probe(path: str, number: int, seconds: int, failures: int) -> dict[str, Any]:
    """Return a probe of a path and port with a period in seconds."""
    return {
        "httpGet": {"path": path, "port": number},
        "periodSeconds": seconds,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }
