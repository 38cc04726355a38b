"""Requests and limits of a compiled pipeline's steps for CPU and memory, and how to change them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flowparts.util.names import unknown

_CPU = re.compile(r"\d+m|\d*\.?\d+")
_MEMORY = re.compile(r"(\d+)(?:([KMGTPE])(i?))?")
# A memory of 4, meant as four gigabytes, would be four bytes.
_MIN_MEMORY = 4 * 2**20
# By the key of a setting, the field of a compiled container and the one of older SDKs, in CPUs and GB.
_FIELDS = {
    "cpu_request": ("resourceCpuRequest", "cpuRequest"),
    "cpu_limit": ("resourceCpuLimit", "cpuLimit"),
    "memory_request": ("resourceMemoryRequest", "memoryRequest"),
    "memory_limit": ("resourceMemoryLimit", "memoryLimit"),
}


@dataclass(frozen=True)
class Resources:
    """Requests and limits of a step; None if there is none or a parameter sets it at run time."""

    cpu_request: float | None = None  # in CPUs
    cpu_limit: float | None = None
    memory_request: int | None = None  # in bytes
    memory_limit: int | None = None

    @property
    def cpus_requested(self) -> float:
        """CPUs that a node must have free; Kubernetes uses a limit without a request as the request."""
        return (self.cpu_limit if self.cpu_request is None else self.cpu_request) or 0.0

    @property
    def memory_requested(self) -> int:
        """Memory that a node must have free, in bytes."""
        return (self.memory_limit if self.memory_request is None else self.memory_request) or 0

    def requests(self) -> str:
        """Return the requests in words."""
        return _words(self.cpus_requested, self.memory_requested)

    def limits(self) -> str:
        """Return the limits in words."""
        return _words(self.cpu_limit, self.memory_limit)


def node(text: str) -> Resources:
    """Parse the free CPUs and memory of a node, such as "2 8Gi", as limits.

    Raises:
        ValueError: The text is malformed.
    """
    try:
        free_cpus, free_memory = text.split()
        return Resources(cpu_limit=cpus(free_cpus), memory_limit=memory_bytes(free_memory))
    except ValueError:
        raise ValueError(f'node {text!r} must be CPUs and memory such as "2 8Gi"') from None


def of(container: Mapping[str, Any]) -> Resources:
    """Return the resources of a compiled step's container."""
    written = container.get("resources", {})
    values: dict[str, Any] = {}
    for key, (field, older) in _FIELDS.items():
        text = str(written.get(field) or "")
        try:
            values[key] = cpus(text) if key.startswith("cpu") else memory_bytes(text)
        except ValueError:
            # Packages of older SDKs have the older field only.
            known = written.get(older)
            values[key] = known and (known if key.startswith("cpu") else round(known * 1e9))
    return Resources(**values)


def cpus(text: str) -> float:
    """Parse CPUs in Kubernetes' notation, such as "500m" or "2".

    Raises:
        ValueError: The text is something else.
    """
    if not _CPU.fullmatch(text):
        raise ValueError(f"CPUs {text!r} must be a number such as 2, 0.5 or 500m")
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


def memory_bytes(text: str) -> int:
    """Parse memory in Kubernetes' notation, such as "512Mi" or "4Gi", to bytes.

    Raises:
        ValueError: The text is malformed, or the value is tiny because a unit is missing.
    """
    found = _MEMORY.fullmatch(text)
    if not found:
        raise ValueError(f"memory {text!r} must be a whole number with a unit such as 512Mi or 4Gi")
    number, unit, binary = found.groups()
    size: int = int(number) * (1024 if binary else 1000) ** (" KMGTPE".index(unit) if unit else 0)
    if size < _MIN_MEMORY:
        raise ValueError(f"memory {text!r} is {size:,} bytes; give a unit such as Mi or Gi")
    return size


def override(
    spec: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]], elsewhere: Iterable[str] = ()
) -> None:
    """Override requests and limits in a pipeline document.

    Args:
        spec: The document, which is changed.
        given: By a step's name, or "*" for every step, some of cpu_request, cpu_limit, memory_request and
            memory_limit. A step's own entry overrides "*", and `train` also applies to kfp's `train-2`.
        elsewhere: Steps of other pipelines, which are allowed too: one profile serves many pipelines.

    Raises:
        ValueError: A step, key or value is unknown, or a request is over its limit.
    """
    executors = {
        label.removeprefix("exec-"): executor["container"]
        for label, executor in spec["deploymentSpec"]["executors"].items()
        if "container" in executor
    }
    entries = {step.replace("_", "-"): _checked(step, entry) for step, entry in given.items()}
    meant = {name: [name, re.sub(r"-\d+$", "", name)] for name in executors}
    names = {name for both in meant.values() for name in both}
    names.update(name.replace("_", "-") for name in elsewhere)
    for step in entries:
        if step != "*" and step not in names:
            raise ValueError(unknown("step", step, sorted(names)))
    for name, container in executors.items():
        own = next((entries[key] for key in meant[name] if key in entries), {})
        if wanted := {**entries.get("*", {}), **own}:
            _set(name, container, wanted)


def without_requests(spec: Mapping[str, Any]) -> None:
    """Remove the requests from a pipeline document; Vertex AI picks a machine by the limits."""
    for executor in spec["deploymentSpec"]["executors"].values():
        written = executor.get("container", {}).get("resources", {})
        for key in ("cpu_request", "memory_request"):
            for field in _FIELDS[key]:
                written.pop(field, None)


def _checked(step: str, entry: Mapping[str, Any]) -> dict[str, str]:
    values = {key: str(value) for key, value in entry.items()}
    for key, value in values.items():
        if key not in _FIELDS:
            raise ValueError(f"resources of {step!r}: {unknown('key', key, list(_FIELDS))}")
        try:
            cpus(value) if key.startswith("cpu") else memory_bytes(value)
        except ValueError as error:
            raise ValueError(f"{key} of {step!r}: {error}") from None
    return values


def _set(name: str, container: dict[str, Any], wanted: Mapping[str, str]) -> None:
    written = container.setdefault("resources", {})
    for key, value in wanted.items():
        field, older = _FIELDS[key]
        written[field] = value
        written[older] = cpus(value) if key.startswith("cpu") else memory_bytes(value) / 1e9
    for kind in ("cpu", "memory"):
        request, limit = _FIELDS[f"{kind}_request"], _FIELDS[f"{kind}_limit"]
        asked, allowed = (written.get(older) for _, older in (request, limit))
        if asked is None or allowed is None or asked <= allowed:
            continue
        if f"{kind}_request" in wanted:
            raise ValueError(
                f"step {name!r} asks for {written[request[0]]} of {kind} and may use {written[limit[0]]}; "
                f"give it a {kind}_limit that is no lower than its {kind}_request"
            )
        # The component's request belongs to its own limit.
        for ours, theirs in zip(request, limit, strict=True):
            written[ours] = written[theirs]


def _words(cpus: float | None, memory: int | None) -> str:
    return " ".join(
        [
            *([f"{cpus:g} CPU" if cpus >= 1 else f"{1000 * cpus:g}m CPU"] if cpus else []),
            *(
                [f"{memory / 2**30:.3g} Gi" if memory >= 2**30 else f"{memory / 2**20:.0f} Mi"]
                if memory
                else []
            ),
        ]
    )
