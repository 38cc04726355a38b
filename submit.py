"""Upload, run, schedule and watch pipelines on Kubeflow or Vertex AI."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from backends import (
    catalogue,
    compilation,
    faults,
    package,
    parameters,
    profiles,
    submission,
    triggers,
    watching,
)
from backends.kubeflow import overlay
from backends.local.live_view import LiveView
from flowparts.monitor import notify
from flowparts.util.names import unknown

CONNECTION_LOST = 4
# The shell's exit status for a command that Ctrl-C ended.
INTERRUPTED = 130
# Options that the command to follow a run again must repeat.
_PLACE = ("profile", "config", "endpoint", "namespace", "project", "location")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit status.

    0 means success, also of the run that is followed or shown; 1 that this run failed, 3 that it was
    cancelled; 2 that the command failed; 4 that the service couldn't be reached any more while the run
    continued.
    """
    options = parser().parse_args(arguments)
    console = Console()
    try:
        chosen = profiles.gather(compilation.SETTINGS[options.backend], vars(options))
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
    _describe(run, console)
    return _follow(options, service, run, console) if options.wait else 0


def _schedule(options: argparse.Namespace, chosen: Any, console: Console) -> int:
    sent = _packaged(options, chosen)
    name = submission.check_name(options.schedule_name or sent.name)
    service, say = _service(options, chosen), partial(_say, console)
    if options.remove:
        outcome = submission.unschedule(service, name, options.wait, say)
    else:
        cron, given = submission.check_cron(options.cron), _parameters(options, sent)
        wanted = submission.RequestedSchedule(name, cron, sent, given, chosen)
        outcome = submission.schedule(service, wanted, options.wait, say)
    _say(console, f"schedule {name}: {outcome}")
    return 0


def _status(options: argparse.Namespace, chosen: Any, console: Console) -> int:
    service = _service(options, chosen)
    run = _found(options, service)
    _describe(run, console)
    if options.wait and run.in_progress:
        return _follow(options, service, run, console)
    view = LiveView(console)
    with view:
        view.update(run)
    return _conclude(run, console)


def _follow(
    options: argparse.Namespace, service: submission.Service, run: submission.Run, console: Console
) -> int:
    """Show a run until it has ended, and return the exit status."""
    place = "".join(f" --{name} {value}" for name in _PLACE if (value := getattr(options, name, None)))
    again = f"submit.py {options.backend} status {run.name} --wait{place}"
    view = LiveView(console)
    try:
        with view:
            run = submission.follow(
                service,
                run,
                view.update,
                partial(_say, console),
                options.reconnect_timeout,
                options.start_timeout,
            )
    except submission.ConnectionLostError as lost:
        print(f"error: lost contact with {run.name}: {lost}", file=sys.stderr)
        _say(console, f"{run.name} continues; follow it again with: {again}")
        return CONNECTION_LOST
    except KeyboardInterrupt:
        _say(console, f"{run.name} continues; follow it again with: {again}")
        _say(console, f"end it with: submit.py {options.backend} cancel {run.name}{place}")
        return INTERRUPTED
    if run.state in ("failed", "cancelled") and notify.channels():
        notify.send(watching.notice(run))
    return _conclude(run, console)


def _watch(options: argparse.Namespace, chosen: Any, console: Console) -> int:
    service, say = _service(options, chosen), partial(_say, console)
    names = ("endpoint", "namespace", "project", "location")
    parts = [options.backend, *(str(value) for name in names if (value := getattr(chosen, name, None)))]
    state = options.state or Path("runs") / f"watch-{options.backend}.json"
    try:
        watching.watch(
            service,
            " ".join(parts),
            state,
            say,
            options.on,
            options.waiting_minutes * 60,
            options.quiet_hours,
            None if options.once else options.interval,
        )
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _cancel(options: argparse.Namespace, chosen: Any, console: Console) -> int:
    service = _service(options, chosen)
    run = _found(options, service)
    if run.in_progress:
        service.cancel(run)
        _say(console, f"run {run.name}: cancelling", run.url)
    else:
        _say(console, f"run {run.name}: {run.state} already", run.url)
    return 0


def _serve_triggers(options: argparse.Namespace, chosen: Any, console: Console) -> int:
    service, say = _service(options, chosen), partial(_say, console)
    prepared = triggers.prepare(options.triggers, options.backend, chosen, options.embed_source)
    for each in prepared:
        _warn(options, each.package)
    token = os.environ.get(triggers.TOKEN_VARIABLE, "")
    with triggers.server(prepared, service, token, options.host, options.port, say) as server:
        for each in prepared:
            address = f"http://{options.host}:{server.server_port}/triggers/{each.trigger.name}"
            say(f"POST {address} runs {each.trigger.pipeline}")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return INTERRUPTED
    return 0


def _packaged(options: argparse.Namespace, chosen: Any) -> submission.Package:
    if not options.package:
        text = compilation.pipeline_text(
            catalogue.pipeline(options.name), options.backend, chosen, options.embed_source
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
    sent = compilation.checked(text, options.backend, chosen)
    _warn(options, sent)
    return sent


def _warn(options: argparse.Namespace, sent: submission.Package) -> None:
    if options.backend == "kubeflow":
        for warning in overlay.warnings(sent.text):
            print(f"warning: {warning}", file=sys.stderr)


def _parameters(options: argparse.Namespace, sent: submission.Package) -> dict[str, Any]:
    given = parameters.gather(sent.inputs, options.params, options.parameter, sent.spec)
    submission.check_sizes(given)
    return given


def _service(options: argparse.Namespace, chosen: Any) -> submission.Service:
    # Google's libraries take seconds to import.
    if options.backend == "vertex":
        from backends.vertex.service import VertexService

        return VertexService(chosen)
    from backends.kubeflow.service import KubeflowService

    return KubeflowService(chosen)


def _found(options: argparse.Namespace, service: submission.Service) -> submission.Run:
    run = service.find(options.name)
    if not run:
        raise ValueError(unknown("run", options.name, service.recent()))
    return run


def _describe(run: submission.Run, console: Console) -> None:
    _say(console, f"run {run.name}", run.url)
    for what, text in (("version", run.version), ("images", ", ".join(run.images))):
        if text:
            _say(console, f"  {what}: {text}")
    for name, value in run.parameters.items():
        _say(console, f"  {name} = {parameters.without_credentials(value)}")


def _conclude(run: submission.Run, console: Console) -> int:
    for task in run.failed:
        console.print(Text(f"failed: {task.name}", "bold red"), soft_wrap=True)
        _say(console, f"  {task.error}")
    if run.error and not run.failed:
        console.print(Text(f"failed: {run.error}", "bold red"), soft_wrap=True)
    if run.state == "failed" and not run.failed and not run.error:
        _say(console, "failed: the service gives no reason; the run's page may show more")
    _say(console, f"{run.name} {'is ' if run.in_progress else ''}{run.state}", run.url)
    return submission.EXIT_CODES.get(run.state, 0)


def _say(console: Console, what: str, address: str = "") -> None:
    console.print(Text(f"{what}\n  {address}" if address else what), soft_wrap=True)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="submit.py", description=__doc__)
    backends = made.add_subparsers(dest="backend", required=True, metavar="BACKEND")
    for backend, kind in compilation.SETTINGS.items():
        commands = backends.add_parser(backend, help=kind.__doc__).add_subparsers(
            required=True, metavar="COMMAND"
        )
        for name, (do, what) in _COMMANDS.items():
            command = commands.add_parser(name, help=what, description=what)
            command.set_defaults(do=do)
            _add_options(command, name)
            profiles.add_flags(command, kind)
    return made


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    if name in ("status", "cancel"):
        command.add_argument("name", metavar="RUN", help="the run's name, as printed by `run`, or its ID")
        if name == "status":
            _add_wait(command)
        return
    if name == "watch":
        _add_watch(command)
        return
    if name == "serve-triggers":
        command.add_argument(
            "--triggers",
            type=Path,
            required=True,
            metavar="FILE",
            help="TOML file that maps requests to pipelines",
        )
        command.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
        command.add_argument("--port", type=int, default=8090, help="0 takes a free one (%(default)s)")
        package.add_embed_option(command)
        return
    command.add_argument("name", metavar="NAME", help="the pipeline, such as tabular-training")
    command.add_argument("--package", type=Path, metavar="FILE", help="compiled YAML to submit unchanged")
    package.add_embed_option(command)
    if name in ("run", "schedule"):
        parameters.add_flags(command)
    if name == "run":
        command.add_argument("--run-name", metavar="RUN", help="a run with this name isn't started twice")
        _add_wait(command)
    if name == "schedule":
        command.add_argument(
            "--wait", action="store_true", help="wait for runs of the old schedule before it is removed"
        )
        command.add_argument("--schedule-name", metavar="SCHEDULE", help="default: the pipeline's name")
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "--cron", metavar="FIELDS", help="minute, hour, day of month, month, day of week, in UTC"
        )
        which.add_argument("--remove", action="store_true", help="remove the schedule")


def _add_watch(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--on",
        nargs="+",
        choices=watching.STATES,
        default=list(watching.DEFAULT_STATES),
        help="states to notify people about (%(default)s)",
    )
    command.add_argument(
        "--state", type=Path, metavar="FILE", help="state of the watch (runs/watch-BACKEND.json)"
    )
    command.add_argument("--once", action="store_true", help="check once and exit, for a CronJob")
    for option, unit, default, what in (
        ("--interval", "SECONDS", watching.INTERVAL_SECONDS, "between two checks"),
        ("--waiting-minutes", "MINUTES", watching.WAITING_SECONDS / 60, "that a step may wait to start"),
        ("--quiet-hours", "HOURS", watching.QUIET_HOURS, "before the same notification is sent again"),
    ):
        text = f"{unit.lower()} {what} (%(default)g)"
        command.add_argument(option, type=float, metavar=unit, default=default, help=text)


def _add_wait(command: argparse.ArgumentParser) -> None:
    command.add_argument("--wait", action="store_true", help="follow the run to its end")
    command.add_argument(
        "--start-timeout",
        type=float,
        metavar="SECONDS",
        help="with --wait, end the run as failed if a step waits longer to start (default: no limit)",
    )
    command.add_argument(
        "--reconnect-timeout",
        type=float,
        metavar="SECONDS",
        default=submission.RECONNECT_SECONDS,
        help="with --wait, how long to try when the service can't be reached (%(default)s)",
    )


_COMMANDS = {
    "upload": (_upload, "upload the pipeline as a version that people can run from the UI"),
    "run": (_run, "run the pipeline"),
    "schedule": (_schedule, "run the pipeline on a schedule; one schedule per name"),
    "serve-triggers": (_serve_triggers, "start runs when a bucket, a CI job or an alert sends a request"),
    "status": (_status, "show a run"),
    "cancel": (_cancel, "cancel a run"),
    "watch": (_watch, "follow all runs and notify people of those that fail"),
}


if __name__ == "__main__":
    sys.exit(main())
