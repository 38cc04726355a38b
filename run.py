"""Run a pipeline on this machine and watch it."""

import argparse
import functools
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import json_format
from rich.console import Console
from rich.text import Text

from backends import catalogue, package, parameters, resources
from backends.local import containers as docker
from backends.local.live_view import LiveView

if TYPE_CHECKING:
    from backends.local.runner import Run


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit status."""
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        if options.list or not options.name:
            _list_pipelines(console)
            return 0
        environment = parameters.environment(options.env_file) if options.env_file else {}
        run = _strict_run(options, console) if options.strict else _local_run(options)
        view = LiveView(console)
        with view:
            record = run(use_cache=not options.no_cache, on_change=view.update, environment=environment)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    from backends.local import run_page

    _conclude(console, record)
    page = run_page.write(record)
    run_page.write_index(options.runs)
    console.print(Text(f"page: {page}"), soft_wrap=True)
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return 0 if record.succeeded else 1


def _local_run(options: argparse.Namespace) -> "Callable[..., Run]":
    """Return a function that runs a pipeline in this environment or in the images."""
    if options.name.endswith((".yaml", ".yml")):
        raise ValueError(
            f"a compiled file runs with --strict, as a backend runs it: run.py --strict {options.name}"
        )
    pipeline = catalogue.pipeline(options.name)
    given = parameters.gather(
        pipeline.component_spec.inputs or {},
        options.params,
        options.parameter,
        json_format.MessageToDict(pipeline.pipeline_spec),
    )
    containers = docker.prepare(options.images) if options.runner == "docker" else None

    from backends.local import runner

    return functools.partial(runner.run, pipeline, given, options.runs, containers=containers)


def _strict_run(options: argparse.Namespace, console: Console) -> "Callable[..., Run]":
    """Return a function that runs a pipeline, or a compiled file, as a real backend would."""
    from backends.strict import backend, pod

    if options.runner == "docker":
        raise ValueError("--strict runs steps in this environment; leave out --runner docker")
    text = backend.compiled(options.name)
    inputs = backend.inputs(text)
    resources.node(options.node or backend.NODE)
    given = parameters.gather(inputs, options.params, options.parameter, package.documents(text)[0])
    if problem := pod.isolation_problem():
        console.print(
            f"note: steps can't have a separate root and user on this machine ({problem}), so their file "
            "access isn't checked"
        )
    return functools.partial(backend.run, text, given, options.runs, node=options.node or backend.NODE)


def _conclude(console: Console, record: "Run") -> None:
    from backends.local import runner

    for name, numbers in runner.metrics(record).items():
        values = "  ".join(f"{key}={value:.6g}" for key, value in numbers.items())
        console.print(Text.assemble((f"{name}: ", "bold"), values), soft_wrap=True)
    for name, file in runner.reports(record).items():
        console.print(Text(f"report {name}: {file}"), soft_wrap=True)
    for name, address in runner.endpoints(record).items():
        console.print(Text(f"endpoint {name}: {address}"), soft_wrap=True)
    decision = runner.decision(record)
    for kind, text in runner.findings(record):
        console.print(Text.assemble((f"{kind}: ", "bold yellow"), text), soft_wrap=True)
    if decision:
        console.print(Text.assemble(("decision: ", "bold"), decision[1]), soft_wrap=True)
    model = runner.model(record)
    if model and (decision is None or decision[0]):
        command = f"{sys.executable} -m flowparts.serving --model {model}"
        console.print(Text.assemble(("serve it: ", "bold"), command), soft_wrap=True)
    for task in record.failed:
        console.print(Text(f"failed: {task.name}", "bold red"), soft_wrap=True)
        console.print(Text(f"  {task.error}"), soft_wrap=True)
        console.print(Text(f"  log: {task.log}"), soft_wrap=True)
    if record.problem and not record.failed:
        console.print(Text(f"failed: {record.problem}", "bold red"), soft_wrap=True)
    word = "succeeded" if record.succeeded else "failed"
    console.print(
        Text(f"{record.name} {word} in {record.seconds:.1f} s; files: {record.folder}"), soft_wrap=True
    )


def _list_pipelines(console: Console) -> None:
    for name, pipeline in catalogue.pipelines().items():
        console.print(Text.assemble((name.replace("_", "-"), "bold"), f"  {pipeline.description or ''}"))
        for key, spec in (pipeline.component_spec.inputs or {}).items():
            console.print(Text(f"    {key} ({spec.type}) = {spec.default!r}"), soft_wrap=True)
            console.print(Text(f"        {spec.description}", "dim"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__)
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="the pipeline, such as tabular-training; with --strict also a compiled YAML file",
    )
    parameters.add_flags(parser)
    parser.add_argument("--no-cache", action="store_true", help="run every task, without cached results")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of the runs (%(default)s)"
    )
    parser.add_argument(
        "--runner",
        choices=["subprocess", "docker"],
        default="subprocess",
        help="where steps run: in this environment, or in the images of `make images` (%(default)s)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="run the compiled pipeline as a real Kubeflow backend would, and fail where it would fail",
    )
    parser.add_argument(
        "--node",
        metavar="CPUS MEMORY",
        help='free CPUs and memory of the largest node for --strict, such as "3500m 14Gi"; default: what '
        "Kubeflow leaves free on a node with two CPUs and 8 GiB",
    )
    parser.add_argument(
        "--images",
        type=Path,
        default=Path("build/images.json"),
        metavar="FILE",
        help="the images for --runner docker (%(default)s)",
    )
    parser.add_argument(
        "--env-file", type=Path, metavar="FILE", help="KEY=VALUE lines, such as credentials, for every step"
    )
    parser.add_argument("--open", action="store_true", help="open the run's page in the browser")
    parser.add_argument("--list", action="store_true", help="list the pipelines with their parameters")
    return parser


if __name__ == "__main__":
    sys.exit(main())
