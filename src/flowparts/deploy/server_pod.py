"""The pod of the model server on all kinds of clusters."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from flowparts.deploy import common, model_store
from flowparts.deploy.model_pod import LOCKED_DOWN, MODELS, START_PROBES, ModelPod, port, probe
from flowparts.deploy.pod_log import Logged, PodLog

HTTP_PORT = 8080
GRPC_PORT = 8081
# On SIGTERM a server still takes requests until routing has changed, then finishes pending ones. It does so
# itself, because Knative allows no preStop hook to delay the signal.
LEAVE_SECONDS = 5
END_SECONDS = 60
# Where an init container puts the model.
_FETCHED = f"{MODELS}/model"


@dataclass(frozen=True)
class ServerPod(ModelPod):
    """A model server for one model.

    Another container downloads the model before the server starts, so that the server, which clients reach,
    has neither credentials of the store nor writable paths except scratch space and its log: an init
    container on a plain cluster, KServe's storage initializer or Seldon's agent on theirs.

    Attributes:
        log: Its prediction log; None for none.
    """

    http_port: ClassVar[int] = HTTP_PORT
    grpc_port: ClassVar[int] = GRPC_PORT
    metrics_path: ClassVar[str] = "/metrics"
    end_seconds: ClassVar[int] = END_SECONDS
    digest_path: ClassVar[str] = "v2/models/{name}/ready"

    log: PodLog | None = None

    @classmethod
    def of(cls, model: str, name: str, chosen: Logged, service_account: str = "") -> Self:
        """Return the pod for options, after copying a local model to the store.

        Raises:
            ValueError: An option is wrong.
        """
        return cls(
            model=model_store.stored(model),
            name=name,
            image=common.image("serving", chosen.image),
            cpu=chosen.cpu,
            memory=chosen.memory,
            environment_from=chosen.environment_from,
            service_account=service_account,
            options=chosen.pod_options,
            log=PodLog.of(chosen.prediction_log),
        )

    def parts(self) -> list[Any]:
        """Return everything that identifies the revision."""
        return [self.spec(), self.container("server")]

    def spec(self) -> dict[str, Any]:
        """Return the rest of the pod's specification, without containers."""
        spec = super().spec()
        return {**spec, "volumes": [*spec["volumes"], self.log.volume()]} if self.log else spec

    def full_spec(self, labels: dict[str, str]) -> dict[str, Any]:
        """Return a plain pod's specification, with the init container that downloads the model."""
        spec = super().full_spec(labels)
        if self.mounted:
            return spec
        models = {"name": "models", "emptyDir": {"sizeLimit": self.disk}}
        fetch = {
            "name": "model",
            "image": self.image,
            "command": ["python", "-m", "flowparts.serving.model_files"],
            "args": [self.address, _FETCHED, *([self.digest] if self.digest else [])],
            "resources": self.resources(),
            "securityContext": LOCKED_DOWN,
            "volumeMounts": [*self.mounts(), {"name": "models", "mountPath": MODELS}],
            **self.secrets(),
        }
        return {**spec, "initContainers": [fetch], "volumes": [*spec["volumes"], models]}

    def container(
        self,
        name: str,
        http: int = HTTP_PORT,
        grpc: int = GRPC_PORT,
        repository: str = "",
        fetched: str = "",
    ) -> dict[str, Any]:
        """Return the server's container with the fields that every platform allows.

        Args:
            name: The platform's name of the server's container.
            http: Port of the protocols over HTTP.
            grpc: Port of the Open Inference Protocol over gRPC.
            repository: The platform's model repository, if it has one.
            fetched: Where another container puts the model, unless it is on a mounted volume.
        """
        served = [
            {"name": "FLOWPARTS_SERVING_MODEL", "value": fetched or self.address},
            {"name": "FLOWPARTS_SERVING_NAME", "value": self.name},
        ]
        if repository:
            served = [{"name": "FLOWPARTS_SERVING_REPOSITORY", "value": repository}]
        return {
            "name": name,
            "image": self.image,
            "env": [
                *served,
                *([{"name": "FLOWPARTS_SERVING_DIGEST", "value": self.digest}] if self.digest else []),
                {"name": "FLOWPARTS_SERVING_PORT", "value": str(http)},
                {"name": "FLOWPARTS_SERVING_GRPC_PORT", "value": str(grpc)},
                {"name": "FLOWPARTS_SERVING_DRAIN_SECONDS", "value": str(LEAVE_SECONDS)},
                *([] if repository else self.token()),
                *(self.log.variables() if self.log else []),
            ],
            "resources": self.resources(),
            "securityContext": LOCKED_DOWN,
            "volumeMounts": [*self.mounts(), *([self.log.mount()] if self.log else [])],
            "startupProbe": probe("/v2/health/ready", http, 5, START_PROBES),
            "readinessProbe": probe("/v2/health/ready", http, 5, 2),
            "livenessProbe": probe("/v2/health/live", http, 10, 3),
            # The repository's agent has a separate Secret with the credentials; this one has the server's
            # options.
            **(self.secrets() if repository else {}),
        }

    def full_container(self, name: str) -> dict[str, Any]:
        """Return the server's container for a plain pod: with all ports and a downloaded model."""
        container = self.container(name, fetched="" if self.mounted else _FETCHED)
        mounts = container["volumeMounts"]
        if not self.mounted:
            mounts = [*mounts, {"name": "models", "mountPath": MODELS, "readOnly": True}]
        return {
            **container,
            "volumeMounts": mounts,
            "ports": [port("http", HTTP_PORT), port("grpc", GRPC_PORT)],
        }
