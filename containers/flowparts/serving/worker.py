"""One serving process: loads the model, warms it up, then takes connections until it is told to stop."""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from flowparts.serving import logs, served_model
from flowparts.serving.app import App
from flowparts.serving.batching import Batcher
from flowparts.serving.http import Server
from flowparts.serving.metrics import Metrics
from flowparts.serving.prediction_log import PredictionLog
from flowparts.serving.settings import Settings

# The exit status of a worker that can't start: starting it again would not help.
CANNOT_START = 3
# With the time to drain, less than the 30 s that Kubernetes grants.
_SECONDS_TO_FINISH = 20


def run(settings: Settings, listener: socket.socket, number: int, shared: Path, parent: int = -1) -> int:
    """Serve until SIGTERM, and answer what has come until then; return the exit status.

    Args:
        settings: The server's options; the model is a directory by now.
        listener: The bound socket, which other workers may share.
        number: Which worker this is, from 0.
        shared: Where workers keep their counters.
        parent: A pipe's end that closes when the supervisor is gone; -1 for none.
    """
    started = perf_counter()
    try:
        model = served_model.load(Path(settings.model), settings)
    except ValueError as error:
        logs.say(str(error), logging.ERROR)
        return CANNOT_START
    logs.say(
        "model loaded", model=model.name, version=model.version, engine=model.engine.name,
        seconds=round(perf_counter() - started, 3), worker=number,
    )  # fmt: skip
    # What has been loaded stays: the collector need not walk through it again and again.
    gc.collect()
    gc.freeze()
    # The engine's thread gets its turn soon when the event loop is busy.
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
    model: served_model.ServedModel,
) -> None:
    facts = {"name": model.name, "version": model.version, "engine": model.engine.name}
    metrics = Metrics(shared, number, model.signature.classes, facts)
    batcher = Batcher(
        model.predict,
        settings.max_batch_rows,
        settings.max_waiting_rows,
        lambda rows, seconds, columns: metrics.scored(rows, seconds, columns["prediction"]),
    )
    log = None
    if settings.prediction_log:
        log = PredictionLog(
            Path(settings.prediction_log), model, settings.prediction_log_share, settings.prediction_log_rows,
            settings.prediction_log_seconds,
        )  # fmt: skip
    app = App(model, batcher, metrics, settings, os.environ.get("FLOWPARTS_SERVING_TOKEN", ""), log)
    server = Server(app)
    calls = None
    if settings.grpc_port:
        from flowparts.serving import rpc

        service = rpc.Service(app, model, metrics, settings)
        calls = rpc.server(service, f"{_bracketed(settings.host)}:{settings.grpc_port}", settings.max_body_mb)
        await calls.start()
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop(seconds: float) -> None:
        if app.draining:
            stopped.set()
            return
        app.draining = True
        logs.say("draining", seconds=seconds, worker=number)
        loop.call_later(seconds, stopped.set)

    loop.add_signal_handler(signal.SIGTERM, stop, settings.drain_seconds)
    loop.add_signal_handler(signal.SIGINT, stop, 0)
    if parent >= 0:

        def orphaned() -> None:
            loop.remove_reader(parent)
            stop(0)

        loop.add_reader(parent, orphaned)
    await server.start(listener)
    host, port = listener.getsockname()[:2]
    logs.say(
        f"serving {model.name} at http://{_bracketed('127.0.0.1' if host == '0.0.0.0' else host)}:{port}",  # noqa: S104
        worker=number, http_port=port, grpc_port=settings.grpc_port,
    )  # fmt: skip
    await stopped.wait()
    if calls:
        await asyncio.gather(server.stop(_SECONDS_TO_FINISH), calls.stop(_SECONDS_TO_FINISH))
    else:
        await server.stop(_SECONDS_TO_FINISH)
    batcher.close()
    if log:
        log.close()
    logs.say("stopped", worker=number)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def command(settings: Settings, listener: int, number: int, shared: Path, parent: int) -> list[str]:
    """Return the command line of a worker's process."""
    facts = {"listener": listener, "number": number, "shared": str(shared), "parent": parent}
    return [sys.executable, "-m", "flowparts.serving.worker", json.dumps([asdict(settings), facts])]


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
