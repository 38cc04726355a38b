"""Compile pipelines and components into YAML for Kubeflow or Vertex AI."""

import argparse
import sys
from pathlib import Path

from kfp.dsl.base_component import BaseComponent

from components import REGISTRY
from flowparts import __version__
from targets import catalogue, kubeflow, package, vertex

CHECKS = {"kubeflow": kubeflow.check, "vertex": vertex.check}


def main(arguments: list[str] | None = None) -> int:
    """Compile what the command line asks for; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        for file in compile_all(
            names=options.names,
            targets=[options.target] if options.target else list(CHECKS),
            registry=options.registry,
            version=options.version,
            digests=options.digests,
            out=options.out,
            secrets=kubeflow.secrets(options.secret),
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
    version: str,
    digests: Path | None,
    out: Path,
    secrets: dict[str, list[str]] | None = None,
) -> list[Path]:
    """Compile pipelines to OUT/TARGET/NAME.yaml and components to OUT/components/NAME.yaml.

    A component is the same for every target and is checked against each.

    Args:
        names: Pipelines and components, with hyphens or underscores; all of them when empty.
        targets: Some of "kubeflow" and "vertex".
        registry: Where the images are pulled from.
        version: The images' tag.
        digests: The images.json of `make push`, which pins the images it names.
        out: The folder to write to.
        secrets: Kubernetes secrets, by name, whose keys become environment variables of every step of a
            pipeline; the Kubeflow target only.

    Returns:
        The files written.

    Raises:
        ValueError: A name is unknown, or a backend would refuse the result; nothing is written then.
    """
    pipelines, components = catalogue.pipelines(), catalogue.components()
    everything = {**components, **pipelines}
    keys = [name.replace("-", "_") for name in names] or list(everything)
    chosen: dict[str, BaseComponent] = {
        key: catalogue.find(key, everything, "pipeline or component") for key in keys
    }
    references = package.image_references(registry, version, digests)
    if secrets and targets != ["kubeflow"]:
        raise ValueError(
            "--secret names Kubernetes secrets; compile with --target kubeflow. On Vertex AI, steps have "
            "what the job's service account may read"
        )
    texts = {}
    for key, component in chosen.items():
        compiled = package.compiled(component, references)
        for target in targets:
            of_pipeline = secrets if target == "kubeflow" and key in pipelines else None
            text = kubeflow.with_secrets(compiled, of_pipeline or {})
            CHECKS[target](text)
            texts[out / (target if key in pipelines else "components") / f"{key}.yaml"] = text
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return list(texts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compile.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="pipelines and components; default: all")
    parser.add_argument("--target", choices=list(CHECKS), help="default: both, each into its own folder")
    parser.add_argument("--registry", default=REGISTRY, help="where the images are pulled from (%(default)s)")
    parser.add_argument("--version", default=__version__, help="tag of the images (%(default)s)")
    parser.add_argument("--digests", type=Path, metavar="FILE", help="images.json of make push: what to pin")
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME=KEY[,KEY]",
        help="a Kubernetes secret whose keys become environment variables of every step; may be repeated",
    )
    parser.add_argument("--out", type=Path, default=Path("build"), metavar="DIR", help="(%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
