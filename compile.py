"""Compile pipelines and components into YAML for Kubeflow or Vertex AI."""

import argparse
import dataclasses
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp.dsl.base_component import BaseComponent

from backends import catalogue, compilation, package, profiles
from backends.kubeflow import overlay, plan
from flowparts.components import REGISTRY

# Settings with a flag; the other settings that a compiled pipeline depends on come from a profile.
_FLAGS = ("registry", "version", "digests", "resources", "node")
_REGISTRIES = re.compile(r"image: [\"']?(\S+)/flowparts-")


@dataclass(frozen=True)
class Compiled:
    """Result of `compile_all`."""

    files: list[Path]
    plans: dict[str, plan.Plan]  # by name of a pipeline for Kubeflow
    warnings: list[str]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        compiled = compile_all(
            names=options.names,
            chosen=_settings(options),
            out=options.out,
            embed_source=options.embed_source,
            as_manifest=options.format == "manifest",
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for file in compiled.files:
        print(file)
    for warning in compiled.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if compiled.plans:
        print(plan.table(compiled.plans))
    return 0


def compile_all(
    names: list[str],
    chosen: Mapping[str, Any],
    out: Path,
    embed_source: bool = False,
    as_manifest: bool = False,
) -> Compiled:
    """Compile pipelines to OUT/BACKEND/NAME.yaml and components to OUT/components/NAME.yaml.

    A component is the same for every backend and is checked against each.

    Args:
        names: Pipelines and components, with hyphens or underscores; empty for all.
        chosen: Settings by their backend, "kubeflow" or "vertex". Components take the first backend's images.
        out: The folder to write to.
        embed_source: Whether to embed the components' source in the YAML; otherwise the images' copy runs.
        as_manifest: Whether to write Pipeline and PipelineVersion resources to OUT/manifest/NAME.yaml
            instead; pipelines for the Kubeflow backend only.

    Raises:
        ValueError: A name is unknown, or a backend would reject the result; then nothing is written.
    """
    pipelines, components = catalogue.pipelines(), catalogue.components()
    everything = {**components, **pipelines}
    keys = [name.replace("-", "_") for name in names] or list(pipelines if as_manifest else everything)
    parts: dict[str, BaseComponent] = {
        key: catalogue.find(key, everything, "pipeline or component") for key in keys
    }
    if as_manifest and (list(chosen) != ["kubeflow"] or set(keys) - set(pipelines)):
        raise ValueError(
            "--format manifest describes pipelines to Kubeflow; give --backend kubeflow and pipelines"
        )
    texts, plans, warnings = {}, {}, []
    for key, part in parts.items():
        if key in components:
            text = compilation.component_text(part, next(iter(chosen.values())), embed_source)
            for backend in chosen:
                compilation.BACKENDS[backend].check(text)
            texts[out / "components" / f"{key}.yaml"] = text
            continue
        for backend, theirs in chosen.items():
            text = compilation.pipeline_text(part, backend, theirs, embed_source)
            sent = compilation.checked(text, backend, theirs)
            if as_manifest:
                texts[out / "manifest" / f"{key}.yaml"] = overlay.manifest(sent, theirs.namespace)
            else:
                texts[out / backend / f"{key}.yaml"] = sent.text
            if backend == "kubeflow":
                plans[sent.name] = plan.of(sent.text)
                warnings += overlay.warnings(sent.text)
    if all(theirs.registry == REGISTRY for theirs in chosen.values()):
        _require_no_other_registry(texts)
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return Compiled(list(texts), plans, warnings)


def _require_no_other_registry(texts: Mapping[Path, str]) -> None:
    """Raise ValueError if a file compiled for a registry would be overwritten with the default images."""
    for file in filter(Path.is_file, texts):
        before = set(_REGISTRIES.findall(file.read_text(encoding="utf-8"))) - {REGISTRY}
        if before:
            raise ValueError(
                f"{file} was compiled with --registry {min(before)}; give it again, or another "
                "folder with --out, or remove the file"
            )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of each backend, with the secrets of the profile and of the command line."""
    backends = [options.backend] if options.backend else profiles.backends(vars(options))
    if options.secret and len(backends) > 1:
        raise ValueError(
            "a secret is written NAME=KEY,KEY for Kubeflow and VARIABLE=projects/... for Vertex AI; "
            "compile with --backend"
        )
    chosen = {}
    for backend in backends:
        theirs = profiles.gather(compilation.SETTINGS[backend], vars(options))
        secrets = compilation.BACKENDS[backend].secrets(options.secret)
        chosen[backend] = dataclasses.replace(theirs, secrets={**theirs.secrets, **secrets})
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compile.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="pipelines and components; default: all")
    parser.add_argument(
        "--backend", choices=list(compilation.BACKENDS), help="default: the backend of the profile, else both"
    )
    # Its name in earlier versions.
    parser.add_argument(
        "--target", dest="backend", choices=list(compilation.BACKENDS), help=argparse.SUPPRESS
    )
    profiles.add_flags(parser, profiles.Kubeflow, only=_FLAGS)
    package.add_embed_option(parser)
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="REFERENCE",
        help="a secret for environment variables of the steps that need them; may be repeated. For Kubeflow "
        "NAME=KEY,KEY: a Kubernetes secret and its keys, which are the variables. For Vertex AI "
        "VARIABLE=projects/PROJECT/secrets/SECRET/versions/VERSION: a version in Secret Manager",
    )
    parser.add_argument(
        "--format",
        choices=["package", "manifest"],
        default="package",
        help="manifest: Pipeline and PipelineVersion resources for GitOps on Kubeflow (%(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("build"), metavar="DIR", help="(%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
