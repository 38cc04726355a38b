"""Steps of a real run of every pipeline, to be run again with other inputs or killed half-way.

Each step runs in a process of its own, forked from one that has imported everything: it starts at once.
"""

import copy
import itertools
import json
import multiprocessing
import os
import pkgutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp.dsl.executor import Executor

from backends import catalogue

# Not fork: a copy of a process in which Polars has started its threads hangs.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["tests.contract.steps"]
    if "FLOWPARTS_CHECK" in os.environ  # a single component, which imports what it needs
    else [
        "tests.contract.steps",
        "duckdb",
        "lightgbm",
        "mlflow.store.tracking.sqlalchemy_store",
        "sklearn.ensemble",
        "skops.io",
        "xgboost",
    ]
)

SECONDS = 120
# What puts every output in its place.
MOVE = "flowparts.util.outputs._move"


@dataclass(frozen=True)
class Stop:
    """Where a step is killed: as it makes the n-th call of a function, such as `MOVE`."""

    function: str
    call: int


@dataclass(frozen=True)
class Step:
    """A step as it was run: the name of its component, and what kfp's executor got."""

    component: str
    executor_input: dict[str, Any]

    def inside(self, folder: Path, outside: Path) -> "Step":
        """Return the step with its outputs in a folder; so is whatever a parameter places under `outside`."""
        changed = copy.deepcopy(self.executor_input)
        outputs = changed["outputs"]
        outputs["outputFile"] = str(folder / "executor_output.json")
        for name, artifacts in outputs.get("artifacts", {}).items():
            artifacts["artifacts"][0]["uri"] = str(folder / "made" / name)
        for name, parameter in outputs.get("parameters", {}).items():
            parameter["outputFile"] = str(folder / "returned" / name)
        values = changed["inputs"].get("parameterValues", {})
        for name, value in values.items():
            if isinstance(value, str):
                values[name] = value.replace(str(outside), str(folder / "made"))
        return Step(self.component, changed)

    def reading(self, port: str, path: Path) -> "Step":
        """Return the step with another artifact at an input port."""
        changed = copy.deepcopy(self.executor_input)
        changed["inputs"]["artifacts"][port]["artifacts"][0]["uri"] = str(path)
        return Step(self.component, changed)

    def call(self) -> None:
        """Run the step in this process, as kfp does."""
        component = catalogue.components()[self.component]
        Executor(executor_input=self.executor_input, function_to_execute=component).execute()

    def run(self, log: Path, stop: Stop | None = None) -> "Ended":
        """Run the step in a process of its own, and note where it puts finished outputs."""
        calls = log.with_suffix(".moves")
        calls.write_text("")
        process = _processes.Process(target=_run, args=(self, log, calls, dict(os.environ), stop))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"{self.component} did not end within {SECONDS} s: {log.read_text()}")
        return Ended(process.exitcode, calls.read_text().splitlines(), log.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Ended:
    """How a step's process ended, and what it had put into its place, in order."""

    exit_code: int
    moved: list[str]
    log: str


def _run(step: Step, log: Path, calls: Path, environment: dict[str, str], stop: Stop | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    function = stop.function if stop else MOVE
    owner, _, name = function.rpartition(".")
    original = pkgutil.resolve_name(function)
    numbers = itertools.count(1)

    def watched(*args: Any, **kwargs: Any) -> Any:
        if stop and next(numbers) == stop.call:
            os.kill(os.getpid(), signal.SIGKILL)
        with calls.open("a") as stream:
            stream.write(f"{args[-1]}\n")
        return original(*args, **kwargs)

    setattr(pkgutil.resolve_name(owner), name, watched)
    step.call()


def from_command(command: list[str]) -> Step:
    """Return the step that a command of kfp's subprocess runner would run."""
    arguments = dict(itertools.pairwise(command))
    return Step(arguments["--function_to_execute"], json.loads(arguments["--executor_input"]))
