"""Compile a component or pipeline to YAML and set its images."""

import argparse
import ast
import itertools
import json
import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp import compiler
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.python_component import PythonComponent

from backends import catalogue
from flowparts import __version__
from flowparts.components import REGISTRY
from tools import images

_IMAGE = re.compile(
    rf"^(\s+image: ){REGISTRY}/(flowparts-[a-z0-9-]+):{re.escape(__version__)}$", re.MULTILINE
)

# In kfp's header comment, the order of mappings differs between processes.
_DEFAULT = re.compile(r"^(#    \w+: (?:list|dict) \[Default: )(.*)(\])$", re.MULTILINE)


def compiled(
    component: BaseComponent, image_reference: Callable[[str], str], version: str | None = None
) -> str:
    """Return the compiled YAML of a component or pipeline.

    Args:
        component: What to compile.
        image_reference: Returns the full reference of an image by its name, such as "flowparts-base".
        version: Version of the images: their copy of this repository's components runs, and the YAML has no
            source. None to embed the source, for kfp.local and for editing a component without building an
            image.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "package.yaml"
        try:
            compiler.Compiler().compile(component, str(file))
        except json_format.SerializeToJsonError as error:
            raise ValueError(f"{component.name}: no backend takes NaN or infinity: {error}") from None
        text = file.read_text(encoding="utf-8")
    text = _shared(
        _DEFAULT.sub(lambda match: match[1] + _ordered(match[2]) + match[3], text),
        version,
        describe_steps=not version or isinstance(component, PythonComponent),
    )
    return _IMAGE.sub(lambda match: match[1] + image_reference(match[2]), text)


def _shared(text: str, version: str | None, describe_steps: bool) -> str:
    """Deduplicate the components of nested pipelines, named by the first task that uses them.

    kfp copies a nested pipeline for each use, and numbers the copies in the order of protobuf's maps, which
    differs between processes. Some clusters store at most 256 kB per run.

    Args:
        text: The compiled YAML.
        version: Version of the images whose components run by name; None to keep the source embedded.
        describe_steps: Whether steps' ports keep their descriptions. No UI shows them, and Kubeflow copies a
            step's specification about six times into a workflow of at most 1 MiB.
    """
    # A default with line breaks continues outside of kfp's header comment.
    start = re.search(r"^components:\n  comp-", text, re.MULTILINE)
    assert start
    header = "".join(re.findall(r"^#.*\n", text[: start.start()], re.MULTILINE))
    spec, *overlays = documents(text[start.start() :])
    holders = [spec, *(overlay["platforms"]["kubernetes"] for overlay in overlays)]
    executors = [holder["deploymentSpec"]["executors"] for holder in holders]
    components: dict[str, Any] = {}  # as they are written
    labels: dict[str, str] = {}  # of the executors that are written, to their new ones
    names: dict[str, str] = {}  # of components by all that they hold

    def content(part: dict[str, Any]) -> Any:
        """Return a component with its references resolved."""
        if "executorLabel" in part:
            label = part["executorLabel"]
            return {**part, "executorLabel": [holder.get(label) for holder in executors]}
        tasks = {
            name: {**task, "componentRef": content(spec["components"][task["componentRef"]["name"]])}
            for name, task in part["dag"]["tasks"].items()
        }
        return {**part, "dag": {**part["dag"], "tasks": tasks}}

    keys = {
        name: json.dumps(content(component), sort_keys=True)
        for name, component in spec.get("components", {}).items()
    }
    waiting = [spec["root"]]
    while waiting:
        tasks = waiting.pop(0).get("dag", {}).get("tasks", {})
        for task, description in sorted(tasks.items()):
            component = spec["components"][description["componentRef"]["name"]]
            key = keys[description["componentRef"]["name"]]
            if key not in names:
                suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
                name = next(task + suffix for suffix in suffixes if f"comp-{task}{suffix}" not in components)
                names[key] = f"comp-{name}"
                components[names[key]] = component
                if "executorLabel" in component:
                    labels[component["executorLabel"]] = component["executorLabel"] = f"exec-{name}"
                waiting.append(component)
            description["componentRef"]["name"] = names[key]
    spec["components"] = components
    for holder, known in zip(holders, executors, strict=True):
        holder["deploymentSpec"]["executors"] = {
            new: known[label] for label, new in labels.items() if label in known
        }
    if version:
        _call_by_name(spec, version)
    if not describe_steps:
        _drop_descriptions(components)
    return header + "---\n".join(yaml.dump(part, sort_keys=True) for part in (spec, *overlays))


def _call_by_name(spec: dict[str, Any], version: str) -> None:
    """Run each of this repository's components by name in the image instead of from its source."""
    sources = _component_names()
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor.get("container", {})
        # The source is the last part of kfp's command for a function.
        if name := sources.get((container.get("command") or [""])[-1]):
            container["command"] = ["python3", "-m", "flowparts.step", name, "--version", version]
            container["args"] = ["--executor_input", "{{$}}"]


@cache
def _component_names() -> dict[str, str]:
    """Return the name of each of this repository's components by its embedded source."""
    names = {}
    for name, component in catalogue.components().items():
        container = component.component_spec.implementation.container
        assert container
        assert container.command
        names[str(container.command[-1])] = name
    return names


def _drop_descriptions(components: dict[str, Any]) -> None:
    for component in components.values():
        for ports in ("inputDefinitions", "outputDefinitions"):
            for kind in component.get(ports, {}).values():
                for port in kind.values():
                    port.pop("description", None)


def _ordered(literal: str) -> str:
    """Return a Python literal as JSON with sorted keys."""
    return json.dumps(ast.literal_eval(literal), sort_keys=True)


def documents(text: str) -> list[dict[str, Any]]:
    """Return the YAML documents of a compiled package."""
    # libyaml, included in PyYAML's wheels, is ten times as fast.
    return list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def dumped(document: dict[str, Any]) -> str:
    """Return the text of one YAML document."""
    return str(yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=True))


def with_pipeline(text: str, spec: dict[str, Any]) -> str:
    """Return a compiled package with another pipeline document; comments and a platform document stay."""
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    overlays = documents(text)[1:]
    return header + "---\n".join(yaml.safe_dump(part, sort_keys=True) for part in (spec, *overlays))


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `image_references` to a command line."""
    parser.add_argument("--registry", default=REGISTRY, help="registry of the images (%(default)s)")
    parser.add_argument(
        "--version",
        help=f"tag of the images ({images.version()}, after their content; with --digests theirs)",
    )
    parser.add_argument("--digests", type=Path, metavar="FILE", help="images.json of make push: what to pin")


def add_embed_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses whether the components' code comes from the images or the YAML."""
    parser.add_argument(
        "--embed-source",
        action="store_true",
        help="write the components' source into the YAML, to run edited components in images that were built "
        "before; the packages behind them stay those of the images",
    )


def images_version(given: str | None, digests: Path | None) -> str:
    """Return the tag of the images: the given one, else that of the pinned images, else this tree's.

    Raises:
        ValueError: The file can't be read, or its images have different tags.
    """
    if given or not digests:
        return given or images.version()
    tags = {str(image.get("image", "")).rpartition(":")[2] for image in images.read(digests).values()}
    if len(tags) != 1 or "" in tags:
        raise ValueError(
            f"the images in {digests} don't have one tag but {', '.join(sorted(map(repr, tags))) or 'none'}; "
            "build all of them at once, or give --version"
        )
    return tags.pop()


def image_references(registry: str, version: str, digests: Path | None = None) -> Callable[[str], str]:
    """Return a function from an image's name to its full reference.

    Args:
        registry: Registry of the images, without a trailing slash.
        version: The tag.
        digests: The images.json of `make push`; images in it are pinned by digest instead.

    Raises:
        ValueError: An option is malformed. The returned function raises it for an image in the file without a
            digest.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*", registry):
        raise ValueError(f"registry {registry!r} is not a registry and path such as registry.example/team")
    if version == "latest" or not re.fullmatch(r"\w[\w.-]{0,127}", version):
        raise ValueError(f"version {version!r} is not a fixed image tag such as {__version__}")
    described = images.read(digests) if digests else {}

    def reference(name: str) -> str:
        if name not in described:
            return f"{registry}/{name}:{version}"
        # The file may also have images that were built but aren't used by any step.
        if not described[name]["digest"]:
            raise ValueError(
                f"{name} in {digests} was never pushed, so it has no digest; make push gives it one"
            )
        return f"{registry}/{name}@{described[name]['digest']}"

    return reference
