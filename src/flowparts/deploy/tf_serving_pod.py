"""The pod of TensorFlow Serving: an init container lays out the SavedModel, the official server serves it.

The server's options are described at https://www.tensorflow.org/tfx/serving/serving_config and
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from flowparts.deploy import common
from flowparts.deploy.model_pod import LOCKED_DOWN, START_PROBES, ModelPod, check_image, port, probe

GRPC_PORT = 8500
REST_PORT = 8501
METRICS_PATH = "/monitoring/prometheus/metrics"

_BASE = "/models"
# Every revision is a separate Deployment, so a server has one version of one model.
_VERSION = 1
_CONFIGURATION = "/etc/tf-serving"
_BATCHING, _MONITORING = "batching.txt", "monitoring.txt"
# It ends at once on SIGTERM, so before that, clients must be routed away and pending requests answered.
_LEAVE_SECONDS = 15


@dataclass(frozen=True)
class Batching:
    """The server's batching.

    Attributes:
        max_batch_size: Maximum rows per batch and per request; 0 for no batching.
        timeout_micros: Maximum microseconds that a request waits for its batch to fill.
        threads: Batches processed in parallel.
        max_enqueued_batches: Maximum queued batches; more requests are refused.

    Raises:
        ValueError: A value is invalid.
    """

    max_batch_size: int
    timeout_micros: int
    threads: int
    max_enqueued_batches: int

    def __post_init__(self) -> None:
        least = {"max_batch_size": 0, "timeout_micros": 0, "threads": 1, "max_enqueued_batches": 1}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise ValueError(f"{name} must be {number} or more, not {getattr(self, name)}")

    def to_text(self) -> str:
        """Return the text form of TensorFlow Serving's BatchingParameters."""
        return (
            f"max_batch_size {{ value: {self.max_batch_size} }}\n"
            f"batch_timeout_micros {{ value: {self.timeout_micros} }}\n"
            f"num_batch_threads {{ value: {self.threads} }}\n"
            f"max_enqueued_batches {{ value: {self.max_enqueued_batches} }}\n"
        )


@dataclass(frozen=True)
class TensorFlowServingPod(ModelPod):
    """TensorFlow Serving for one model.

    Attributes:
        fetcher: The image that lays out the model; it contains this package.
        batching: The server's batching.
    """

    http_port: ClassVar[int] = REST_PORT
    grpc_port: ClassVar[int] = GRPC_PORT
    metrics_path: ClassVar[str] = METRICS_PATH
    end_seconds: ClassVar[int] = 60
    has_files: ClassVar[bool] = True

    fetcher: str = ""
    batching: Batching = Batching(0, 0, 1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_image(self.fetcher)

    @property
    def files(self) -> dict[str, str]:
        """Files that the server reads, as protobuf text."""
        found = {_MONITORING: f'prometheus_config {{ enable: true path: "{METRICS_PATH}" }}\n'}
        if self.batching.max_batch_size:
            found[_BATCHING] = self.batching.to_text()
        return found

    def parts(self) -> list[Any]:
        """Return all that makes a revision another one."""
        return [self.spec(), self.full_container("server"), self.files]

    def spec(self) -> dict[str, Any]:
        """Return the rest of the pod's specification: the init container for the model, and volumes."""
        spec = super().spec()
        spec["volumes"].append({"name": "saved-model", "emptyDir": {"sizeLimit": self.disk}})
        lay_out = {
            "name": "model",
            "image": self.fetcher,
            "command": ["python", "-m", "flowparts.serving.saved_model_files"],
            "args": [
                self.address,
                f"{_BASE}/{self.name}/{_VERSION}",
                *([self.digest] if self.digest else []),
            ],
            "resources": self.resources(),
            "securityContext": LOCKED_DOWN,
            "volumeMounts": [*self.mounts(), {"name": "saved-model", "mountPath": _BASE}],
            **self.secrets(),
        }
        return {**spec, "initContainers": [lay_out]}

    def full_spec(self, labels: dict[str, str]) -> dict[str, Any]:
        """Return a plain pod's specification, with the ConfigMap of its revision."""
        spec = super().full_spec(labels)
        configuration = {"name": "configuration", "configMap": {"name": f"{self.name}-{self.revision}"}}
        return {**spec, "volumes": [*spec["volumes"], configuration]}

    def full_container(self, name: str) -> dict[str, Any]:
        """Return the server's container."""
        status = f"/v1/models/{self.name}/versions/{_VERSION}"
        arguments = [
            f"--port={GRPC_PORT}",
            f"--rest_api_port={REST_PORT}",
            f"--model_name={self.name}",
            f"--model_base_path={_BASE}/{self.name}",
            # The model is looked for once; if it can't be loaded, the server ends.
            "--file_system_poll_wait_seconds=0",
            "--max_num_load_retries=0",
            f"--monitoring_config_file={_CONFIGURATION}/{_MONITORING}",
        ]
        if self.batching.max_batch_size:
            arguments += ["--enable_batching=true"]
            arguments += [f"--batching_parameters_file={_CONFIGURATION}/{_BATCHING}"]
        return {
            "name": name,
            "image": self.image,
            "command": ["/usr/bin/tensorflow_model_server"],
            "args": arguments,
            "ports": [port("http", REST_PORT), port("grpc", GRPC_PORT)],
            "resources": self.resources(),
            "securityContext": LOCKED_DOWN,
            "volumeMounts": [
                {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
                {"name": "saved-model", "mountPath": _BASE, "readOnly": True},
                {"name": "configuration", "mountPath": _CONFIGURATION, "readOnly": True},
            ],
            "startupProbe": probe(status, REST_PORT, 5, START_PROBES),
            "readinessProbe": probe(status, REST_PORT, 5, 2),
            "livenessProbe": probe(status, REST_PORT, 10, 3),
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_LEAVE_SECONDS)]}}},
        }


def threads(cpu: str) -> int:
    """Return how many batches a pod with this CPU limit processes in parallel."""
    return math.ceil(common.cpus(cpu))
