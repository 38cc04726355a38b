"""Compiles a component or pipeline to YAML text and settles its images."""

import ast
import itertools
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler
from kfp.dsl.base_component import BaseComponent

from components import REGISTRY
from flowparts import __version__
from targets import images

_IMAGE = re.compile(
    rf"^(\s+image: ){REGISTRY}/(flowparts-[a-z0-9-]+):{re.escape(__version__)}$", re.MULTILINE
)

# kfp's header comment shows mappings in an order that changes from process to process.
_DEFAULT = re.compile(r"^(#    \w+: (?:list|dict) \[Default: )(.*)(\])$", re.MULTILINE)


def compiled(component: BaseComponent, image_reference: Callable[[str], str]) -> str:
    """Return the compiled YAML of a component or pipeline.

    Args:
        component: What to compile.
        image_reference: Gives the full reference of an image from its name, such as "flowparts-base".
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "package.yaml"
        compiler.Compiler().compile(component, str(file))
        text = file.read_text(encoding="utf-8")
    text = _renamed(_DEFAULT.sub(lambda match: match[1] + _ordered(match[2]) + match[3], text))
    return _IMAGE.sub(lambda match: match[1] + image_reference(match[2]), text)


def _renamed(text: str) -> str:
    """Name components and executors by the tasks that use them, in the tasks' order.

    kfp numbers those that nested pipelines share in the order of protobuf's maps, which changes from process
    to process.
    """
    header = "".join(re.findall(r"^#.*\n", text, re.MULTILINE))
    spec, *overlays = documents(text)
    components = spec.get("components", {})
    names: dict[str, str] = {}
    waiting = [spec["root"]]
    while waiting:
        tasks = waiting.pop(0).get("dag", {}).get("tasks", {})
        for task, description in sorted(tasks.items()):
            name = description["componentRef"]["name"]
            if name not in names:
                numbered = (f"-{number}" for number in itertools.count(2))
                suffixes = itertools.chain([""], numbered)
                names[name] = next(
                    new for suffix in suffixes if (new := f"comp-{task}{suffix}") not in names.values()
                )
                waiting.append(components[name])
            description["componentRef"]["name"] = names[name]
    labels = {
        component["executorLabel"]: f"exec-{names[name].removeprefix('comp-')}"
        for name, component in components.items()
        if "executorLabel" in component
    }
    for component in components.values():
        if "executorLabel" in component:
            component["executorLabel"] = labels[component["executorLabel"]]
    spec["components"] = {names[name]: component for name, component in components.items()}
    for holder in (spec, *(overlay["platforms"]["kubernetes"] for overlay in overlays)):
        executors = holder["deploymentSpec"]["executors"]
        holder["deploymentSpec"]["executors"] = {labels[label]: value for label, value in executors.items()}
    return header + "---\n".join(yaml.dump(part, sort_keys=True) for part in (spec, *overlays))


def _ordered(literal: str) -> str:
    """Return a Python literal as JSON with its keys in order."""
    return json.dumps(ast.literal_eval(literal), sort_keys=True)


def documents(text: str) -> list[dict[str, Any]]:
    """Return the YAML documents of a compiled package."""
    return list(yaml.safe_load_all(text))


def image_references(registry: str, version: str, digests: Path | None = None) -> Callable[[str], str]:
    """Return a function from an image's name to its full reference.

    Args:
        registry: Where the images are pulled from, without a trailing slash.
        version: The tag.
        digests: The images.json of `make push`; an image named in it is pinned by digest instead.

    Raises:
        ValueError: An option is malformed, or an image in the file has no digest.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*", registry):
        raise ValueError(f"registry {registry!r} is not a registry and path such as registry.example/team")
    if version == "latest" or not re.fullmatch(r"\w[\w.-]{0,127}", version):
        raise ValueError(f"version {version!r} is not a fixed image tag such as {__version__}")
    pinned = _read_digests(digests) if digests else {}

    def reference(name: str) -> str:
        if name in pinned:
            return f"{registry}/{name}@{pinned[name]}"
        return f"{registry}/{name}:{version}"

    return reference


def _read_digests(file: Path) -> dict[str, str]:
    pinned = {}
    for name, image in images.read(file).items():
        if not image["digest"]:
            raise ValueError(
                f"{name} in {file} was never pushed, so it has no digest; make push gives it one"
            )
        pinned[name] = str(image["digest"])
    return pinned
