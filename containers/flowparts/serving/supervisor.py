"""Several workers on one socket: a connection goes to whichever is free, and a killed worker is replaced.

The socket stays open here, so connections that come while a worker is missing wait for the others or for its
successor. Each worker is a fresh process that loads the model itself; none takes connections before it has.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import FrameType

from flowparts.serving import logs, worker
from flowparts.serving.settings import Settings

_LONGEST_PAUSE_SECONDS = 5.0


def run(settings: Settings, listener: socket.socket, shared: Path) -> int:
    """Keep the workers running until SIGTERM; return the exit status.

    Args:
        settings: The server's options; the model is a directory by now.
        listener: The bound socket.
        shared: Where workers keep their counters.
    """
    os.set_inheritable(listener.fileno(), True)
    # Its other end is nowhere but here: workers see it close when this process ends, however it does.
    watched, held = os.pipe()
    os.set_inheritable(watched, True)
    stopping = threading.Event()
    workers: dict[int, subprocess.Popen[bytes]] = {}

    def start(number: int) -> None:
        command = worker.command(settings, listener.fileno(), number, shared, watched)
        workers[number] = subprocess.Popen(command, pass_fds=[listener.fileno(), watched])  # noqa: S603
        # Told to stop meanwhile, `stop` didn't know of it yet.
        if stopping.is_set():
            workers[number].terminate()

    def stop(signum: int, _: FrameType | None) -> None:
        stopping.set()
        for process in workers.values():
            if process.poll() is None:
                process.send_signal(signum)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    pauses = dict.fromkeys(range(settings.workers), 0.0)
    due = dict.fromkeys(range(settings.workers), 0.0)
    started = dict(due)
    for number in range(settings.workers):
        start(number)
        started[number] = time.monotonic()
    status = 0
    while workers:
        for number, process in list(workers.items()):
            code = process.poll()
            if code is None:
                continue
            if stopping.is_set():
                del workers[number]
            elif code == worker.CANNOT_START:
                status = 1
                del workers[number]
                stop(signal.SIGTERM, None)
            elif not due[number]:
                lived = time.monotonic() - started[number]
                pauses[number] = 0.0 if lived > 60 else min(2 * pauses[number] + 0.1, _LONGEST_PAUSE_SECONDS)
                due[number] = time.monotonic() + pauses[number]
                logs.say("worker ended, a new one starts", 30, worker=number, exit_code=code)
            elif time.monotonic() >= due[number]:
                due[number] = 0.0
                start(number)
                started[number] = time.monotonic()
        time.sleep(0.05)
    os.close(held)
    worker.ignore_stops()
    return status
