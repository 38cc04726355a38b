"""Upload, run and schedule pipelines on Kubeflow or Vertex AI, and watch them there."""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from flowparts.names import unknown
from targets import catalogue, compilation, faults, kubeflow, package, parameters, settings, submission
from targets.live_view import LiveView

# As the shell has it for a command that Ctrl-C ended.
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status.

    0 is success, also of the run that is followed or asked about; 1 is a failed run, 3 a cancelled one;
    2 means that what was asked for couldn't be done.
    """
    options = parser().parse_args(arguments)
    console = Console()
    try:
        chosen = settings.gather(compilation.SETTINGS[options.target], vars(options))
        return int(options.do(options, chosen, console))
    except (ValueError, faults.Fault) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _upload(options: argparse.Namespace, chosen: Any, console: Console) -> int:
    sent = _packaged(options, chosen)
    address, new = _service(options, chosen).upload(sent)
    _say(console, f"{sent.name} {sent.version}: {'uploaded' if new else 'already there'}", address)
    return 0


def _run(options: argparse.Namespace, chosen: Any, console: Console) -> int:
    sent = _packaged(options, chosen)
    given = _parameters(options, sent)
    name = submission.check_name(options.run_name or submission.run_name(sent.name))
    service = _service(options, chosen)
    run = service.run(sent, given, name)
    _say(console, f"run {run.name}", run.url)
    if not options.wait:
        return 0
    view = LiveView(console)
    try:
        with view:
            run = submission.follow(service, run, view.update)
    except KeyboardInterrupt:
        _say(console, f"{run.name} goes on; end it with: submit.py {options.target} cancel {run.name}")
        return INTERRUPTED
    return _conclude(run, console)


def _schedule(options: argparse.Namespace, chosen: Any, console: Console) -> int:
    sent = _packaged(options, chosen)
    name = submission.check_name(options.schedule_name or sent.name)
    if options.remove:
        outcome = submission.unschedule(_service(options, chosen), name)
    else:
        cron, given = submission.check_cron(options.cron), _parameters(options, sent)
        wanted = submission.Wanted(name, cron, sent, given, chosen)
        outcome = submission.schedule(_service(options, chosen), wanted)
    _say(console, f"schedule {name}: {outcome}")
    return 0


def _status(options: argparse.Namespace, chosen: Any, console: Console) -> int:
    run = _found(options, _service(options, chosen))
    _say(console, f"run {run.name}", run.url)
    view = LiveView(console)
    with view:
        view.update(run)
    return _conclude(run, console)


def _cancel(options: argparse.Namespace, chosen: Any, console: Console) -> int:
    service = _service(options, chosen)
    run = _found(options, service)
    if run.state == "running":
        service.cancel(run)
        _say(console, f"run {run.name}: cancelling", run.url)
    else:
        _say(console, f"run {run.name}: {run.state} already", run.url)
    return 0


def _packaged(options: argparse.Namespace, chosen: Any) -> submission.Package:
    if not options.package:
        text = compilation.pipeline_text(
            catalogue.pipeline(options.name), options.target, chosen, options.embed_source
        )
        return _checked(options, text, chosen)
    try:
        text = options.package.read_text(encoding="utf-8")
        named = package.documents(text)[0]["pipelineInfo"]["name"]
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{options.package} is not a compiled pipeline: {error}") from None
    if options.name.replace("_", "-") != named:
        raise ValueError(f"{options.package} holds the pipeline {named!r}, not {options.name!r}")
    return _checked(options, text, chosen)


def _checked(options: argparse.Namespace, text: str, chosen: Any) -> submission.Package:
    sent = compilation.checked(text, options.target, chosen)
    if options.target == "kubeflow":
        for warning in kubeflow.warnings(sent.text):
            print(f"warning: {warning}", file=sys.stderr)
    return sent


def _parameters(options: argparse.Namespace, sent: submission.Package) -> dict[str, Any]:
    given = parameters.gather(sent.inputs, options.params, options.parameter)
    submission.check_sizes(given)
    return given


def _service(options: argparse.Namespace, chosen: Any) -> submission.Service:
    # Google's libraries take seconds to import.
    if options.target == "vertex":
        from targets.vertex_service import VertexService

        return VertexService(chosen)
    from targets.kubeflow_service import KubeflowService

    return KubeflowService(chosen)


def _found(options: argparse.Namespace, service: submission.Service) -> submission.Run:
    run = service.find(options.name)
    if not run:
        raise ValueError(unknown("run", options.name, service.recent()))
    return run


def _conclude(run: submission.Run, console: Console) -> int:
    for task in run.failed:
        console.print(Text(f"failed: {task.name}", "bold red"))
        _say(console, f"  {task.error}")
    if run.error and not run.failed:
        console.print(Text(f"failed: {run.error}", "bold red"), soft_wrap=True)
    _say(console, f"{run.name} {'is ' if run.state == 'running' else ''}{run.state}", run.url)
    return submission.EXIT_CODES.get(run.state, 0)


def _say(console: Console, what: str, address: str = "") -> None:
    console.print(Text(f"{what}\n  {address}" if address else what), soft_wrap=True)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="submit.py", description=__doc__)
    targets = made.add_subparsers(dest="target", required=True, metavar="TARGET")
    for target, kind in compilation.SETTINGS.items():
        commands = targets.add_parser(target, help=kind.__doc__).add_subparsers(
            required=True, metavar="COMMAND"
        )
        for name, (do, what) in _COMMANDS.items():
            command = commands.add_parser(name, help=what, description=what)
            command.set_defaults(do=do)
            _add_options(command, name)
            settings.add_flags(command, kind)
    return made


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    if name in ("status", "cancel"):
        command.add_argument("name", metavar="RUN", help="the run, as `run` named it, or its ID")
        return
    command.add_argument("name", metavar="NAME", help="the pipeline, such as tabular-training")
    command.add_argument("--package", type=Path, metavar="FILE", help="compiled YAML, sent as it is")
    package.add_embed_option(command)
    if name in ("run", "schedule"):
        command.add_argument(
            *("-p", "--parameter"), action="append", default=[], metavar="KEY=VALUE", help="may be repeated"
        )
        command.add_argument("--params", type=Path, metavar="FILE", help="YAML or JSON file of parameters")
    if name == "run":
        command.add_argument("--run-name", metavar="RUN", help="a run of this name isn't started twice")
        command.add_argument("--wait", action="store_true", help="follow the run to its end")
    if name == "schedule":
        command.add_argument("--schedule-name", metavar="SCHEDULE", help="default: the pipeline's name")
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "--cron", metavar="FIELDS", help="minute, hour, day of month, month, day of week, in UTC"
        )
        which.add_argument("--remove", action="store_true", help="end the schedule")


_COMMANDS = {
    "upload": (_upload, "keep the pipeline as a version that people start from the UI"),
    "run": (_run, "run the pipeline"),
    "schedule": (_schedule, "run the pipeline again and again; one schedule for each name"),
    "status": (_status, "show a run"),
    "cancel": (_cancel, "end a run"),
}


if __name__ == "__main__":
    sys.exit(main())
