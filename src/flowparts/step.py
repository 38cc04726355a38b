"""Run one component inside its image: `python -m flowparts.step NAME --version V --executor_input JSON`.

This is the command of a step in a pipeline compiled for Kubeflow or Vertex AI. It runs the component in the
image, so the pipeline's YAML holds no source. JSON is kfp's executor input, which the backend fills in.
"""

import argparse
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> None:
    """Run the component that the command line names.

    Raises:
        ValueError: The image's version differs from the pipeline's, or it has no such component.
    """
    options = _parser().parse_args(arguments)
    check_version(options.version)
    # The images hold kfp's runtime only, without the libraries that compose pipelines.
    os.environ["_KFP_RUNTIME"] = "true"
    from kfp.dsl.executor import Executor

    Executor(
        executor_input=json.loads(options.executor_input), function_to_execute=component(options.name)
    ).execute()


def check_version(compiled: str) -> None:
    """Raise ValueError unless the image has the version that the pipeline was compiled for.

    Outside of an image, where FLOWPARTS_IMAGE_VERSION isn't set, any version is accepted.
    """
    built = os.environ.get("FLOWPARTS_IMAGE_VERSION", compiled)
    if built != compiled:
        raise ValueError(
            f"this pipeline was compiled for images of version {compiled}, but the step runs in an image of "
            f"version {built}; compile it again with --version {built}, or push images of version {compiled}"
        )


def component(name: str) -> Callable[..., Any]:
    """Return the function of a component, in whichever stage's folder it is.

    Raises:
        ValueError: There is no such component.
    """
    from flowparts.util.names import unknown

    components = Path(importlib.import_module("flowparts.components").__path__[0])
    known = {file.stem: file.parent.name for file in components.glob("*/[!_]*.py")}
    if name not in known:
        raise ValueError(unknown("component", name, list(known)))
    module = importlib.import_module(f"flowparts.components.{known[name]}.{name}")
    function: Callable[..., Any] = getattr(module, name)
    return function


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flowparts.step", description="Run one component.")
    parser.add_argument("name", metavar="NAME", help="the component, such as split_table")
    parser.add_argument("--version", required=True, help="version of the images that the pipeline names")
    parser.add_argument("--executor_input", required=True, metavar="JSON", help="kfp's executor input")
    return parser


if __name__ == "__main__":
    main()
