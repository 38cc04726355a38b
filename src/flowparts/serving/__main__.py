"""Start the server: `python -m flowparts.serving --model DIR`."""

import dataclasses
import logging
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flowparts.serving import logs, model_files, server_settings, supervisor, worker


def main(arguments: Sequence[str]) -> int:
    """Serve what the options say until SIGTERM; return the exit status."""
    logs.configure()
    # PID 1 of a container ignores signals without a handler; until the server is up, it simply exits.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        given = server_settings.parse(arguments)
        with tempfile.TemporaryDirectory(prefix="flowparts-serving-") as scratch:
            shared, copy = Path(scratch) / "metrics", Path(scratch) / "model"
            shared.mkdir()
            copy.mkdir()
            if given.model:
                given = dataclasses.replace(given, model=str(model_files.fetch(given.model, copy)))
            listener = _bound("the server", given.host, given.port)
            if given.grpc_port:
                # Workers share the port with SO_REUSEPORT, and so could another server: it must be free.
                _bound("the gRPC server", given.host, given.grpc_port).close()
            if given.workers > 1:
                return supervisor.run(given, listener, shared)
            return 1 if worker.run(given, listener, 0, shared) else 0
    except ValueError as error:
        logs.say(str(error), logging.ERROR)
        return 1


def _bound(server: str, host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; it starts to listen when the first worker is ready."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ValueError(worker.cannot_listen(server, host, port, error)) from None
    return bound


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
