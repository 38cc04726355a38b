"""Estimate the size of Kubeflow's workflow for a compiled pipeline before a run.

Kubernetes stores a workflow, its specification and the state of every node, in one object. The formulas and
constants were measured on Kubeflow Pipelines 2.17.0; a test compares them with the measurements.
"""

import json
from collections.abc import Mapping
from typing import Any

# The nodes of a larger workflow are compressed, and Kubeflow's API stops reporting their state.
MAX_WORKFLOW_BYTES = 2**20
# Linux' limit for an argument; all inputs of a step are passed in one.
MAX_ARGUMENT_BYTES = 2**17

# Nodes of a step (its driver, itself and its pod, with a node for the retries of each), of a group and of one
# that is skipped; and their sizes besides the inputs.
STEP_NODES, GROUP_NODES, SKIPPED_NODES = 6, 4, 3
_NODE_BYTES = 2_050
# A step's pod is described in a patch: its component, command and executor input, and this much.
_PATCH_BYTES = 1_300
_PATCH_COPIES, _SPECIFICATION_COPIES = 6, 2
# The specification besides the components, containers and tasks that it quotes.
_SPEC_BYTES, _SPEC_TASK_BYTES, _SPEC_DAG_BYTES = 2_000, 1_000, 600
# Sizes only known at run time: of a parameter, and of an artifact's metadata, mostly Kubeflow's own.
_VALUE, _METADATA = "x" * 40, {"": "x" * 500}
_UUID = "x" * 36


def quoted(value: Any) -> int:
    """Return the size of a value as JSON inside a JSON string, in Go's encoding."""
    text = json.dumps(json.dumps(value, separators=(",", ":"), ensure_ascii=False), ensure_ascii=False)
    return len(text.encode()) + 5 * sum(text.count(sign) for sign in "<>&")


def specification(spec: Mapping[str, Any], configs: Mapping[str, Any]) -> int:
    """Return the size of a workflow's specification.

    Args:
        spec: The pipeline document.
        configs: The Kubernetes settings of its executors.
    """
    components = [spec["root"], *spec.get("components", {}).values()]
    dags = [component["dag"] for component in components if "dag" in component]
    tasks = [task for dag in dags for task in dag["tasks"].values()]
    containers = [
        executor.get("container", executor)
        for executor in spec["deploymentSpec"].get("executors", {}).values()
    ]
    parts = [*components, *containers, *tasks, *configs.values()]
    return of_specification(sum(map(quoted, parts)), len(tasks), len(dags))


def of_specification(parts: int, tasks: int, dags: int) -> int:
    """Return a specification's size from the size of its quoted parts and the numbers of tasks and groups."""
    return parts + _SPEC_BYTES + _SPEC_TASK_BYTES * tasks + _SPEC_DAG_BYTES * dags


def of_patch(executor_input: int, component: int, command: int) -> int:
    """Return the size of a step's pod-spec-patch from its quoted parts; it is passed as one argument."""
    return executor_input + component + command + _PATCH_BYTES


def of_step(patch: int, specifications: int) -> int:
    """Return the size that an executed step adds to a workflow's status.

    Args:
        patch: Size of its pod-spec-patch.
        specifications: Total size of its component, container, task and Kubernetes settings.
    """
    return _PATCH_COPIES * patch + of_group(specifications, STEP_NODES)


def of_group(specifications: int, nodes: int = GROUP_NODES) -> int:
    """Return the size that a group, or an iteration of a loop, adds to a workflow's status."""
    return _SPECIFICATION_COPIES * specifications + nodes * _NODE_BYTES


def executor_input(
    pipeline: str,
    task: str,
    component: Mapping[str, Any],
    values: Mapping[str, Any],
    given: Mapping[str, int],
) -> dict[str, Any]:
    """Return a plausible executor input of a step, with typical text lengths for unknowns.

    Args:
        pipeline: The pipeline's name.
        task: The task's name.
        component: Its component.
        values: Known values of its parameters.
        given: Number of artifacts per input: more than one for a list.
    """
    inputs, outputs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})
    folder = f"minio://mlpipeline/v2/artifacts/{pipeline}/{_UUID}/{task}/{_UUID}"

    def artifact(port: str, **details: Any) -> dict[str, Any]:
        return {
            "name": port,
            "type": {"schemaTitle": "system.Artifact"},
            "uri": f"{folder}/{port}",
            **details,
        }

    return {
        "inputs": {
            "parameterValues": {name: values.get(name, _VALUE) for name in inputs.get("parameters", {})},
            "artifacts": {
                name: {"artifacts": [artifact(name, metadata=_METADATA)] * count}
                for name, count in given.items()
            },
        },
        "outputs": {
            "parameters": {
                name: {"outputFile": f"/tmp/kfp/outputs/{name}"}  # noqa: S108 in the step's pod
                for name in outputs.get("parameters", {})
            },
            "artifacts": {
                name: {"artifacts": [artifact(name)]}
                for name in [*outputs.get("artifacts", {}), "executor-logs"]
            },
            "outputFile": f"{folder}/output_metadata.json",
        },
    }
