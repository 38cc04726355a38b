"""Compile pipelines and components into YAML for Kubeflow or Vertex AI."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfp.dsl.base_component import BaseComponent

from targets import catalogue, kubeflow, package, settings, submission, vertex

TARGETS: dict[str, Any] = {"kubeflow": kubeflow, "vertex": vertex}


def main(arguments: list[str] | None = None) -> int:
    """Compile what the command line asks for; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        for file in compile_all(
            names=options.names,
            targets=[options.target] if options.target else list(TARGETS),
            registry=options.registry,
            version=options.version,
            digests=options.digests,
            embed_source=options.embed_source,
            out=options.out,
            secrets=options.secret,
            profile=_profile(options),
            as_manifest=options.format == "manifest",
        ):
            print(file)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def compile_all(
    names: list[str],
    targets: list[str],
    registry: str,
    version: str | None,
    digests: Path | None,
    out: Path,
    embed_source: bool = False,
    secrets: Sequence[str] = (),
    profile: settings.Kubeflow | None = None,
    as_manifest: bool = False,
) -> list[Path]:
    """Compile pipelines to OUT/TARGET/NAME.yaml and components to OUT/components/NAME.yaml.

    A component is the same for every target and is checked against each.

    Args:
        names: Pipelines and components, with hyphens or underscores; all of them when empty.
        targets: Some of "kubeflow" and "vertex".
        registry: Where the images are pulled from.
        version: The images' tag; None for that of the images in `digests`, else for that of this tree.
        digests: The images.json of `make push`, which pins the images it names.
        out: The folder to write to.
        embed_source: Whether the components' source stands in the YAML; else the images' own copy runs.
        secrets: What becomes environment variables of every step of a pipeline, as the one target reads it:
            keys of Kubernetes secrets or versions of secrets in Secret Manager.
        profile: What else Kubernetes gives to the steps of a pipeline; the Kubeflow target only.
        as_manifest: Whether to write Pipeline and PipelineVersion resources to OUT/manifest/NAME.yaml
            instead; pipelines for the Kubeflow target only.

    Returns:
        The files written.

    Raises:
        ValueError: A name is unknown, or a backend would refuse the result; nothing is written then.
    """
    pipelines, components = catalogue.pipelines(), catalogue.components()
    everything = {**components, **pipelines}
    keys = [name.replace("-", "_") for name in names] or list(pipelines if as_manifest else everything)
    chosen: dict[str, BaseComponent] = {
        key: catalogue.find(key, everything, "pipeline or component") for key in keys
    }
    version = package.images_version(version, digests)
    references = package.image_references(registry, version, digests)
    if secrets and len(targets) > 1:
        raise ValueError(
            "a secret is written NAME=KEY,KEY for Kubeflow and VARIABLE=projects/... for Vertex AI; "
            "compile with --target"
        )
    if as_manifest and (targets != ["kubeflow"] or set(keys) - set(pipelines)):
        raise ValueError(
            "--format manifest describes pipelines to Kubeflow; give --target kubeflow and pipelines"
        )
    texts = {}
    for key, component in chosen.items():
        compiled = package.compiled(component, references, None if embed_source else version)
        for target in targets:
            text = TARGETS[target].with_secrets(compiled, secrets if key in pipelines else ())
            if profile and target == "kubeflow" and key in pipelines:
                text = kubeflow.with_overlay(text, profile)
            TARGETS[target].check(text)
            if as_manifest:
                sent = submission.Package(text, version)
                texts[out / "manifest" / f"{key}.yaml"] = kubeflow.manifest(
                    sent, profile.namespace if profile else ""
                )
                continue
            texts[out / (target if key in pipelines else "components") / f"{key}.yaml"] = text
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return list(texts)


def _profile(options: argparse.Namespace) -> settings.Kubeflow | None:
    asked = options.profile or options.config
    return (
        settings.gather(settings.Kubeflow, {"profile": options.profile, "config": options.config})
        if asked
        else None
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compile.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="pipelines and components; default: all")
    parser.add_argument("--target", choices=list(TARGETS), help="default: both, each into its own folder")
    package.add_image_options(parser)
    package.add_embed_option(parser)
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="REFERENCE",
        help="a secret that becomes environment variables of every step; may be repeated. For Kubeflow "
        "NAME=KEY,KEY: keys, and so variables, of a Kubernetes secret. For Vertex AI "
        "VARIABLE=projects/PROJECT/secrets/SECRET/versions/VERSION: a version in Secret Manager",
    )
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="profile of flowparts.toml: secrets, volumes and nodes of the steps on Kubeflow",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"where profiles are ({settings.FILE})")
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
