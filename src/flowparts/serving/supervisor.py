"""Several workers on one socket: any free worker takes a connection, and a killed worker is replaced.

The socket stays open here, so connections that arrive while a worker is missing wait for the others or for
its successor. Each worker is a new process that loads the model before it takes connections. A worker that
hangs is killed; one that never gets ready is restarted a few times.
"""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from flowparts.serving import logs, worker
from flowparts.serving.http import drop_new_connections
from flowparts.serving.server_settings import Settings

_MAX_PAUSE_SECONDS = 5.0
# A worker that has lived this long has not failed at startup.
_LONG_SECONDS = 60.0
_SILENT_SECONDS = 20.0
_MAX_FAILURES = 3


def run(settings: Settings, listener: socket.socket, shared: Path) -> int:
    """Keep the workers running until SIGTERM; return the exit status.

    Args:
        settings: The server's options, with the model as a local directory.
        listener: The bound socket.
        shared: Folder of the workers' counters.
    """
    os.set_inheritable(listener.fileno(), True)
    # Only this process holds the other end: workers see it close when this process ends in any way.
    watched, held = os.pipe()
    os.set_inheritable(watched, True)
    workers: dict[int, subprocess.Popen[bytes]] = {}
    # A handler may interrupt anything, itself included, so it only sets a flag.
    received: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _: received.append(number))
    states = {number: _Worker(shared / f"{worker.ALIVE}{number}") for number in range(settings.workers)}

    def start(number: int) -> None:
        command = worker.command(settings, listener.fileno(), number, shared, watched)
        workers[number] = subprocess.Popen(command, pass_fds=[listener.fileno(), watched])  # noqa: S603
        states[number].note_start()

    for number in range(settings.workers):
        start(number)
    status, end = 0, 0.0
    while workers:
        now = time.monotonic()
        while received:
            asked = received.pop(0)
            if not end:
                end = now + settings.drain_seconds + worker.SECONDS_TO_END
            for process in workers.values():
                process.send_signal(asked)
        if end and now > end - worker.SECONDS_TO_END:
            # The workers answer pending requests and close their sockets.
            drop_new_connections(listener)
        for number, process in list(workers.items()):
            state, code = states[number], process.poll()
            if code is None:
                if (end and now > end) or state.is_silent(now):
                    logs.say("worker is hanging and gets killed", 40, worker=number)
                    process.kill()
            elif end:
                del workers[number]
            elif code == worker.CANNOT_START or state.keeps_failing():
                if code != worker.CANNOT_START and not status:  # once, even if several workers fail
                    logs.say(_startup_failure(code), 40, worker=number)
                status = 1
                del workers[number]
                received.append(signal.SIGTERM)
            elif not state.due:
                state.note_end(now)
                logs.say("worker ended; starting a new one", 30, worker=number, exit_code=code)
            elif now >= state.due:
                start(number)
        time.sleep(0.05)
    os.close(held)
    worker.ignore_stops()
    return status


class _Worker:
    """The state of one worker and its successors.

    Args:
        alive: File that a worker touches every second while it serves.
    """

    def __init__(self, alive: Path) -> None:
        self._alive = alive
        self._started = self._heard = 0.0
        self._touched: float | None = None
        self._pause = 0.0
        self._failures = 0
        self.due = 0.0

    def note_start(self) -> None:
        """Note that a worker starts."""
        self._alive.unlink(missing_ok=True)
        self._touched, self.due = None, 0.0
        self._started = time.monotonic()

    def is_silent(self, now: float) -> bool:
        """Return whether a worker that has served shows no sign of life."""
        try:
            touched = self._alive.stat().st_mtime
        except FileNotFoundError:
            return False
        if touched != self._touched:
            self._touched, self._heard = touched, now
        return now - self._heard > _SILENT_SECONDS

    def keeps_failing(self) -> bool:
        """Return whether workers keep ending before they serve."""
        return not self.due and not self._alive.exists() and self._failures + 1 >= _MAX_FAILURES

    def note_end(self, now: float) -> None:
        """Note that a worker has ended; `due` is when the next one starts."""
        self._failures = 0 if self._alive.exists() else self._failures + 1
        lived = now - self._started
        self._pause = 0.0 if lived > _LONG_SECONDS else min(2 * self._pause + 0.1, _MAX_PAUSE_SECONDS)
        self.due = now + self._pause


def _startup_failure(code: int) -> str:
    how = f"by signal {-code}" if code < 0 else f"with status {code}"
    return (
        f"the model can't be loaded: {_MAX_FAILURES} times a worker ended {how} before it served; is there "
        "enough memory, and is the model complete?"
    )
