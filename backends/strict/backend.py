"""The strict backend: run a compiled pipeline on this machine like a real Kubeflow Pipelines backend.

It walks the document that would be uploaded, resolves the inputs of each step as KFP's drivers do, runs the
compiled commands in place of pods, and passes on values and artifacts as the launcher, ML Metadata and the
object store do. What fails on a real backend (2.17) fails here, with an explanation. Steps run one after
another, in a fixed order.
"""

import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from kfp import components, dsl
from kfp.dsl.structures import InputSpec
from kfp.dsl.types import artifact_types

from backends import catalogue, package, resources
from backends.graph import steps, unshared
from backends.local import runner
from backends.local.runner import Run, Task
from backends.strict import driver as strict_driver
from backends.strict import values as strict_values
from backends.strict.driver import Driver, Execution
from backends.strict.step import LOGS, Backend, Step
from backends.strict.store import MetadataStore, ObjectStore, Stored, local_path
from backends.strict.values import BackendError
from flowparts.components import REGISTRY
from tools import images

# What Kubernetes and Kubeflow leave free on a node with two CPUs and 8 GiB.
NODE = "1500m 6Gi"


def run(
    text: str,
    given: Mapping[str, Any],
    runs: Path,
    use_cache: bool = True,
    on_change: Callable[[Run], None] = lambda _: None,
    environment: Mapping[str, str] | None = None,
    node: str = NODE,
    volumes: Mapping[str, Path] | None = None,
) -> Run:
    """Run a compiled pipeline like a real backend.

    Logs, copies of the HTML reports and `run.json` are written to RUNS/NAME/ID; objects, artifact IDs and the
    cache to RUNS/.strict. Unless the environment sets another, MLflow's tracking database is
    RUNS/.strict/mlflow/mlflow.db, on a volume of every step.

    Args:
        text: The compiled YAML.
        given: Values for the pipeline's inputs.
        runs: The folder of all runs.
        use_cache: Whether a step with the same key as before is served from the cache.
        on_change: Called with the run whenever a step starts or ends.
        environment: Variables for every step; they aren't stored.
        node: Free CPUs and memory of the largest node, such as "2 8Gi".
        volumes: Writable folders of every step, by path.

    Returns:
        The run, even if steps failed.

    Raises:
        SubmissionError: The backend would refuse the run.
        ValueError: The text isn't a compiled pipeline.
    """
    spec, *overlays = _documents(text)
    name, root = spec["pipelineInfo"]["name"], spec["root"]
    strict_values.refuse_templates_in_source(spec.get("deploymentSpec", {}).get("executors", {}))
    values = strict_values.submitted(root.get("inputDefinitions", {}).get("parameters", {}), given)
    runs = runs.resolve()
    folder = runner.new_folder(runs / name)
    (folder / "logs").mkdir()
    tracking = runs / ".strict" / "mlflow"
    tracking.mkdir(parents=True, exist_ok=True)
    tracking.chmod(0o777)
    record = Run(name, folder, dict(given), steps(unshared(spec)))
    backend = Backend(
        pipeline=name,
        run_id=str(uuid.uuid4()),
        objects=ObjectStore(runs / ".strict" / "objects"),
        metadata=MetadataStore(runs / ".strict" / "metadata.db"),
        use_cache=use_cache,
        overlay=next(iter(overlays), {}),
        environment={"MLFLOW_TRACKING_URI": f"sqlite:///{tracking}/mlflow.db", **(environment or {})},
        volumes={str(tracking): tracking, **(volumes or {})},
        node=resources.node(node),
    )
    workflow = _Workflow(spec, record, backend, Driver(backend.workflow, backend.run_id), on_change)
    started = time.monotonic()
    execution = workflow.execution("", None, values, {}, dag=root["dag"])
    workflow.run_group(root["dag"], execution, "")
    record.problem = "; ".join(workflow.problems)
    record.seconds = time.monotonic() - started
    runner.finish(record)
    return record


def compiled(name: str) -> str:
    """Return the compiled text of a pipeline of the library, or of a file.

    Args:
        name: The pipeline, or the path of a YAML file.

    Raises:
        ValueError: There is no such pipeline or file.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            return Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read the compiled pipeline in {name}: {error}") from None
    version = images.version()
    return package.compiled(catalogue.pipeline(name), lambda image: f"{REGISTRY}/{image}:{version}", version)


def inputs(text: str) -> dict[str, InputSpec]:
    """Return the inputs of a compiled pipeline.

    Raises:
        ValueError: The text isn't a compiled pipeline.
    """
    _documents(text)
    return components.load_component_from_text(text).component_spec.inputs or {}


def _documents(text: str) -> list[dict[str, Any]]:
    try:
        documents = package.documents(text)
        documents[0]["pipelineInfo"]["name"], documents[0]["root"]["dag"]["tasks"]
    except (KeyError, IndexError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"this is not a compiled pipeline: {error!r}") from None
    return documents


@dataclass
class _Workflow:
    """Argo's part of one run: the order of the tasks, and skipped ones."""

    spec: Mapping[str, Any]
    record: Run
    backend: Backend
    driver: Driver
    on_change: Callable[[Run], None]
    problems: list[str] = field(default_factory=list)  # of groups, for which there is no task
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def execution(
        self,
        task: str,
        parent: Execution | None,
        inputs: Mapping[str, Any],
        artifacts: Mapping[str, list[Stored]],
        **details: Any,
    ) -> Execution:
        """Create an execution below its parent."""
        made = Execution(next(self._numbers), task, parent, inputs=dict(inputs), **details)
        made.input_artifacts = dict(artifacts)
        if parent:
            parent.children.append(made)
        return made

    def run_group(self, dag: Mapping[str, Any], group: Execution, prefix: str) -> bool:
        """Run the tasks of a group; return whether none failed."""
        ended: dict[str, str] = {}  # Succeeded, Failed, Skipped or Omitted
        exits = {name for name, task in dag["tasks"].items() if _is_exit(task)}
        waiting = sorted(dag["tasks"], key=lambda name: (name in exits, name))
        while waiting:
            name = next(
                name for name in waiting if all(dep in ended for dep in _upstream(dag["tasks"][name]))
            )
            waiting.remove(name)
            before = {ended[dep] for dep in _upstream(dag["tasks"][name])}
            if before <= ({"Succeeded", "Failed"} if name in exits else {"Succeeded"}):
                ended[name] = self.run_task(name, dag["tasks"][name], group, prefix)
            else:
                ended[name] = "Omitted"
        return "Failed" not in ended.values()

    def run_task(self, name: str, task: Mapping[str, Any], group: Execution, prefix: str) -> str:
        component = self.spec["components"][task["componentRef"]["name"]]
        if "dag" not in component:
            return self.run_step(name, task, component, group, prefix)
        try:
            inputs, artifacts = self.driver.resolve(name, task, component, group)
            is_triggered = strict_driver.triggered(task, inputs)
            items = strict_driver.items(task, inputs) if is_triggered else None
        except BackendError as failure:
            self.problems.append(f"{prefix}{name}: {failure}")
            return "Failed"
        dag = component["dag"]
        made = self.execution(name, group, inputs, artifacts, dag=dag)
        if not is_triggered:
            made.state = "CANCELED"
            return "Skipped"
        if items is None:
            return "Succeeded" if self.run_group(dag, made, f"{prefix}{name}/") else "Failed"
        made.turns = len(items)
        well = True
        for turn, item in enumerate(items):
            values = {key: value for key, value in inputs.items() if key != strict_driver.items_input(task)}
            values[task["parameterIterator"]["itemInput"]] = item
            try:
                values = self.driver.converted(task, component, values, turn)
            except BackendError as failure:
                self.problems.append(f"{prefix}{name}: {failure}")
                well = False
                continue
            each = self.execution(name, made, values, artifacts, dag=dag, turn=turn)
            well = self.run_group(dag, each, f"{prefix}{name}/") and well
        return "Succeeded" if well else "Failed"

    def run_step(
        self,
        name: str,
        task: Mapping[str, Any],
        component: Mapping[str, Any],
        group: Execution,
        prefix: str,
    ) -> str:
        shown = runner.unique(name, self.record)
        recorded = Task(shown, f"comp-{prefix}{name}", self.record.folder / "logs" / f"{shown}.log")
        executor = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]
        execution = None
        try:
            if "importer" in executor:
                self._tell(recorded)
                # The importer's launcher uses the display name as the task's name.
                execution = self.execution(task["taskInfo"]["name"], group, {}, {})
                stored = self.imported(task, executor["importer"], group)
                (port,) = component["outputDefinitions"]["artifacts"]
                execution.output_artifacts[port] = stored
                execution.state, recorded.state = "COMPLETE", "succeeded"
                return "Succeeded"
            inputs, artifacts = self.driver.resolve(name, task, component, group)
            if not strict_driver.triggered(task, inputs):
                self.execution(name, group, inputs, artifacts, state="CANCELED")
                return "Skipped"
            recorded.parameters = {
                **inputs,
                **{key: [item.uri for item in found] for key, found in artifacts.items()},
            }
            self._tell(recorded)
            execution = self.execution(name, group, inputs, artifacts)
            step = Step(self.backend, name, task, component, executor["container"], execution, recorded)
            step.run()
            return "Succeeded"
        except BackendError as failure:
            self._tell(recorded)
            recorded.state, recorded.reason = "failed", str(failure)
            if recorded.reason:  # otherwise the program's last output is the reason
                with recorded.log.open("a", encoding="utf-8") as log:
                    log.write(f"F {failure.words or failure}\n")
            return "Failed"
        finally:
            recorded.seconds = time.monotonic() - recorded.started
            if execution:
                recorded.outputs = {**execution.outputs, **self._shown(execution)}
                recorded.pages = {
                    key: Path(value.uri)
                    for key, value in recorded.outputs.items()
                    if isinstance(value, dsl.HTML)
                }
            if recorded in self.record.tasks:
                self.on_change(self.record)

    def imported(self, task: Mapping[str, Any], importer: Mapping[str, Any], group: Execution) -> Stored:
        """Return the artifact that an importer registers, without moving files."""
        source = importer["artifactUri"]
        if "runtimeParameter" in source:
            reference = task["inputs"]["parameters"][source["runtimeParameter"]]
            key = reference.get("componentInputParameter", "")
            constant = reference.get("runtimeValue", {}).get("constant", "")
            uri = group.inputs.get(key) if key else constant
        else:
            uri = source["constant"]
        if not uri or not local_path(uri):
            raise BackendError(
                f"an importer takes an address in a bucket such as s3://bucket/key, not {uri!r}",
                f"no provider scheme found in artifact URI: {uri}",
            )
        scheme = uri.partition("://")[0]
        session = strict_values.written({"Provider": scheme, "Params": {"fromEnv": "true"}})
        metadata = importer.get("metadata", {})
        properties = strict_values.stored(metadata, "", session)
        if "display_name" not in metadata:
            del properties["display_name"]
        schema = importer["typeSchema"]["schemaTitle"]
        found = None if importer.get("reimport") else self.backend.metadata.same(schema, uri, properties)
        return found or self.backend.metadata.record(schema, uri, properties)

    def _tell(self, task: Task) -> None:
        if task not in self.record.tasks:
            self.record.tasks.append(task)
            self.on_change(self.record)

    def _shown(self, execution: Execution) -> dict[str, dsl.Artifact]:
        """Return a step's artifacts for display: with the declared type and the files' location."""
        shown = {}
        for port, stored in execution.output_artifacts.items():
            kind = artifact_types._SCHEMA_TITLE_TO_TYPE.get(stored.schema, dsl.Artifact)
            metadata = strict_values.read_back(stored.properties)
            metadata.pop("store_session_info", None)
            if port != LOGS:
                shown[port] = kind(
                    name=port, uri=str(self.backend.objects.path(stored.uri)), metadata=metadata
                )
        return shown


def _is_exit(task: Mapping[str, Any]) -> bool:
    return bool(task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED")


def _upstream(task: Mapping[str, Any]) -> set[str]:
    inputs = task.get("inputs", {})
    return {
        *task.get("dependentTasks", []),
        *(
            source[kind]["producerTask"]
            for ports, kind in (("parameters", "taskOutputParameter"), ("artifacts", "taskOutputArtifact"))
            for source in inputs.get(ports, {}).values()
            if kind in source
        ),
    }
