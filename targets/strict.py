"""The strict target: runs a compiled pipeline on this machine as a real Kubeflow Pipelines backend would.

It walks the document that would be uploaded, resolves what each step gets as KFP's drivers do, runs the
compiled commands in pods' stead, and passes values and artifacts on as the launcher, ML Metadata and the
object store do. What a real backend (2.17) fails on fails here, with a sentence. Steps run one after another,
in an order that is the same every time.
"""

import hashlib
import itertools
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from kfp import components, dsl
from kfp.dsl.structures import InputSpec
from kfp.dsl.types import artifact_types

from components import REGISTRY
from targets import catalogue, images, local, package, strict_conditions, strict_pod, strict_values
from targets.graph import steps, unshared
from targets.local import Run, Task
from targets.strict_pod import Node, Pod
from targets.strict_store import BUCKET, SESSION, MetadataStore, ObjectStore, Stored, local_path
from targets.strict_values import BackendError, through_json

LOGS = "executor-logs"
_OUTPUTS = "/tmp/kfp/outputs"  # noqa: S108 where a step writes parameters
_ENDED_WELL = ("COMPLETE", "CACHED")


@dataclass
class Execution:
    """One execution in ML Metadata: of the pipeline, a group, a turn of a loop, a step or an importer."""

    id: int
    task: str
    parent: "Execution | None" = None
    state: str = "RUNNING"
    inputs: dict[str, Any] = field(default_factory=dict)
    input_artifacts: dict[str, list[Stored]] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    output_artifacts: dict[str, Stored] = field(default_factory=dict)
    dag: Mapping[str, Any] | None = None  # of a group
    turn: int | None = None
    turns: int | None = None
    children: list["Execution"] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int, int | None]:
        """What a consumer finds it by: its task, the group it is in, and the turn of a loop."""
        assert self.parent
        return self.task, self.parent.id, self.turn if self.turn is not None else self.parent.turn

    def update(self) -> None:
        """Settle the state of a group, as the launcher does after each step that it ran.

        A group whose steps all came from the cache has had no launcher, so its state stays as it was.
        """
        assert self.dag is not None
        states = [child.state for child in self.children]
        expected = self.turns if self.turns is not None else len(self.dag["tasks"])
        if sum(state in (*_ENDED_WELL, "CANCELED") for state in states) == expected:
            self.state = "COMPLETE"
        elif "FAILED" in states:
            self.state = "FAILED"
        else:
            return
        if self.parent:
            self.parent.update()


def run(
    text: str,
    given: Mapping[str, Any],
    runs: Path,
    use_cache: bool = True,
    on_change: Callable[[Run], None] = lambda _: None,
    environment: Mapping[str, str] | None = None,
    node: Node | None = None,
    volumes: Mapping[str, Path] | None = None,
) -> Run:
    """Run a compiled pipeline as a real backend would.

    Logs, copies of the HTML reports and `run.json` go to RUNS/NAME/ID; objects, artifacts' numbers and the
    cache to RUNS/strict. Unless the environment says otherwise, MLflow's tracking database is
    RUNS/strict/mlflow/mlflow.db, on a volume that every step has.

    Args:
        text: The compiled YAML.
        given: Values for the pipeline's inputs.
        runs: The folder of all runs.
        use_cache: Whether a step with the same key as before is served from the cache.
        on_change: Called with the run whenever a step starts or ends.
        environment: Variables that every step gets; they are written nowhere.
        node: What a pod may ask for; two CPUs and 8 GiB if not given.
        volumes: Folders that every step sees and may write to, by path.

    Returns:
        The run, also when steps failed.

    Raises:
        SubmissionError: The backend wouldn't accept the run.
        ValueError: The text isn't a compiled pipeline.
    """
    spec, *overlays = _documents(text)
    name, root = spec["pipelineInfo"]["name"], spec["root"]
    strict_values.refuse_templates_in_source(spec.get("deploymentSpec", {}).get("executors", {}))
    values = strict_values.submitted(root.get("inputDefinitions", {}).get("parameters", {}), given)
    runs = runs.resolve()
    folder = local.new_folder(runs / name)
    (folder / "logs").mkdir()
    tracking = runs / "strict" / "mlflow"
    tracking.mkdir(parents=True, exist_ok=True)
    tracking.chmod(0o777)
    record = Run(name, folder, dict(given), steps(unshared(spec)))
    backend = _Backend(
        spec=spec,
        overlay=next(iter(overlays), {}),
        record=record,
        objects=ObjectStore(runs / "strict" / "objects"),
        metadata=MetadataStore(runs / "strict" / "metadata.db"),
        use_cache=use_cache,
        on_change=on_change,
        environment={"MLFLOW_TRACKING_URI": f"sqlite:///{tracking}/mlflow.db", **(environment or {})},
        node=node or Node(),
        volumes={str(tracking): tracking, **(volumes or {})},
    )
    started = time.monotonic()
    execution = backend.execution("", None, values, {}, dag=root["dag"])
    backend.run_group(root["dag"], execution, "")
    record.problem = "; ".join(backend.problems)
    record.seconds = time.monotonic() - started
    local.finish(record)
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
class _Backend:
    """Drivers, launcher and Argo for one run."""

    spec: Mapping[str, Any]
    overlay: Mapping[str, Any]
    record: Run
    objects: ObjectStore
    metadata: MetadataStore
    use_cache: bool
    on_change: Callable[[Run], None]
    environment: Mapping[str, str]
    node: Node
    volumes: Mapping[str, Path]
    problems: list[str] = field(default_factory=list)  # what no task stands for
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    _numbers: itertools.count = field(default_factory=lambda: itertools.count(1))

    @property
    def pipeline(self) -> str:
        return self.record.name

    @property
    def workflow(self) -> str:
        return f"{self.pipeline}-{self.run_id[:5]}"

    @property
    def bucket_prefix(self) -> str:
        return f"{BUCKET}/v2/artifacts/{self.pipeline}/{self.run_id}"

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

    # Argo's part: the order, and what doesn't run.

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
            inputs, artifacts = self.resolve(name, task, component, group)
            goes_on = self.triggered(task, inputs)
            items = self.items(task, inputs) if goes_on else None
        except BackendError as failure:
            self.problems.append(f"{prefix}{name}: {failure}")
            return "Failed"
        dag = component["dag"]
        made = self.execution(name, group, inputs, artifacts, dag=dag)
        if not goes_on:
            made.state = "CANCELED"
            return "Skipped"
        if items is None:
            return "Succeeded" if self.run_group(dag, made, f"{prefix}{name}/") else "Failed"
        made.turns = len(items)
        well = True
        for turn, item in enumerate(items):
            values = {key: value for key, value in inputs.items() if key != _items_input(task)}
            values[task["parameterIterator"]["itemInput"]] = item
            try:
                values = self.converted(task, component, values, turn)
            except BackendError as failure:
                self.problems.append(f"{prefix}{name}: {failure}")
                well = False
                continue
            each = self.execution(name, made, values, artifacts, dag=dag, turn=turn)
            well = self.run_group(dag, each, f"{prefix}{name}/") and well
        return "Succeeded" if well else "Failed"

    # The drivers' part: what a task gets.

    def resolve(
        self, name: str, task: Mapping[str, Any], component: Mapping[str, Any], group: Execution
    ) -> tuple[dict[str, Any], dict[str, list[Stored]]]:
        """Return the parameters and artifacts of a task, as its driver resolves them."""
        defined = component.get("inputDefinitions", {}).get("parameters", {})
        sources = task.get("inputs", {}).get("parameters", {})
        values: dict[str, Any] = {}
        if "dag" in component:
            for key, definition in defined.items():
                if key not in sources and definition.get("isOptional"):
                    values[key] = through_json(definition.get("defaultValue"))
        for key, source in sources.items():
            value = self.parameter(name, source, task, group)
            if value is None and "componentInputParameter" in source:
                if not defined.get(key, {}).get("isOptional"):
                    raise BackendError(
                        f"input {key!r} is null: the pipeline's input {source['componentInputParameter']!r} "
                        "was not given; give it, or make the step's input optional"
                    )
                continue
            if allowed := defined.get(key, {}).get("literals"):
                _require_literal(key, value, allowed)
            values[key] = value
        for key, source in sources.items():
            if selector := source.get("parameterExpressionSelector"):
                values[key] = strict_conditions.selected(selector, values[key])
        artifacts = {
            key: self.artifacts(name, source, group)
            for key, source in task.get("inputs", {}).get("artifacts", {}).items()
        }
        return self.converted(task, component, values), artifacts

    def converted(
        self,
        task: Mapping[str, Any],
        component: Mapping[str, Any],
        values: dict[str, Any],
        turn: int | None = None,
    ) -> dict[str, Any]:
        """Check the types of a task's parameters."""
        iterator = task.get("parameterIterator", {})
        other = _items_input(task) if turn is not None else iterator.get("itemInput")
        for key, definition in component.get("inputDefinitions", {}).get("parameters", {}).items():
            if key == other and iterator:
                continue
            optional = definition.get("isOptional")
            if key not in values:
                if not optional and "defaultValue" not in definition:
                    raise BackendError(
                        f"input {key!r} has neither a value nor a default",
                        f'neither value nor default value provided for non-optional parameter "{key}"',
                    )
                continue
            if values[key] is None and optional:
                continue
            values[key] = strict_values.converted(key, values[key], definition["parameterType"])
        return values

    def parameter(
        self, name: str, source: Mapping[str, Any], task: Mapping[str, Any], group: Execution
    ) -> Any:
        if "componentInputParameter" in source:
            key = source["componentInputParameter"]
            if key not in group.inputs:
                raise BackendError(f"the group around {name!r} has no input {key!r}")
            return group.inputs[key]
        if "taskOutputParameter" in source:
            wanted = source["taskOutputParameter"]
            return self.output(group, wanted["producerTask"], wanted["outputParameterKey"], "parameters")
        if "taskFinalStatus" in source:
            producer = _tasks(group)[task["dependentTasks"][0], group.id, group.turn]
            return {
                "error": {},
                "pipelineJobResourceName": self.workflow,
                "pipelineTaskName": producer.task,
                "state": producer.state,
            }
        constant = through_json(source["runtimeValue"]["constant"])
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        known = {
            "{{$.pipeline_job_name}}": self.workflow,
            "{{$.pipeline_job_resource_name}}": self.workflow,
            "{{$.pipeline_job_uuid}}": self.run_id,
            "{{$.pipeline_task_name}}": name,
            "{{$.pipeline_task_uuid}}": str(group.id),
            "{{$.pipeline_job_create_time_utc}}": now,
            "{{$.pipeline_job_schedule_time_utc}}": now,
        }
        return known.get(constant, constant) if isinstance(constant, str) else constant

    def artifacts(self, name: str, source: Mapping[str, Any], group: Execution) -> list[Stored]:
        if "componentInputArtifact" in source:
            key = source["componentInputArtifact"]
            if key not in group.input_artifacts:
                raise BackendError(
                    f"the group around {name!r} has no input artifact {key!r}; an optional artifact that "
                    "isn't given can't be passed on into a group",
                    f"parent DAG does not have input artifact {key}",
                )
            return group.input_artifacts[key]
        wanted = source["taskOutputArtifact"]
        found = self.output(group, wanted["producerTask"], wanted["outputArtifactKey"], "artifacts")
        return found if isinstance(found, list) else [found]

    def output(self, group: Execution, producer: str, key: str, kind: str) -> Any:
        """Return what a task in a group gave, through the groups that it may be in; a list from a loop."""
        tasks = _tasks(group)
        current = tasks.get((producer, group.id, group.turn))
        if current is None:
            raise BackendError(
                f"there is no execution of {producer!r}", f"producer task, {producer}, not in tasks"
            )
        while current.dag is not None:
            assert current.parent
            if current.turns or current.parent.turns:
                return self.collected(tasks, current, key, kind)
            task, key = _producer(tasks, current, key, kind)
            following = tasks.get((task, current.id, current.turn))
            if following is None:
                raise BackendError(
                    f"there is no execution of {task!r}, which {current.task!r} takes {key!r} from",
                    f"subTaskName, {task}_{current.id}, not in tasks",
                )
            current = following
        return _given(current, key, kind)

    def collected(self, tasks: Mapping[Any, Execution], loop: Execution, key: str, kind: str) -> list[Any]:
        """Return what every turn of a loop gave, those of a loop in a loop one after another."""
        waiting: list[tuple[Execution, str]] = [(loop, key)]
        values = []
        while waiting:
            current, wanted = waiting.pop(0)
            if current.dag is None:
                values.append(_given(current, wanted, kind))
            elif current.turns is not None:
                waiting += [(tasks[current.task, current.id, turn], wanted) for turn in range(current.turns)]
            else:
                task, inner = _producer(tasks, current, wanted, kind)
                following = tasks.get((task, current.id, current.turn))
                if following is None:
                    raise BackendError(
                        f"a turn of {loop.task!r} has no {task!r}, so its {key!r} can't be collected"
                    )
                waiting.append((following, inner))
        return values

    def triggered(self, task: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
        condition = task.get("triggerPolicy", {}).get("condition", "")
        return not condition or strict_conditions.condition(condition, inputs)

    def items(self, task: Mapping[str, Any], inputs: dict[str, Any]) -> list[Any] | None:
        """Return what a loop goes over; None if the task is no loop."""
        if "artifactIterator" in task:
            raise BackendError("Kubeflow can't loop over artifacts", "ArtifactIterator is not implemented")
        if "parameterIterator" not in task:
            return None
        iterator = task["parameterIterator"]
        if "raw" in iterator["items"]:
            inputs[iterator["itemInput"]] = through_json(json.loads(iterator["items"]["raw"]))
        value = inputs.get(_items_input(task))
        if isinstance(value, str):
            value = through_json(json.loads(value))
        if not isinstance(value, list):
            raise BackendError(f"a loop goes over a list, not {value!r}")
        return value

    # The launcher's part: a step in its pod.

    def run_step(
        self,
        name: str,
        task: Mapping[str, Any],
        component: Mapping[str, Any],
        group: Execution,
        prefix: str,
    ) -> str:
        shown = local.unique(name, self.record)
        told = Task(shown, f"comp-{prefix}{name}", self.record.folder / "logs" / f"{shown}.log")
        executor = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]
        execution = None
        try:
            if "importer" in executor:
                self._tell(told)
                # The importer's launcher takes the name that is shown for the task's own.
                execution = self.execution(task["taskInfo"]["name"], group, {}, {})
                stored = self.imported(task, executor["importer"], group)
                (port,) = component["outputDefinitions"]["artifacts"]
                execution.output_artifacts[port] = stored
                execution.state, told.state = "COMPLETE", "succeeded"
                return "Succeeded"
            inputs, artifacts = self.resolve(name, task, component, group)
            if not self.triggered(task, inputs):
                self.execution(name, group, inputs, artifacts, state="CANCELED")
                return "Skipped"
            told.parameters = {
                **inputs,
                **{key: [item.uri for item in found] for key, found in artifacts.items()},
            }
            self._tell(told)
            execution = self.execution(name, group, inputs, artifacts)
            step = _Step(self, name, task, component, executor["container"], execution, told)
            step.run()
            return "Succeeded"
        except BackendError as failure:
            self._tell(told)
            told.state, told.reason = "failed", str(failure)
            if told.reason:  # otherwise the program's own last words are the reason
                with told.log.open("a", encoding="utf-8") as log:
                    log.write(f"F {failure.words or failure}\n")
            return "Failed"
        finally:
            told.seconds = time.monotonic() - told.started
            if execution:
                told.outputs = {**execution.outputs, **self._shown(execution)}
                told.pages = {
                    key: Path(value.uri) for key, value in told.outputs.items() if isinstance(value, dsl.HTML)
                }
            if told in self.record.tasks:
                self.on_change(self.record)

    def imported(self, task: Mapping[str, Any], importer: Mapping[str, Any], group: Execution) -> Stored:
        """Return the artifact that an importer registers; the files stay where they are."""
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
        found = None if importer.get("reimport") else self.metadata.same(schema, uri, properties)
        return found or self.metadata.record(schema, uri, properties)

    def _tell(self, task: Task) -> None:
        if task not in self.record.tasks:
            self.record.tasks.append(task)
            self.on_change(self.record)

    def _shown(self, execution: Execution) -> dict[str, dsl.Artifact]:
        """Return a step's artifacts for people: with the declared type, and where the files lie."""
        shown = {}
        for port, stored in execution.output_artifacts.items():
            kind = artifact_types._SCHEMA_TITLE_TO_TYPE.get(stored.schema, dsl.Artifact)
            metadata = strict_values.read_back(stored.properties)
            metadata.pop("store_session_info", None)
            if port != LOGS:
                shown[port] = kind(name=port, uri=str(self.objects.path(stored.uri)), metadata=metadata)
        return shown


@dataclass
class _Step:
    """One step: its driver's last part, its launcher, and the program between them."""

    backend: _Backend
    name: str
    task: Mapping[str, Any]
    component: Mapping[str, Any]
    container: Mapping[str, Any]
    execution: Execution
    told: Task

    def run(self) -> None:
        """Serve the step from the cache, or run it; raise BackendError where it fails."""
        given = self.executor_input()
        caching = self.task.get("cachingOptions", {})
        fingerprint = ""
        if self.backend.use_cache and caching.get("enableCache"):
            fingerprint = self.fingerprint(given, caching.get("cacheKey", ""))
            if known := self.backend.metadata.remembered(fingerprint, self.backend.pipeline):
                self.execution.outputs, numbers = known
                self.execution.output_artifacts = {
                    port: self.backend.metadata.artifact(number) for port, number in numbers.items()
                }
                self.execution.state, self.told.state = "CACHED", "cached"
                return
        self.backend.node.refuse(self.name, self.container.get("resources", {}))
        variables = self.variables()
        self.refuse_values(given)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            pod = Pod(Path(folder), variables, self.backend.volumes)
            try:
                self.launch(pod, given)
                self.execution.state, self.told.state = "COMPLETE", "succeeded"
            except BackendError:
                self.execution.state = "FAILED"
                raise
            finally:
                assert self.execution.parent
                self.execution.parent.update()
                strict_pod.remove(pod.folder / "volumes")
        if fingerprint:
            numbers = {port: stored.id for port, stored in self.execution.output_artifacts.items()}
            self.backend.metadata.remember(
                fingerprint, self.backend.pipeline, self.execution.outputs, numbers
            )

    def executor_input(self) -> dict[str, Any]:
        """Return what the driver gives to the launcher."""
        root = f"{self.backend.bucket_prefix}/{self.name}/{uuid.uuid4()}"
        inputs: dict[str, Any] = {}
        if self.execution.input_artifacts:
            inputs["artifacts"] = {
                port: {
                    "artifacts": [
                        {
                            "name": str(item.id),
                            "type": {"instanceSchema": ""},
                            "uri": item.uri,
                            "metadata": strict_values.read_back(item.properties),
                        }
                        for item in items
                    ]
                }
                for port, items in sorted(self.execution.input_artifacts.items())
            }
        if self.execution.inputs:
            inputs["parameterValues"] = dict(sorted(self.execution.inputs.items()))
        defined = self.component.get("outputDefinitions", {})
        outputs: dict[str, Any] = {}
        if parameters := defined.get("parameters"):
            outputs["parameters"] = {
                port: {"outputFile": f"{_OUTPUTS}/{port}"} for port in sorted(parameters)
            }
        kinds = {port: details["artifactType"] for port, details in defined.get("artifacts", {}).items()}
        kinds[LOGS] = {"schemaTitle": "system.Artifact"}
        outputs["artifacts"] = {
            port: {"artifacts": [{"name": port, "type": kind, "uri": f"{root}/{port}"}]}
            for port, kind in sorted(kinds.items())
        }
        outputs["outputFile"] = f"{local_path(root)}/output_metadata.json"
        return {"inputs": inputs, "outputs": outputs}

    def fingerprint(self, given: Mapping[str, Any], key: str) -> str:
        """Return the key of the cache: everything but where the outputs go; or what the pipeline names."""
        artifacts = given["inputs"].get("artifacts", {})
        defined = self.component.get("outputDefinitions", {})
        content = key or {
            "inputArtifacts": {
                port: [item["name"] for item in entry["artifacts"]] for port, entry in artifacts.items()
            },
            "inputParameters": given["inputs"].get("parameterValues", {}),
            "outputArtifacts": {
                port: entry["artifacts"][0]["type"] for port, entry in given["outputs"]["artifacts"].items()
            },
            "outputParameters": {
                port: details["parameterType"] for port, details in defined.get("parameters", {}).items()
            },
            "image": self.container["image"],
            "command": [*self.container.get("command", []), *self.container.get("args", [])],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def variables(self) -> dict[str, str]:
        """Return the step's environment; secrets of the overlay must be in the given one."""
        own = {entry["name"]: entry["value"] for entry in self.container.get("env", [])}
        if "retryPolicy" in self.task:
            own["KFP_RETRY_INDEX"] = "0"
        kubernetes = self.backend.overlay.get("platforms", {}).get("kubernetes", {})
        executors = kubernetes.get("deploymentSpec", {}).get("executors", {})
        for secret in executors.get(self.component["executorLabel"], {}).get("secretAsEnv", []):
            name = secret.get("secretName") or secret["secretNameParameter"]["runtimeValue"]["constant"]
            for key in secret["keyToEnv"]:
                if key["envVar"] not in self.backend.environment and not secret.get("optional"):
                    raise BackendError(
                        f"the pod waits for ever for the secret {name!r}: its key {key['secretKey']!r} "
                        f"is not here; give {key['envVar']} in --env-file",
                        f'CreateContainerConfigError: secret "{name}" not found',
                    )
        given = {**own, **self.backend.environment}
        return strict_pod.variables(
            self.container["image"], f"{self.backend.workflow}-{self.execution.id}", given.items()
        )

    def refuse_values(self, given: Mapping[str, Any]) -> None:
        """Raise BackendError for what doesn't reach the program as it is."""
        ports = {
            **{f"input {port!r}": value for port, value in self.execution.inputs.items()},
            **{
                f"metadata of input {port!r}": strict_values.read_back(item.properties)
                for port, items in self.execution.input_artifacts.items()
                for item in items
            },
        }
        for port, value in ports.items():
            if found := strict_values.template_in(value):
                raise BackendError(
                    f"{port} of {self.name!r} holds {found!r}, which Argo evaluates on the way; keep {{{{ "
                    "out of parameters and metadata, above all in text that comes from data"
                )
        for what, content in (("inputs", given), ("component's description", self.component)):
            size = len(strict_values.written(content).encode())
            if size >= strict_values.MAX_ARGUMENT_BYTES:
                raise BackendError(
                    f"the {what} of {self.name!r} take {size:,} bytes and travel in one argument of a "
                    f"program, which holds {strict_values.MAX_ARGUMENT_BYTES:,}; pass long values in files",
                    "exec /var/run/argo/argoexec: argument list too long",
                )

    def launch(self, pod: Pod, given: dict[str, Any]) -> None:
        """Download the inputs, run the program, and store what it gave."""
        self.download(pod)
        logs = given["outputs"]["artifacts"][LOGS]["artifacts"][0]
        logs["uri"] += "-0"  # the number of the try
        for entry in given["outputs"]["artifacts"].values():
            folder = pod.host_path(local_path(entry["artifacts"][0]["uri"])).parent
            folder.mkdir(parents=True, exist_ok=True)
        if "parameters" in given["outputs"]:
            pod.host_path(_OUTPUTS).mkdir(parents=True)
        told = json.loads(json.dumps(given))
        self.add_defaults(told)
        paths = {
            item["uri"]: path
            for ports in (told["inputs"].get("artifacts", {}), told["outputs"]["artifacts"])
            for entry in ports.values()
            for item in entry["artifacts"]
            if (path := local_path(item["uri"]))
        }
        values = told["inputs"].get("parameterValues", {})
        command = strict_values.arguments(
            [*self.container.get("command", []), *self.container.get("args", [])],
            values,
            strict_values.placeholders(told, paths),
        )
        log_artifact = pod.host_path(local_path(logs["uri"]))
        code = self.execute(pod, command)
        log_artifact.write_bytes(self.told.log.read_bytes())
        if code:
            self.store(pod, given, {}, only=LOGS)
            self.told.exit_code = code
            raise BackendError("", f"failed to execute component: exit status {code}")
        written = self.read_output(pod, given)
        self.collect(pod, given, written)
        self.store(pod, given, written["artifacts"])
        self.execution.outputs = written["parameterValues"]

    def add_defaults(self, told: dict[str, Any]) -> None:
        """Give the program the component's own defaults for what the pipeline doesn't set."""
        for key, details in self.component.get("inputDefinitions", {}).get("parameters", {}).items():
            if "defaultValue" in details:
                values = told["inputs"].setdefault("parameterValues", {})
                values.setdefault(key, through_json(details["defaultValue"]))

    def download(self, pod: Pod) -> None:
        for port, items in self.execution.input_artifacts.items():
            for item in items:
                if not local_path(item.uri):
                    raise BackendError(
                        f"input {port!r} lies at {item.uri!r}, which is in no bucket: the step before wrote "
                        "it outside of its output's path",
                        "failed to execute component: failed to fetch non default buckets: failed to "
                        f'parse bucketConfig for output artifact "{port}" with uri "{item.uri}": '
                        "parse bucket config failed: unrecognized uri format",
                    )
                self.backend.objects.download(item.uri, pod.host_path(local_path(item.uri)))

    def execute(self, pod: Pod, command: list[str]) -> int:
        with self.told.log.open("w", encoding="utf-8") as log:

            def say(line: str) -> None:
                log.write(pod.as_seen(line))
                log.flush()
                self.told.last_line = line.strip() or self.told.last_line

            try:
                return pod.run(command, say)
            except OSError as error:
                say(f"OSError: {error}\n")
                return 1

    def read_output(self, pod: Pod, given: Mapping[str, Any]) -> dict[str, Any]:
        file = pod.host_path(given["outputs"]["outputFile"])
        if not file.exists():
            return {"parameterValues": {}, "artifacts": {}}
        text = file.read_text(encoding="utf-8")
        if strict_pod.isolation_problem():
            for item in (entry["artifacts"][0] for entry in given["outputs"]["artifacts"].values()):
                text = text.replace(str(pod.host_path(local_path(item["uri"]))), item["uri"])
        return strict_values.executor_output(text, given["outputs"]["outputFile"])

    def collect(self, pod: Pod, given: Mapping[str, Any], written: dict[str, Any]) -> None:
        """Add the output parameters that the program wrote to files of their own."""
        for port, entry in given["outputs"].get("parameters", {}).items():
            if port in written["parameterValues"]:
                continue
            kind = self.component["outputDefinitions"]["parameters"][port]["parameterType"]
            file = entry["outputFile"]
            words = (
                f'failed to execute component: failed to read output parameter name="{port}" type="{kind}" '
                f'path="{file}": '
            )
            try:
                content = pod.host_path(file).read_text(encoding="utf-8")
                written["parameterValues"][port] = strict_values.from_text(content, kind)
            except FileNotFoundError:
                raise BackendError(
                    f"output {port!r} was not written; a step must return every output parameter, and None "
                    "is no value",
                    f"{words}open {file}: no such file or directory",
                ) from None
            except ValueError as error:
                raise BackendError(f"output {port!r}: {error}", f"{words}{error}") from None

    def store(self, pod: Pod, given: Mapping[str, Any], written: Mapping[str, Any], only: str = "") -> None:
        """Upload the outputs and register them, whether their files are there or not."""
        for port, entry in given["outputs"]["artifacts"].items():
            if only not in ("", port):
                continue
            item = entry["artifacts"][0]
            named = written.get(port, {}).get("artifacts", []) if port != LOGS else []
            uri, metadata = item["uri"], {}
            if named:
                uri = named[0].get("uri") or uri
                metadata = named[0].get("metadata", {})
            # A path that the step chose itself; the SDK writes it only where it isn't the URI's.
            path = (named[0].get("customPath") or named[0].get("custom_path")) if named else ""
            if path := path or local_path(uri):
                self.upload(pod, pod.host_path(path), uri, port)
            properties = strict_values.stored(metadata, port, SESSION)
            schema = item["type"].get("schemaTitle", "system.Artifact")
            self.execution.output_artifacts[port] = self.backend.metadata.record(schema, uri, properties)

    def upload(self, pod: Pod, source: Path, uri: str, port: str) -> None:
        prefix = self.backend.bucket_prefix
        if not uri.startswith(f"{prefix}/"):
            raise BackendError(
                f"output {port!r} was given the address {uri!r}; a step writes where its output's path says, "
                "and other places itself",
                f'failed to execute component: failed to upload output artifact "{port}": URI "{uri}" '
                f'does not have expected bucket prefix "{prefix}"',
            )
        try:
            lost = self.backend.objects.upload(source, uri, port)
        except BackendError as failure:
            raise BackendError(pod.as_seen(str(failure)), pod.as_seen(failure.words)) from None
        if lost:
            raise BackendError(f"{pod.as_seen(lost)}, and the backend says nothing")


def _tasks(group: Execution) -> dict[tuple[str, int, int | None], Execution]:
    """Return every execution below a group by its key."""
    found = {child.key: child for child in group.children}
    for child in group.children:
        if child.dag is not None:
            found |= _tasks(child)
    return found


def _producer(tasks: Mapping[Any, Execution], group: Execution, key: str, kind: str) -> tuple[str, str]:
    """Return the task inside a group that gives one of the group's outputs, and the output's name there."""
    assert group.dag is not None
    outputs = group.dag.get("outputs", {}).get(kind, {}).get(key)
    if outputs is None:
        raise BackendError(f"the group {group.task!r} has no output {key!r}")
    names = "outputParameterKey" if kind == "parameters" else "outputArtifactKey"
    if "valueFromParameter" in outputs:
        return outputs["valueFromParameter"]["producerSubtask"], outputs["valueFromParameter"][names]
    selectors = (
        outputs["valueFromOneof"]["parameterSelectors"]
        if kind == "parameters"
        else outputs["artifactSelectors"]
    )
    if kind == "artifacts" and len(selectors) == 1:
        return selectors[0]["producerSubtask"], selectors[0][names]
    for selector in selectors:
        branch = tasks.get((selector["producerSubtask"], group.id, None))
        if branch and branch.state in _ENDED_WELL:
            return selector["producerSubtask"], selector[names]
    raise BackendError(
        f"dsl.OneOf finds no branch of {group.task!r} that has run: it isn't told of a branch whose steps "
        "all came from the cache; let a step of each branch run every time (set_caching_options(False)), or "
        "do without OneOf",
        f'processing OneOf: No successful task found for output key "{key}" in parent task "{group.task}" '
        f"(dag ID {group.id})",
    )


def _given(execution: Execution, key: str, kind: str) -> Any:
    outputs: Mapping[str, Any] = execution.outputs if kind == "parameters" else execution.output_artifacts
    if key not in outputs:
        raise BackendError(f"{execution.task!r} has given no {key!r}")
    return outputs[key]


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


def _items_input(task: Mapping[str, Any]) -> str:
    iterator = task.get("parameterIterator", {})
    return str(iterator.get("items", {}).get("inputParameter") or iterator.get("itemInput", ""))


def _require_literal(key: str, value: Any, allowed: list[Any]) -> None:
    if value not in allowed:
        raise BackendError(f"input {key!r} takes one of {', '.join(map(repr, allowed))}, not {value!r}")
