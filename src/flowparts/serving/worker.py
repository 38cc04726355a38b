"""One serving process: loads the model, warms it up, then takes connections until SIGTERM."""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from flowparts.serving import limits, logs, otlp_export, served_model
from flowparts.serving.app import App
from flowparts.serving.http import Server
from flowparts.serving.repository import Repository
from flowparts.serving.scorer import Scorer
from flowparts.serving.server_metrics import Metrics
from flowparts.serving.server_settings import Settings

# Exit status of a worker that can't start; a restart would not help.
CANNOT_START = 3
# Together with the time to drain, less than the 30 s that Kubernetes grants.
_SECONDS_TO_FINISH = 16
# After this, a process that hangs in a library is ended.
SECONDS_TO_END = _SECONDS_TO_FINISH + 6
# Prefix of the file that a worker touches every second while it works.
ALIVE = "alive-"


def run(settings: Settings, listener: socket.socket, number: int, shared: Path, parent: int = -1) -> int:
    """Serve until SIGTERM, then answer pending requests; return the exit status.

    Args:
        settings: The server's options, with the model as a local directory.
        listener: The bound socket, which other workers may share.
        number: Number of this worker, from 0.
        shared: Folder of the workers' counters.
        parent: File descriptor of a pipe that closes when the supervisor ends; -1 for none.
    """
    started = perf_counter()
    model = None
    if settings.model:
        slow = f"the model at {settings.model} was not loaded within {settings.load_seconds:g} s"
        try:
            with limits.time(settings.load_seconds, CANNOT_START, slow):
                model = served_model.load(Path(settings.model), settings)
        except ValueError as error:
            logs.say(str(error), logging.ERROR)
            return CANNOT_START
        seconds = round(perf_counter() - started, 3)
        logs.say(
            "model loaded", model=model.name, version=model.version, engine=model.engine.name,
            seconds=seconds, worker=number,
        )  # fmt: skip
    # Loaded objects stay; exempt them from garbage collections.
    gc.collect()
    gc.freeze()
    # A large request makes tens of thousands of lists, none of which is part of a cycle.
    gc.set_threshold(10_000)
    # Lets the engine's thread run soon while the event loop is busy.
    sys.setswitchinterval(0.0005)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings, listener, number, shared, parent, model))
    except ValueError as error:
        logs.say(str(error), logging.ERROR)
        return CANNOT_START
    return 0


def _loop_factory() -> Any:
    import uvloop

    return uvloop.new_event_loop


async def _serve(
    settings: Settings,
    listener: socket.socket,
    number: int,
    shared: Path,
    parent: int,
    model: served_model.ServedModel | None,
) -> None:
    metrics = Metrics(shared, number, model.signature.classes if model else None)
    exporter = None
    # One worker sends the totals of all.
    if number == 0 and (os.environ.get(otlp_export.ENDPOINT) or os.environ.get(otlp_export.METRICS_ENDPOINT)):
        exporter = otlp_export.Exporter(metrics, settings.name)
    app = App(metrics, settings, os.environ.get("FLOWPARTS_SERVING_TOKEN", ""))
    if model:
        app.serve(Scorer(model, settings, metrics))
    else:
        app.repository = Repository(app, settings, metrics)
    server = Server(app, shared=settings.workers > 1)
    calls = None
    if settings.grpc_port:
        from flowparts.serving import rpc

        service = rpc.Service(app, metrics, settings)
        address = f"{_bracketed(settings.host)}:{settings.grpc_port}"
        calls = rpc.server(service, address, settings.max_body_mb, shared=settings.workers > 1)
        await calls.start()
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    last: list[threading.Timer] = []

    def stop(seconds: float) -> None:
        if app.draining:
            stopped.set()
            return
        app.draining = True
        logs.say("draining", seconds=seconds, worker=number)
        loop.call_later(seconds, stopped.set)

    def ask(seconds: float, *_: object) -> None:
        if not last:
            # In a thread, because the loop itself may hang.
            last.append(threading.Timer(seconds + SECONDS_TO_END, _end, [number]))
            last[0].daemon = True
            last[0].start()
        loop.call_soon_threadsafe(stop, seconds)

    def live() -> None:
        if not app.stuck:
            (shared / f"{ALIVE}{number}").touch()
        loop.call_later(1, live)

    # Not the loop's own handlers: closing the loop would restore the signals' default, which kills.
    for signum, seconds in ((signal.SIGTERM, settings.drain_seconds), (signal.SIGINT, 0.0)):
        signal.signal(signum, partial(ask, seconds))
    if parent >= 0:

        def orphaned() -> None:
            loop.remove_reader(parent)
            stop(0)

        loop.add_reader(parent, orphaned)
    host, port = listener.getsockname()[:2]
    try:
        await server.start(listener)
    except OSError as error:
        # Another server has bound the port too and listened first.
        if calls:
            await calls.stop(None)
        raise ValueError(cannot_listen("the server", settings.host, port, error)) from None
    what = model.name if model else f"models of {settings.repository}"
    logs.say(
        f"serving {what} at http://{_bracketed(host)}:{port}",
        worker=number, http_port=port, grpc_port=settings.grpc_port,
    )  # fmt: skip
    live()
    await stopped.wait()
    if calls:
        await asyncio.gather(server.stop(_SECONDS_TO_FINISH), calls.stop(_SECONDS_TO_FINISH))
    else:
        await server.stop(_SECONDS_TO_FINISH)
    for scorer in app.scorers.values():
        scorer.close()
    if exporter:
        exporter.close()
    logs.say("stopped", worker=number)
    ignore_stops()


def _end(number: int) -> None:
    """End a process that doesn't end on its own."""
    logs.say("requests or a library did not end in time; ending the process", 40, worker=number)
    os._exit(1)


def ignore_stops() -> None:
    """Ignore further signals, so that they don't change the exit status of a process about to end."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)


def cannot_listen(server: str, host: str, port: int, error: OSError) -> str:
    """Return a sentence that says why an address can't be bound."""
    # Errors of the name lookup have their own text.
    reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
    return f"{server} can't listen on {host}:{port}: {reason}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def command(settings: Settings, listener: int, number: int, shared: Path, parent: int) -> list[str]:
    """Return the command line of a worker's process."""
    facts = {"listener": listener, "number": number, "shared": str(shared), "parent": parent}
    return [sys.executable, "-P", "-m", "flowparts.serving.worker", json.dumps([asdict(settings), facts])]


if __name__ == "__main__":
    logs.configure()
    options, given = json.loads(sys.argv[1])
    sys.exit(
        run(
            Settings(**options),
            socket.socket(fileno=given["listener"]),
            given["number"],
            Path(given["shared"]),
            given["parent"],
        )
    )
