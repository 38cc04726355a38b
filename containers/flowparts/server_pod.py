"""The pod of the model server, the same on every kind of cluster."""

from dataclasses import dataclass
from typing import Any, ClassVar

from flowparts.model_pod import LOCKED_DOWN, START_PROBES, ModelPod, port, probe

HTTP_PORT = 8080
GRPC_PORT = 8081
# On SIGTERM a server takes requests until everyone has heard that it leaves, then ends those that it has. It
# does so itself, because Knative takes no hook that would hold the signal back.
LEAVE_SECONDS = 5
END_SECONDS = 60


@dataclass(frozen=True)
class ServerPod(ModelPod):
    """A model server for one model, which it fetches itself."""

    http_port: ClassVar[int] = HTTP_PORT
    grpc_port: ClassVar[int] = GRPC_PORT
    metrics_path: ClassVar[str] = "/metrics"
    end_seconds: ClassVar[int] = END_SECONDS

    def parts(self) -> list[Any]:
        """Return all that makes a revision another one."""
        return [self.spec(), self.container("server")]

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
        served = [
            {"name": "FLOWPARTS_SERVING_MODEL", "value": self.address},
            {"name": "FLOWPARTS_SERVING_NAME", "value": self.name},
        ]
        if repository:
            served = [{"name": "FLOWPARTS_SERVING_REPOSITORY", "value": repository}]
        return {
            "name": name,
            "image": self.image,
            "env": [
                *served,
                {"name": "FLOWPARTS_SERVING_PORT", "value": str(http)},
                {"name": "FLOWPARTS_SERVING_GRPC_PORT", "value": str(grpc)},
                {"name": "FLOWPARTS_SERVING_DRAIN_SECONDS", "value": str(LEAVE_SECONDS)},
            ],
            "resources": self.resources(),
            "securityContext": LOCKED_DOWN,
            "volumeMounts": self.mounts(),
            "startupProbe": probe("/v2/health/ready", http, 5, START_PROBES),
            "readinessProbe": probe("/v2/health/ready", http, 5, 2),
            "livenessProbe": probe("/v2/health/live", http, 10, 3),
            **self.secrets(),
        }

    def full_container(self, name: str) -> dict[str, Any]:
        """Return the server's container with what only a plain pod takes: all ports."""
        return {
            **self.container(name),
            "ports": [port("http", HTTP_PORT), port("grpc", GRPC_PORT)],
        }
