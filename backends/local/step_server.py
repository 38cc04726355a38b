"""Run steps as forks of a process with their imports, so that they start in milliseconds.

In a run of small steps, importing the same libraries in each takes longer than their work. So one process
imports them while the first steps run, and forks for each step, which still has its own process, memory,
variables and exit.
"""

import contextlib
import gc
import importlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# The slow imports of steps, by image, in portions short enough for a waiting step. Importing them starts no
# threads, which a fork would lose; running a Polars query would.
_SKLEARN = ["polars", "pandas", "scipy.stats", "sklearn.ensemble", "skops.io"]
_MODULES = {
    "flowparts-base": ["polars"],
    "flowparts-sklearn": [*_SKLEARN, "mlflow", "mlflow.store.tracking.sqlalchemy_store"],
    "flowparts-serving": _SKLEARN,
}
# A crash in compiled code prints the Python traceback.
_FAULTS = {"PYTHONFAULTHANDLER": "1"}
# kfp's command of a lightweight component: its source is "$0", the executor's arguments are "$@".
_LIGHTWEIGHT = re.compile(
    r'\s*program_path=\$\(mktemp -d\)\s+printf "%s" "\$0" > "\$program_path/ephemeral_component\.py"\s+'
    r"_KFP_RUNTIME=true \S+ -m kfp\.dsl\.executor_main\s+"
    r'--component_module_path\s+"\$program_path/ephemeral_component\.py"\s+"\$@"\s*'
)


class StepServer:
    """Starts steps, as forks if possible; a context manager that ends the forking process."""

    def __init__(self, images: Iterable[str], variables: Mapping[str, str]) -> None:
        """Start the process.

        Args:
            images: Names of the steps' images, such as "flowparts-base".
            variables: Environment variables of all steps.
        """
        self._variables = dict(variables)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        modules = dict.fromkeys(module for image in images for module in _MODULES.get(image, []))
        server = [sys.executable, "-m", "backends.local.step_server"]
        command = [*server, str(theirs.fileno()), os.getcwd(), *modules]
        environment = {**os.environ, **_FAULTS, **self._variables, "_KFP_RUNTIME": "true"}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 it is this module
                command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()]
            )

    def __enter__(self) -> "StepServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.kill()  # it may be importing unneeded libraries
        self._process.wait()

    def run(self, command: list[str], variables: Mapping[str, str], say: Callable[[str], None]) -> int:
        """Run a step; return its exit code in a shell's form.

        Args:
            command: The step's command; other than a lightweight component's, it runs as a separate process.
            variables: Its environment variables; with others than the server's, it runs as a separate
                process.
            say: Called with each line of its output.
        """
        forks = command[:2] == ["sh", "-ec"] and _LIGHTWEIGHT.fullmatch(command[2])
        if not forks or variables != self._variables:
            return run(command, variables, say)
        source, *arguments = command[3:]
        with tempfile.TemporaryDirectory() as folder:
            module = Path(folder) / "ephemeral_component.py"
            module.write_text(source, encoding="utf-8")
            request = Path(folder) / "arguments.json"
            words = ["--component_module_path", str(module), *arguments]
            request.write_text(json.dumps(words), encoding="utf-8")
            ours, theirs = socket.socketpair()
            reader, writer = os.pipe()
            with ours, open(reader, encoding="utf-8", errors="replace") as output:
                try:
                    socket.send_fds(self._socket, [os.fsencode(request)], [writer, theirs.fileno()])
                except OSError:
                    return run(command, variables, say)
                finally:
                    os.close(writer)
                    theirs.close()
                for line in output:
                    say(line)
                if code := ours.recv(16):
                    return int(code)
                say("RuntimeError: the process that starts steps ended before it said how this one did\n")
                return 1


def run(command: list[str], variables: Mapping[str, str], say: Callable[[str], None]) -> int:
    """Run a command, passing on its output by line; return its exit code in a shell's form."""
    with subprocess.Popen(  # noqa: S603 the command is the compiled component's
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **_FAULTS, **variables},
    ) as running:
        assert running.stdout
        for line in running.stdout:
            say(line)
    return _as_shell(running.returncode)


def _serve(requests: socket.socket, modules: list[str]) -> list[str] | None:
    """Fork for each request until the end; return the step's arguments in the fork."""
    waiting = ["kfp.dsl.executor_main", *modules]
    running: dict[int, socket.socket] = {}  # where to report a process' end
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Ctrl-C reaches the steps as well; their ends must still be reported.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sources: list[Any] = [requests, ended]
    while True:
        ready, _, _ = select.select(sources, [], [], 0 if waiting else None)
        if ended in ready:
            os.read(ended, 4096)
            _tell_ends(running)
        if requests in ready:
            request, descriptors, _, _ = socket.recv_fds(requests, 4096, 2)
            if not request:
                # The client has ended; nobody reads their output any more.
                for process in running:
                    os.kill(process, signal.SIGKILL)
                return None
            output, end = descriptors
            gc.freeze()  # a fork doesn't copy or free inherited objects, which saves half a second
            try:
                process = os.fork()
            except OSError as error:
                os.write(output, f"OSError: no process for the step can be started: {error}\n".encode())
                os.close(output)
                with socket.socket(fileno=end) as asking:
                    asking.sendall(b"1")
                continue
            if process == 0:
                for open_socket in (requests, *running.values()):
                    open_socket.close()
                for descriptor in (end, ended, wake):
                    os.close(descriptor)
                _become_step(output)
                return list(json.loads(Path(os.fsdecode(request)).read_text(encoding="utf-8")))
            os.close(output)
            running[process] = socket.socket(fileno=end)
        elif waiting:
            # Missing or broken libraries are left to the step.
            with contextlib.suppress(Exception):
                importlib.import_module(waiting.pop(0))


def _tell_ends(running: dict[int, socket.socket]) -> None:
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            return
        code = _as_shell(os.waitstatus_to_exitcode(status))
        if (end := running.pop(process, None)) is None:
            continue  # a thread that an imported library started
        with end, contextlib.suppress(OSError):
            end.sendall(str(code).encode())


def _as_shell(code: int) -> int:
    return 128 - code if code < 0 else code


def _become_step(output: int) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    # Python reseeds its own random numbers in a fork, NumPy doesn't.
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def _main() -> None:
    descriptor, directory, *modules = sys.argv[1:]
    os.chdir(directory)
    sys.path[0] = directory
    with socket.socket(fileno=int(descriptor)) as requests:
        arguments = _serve(requests, modules)
    if arguments is not None:
        from kfp.dsl.executor_main import executor_main

        sys.argv[1:] = arguments
        executor_main()


if __name__ == "__main__":
    _main()
