"""Runs steps for real: as forks of a process that has imported libraries, and as processes of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from kfp.dsl.python_component import PythonComponent

from backends.local import step_error, step_server

IMAGE = {"base_image": "registry.example/python:3.11", "install_kfp_package": False}
VARIABLES = {"FLOWPARTS_TEST": "given"}


@dsl.component(**IMAGE)
def look() -> None:
    import json
    import os
    import sys

    import numpy as np

    found = {
        "process": os.getpid(),
        "parent": os.getppid(),
        "preloaded": "sklearn.ensemble" in sys.modules,
        "number": np.random.random(),
        "variable": os.environ.get("FLOWPARTS_TEST"),
        "runtime": os.environ.get("_KFP_RUNTIME"),
        "left": os.environ.get("FLOWPARTS_LEFT"),
        "directory": os.getcwd(),
        "path": sys.path,
        "open": len(os.listdir("/proc/self/fd")),
    }
    os.environ["FLOWPARTS_LEFT"] = "by an earlier step"
    os.chdir("/")
    print("found", json.dumps(found))


@dsl.component(**IMAGE)
def end(how: str) -> None:
    import os
    import signal
    import sys
    import time
    import warnings

    print("größer", flush=True)
    print("to the other stream", file=sys.stderr, flush=True)
    if how == "error":
        raise ValueError("label column 'price' is not in the table")
    if how == "exit":
        sys.exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "wait":
        print("process", os.getpid(), flush=True)
        time.sleep(60)
    warnings.warn("mind this", stacklevel=1)
    print("not flushed before the end")


def command(component: PythonComponent, **parameters: Any) -> list[str]:
    container = component.component_spec.implementation.container
    told = {"inputs": {"parameterValues": parameters}, "outputs": {"outputFile": "/dev/null"}}
    words = [word.replace("python3", sys.executable) for word in container.command[:-1]]
    arguments = (json.dumps(told) if word == "{{$}}" else word for word in container.args)
    return [*words, container.command[-1], *arguments]


@pytest.fixture
def server() -> Iterator[step_server.StepServer]:
    with step_server.StepServer(["flowparts-sklearn"], VARIABLES) as running:
        yield running


def found(lines: list[str]) -> dict[str, Any]:
    (line,) = (line for line in lines if line.startswith("found "))
    return json.loads(line.removeprefix("found "))


def test_steps_share_nothing_but_what_was_imported(server: step_server.StepServer) -> None:
    def looked() -> dict[str, Any]:
        lines: list[str] = []
        assert server.run(command(look), VARIABLES, lines.append) == 0, lines
        return found(lines)

    first = looked()
    deadline = time.monotonic() + 60
    while not (second := looked())["preloaded"]:
        assert time.monotonic() < deadline
    third = looked()
    assert first["parent"] == second["parent"] != os.getpid()
    assert len({first["process"], second["process"], third["process"]}) == 3
    assert second["number"] != third["number"]
    assert third["open"] <= 6
    for step in (first, second, third):
        assert (step["variable"], step["runtime"], step["left"]) == ("given", "true", None)
        assert step["directory"] == os.getcwd()
        # Before these is the folder that kfp loads the component from.
        assert step["path"][1] == os.getcwd()
        assert str(step_server.ROOT / "backends") not in step["path"]


def test_a_step_with_variables_of_its_own_gets_them_in_a_process_of_its_own(
    server: step_server.StepServer,
) -> None:
    lines: list[str] = []
    # A library that is imported already might have read the others.
    assert server.run(command(look), {**VARIABLES, "FLOWPARTS_TEST": "other"}, lines.append) == 0
    assert found(lines)["variable"] == "other"
    assert not found(lines)["preloaded"]


def test_a_command_that_is_not_a_component_runs_as_it_is(server: step_server.StepServer) -> None:
    lines: list[str] = []
    assert server.run(["sh", "-c", "echo $FLOWPARTS_TEST; exit 4"], VARIABLES, lines.append) == 4
    assert lines == ["given\n"]


@pytest.mark.parametrize(("how", "code"), [("well", 0), ("error", 1), ("exit", 3), ("kill", 137)])
def test_a_step_gives_the_same_result_in_a_process_and_in_the_server(
    how: str, code: int, server: step_server.StepServer
) -> None:
    def said(start: Callable[..., int]) -> list[str]:
        lines: list[str] = []
        assert start(command(end, how=how), VARIABLES, lines.append) == code, lines
        text = re.sub(r"\d{4}-\d\d-\d\d [\d:,]+|/tmp/[\w./]+?(?=/ephemeral|\")", "...", "".join(lines))
        # What stands between the traceback's first line and the step's own.
        return re.sub(r"(?<=last\):\n)(  .*\n)*(?=  File .*executor_main.py)", "", text).splitlines()

    forked, alone = said(server.run), said(step_server.run)
    # What the shell says itself.
    alone = [line for line in alone if "Killed" not in line]
    assert "größer" in forked
    assert "to the other stream" in forked
    assert ("not flushed before the end" in forked) == (how == "well")
    assert forked == alone


def test_steps_run_side_by_side_and_one_that_is_killed_ends_alone(server: step_server.StepServer) -> None:
    lines: list[str] = []
    codes: list[int] = []
    step = threading.Thread(
        target=lambda: codes.append(server.run(command(end, how="wait"), VARIABLES, lines.append))
    )
    step.start()
    while not any(line.startswith("process ") for line in lines):
        time.sleep(0.01)
    assert server.run(command(end, how="well"), VARIABLES, lambda _: None) == 0
    assert step.is_alive()
    (line,) = (line for line in lines if line.startswith("process "))
    os.kill(int(line.split()[1]), signal.SIGKILL)
    step.join(30)
    assert codes == [137]
    assert server.run(command(end, how="well"), VARIABLES, lambda _: None) == 0


def test_a_step_whose_server_is_killed_says_so(server: step_server.StepServer) -> None:
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("process "):
            server._process.kill()
            os.kill(int(line.split()[1]), signal.SIGTERM)

    assert server.run(command(end, how="wait"), VARIABLES, say) == 1
    assert lines[-1].startswith("RuntimeError: the process that starts steps ended before")


def test_a_child_of_an_imported_library_ends_without_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "starts_a_process.py").write_text("import os\nif not os.fork(): os._exit(0)\n")
    (tmp_path / "is_broken.py").write_text("raise RuntimeError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(step_server._MODULES, "own", ["starts_a_process", "is_broken"])
    with step_server.StepServer(["own"], VARIABLES) as running:
        for _ in range(3):
            assert running.run(command(end, how="well"), VARIABLES, lambda _: None) == 0
        assert running._process.poll() is None


@pytest.mark.parametrize(("code", "said"), [(0, ""), (1, ""), (3, ""), (128, ""), (255, "")])
def test_an_exit_code_of_its_own_is_no_signal(code: int, said: str) -> None:
    assert step_error.killed(code) == said


def test_a_signal_is_named() -> None:
    assert step_error.killed(139) == "the step was killed by SIGSEGV (exit code 139)"
    assert step_server.run(["sh", "-c", "kill -SEGV $$"], {}, lambda _: None) == 139


def test_without_the_server_steps_run_as_processes(server: step_server.StepServer) -> None:
    server._process.kill()
    server._process.wait()
    lines: list[str] = []
    assert server.run(command(look), VARIABLES, lines.append) == 0
    assert not found(lines)["preloaded"]


def test_the_step_server_and_its_steps_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(
        "import json, os, signal, sys\n"
        "from backends.local import step_server\n"
        "server = step_server.StepServer([], {})\n"
        "def say(line):\n"
        "    if line.startswith('process '):\n"
        "        print(server._process.pid, line.split()[1], flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "server.run(json.loads(sys.argv[1]), {}, say)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(step_server.ROOT)}
    arguments = [sys.executable, script, json.dumps(command(end, how="wait"))]
    ended = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    processes = [int(word) for word in ended.stdout.split()]
    assert len(processes) == 2
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{process}/cmdline").exists() for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.05)
