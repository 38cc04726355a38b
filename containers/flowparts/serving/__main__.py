"""Start the server: `python -m flowparts.serving --model DIR`."""

import dataclasses
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flowparts.serving import logs, model_files, settings, supervisor


def main(arguments: Sequence[str]) -> int:
    """Serve what the options say until SIGTERM; return the exit status."""
    logs.configure()
    # The first process of a container ignores what it has no handler for; until it serves, it just ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        given = settings.parse(arguments)
        with tempfile.TemporaryDirectory(prefix="flowparts-serving-") as scratch:
            shared, copy = Path(scratch) / "metrics", Path(scratch) / "model"
            shared.mkdir()
            copy.mkdir()
            if given.model:
                given = dataclasses.replace(given, model=str(model_files.fetch(given.model, copy)))
            listener = _listener(given.host, given.port)
            if given.workers > 1:
                return supervisor.run(given, listener, shared)
            # Here, because the model's libraries would cost a supervisor memory.
            from flowparts.serving import worker

            return 1 if worker.run(given, listener, 0, shared) else 0
    except ValueError as error:
        logs.say(str(error), logging.ERROR)
        return 1


def _listener(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, which listens when the first worker is ready."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        raise ValueError(
            f"the server can't listen on {host}:{port}: {os.strerror(error.errno or 0)}"
        ) from None
    return bound


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
