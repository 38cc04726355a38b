"""The Vertex AI backend: a single document within the limits of Vertex AI Pipelines."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from backends import catalogue, checks, package, resources, step_secrets
from backends.profiles import Vertex
from flowparts.util.secrets import SCHEME

MAX_CPUS = 96
MAX_MEMORY_GB = 624

_SECRET = re.compile(
    r"([A-Za-z_]\w*)=(projects/[a-z0-9:.-]+/secrets/[\w-]{1,255}/versions/(?:[1-9]\d*|[A-Za-z][\w-]{0,62}))"
)
# The commands of components in the images, and kfp's command of a function with embedded source.
_STEP = ["python3", "-m", "flowparts.step"]
_START = "python3 -m kfp.dsl.executor_main"
_START_WITH_SECRETS = f"python3 -m flowparts.util.secrets {_START}"


def check(text: str) -> None:
    """Raise ValueError if Vertex AI Pipelines would refuse the compiled YAML."""
    spec, *overlays = package.documents(text)
    checks.check_pipeline_spec(text, spec)
    name = spec["pipelineInfo"]["name"]
    if overlays:
        raise ValueError(
            f"{name}: Vertex AI reads a single document, and something from kfp.kubernetes added a second; "
            "compile it for --backend kubeflow"
        )
    for label, executor in spec["deploymentSpec"]["executors"].items():
        resources = executor.get("container", {}).get("resources", {})
        cpus = float(resources.get("cpuLimit", 0))
        memory_gb = float(resources.get("memoryLimit", 0))
        if cpus > MAX_CPUS or memory_gb > MAX_MEMORY_GB:
            raise ValueError(
                f"{name}: {label} asks for {cpus:g} CPUs and {memory_gb:g} GB; "
                f"Vertex AI gives at most {MAX_CPUS} CPUs and {MAX_MEMORY_GB} GB"
            )
        accelerator = resources.get("accelerator", {}).get("resourceType", "")
        if accelerator and not accelerator.startswith(("NVIDIA_", "TPU_", "ct")):
            raise ValueError(
                f"{name}: {label} asks for accelerator {accelerator!r}, a Kubernetes name; "
                "Vertex AI has names such as NVIDIA_TESLA_T4"
            )


def with_settings(text: str, settings: Vertex) -> str:
    """Set the steps' CPU, memory and secrets for Vertex AI in a compiled package.

    Args:
        text: The compiled YAML.
        settings: The settings; secrets become environment variables of the steps that ask for them.

    Raises:
        ValueError: A secret is malformed or no step asks for it, or the resources name an unknown step or are
            malformed.
    """
    spec = package.documents(text)[0]
    resources.override(spec, settings.resources, catalogue.components())
    resources.without_requests(spec)
    _add_secrets(spec, secrets([f"{name}={secret}" for name, secret in settings.secrets.items()]))
    return package.with_pipeline(text, spec)


def secrets(given: Sequence[str]) -> dict[str, str]:
    """Return secrets of Secret Manager by variable, as in the settings.

    Args:
        given: Variables with their secrets, such as "TOKEN=projects/p/secrets/token/versions/3".

    Raises:
        ValueError: A secret is malformed.
    """
    found = {}
    for number, reference in enumerate(given, 1):
        match = _SECRET.fullmatch(reference)
        if not match:
            # The text isn't repeated, because it may contain a value by mistake.
            raise ValueError(
                f"secret number {number} must be written "
                "VARIABLE=projects/PROJECT/secrets/SECRET/versions/VERSION"
            )
        found[match[1]] = match[2]
    return found


def _add_secrets(spec: dict[str, Any], secrets: Mapping[str, str]) -> None:
    """Make steps read the secrets that they ask for from Secret Manager into environment variables.

    The specification has no field for secrets: the variables hold references, and the step starts through
    `flowparts.util.secrets`, which reads them.
    """
    step_secrets.require_requested(secrets)
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor.get("container", {})
        asked = step_secrets.requested(container, secrets)
        if not asked:
            continue
        command = container["command"]
        if command[: len(_STEP)] == _STEP:
            container["command"] = ["python3", "-m", "flowparts.util.secrets", *command]
        else:
            container["command"] = [part.replace(_START, _START_WITH_SECRETS) for part in command]
        variables = [{"name": name, "value": SCHEME + secrets[name]} for name in asked]
        container.setdefault("env", []).extend(variables)
