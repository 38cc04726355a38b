"""The Vertex AI target: one document, within what Vertex AI Pipelines can run."""

import re
from collections.abc import Sequence

import yaml

from flowparts.secrets import SCHEME
from targets import checks, package

MAX_CPUS = 96
MAX_MEMORY_GB = 624

_SECRET = re.compile(
    r"([A-Za-z_]\w*)=(projects/[a-z0-9:.-]+/secrets/[\w-]{1,255}/versions/(?:[1-9]\d*|[A-Za-z][\w-]{0,62}))"
)
# How the components in the images are started, and how kfp starts a function whose source is embedded.
_STEP = ["python3", "-m", "flowparts.step"]
_START = "python3 -m kfp.dsl.executor_main"
_START_WITH_SECRETS = f"python3 -m flowparts.secrets {_START}"


def check(text: str) -> None:
    """Raise ValueError when Vertex AI Pipelines would refuse the compiled YAML."""
    spec, *overlays = package.documents(text)
    checks.check_pipeline_spec(text, spec)
    name = spec["pipelineInfo"]["name"]
    if overlays:
        raise ValueError(
            f"{name}: Vertex AI reads a single document, and something from kfp.kubernetes added a second; "
            "compile it for --target kubeflow"
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


def with_secrets(text: str, given: Sequence[str]) -> str:
    """Add to a compiled package that every step reads secrets of Secret Manager into environment variables.

    The specification has no field for a secret: the variables hold references, and the step starts through
    `flowparts.secrets`, which reads them.

    Args:
        text: The compiled YAML.
        given: A variable and its secret each, such as "TOKEN=projects/p/secrets/token/versions/3".

    Raises:
        ValueError: A secret is written otherwise, or a step isn't started as kfp starts a function.
    """
    if not given:
        return text
    variables = []
    for reference in given:
        found = _SECRET.fullmatch(reference)
        if not found:
            # Not repeated: a value may have been given by mistake.
            raise ValueError(
                f"secret number {given.index(reference) + 1} must be written "
                "VARIABLE=projects/PROJECT/secrets/SECRET/versions/VERSION"
            )
        variables.append({"name": found[1], "value": SCHEME + found[2]})
    (spec,) = package.documents(text)
    for label, executor in spec["deploymentSpec"]["executors"].items():
        if container := executor.get("container"):
            command = container["command"]
            if command[: len(_STEP)] == _STEP:
                container["command"] = ["python3", "-m", "flowparts.secrets", *command]
            else:
                container["command"] = [part.replace(_START, _START_WITH_SECRETS) for part in command]
            if container["command"] == command:
                raise ValueError(f"{label} has a command of its own, which can't be given secrets")
            container.setdefault("env", []).extend(map(dict, variables))
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    return header + yaml.safe_dump(spec, sort_keys=True)
