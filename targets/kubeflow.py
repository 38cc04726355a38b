"""The Kubeflow target: a pipeline document and, where something asks for it, a Kubernetes document."""

import re
from collections.abc import Sequence

import yaml
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


def with_secrets(text: str, given: Sequence[str]) -> str:
    """Add to a compiled package that every step gets keys of Kubernetes secrets as environment variables.

    Args:
        text: The compiled YAML.
        given: Secrets with their keys, such as "aws=AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY"; a key is
            also the variable's name.

    Raises:
        ValueError: A secret is written otherwise.
    """
    keys = _secrets(given)
    if not keys:
        return text
    spec, *overlays = package.documents(text)
    overlay = (
        overlays[0] if overlays else {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {}}}}}
    )
    configs = overlay["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for label, executor in spec["deploymentSpec"]["executors"].items():
        if "container" in executor:
            configs.setdefault(label, {}).setdefault("secretAsEnv", []).extend(
                {
                    "secretName": name,
                    "secretNameParameter": {"runtimeValue": {"constant": name}},
                    "keyToEnv": [{"secretKey": key, "envVar": key} for key in names],
                    "optional": False,
                }
                for name, names in keys.items()
            )
    pipeline = text.split("\n---\n")[0].rstrip("\n")
    return f"{pipeline}\n---\n{yaml.safe_dump(overlay, sort_keys=True)}"


def _secrets(given: Sequence[str]) -> dict[str, list[str]]:
    """Return keys by the name of their Kubernetes secret."""
    found: dict[str, list[str]] = {}
    for text in given:
        name, _, keys = text.partition("=")
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name) or not re.fullmatch(
            r"[A-Za-z_]\w*(,[A-Za-z_]\w*)*", keys
        ):
            raise ValueError(
                f"secret {text!r} must be written NAME=KEY,KEY; a key is also the environment variable's name"
            )
        found.setdefault(name, []).extend(keys.split(","))
    return found
