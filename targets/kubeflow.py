"""The Kubeflow target: a pipeline document and, where something asks for it, a Kubernetes document."""

from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2

from targets import checks, package


def check(text: str) -> None:
    """Raise ValueError when Kubeflow Pipelines would refuse the compiled YAML."""
    spec, *overlays = package.documents(text)
    checks.check_pipeline_spec(text, spec)
    name = spec["pipelineInfo"]["name"]
    if len(overlays) > 1:
        raise ValueError(f"{name}: Kubeflow reads one platform document, not {len(overlays)}")
    for overlay in overlays:
        executors = overlay["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for label, config in executors.items():
            try:
                json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
            except json_format.ParseError as error:
                raise ValueError(
                    f"{name}: the Kubernetes settings of {label} are not valid: {error}"
                ) from None
