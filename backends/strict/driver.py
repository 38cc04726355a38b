"""Resolve the inputs of each task as KFP's drivers do from ML Metadata."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.strict import conditions
from backends.strict import values as strict_values
from backends.strict.store import Stored
from backends.strict.values import BackendError, through_json

_ENDED_WELL = ("COMPLETE", "CACHED")


@dataclass
class Execution:
    """An execution in ML Metadata: of the pipeline, a group, a loop's iteration, a step or an importer."""

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
        """The key for consumers: its task, its group, and the loop's iteration."""
        assert self.parent
        return self.task, self.parent.id, self.turn if self.turn is not None else self.parent.turn

    def update(self) -> None:
        """Update the state of a group, as the launcher does after each step.

        If all steps of a group came from the cache, no launcher ran, so its state doesn't change.
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


@dataclass(frozen=True)
class Driver:
    """The drivers of one run.

    Attributes:
        workflow: The name of the run's Argo workflow.
        run_id: The run's id.
    """

    workflow: str
    run_id: str

    def resolve(
        self, name: str, task: Mapping[str, Any], component: Mapping[str, Any], group: Execution
    ) -> tuple[dict[str, Any], dict[str, list[Stored]]]:
        """Return the parameters and artifacts of a task, resolved like its driver does."""
        defined = component.get("inputDefinitions", {}).get("parameters", {})
        sources = task.get("inputs", {}).get("parameters", {})
        values: dict[str, Any] = {}
        if "dag" in component:
            for key, definition in defined.items():
                if key not in sources and definition.get("isOptional"):
                    values[key] = through_json(definition.get("defaultValue"))
        for key, source in sources.items():
            value = self._parameter(name, source, task, group)
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
                values[key] = conditions.selected(selector, values[key])
        artifacts = {
            key: _artifacts(name, source, group)
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
        """Return a task's type-checked parameters; `turn` is the loop's iteration."""
        iterator = task.get("parameterIterator", {})
        other = items_input(task) if turn is not None else iterator.get("itemInput")
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

    def _parameter(
        self, name: str, source: Mapping[str, Any], task: Mapping[str, Any], group: Execution
    ) -> Any:
        if "componentInputParameter" in source:
            key = source["componentInputParameter"]
            if key not in group.inputs:
                raise BackendError(f"the group around {name!r} has no input {key!r}")
            return group.inputs[key]
        if "taskOutputParameter" in source:
            wanted = source["taskOutputParameter"]
            return output(group, wanted["producerTask"], wanted["outputParameterKey"], "parameters")
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


def output(group: Execution, producer: str, key: str, kind: str) -> Any:
    """Return an output of a task, possibly inside groups; a list from a loop."""
    tasks = _tasks(group)
    current = tasks.get((producer, group.id, group.turn))
    if current is None:
        raise BackendError(
            f"there is no execution of {producer!r}", f"producer task, {producer}, not in tasks"
        )
    while current.dag is not None:
        assert current.parent
        if current.turns or current.parent.turns:
            return collected(tasks, current, key, kind)
        task, key = _producer(tasks, current, key, kind)
        following = tasks.get((task, current.id, current.turn))
        if following is None:
            raise BackendError(
                f"there is no execution of {task!r}, which {current.task!r} takes {key!r} from",
                f"subTaskName, {task}_{current.id}, not in tasks",
            )
        current = following
    return _given(current, key, kind)


def collected(tasks: Mapping[Any, Execution], loop: Execution, key: str, kind: str) -> list[Any]:
    """Return the outputs of all iterations of a loop; nested loops are flattened."""
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


def triggered(task: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    """Return whether a task's condition, if it has one, holds."""
    condition = task.get("triggerPolicy", {}).get("condition", "")
    return not condition or conditions.condition(condition, inputs)


def items(task: Mapping[str, Any], inputs: dict[str, Any]) -> list[Any] | None:
    """Return the items of a loop; None if the task isn't a loop."""
    if "artifactIterator" in task:
        raise BackendError("Kubeflow can't loop over artifacts", "ArtifactIterator is not implemented")
    if "parameterIterator" not in task:
        return None
    iterator = task["parameterIterator"]
    if "raw" in iterator["items"]:
        inputs[iterator["itemInput"]] = through_json(json.loads(iterator["items"]["raw"]))
    value = inputs.get(items_input(task))
    if isinstance(value, str):
        value = through_json(json.loads(value))
    if not isinstance(value, list):
        raise BackendError(f"a loop goes over a list, not {value!r}")
    return value


def _artifacts(name: str, source: Mapping[str, Any], group: Execution) -> list[Stored]:
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
    found = output(group, wanted["producerTask"], wanted["outputArtifactKey"], "artifacts")
    return found if isinstance(found, list) else [found]


def _tasks(group: Execution) -> dict[tuple[str, int, int | None], Execution]:
    """Return every execution below a group by its key."""
    found = {child.key: child for child in group.children}
    for child in group.children:
        if child.dag is not None:
            found |= _tasks(child)
    return found


def _producer(tasks: Mapping[Any, Execution], group: Execution, key: str, kind: str) -> tuple[str, str]:
    """Return the task in a group that produces one of the group's outputs, and the output's name there."""
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
        f"dsl.OneOf finds no branch of {group.task!r} that has run: it doesn't see a branch whose steps "
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


def items_input(task: Mapping[str, Any]) -> str:
    """Return the input of a loop with its items."""
    iterator = task.get("parameterIterator", {})
    return str(iterator.get("items", {}).get("inputParameter") or iterator.get("itemInput", ""))


def _require_literal(key: str, value: Any, allowed: list[Any]) -> None:
    if value not in allowed:
        raise BackendError(f"input {key!r} takes one of {', '.join(map(repr, allowed))}, not {value!r}")
