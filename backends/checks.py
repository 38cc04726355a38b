"""Check before an upload what every backend refuses and the SDK doesn't check."""

import math
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

# Argo stores a workflow in one etcd object of 1.5 MB; besides its own additions, 700 kB are left.
MAX_BYTES = 700_000
MAX_PARAMETER_BYTES = 10_000
# Vertex appends a hyphen and 14 digits and allows 128 in all.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,112}")


def check_pipeline_spec(text: str, spec: dict[str, Any]) -> None:
    """Raise ValueError if a backend would refuse a compiled pipeline document.

    Args:
        text: The whole compiled YAML.
        spec: Its pipeline document.
    """
    for problem in _problems(text, spec):
        raise ValueError(problem)


def _problems(text: str, spec: dict[str, Any]) -> Iterator[str]:
    try:
        parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        deployment = json_format.ParseDict(
            spec.get("deploymentSpec", {}), pipeline_spec_pb2.PipelineDeploymentConfig()
        )
    except json_format.ParseError as error:
        yield f"the document is not a valid pipeline specification: {error}"
        return

    name = parsed.pipeline_info.name
    if not _NAME.fullmatch(name):
        yield f"name {name!r} must start with a letter and hold at most 113 of a-z, 0-9 and hyphen"
    if parsed.schema_version != "2.1.0":
        yield f"{name}: schemaVersion must be 2.1.0, not {parsed.schema_version!r}"
    if len(text.encode()) > MAX_BYTES:
        yield f"{name}: {len(text.encode()):,} bytes of YAML; a workflow may take {MAX_BYTES:,}"
    if not text.isascii():
        odd = next(character for character in text if not character.isascii())
        yield f"{name}: {odd!r} is not ASCII; keep names, descriptions and values in ASCII"
    if not parsed.root.dag.tasks:
        yield f"{name}: the pipeline has no task"
    for parameter, definition in parsed.root.input_definitions.parameters.items():
        if not all(map(math.isfinite, _numbers(definition.default_value))):
            yield f"{name}: the default of {parameter!r} is NaN or infinite, which no backend takes"
            continue
        size = len(json_format.MessageToJson(definition.default_value).encode())
        if size > MAX_PARAMETER_BYTES:
            yield f"{name}: the default of {parameter!r} takes {size:,} of {MAX_PARAMETER_BYTES:,} bytes"

    executors = deployment.executors
    for label, executor in executors.items():
        container = executor.container
        if executor.WhichOneof("spec") == "container" and re.search(r":latest$|/[^:@]+$", container.image):
            yield f"{name}: {label} runs {container.image!r}; give it a fixed version or a digest"
        for variable in container.env:
            if not variable.value:
                yield f"{name}: {label} sets {variable.name} to nothing, which Vertex refuses"
    everything = {"root": parsed.root, **parsed.components}
    for component_name, component in everything.items():
        label = component.executor_label
        if label and label not in executors:
            yield f"{name}: {component_name} names the executor {label!r}, which does not exist"
        yield from _dag_problems(name, component.dag, everything, executors)


def _numbers(value: Any) -> Iterator[float]:
    """Yield all numbers in a protobuf Value, including those in lists and mappings."""
    yield value.number_value
    for inner in (*value.list_value.values, *value.struct_value.fields.values()):
        yield from _numbers(inner)


def _dag_problems(
    name: str,
    dag: pipeline_spec_pb2.DagSpec,
    components: dict[str, Any],
    executors: Any,
) -> Iterator[str]:
    exits = {
        task_name
        for task_name, task in dag.tasks.items()
        if any(task.inputs.parameters[key].HasField("task_final_status") for key in task.inputs.parameters)
    }
    if dag.tasks and exits == set(dag.tasks):
        yield f"{name}: a group holds nothing but exit tasks ({', '.join(sorted(exits))})"
    for task_name, task in dag.tasks.items():
        component = components.get(task.component_ref.name)
        if component is None:
            yield f"{name}: task {task_name!r} names {task.component_ref.name!r}, which does not exist"
            continue
        producers = [
            *(value.task_output_parameter.producer_task for value in task.inputs.parameters.values()),
            *(value.task_output_artifact.producer_task for value in task.inputs.artifacts.values()),
            *task.dependent_tasks,
        ]
        for producer in filter(None, producers):
            if producer not in dag.tasks:
                yield f"{name}: task {task_name!r} waits for {producer!r}, which is not in its group"
        if task.WhichOneof("iterator") == "artifact_iterator":
            yield f"{name}: task {task_name!r} loops over artifacts, which Kubeflow refuses"
        is_importer = (
            executors[component.executor_label].WhichOneof("spec") == "importer"
            if (component.executor_label in executors)
            else False
        )
        if is_importer and task.trigger_policy.condition:
            yield f"{name}: the condition on importer {task_name!r} is ignored; put the importer in a group"
        inside = list(_descendants(component, components))
        if task.WhichOneof("iterator") and any(
            executors[inner.executor_label].WhichOneof("spec") == "importer"
            for inner in inside
            if inner.executor_label in executors
        ):
            yield f"{name}: loop {task_name!r} holds an importer, which Kubeflow refuses"
        if task_name.startswith("exit-handler") and any(
            inner_task.WhichOneof("iterator") for inner in inside for inner_task in inner.dag.tasks.values()
        ):
            yield f"{name}: {task_name!r} holds a ParallelFor; Kubeflow 2.14 fails on it without a message"


def _descendants(component: Any, components: dict[str, Any]) -> Iterator[Any]:
    yield component
    for task in component.dag.tasks.values():
        if task.component_ref.name in components:
            yield from _descendants(components[task.component_ref.name], components)
