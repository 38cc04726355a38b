"""The Kubeflow backend: a pipeline document and, if settings need it, a Kubernetes document."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.compiler.pipeline_spec_builder import write_pipeline_spec_to_file
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from backends import catalogue, checks, package, resources, step_secrets
from backends.kubeflow import plan, rules
from backends.profiles import Kubeflow
from backends.submission import Package

_OUR_IMAGES = "flowparts-"


def check(text: str) -> None:
    """Raise ValueError if Kubeflow Pipelines would refuse the compiled YAML."""
    spec, *overlays = package.documents(text)
    checks.check_pipeline_spec(text, spec)
    _check_producers(spec)
    name = spec["pipelineInfo"]["name"]
    for problem in rules.errors(spec, plan.of(text)):
        raise ValueError(f"{name}: {problem}")
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


def check_fits(text: str, node: str) -> None:
    """Raise ValueError if a step of the compiled YAML requests more than a node has, such as "2 8Gi"."""
    for problem in rules.unfit(plan.of(text), node):
        raise ValueError(f"{package.documents(text)[0]['pipelineInfo']['name']}: {problem}")


def warnings(text: str) -> list[str]:
    """Return warnings about what may fail or behave unexpectedly on Kubeflow Pipelines."""
    spec = package.documents(text)[0]
    found = rules.warnings(spec, plan.of(text))
    return [f"{spec['pipelineInfo']['name']}: {sentence}" for sentence in found]


def with_settings(text: str, settings: Kubeflow) -> str:
    """Add the steps' Kubernetes settings to a compiled package: CPU, memory, secrets, volumes, nodes.

    Args:
        text: The compiled YAML.
        settings: The settings; keys of secrets become environment variables of the steps that ask for them.

    Raises:
        ValueError: The resources name an unknown step or are malformed, or no step asks for a secret.
    """
    step_secrets.require_requested(key for keys in settings.secrets.values() for key in keys)
    spec, *overlays = package.documents(text)
    if settings.resources:
        resources.override(spec, settings.resources, catalogue.components())
        text = package.with_pipeline(text, spec)
    overlay = (
        overlays[0] if overlays else {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {}}}}}
    )
    configs = overlay["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for label, executor in spec["deploymentSpec"]["executors"].items():
        if "container" not in executor:
            continue
        for key, value in _executor_config(settings, executor["container"]).items():
            config = configs.setdefault(label, {})
            if isinstance(value, list):
                config.setdefault(key, []).extend(value)
            elif key == "nodeSelector":
                config.setdefault(key, {}).setdefault("labels", {}).update(value["labels"])
            else:
                # Settings of the pipeline's author are kept.
                config[key] = {**value, **config.get(key, {})}
    if not configs:
        return text
    pipeline = text.split("\n---\n")[0].rstrip("\n")
    return f"{pipeline}\n---\n{yaml.safe_dump(overlay, sort_keys=True)}"


def manifest(sent: Package, namespace: str) -> str:
    """Return a package as Pipeline and PipelineVersion resources for a GitOps controller."""
    document, *overlays = package.documents(sent.text)
    options = KubernetesManifestOptions(
        pipeline_name=sent.name,
        pipeline_display_name=document["pipelineInfo"].get("displayName", sent.name),
        # Versions of all pipelines share a namespace.
        pipeline_version_name=f"{sent.name}-{sent.version}",
        pipeline_version_display_name=sent.version,
        namespace=namespace or None,
        include_pipeline_manifest=True,
    )
    spec = json_format.ParseDict(document, pipeline_spec_pb2.PipelineSpec())
    options.set_pipeline_spec(spec)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "manifest.yaml"
        write_pipeline_spec_to_file(
            spec,
            sent.description,
            json_format.ParseDict(overlays[0] if overlays else {}, pipeline_spec_pb2.PlatformSpec()),
            str(file),
            kubernetes_manifest_options=options,
            kubernetes_manifest_format=True,
        )
        return file.read_text(encoding="utf-8")


def _executor_config(settings: Kubeflow, container: dict[str, Any]) -> dict[str, Any]:
    """Return a step's Kubernetes settings, without unset ones."""
    gpu = "accelerator" in container.get("resources", {})
    image = container.get("image", "").rpartition("/")[2]
    labels = {**settings.node_selector, **(settings.gpu_node_selector if gpu else {})}
    config = {
        "secretAsEnv": [
            {
                "secretName": name,
                "secretNameParameter": _constant(name),
                "keyToEnv": [{"secretKey": key, "envVar": key} for key in asked],
                "optional": False,
            }
            for name, keys in settings.secrets.items()
            if (asked := step_secrets.requested(container, keys))
        ],
        "imagePullSecret": [
            {"secretName": name, "secretNameParameter": _constant(name)}
            for name in settings.image_pull_secrets
        ],
        "pvcMount": [
            {"constant": claim, "pvcNameParameter": _constant(claim), "mountPath": path}
            for claim, path in settings.volumes.items()
        ],
        "nodeSelector": {"labels": labels} if labels else {},
        "tolerations": [*settings.tolerations, *(settings.gpu_tolerations if gpu else [])],
        # Kubeflow itself drops capabilities and privilege escalation, but allows images that run as root.
        # Other images may run as root, and their steps would then wait for ever.
        "securityContext": {"runAsNonRoot": True} if image.startswith(_OUR_IMAGES) else {},
    }
    return {key: value for key, value in config.items() if value}


def _constant(value: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}


def _check_producers(spec: dict[str, Any]) -> None:
    """Refuse a group or task with consumers and a display name other than its key.

    Kubeflow looks up a producer by its display name, and fails a run with another one
    (kubeflow/pipelines#13239).
    """
    for component in (spec["root"], *spec["components"].values()):
        tasks = component.get("dag", {}).get("tasks", {})
        for reader, task in tasks.items():
            inputs = task.get("inputs", {})
            for given in (*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()):
                source = given.get("taskOutputParameter") or given.get("taskOutputArtifact") or {}
                producer = source.get("producerTask", "")
                shown = tasks.get(producer, {}).get("taskInfo", {}).get("name", producer)
                if shown != producer:
                    raise ValueError(
                        f"{spec['pipelineInfo']['name']}: {reader!r} reads from {producer!r}, which is shown "
                        f"as {shown!r}; Kubeflow can't find it by that name; remove its display name"
                    )


def secrets(given: Sequence[str]) -> dict[str, list[str]]:
    """Return the keys of Kubernetes secrets by the secret's name, as in the settings.

    Args:
        given: Secrets with their keys, such as "aws=AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY"; a key is also
            the variable's name.

    Raises:
        ValueError: A secret is malformed.
    """
    found: dict[str, list[str]] = {}
    for text in given:
        name, _, keys = text.partition("=")
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name) or not re.fullmatch(
            r"[A-Za-z_]\w*(,[A-Za-z_]\w*)*", keys
        ):
            # The text isn't repeated, because it may contain a value by mistake.
            raise ValueError(
                f"secret number {given.index(text) + 1} must be written NAME=KEY,KEY; a key is also the "
                "environment variable's name"
            )
        found.setdefault(name, []).extend(keys.split(","))
    return found
