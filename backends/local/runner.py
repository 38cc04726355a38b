"""The local backend: run a compiled pipeline on kfp.local and show it live.

kfp.local prints every step's output to one stream and gives no cause for a failed step. `observe` therefore
wraps four functions of kfp 2.17 (pinned) and records their calls as `Task`s; each step's output goes to a
separate log file.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kfp import components, dsl, local
from kfp.dsl.base_component import BaseComponent
from kfp.local import (
    cache,
    docker_task_handler,
    executor_input_utils,
    logging_utils,
    status,
    subprocess_task_handler,
)
from kfp.local.orchestrator import task_executor
from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils

from backends import package
from backends.graph import Step, steps, unshared
from backends.local import cache as local_cache
from backends.local import containers as docker
from backends.local import step_error, step_server
from flowparts import __version__
from flowparts.models import mlmodel
from flowparts.train.networks import checkpoints
from flowparts.util import outputs, sources
from flowparts.util.masking import masked

# A shell's exit code for a process that got SIGKILL.
KILLED = 137
# The fields of a run.json that pages use.
_SUMMARY = {"pipeline": str, "succeeded": bool, "seconds": int | float, "parameters": dict, "metrics": dict}
_COLOUR = re.compile(r"\x1b\[\d+m")


@dataclass
class Task:
    """The current state of a task."""

    name: str
    component: str  # that of the step in the graph, the same for every turn of a loop
    log: Path
    state: str = "running"  # running, succeeded, cached or failed
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    pages: dict[str, Path] = field(default_factory=dict)  # HTML outputs by name
    last_line: str = ""
    exit_code: int | None = None
    reason: str = ""  # why it failed, where its own output doesn't say

    @property
    def elapsed_seconds(self) -> float:
        """Duration of the task so far, or in total, in seconds."""
        return self.seconds if self.state != "running" else time.monotonic() - self.started

    @property
    def error(self) -> str:
        """Why the step failed: by default, the error line from its log."""
        if self.reason:
            return self.reason
        lines = (
            self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        )
        if said := step_error.error_in(lines):
            return said
        if self.exit_code is not None and self.exit_code != 0:
            return f"the step ended with exit code {self.exit_code} and without a message"
        return "the step left no message"


@dataclass
class Run:
    """One run of a pipeline on this machine, with its files."""

    name: str
    folder: Path
    parameters: dict[str, Any]
    graph: list[Step]
    tasks: list[Task] = field(default_factory=list)
    seconds: float = 0.0
    problem: str = ""

    @property
    def failed(self) -> list[Task]:
        """The tasks that failed."""
        return [task for task in self.tasks if task.state == "failed"]

    @property
    def succeeded(self) -> bool:
        """Whether every task succeeded."""
        return not self.problem and not self.failed


def run(
    pipeline: BaseComponent,
    parameters: dict[str, Any],
    runs: Path,
    use_cache: bool = True,
    on_change: Callable[[Run], None] = lambda _: None,
    containers: docker.Containers | None = None,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Run a pipeline with kfp.local, in subprocesses of this environment or in containers.

    Artifacts, one log per task, copies of the HTML reports and `run.json` are written to RUNS/NAME/ID. Unless
    the environment sets others, MLflow's tracking database is RUNS/mlflow.db, and the checkpoints of all
    trainings, from which a killed one is resumed by the next run, are in RUNS/.checkpoints.

    Args:
        pipeline: The pipeline.
        parameters: Values for its inputs; `data_version` is derived from the files when `source` is local.
        runs: The folder of all runs.
        use_cache: Whether tasks with the same inputs and code reuse earlier outputs.
        on_change: Called with the run whenever a task starts or ends.
        containers: The images to run the steps in; None for subprocesses.
        environment: Variables for every step, such as credentials; they aren't stored.

    Returns:
        The run, even if tasks failed.
    """
    runs = runs.resolve()
    name = pipeline.pipeline_spec.pipeline_info.name
    folder = new_folder(runs / name)
    parameters = {**parameters, **data_version(pipeline, parameters)}
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{runs / 'mlflow.db'}")
    environment = {
        "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"],
        checkpoints.ENVIRONMENT: os.environ.get(checkpoints.ENVIRONMENT, str(runs / ".checkpoints")),
        **(environment or {}),
    }
    tracking_uri = parameters.get("tracking_uri") or environment["MLFLOW_TRACKING_URI"]

    # The image's placeholder contains the code's digest, so that changed code never gets stale cache entries.
    tag = f"{__version__}-{_code_digest()}"
    text = package.compiled(pipeline, containers.reference if containers else lambda image: f"{image}:{tag}")
    document = unshared(package.documents(text)[0])
    record = Run(name, folder, parameters, steps(document))
    executors = document["deploymentSpec"]["executors"].values()
    images = {
        Path(executor["container"]["image"].partition(":")[0]).name
        for executor in executors
        if "container" in executor  # an importer has none
    }
    loaded = components.load_component_from_text(package.dumped(document))
    started = time.monotonic()
    with (
        (folder / "kfp.log").open("w", encoding="utf-8") as kfp_log,
        containers.access(folder, tracking_uri, environment) if containers else contextlib.nullcontext(),
        contextlib.nullcontext() if containers else step_server.StepServer(images, environment) as server,
        _observed(record, on_change, containers, server, environment),
        contextlib.redirect_stdout(kfp_log),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # the runner's remarks about image names and resource limits
        local.init(
            runner=local.DockerRunner() if containers else local.SubprocessRunner(use_venv=False),
            pipeline_root=str(folder),
            enable_caching=use_cache,
            cache_root=str(runs / ".cache"),
            raise_on_error=True,
        )
        try:
            loaded(**parameters)
        except Exception as error:  # exceptions of kfp.local are reported with the failed tasks
            record.problem = masked(_COLOUR.sub("", str(error)))
    record.seconds = time.monotonic() - started
    finish(record)
    return record


def finish(record: Run) -> None:
    """Copy the reports of a finished run, and write its run.json."""
    _collect_reports(record)
    summary = masked(_summary(record))
    outputs.write_text(record.folder / "run.json", json.dumps(summary, indent=2, default=str))


def summaries(runs: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the run.json of all runs by pipeline and run, newest first; unreadable ones are left out."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file in sorted(runs.glob("*/*/run.json"), key=lambda file: file.parent.name, reverse=True):
        try:
            summary = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(summary, dict) and all(
            isinstance(summary.get(key), kind) for key, kind in _SUMMARY.items()
        ):
            found.setdefault(file.parent.parent.name, {})[file.parent.name] = summary
    return found


def reports(record: Run) -> dict[str, Path]:
    """Return the HTML reports of a run by task and output name."""
    return {file.stem: file for file in sorted((record.folder / "reports").glob("*.html"))}


def model(record: Run) -> Path | None:
    """Return the directory of a run's final model, if any."""
    found = [
        Path(value.path)
        for task in record.tasks
        for value in task.outputs.values()
        if isinstance(value, dsl.Model)
    ]
    return found[-1] if found else None


def findings(record: Run) -> list[tuple[str, str]]:
    """Return remarks of the run's model about its training, each with its kind: split, warning or note."""
    directory = model(record)
    if directory is None or not (directory / "MLmodel").is_file():
        return []
    stored = mlmodel.read(directory)["metadata"]
    found = [("split", stored.get("split")), ("left out", "; ".join(stored.get("rows_left_out") or []))]
    found.append(("warning", stored.get("split_warning")))
    found += [("warning", text) for text in stored.get("warnings") or []]
    for each in stored.get("left_out") or []:
        found.append(("warning", f"candidate {each['estimator']} is left out: {each['reason']}"))
    found.append(("note", stored.get("metric_reason")))
    return [(kind, text) for kind, text in found if text]


def decision(record: Run) -> tuple[bool, str] | None:
    """Return whether the run's model was promoted, and why; None without a decision."""
    for task in record.tasks:
        if {"promote", "reason"} <= task.outputs.keys():
            return bool(task.outputs["promote"]), str(task.outputs["reason"])
    return None


def metrics(record: Run) -> dict[str, dict[str, float]]:
    """Return by task the scalars of its Metrics artifacts and the numbers that it returned."""
    found: dict[str, dict[str, float]] = {}
    for task in record.tasks:
        numbers: dict[str, float] = {}
        for key, value in task.outputs.items():
            if isinstance(value, dsl.Metrics):
                numbers |= {name: number for name, number in value.metadata.items() if _is_number(number)}
            elif _is_number(value):
                numbers[key] = value
        if numbers:
            found[task.name] = dict(sorted(numbers.items()))
    return found


def endpoints(record: Run) -> dict[str, str]:
    """Return by name the final URL and traffic of every endpoint."""
    found = {}
    for task in record.tasks:
        for value in task.outputs.values():
            if isinstance(value, dsl.Artifact) and {"name", "url", "traffic"} <= value.metadata.keys():
                found[value.metadata["name"]] = f"{value.metadata['url']} ({value.metadata['traffic']})"
    return found


@contextlib.contextmanager
def print_kept() -> Iterator[None]:
    """Keep kfp.local from replacing the print function during tasks, until the block ends.

    With two tasks at once, the one that ends last would restore the other's replacement.
    """
    indented_print = logging_utils.indented_print
    logging_utils.indented_print = contextlib.nullcontext  # type: ignore[assignment]
    try:
        yield
    finally:
        logging_utils.indented_print = indented_print


@contextlib.contextmanager
def _observed(
    record: Run,
    on_change: Callable[[Run], None],
    containers: docker.Containers | None,
    server: step_server.StepServer | None,
    environment: Mapping[str, str],
) -> Iterator[None]:
    """Record kfp.local's work as the run's tasks, until the block ends."""
    execute = task_executor.execute_single_task
    run_subprocess = subprocess_task_handler.run_local_subprocess
    run_container = docker_task_handler.run_docker_container
    resource_name = executor_input_utils.get_local_pipeline_resource_name
    kfp_cache = cache.LocalCache
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    current = threading.local()
    lock = threading.Lock()
    (record.folder / "logs").mkdir()

    def observed_execute(*args: Any, **kwargs: Any) -> tuple[dict[str, Any], status.Status]:
        with lock:
            name = unique(kwargs["task_name"], record)
            task = Task(
                name=name,
                component=kwargs["task_spec"].component_ref.name,
                log=record.folder / "logs" / f"{name}.log",
                parameters=_arguments(**kwargs),
            )
            record.tasks.append(task)
        current.task, current.kfp_task, current.ran = task, kwargs, False
        on_change(record)
        try:
            outputs, task_status = execute(*args, **kwargs)
        except Exception as error:
            text = masked("".join(traceback.format_exception(error)))
            task.log.write_text(text, encoding="utf-8")
            outputs, task_status = {}, status.Status.FAILURE
        task.seconds = time.monotonic() - task.started
        task.outputs = outputs
        task.pages |= {key: Path(value.path) for key, value in outputs.items() if isinstance(value, dsl.HTML)}
        if task_status != status.Status.SUCCESS:
            task.state = "failed"
        else:
            task.state = "succeeded" if current.ran else "cached"
        on_change(record)
        return outputs, task_status

    def run_id(pipeline_name: str) -> str:
        return f"{pipeline_name}-{record.folder.name}"

    def observed_subprocess(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        return process(full_command, {**(env_vars or {}), **environment})

    def observed_container(
        client: Any,  # noqa: ARG001 kfp calls with these names
        image: str,
        command: list[str],
        volumes: dict[str, Any],  # noqa: ARG001
        **container_run_args: Any,
    ) -> int:
        assert containers
        task, kfp_task = current.task, current.kfp_task
        component = kfp_task["components"][task.component]
        executor = kfp_task["executors"][component.executor_label]
        variables = {**container_run_args.get("environment", {}), **environment}
        step = docker.Step(
            run=record.folder,
            inputs=docker.inputs(component, task.parameters),
            memory_bytes=docker.memory_limit_bytes(executor),
            environment=variables,
            online=image == containers.ids.get("flowparts-deploy"),
            stores_checkpoints=image == containers.ids.get("flowparts-tensorflow"),
        )
        with containers.started(step) as docker_run:
            code = process([*docker_run, image, *command], variables)
        if code == KILLED:
            with task.log.open("a", encoding="utf-8") as log:
                log.write(f"{step.killed}\n")
        return code

    def process(command: list[str], variables: Mapping[str, str]) -> int:
        task: Task = current.task
        task.pages = _pages(command)
        current.ran = True
        with task.log.open("w", encoding="utf-8") as log:

            def say(line: str) -> None:
                # kfp's executor prints all inputs of a step.
                shown = masked(line)
                log.write(shown)
                log.flush()
                task.last_line = shown.strip() or task.last_line

            code = (server.run if server else step_server.run)(command, variables, say)
        if not containers:  # container runs have it in their log, with the limit
            task.reason = step_error.killed(code)
        if code == 0 and not _output_file(command).is_file():
            task.reason = "the step ended with exit code 0 before it was done, as by os._exit or sys.exit"
            code = 1
        task.exit_code = code
        return code

    task_executor.execute_single_task = observed_execute
    subprocess_task_handler.run_local_subprocess = observed_subprocess
    docker_task_handler.run_docker_container = observed_container
    executor_input_utils.get_local_pipeline_resource_name = run_id
    cache.LocalCache = local_cache.Cache  # type: ignore[misc]
    try:
        with print_kept():
            yield
    finally:
        cache.LocalCache = kfp_cache  # type: ignore[misc]
        # Each task sets it too, and the last to end restores another's.
        root.handlers[:] = handlers
        root.setLevel(level)
        task_executor.execute_single_task = execute
        subprocess_task_handler.run_local_subprocess = run_subprocess
        docker_task_handler.run_docker_container = run_container
        executor_input_utils.get_local_pipeline_resource_name = resource_name


def _executor_input(command: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command[command.index("--executor_input") + 1])
    return found


def _output_file(command: list[str]) -> Path:
    """Return where kfp's executor writes a step's outputs after its function returns."""
    return Path(_executor_input(command)["outputs"]["outputFile"])


def _pages(command: list[str]) -> dict[str, Path]:
    """Return a step's HTML outputs by name; a failed step may have them too."""
    artifacts = _executor_input(command)["outputs"].get("artifacts", {})
    return {
        name: Path(value["artifacts"][0]["uri"])
        for name, value in artifacts.items()
        if value["artifacts"][0]["type"].get("schemaTitle") == dsl.HTML.schema_title
    }


def _arguments(task_spec: Any, io_store: Any, **_: Any) -> dict[str, Any]:
    arguments = OrchestratorUtils.make_task_arguments(task_inputs_spec=task_spec.inputs, io_store=io_store)
    return {key: _shown(value) for key, value in arguments.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, dsl.Artifact):
        return value.uri
    return [_shown(item) for item in value] if isinstance(value, list) else value


def unique(task_name: str, record: Run) -> str:
    """Return a task's name, numbered if the run has another task with that name."""
    taken = {task.name for task in record.tasks}
    names = itertools.chain([task_name], (f"{task_name}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def new_folder(parent: Path) -> Path:
    """Create a folder named by the time, so that names sort chronologically."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for suffix in itertools.count():
        folder = parent / (stamp if suffix == 0 else f"{stamp}-{suffix}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def _code_digest() -> str:
    """Return a digest of the flowparts package, which every step imports."""
    import flowparts

    folder = Path(flowparts.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(str(file.relative_to(folder)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def data_version(pipeline: BaseComponent, parameters: dict[str, Any]) -> dict[str, str]:
    """Return a data version for local files, so that changed files are read again automatically."""
    inputs = pipeline.component_spec.inputs or {}
    if "data_version" not in inputs or parameters.get("data_version") or "source" not in inputs:
        return {}
    source = str(parameters.get("source", inputs["source"].default))
    try:
        files = sources.local_files(source)
    except ValueError:  # the step that reads it reports the error
        return {}
    stats = [(file.name, file.path.stat().st_size, file.path.stat().st_mtime_ns) for file in files]
    return {"data_version": hashlib.sha256(repr(stats).encode()).hexdigest()[:16]} if stats else {}


def _collect_reports(record: Run) -> None:
    """Copy every HTML artifact under a name that a browser opens."""
    folder = record.folder / "reports"
    folder.mkdir()
    for task in record.tasks:
        for key, page in task.pages.items():
            if page.is_file():
                name = task.name if len(task.pages) == 1 else f"{task.name}-{key}"
                shutil.copyfile(page, folder / f"{name}.html")


def _summary(record: Run) -> dict[str, Any]:
    return {
        "pipeline": record.name,
        "succeeded": record.succeeded,
        "seconds": round(record.seconds, 3),
        "parameters": record.parameters,
        "metrics": _run_metrics(record),
        "python": sys.version.split()[0],
        "flowparts": __version__,
        "tasks": [
            {
                "name": task.name,
                "state": task.state,
                "seconds": round(task.seconds, 3),
                "log": str(task.log.relative_to(record.folder)),
                "error": task.error if task.state == "failed" else "",
                "outputs": {
                    key: {"uri": value.uri, "metadata": value.metadata}
                    if isinstance(value, dsl.Artifact)
                    else value
                    for key, value in task.outputs.items()
                },
            }
            for task in record.tasks
        ],
    }


def _run_metrics(record: Run) -> dict[str, float]:
    """Return the measures that steps returned, except counts and steps in loops."""
    components = [task.component for task in record.tasks]
    return {
        task.name if name == "Output" else name: value
        for task in record.tasks
        if components.count(task.component) == 1
        for name, value in task.outputs.items()
        if isinstance(value, float)
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
