"""Read the Argo workflow of a Kubeflow run: the state of every step, and why it waits or failed.

Kubeflow creates a driver pod and an executor pod for each step, a driver pod for each group, and wraps all of
them in retries: `WORKFLOW(0).root(0).for-loop-1(0).iteration-iterations(2:2)(0).iteration-item(0).train(0)`.
"""

import base64
import binascii
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

_PART = re.compile(r"(?P<name>.*?)(\((?P<turn>\d+):.*\))?(\((?P<attempt>\d+)\))?", re.DOTALL)
# Levels that Kubeflow adds around a pipeline's tasks.
_PLUMBING = {"root", "iteration-iterations", "iteration-item", "iteration"}
# Retries and labels of a task add prefixes to these names, a workspace adds a suffix.
_STEP = re.compile(r"system-(container-(executor|impl|driver)|importer)")
_EXECUTOR = re.compile(r"system-(container-impl|importer)")
_LEAVES = ("Pod", "Plugin", "Skipped")
_STATES = {
    "Pending": "waiting",
    "Running": "running",
    "Succeeded": "succeeded",
    "Failed": "failed",
    "Error": "failed",
    "Skipped": "skipped",
    "Omitted": "skipped",
}
# Argo's messages on pods that it ends because the run was terminated.
_TERMINATED = re.compile(r"Step exceeded its deadline|exit code 143|[Ww]orkflow shutdown")
_PROGRAM_FAILED = re.compile(r"((main|wait|init): )?Error \(exit code \d+\).*|No more retries left")


@dataclass(frozen=True)
class Pod:
    """A step's pod, with the facts to find its log.

    Attributes:
        node: ID of its node in the workflow.
        name: The pod's name.
        namespace: The pod's namespace.
        day: Day of its creation, as YYYY-MM-DD.
        output: URI of the artifact that holds the program's own output; empty for a driver.
    """

    node: str
    name: str
    namespace: str
    day: str
    output: str = ""


@dataclass(frozen=True)
class Step:
    """A step, or a group that failed or waits before its steps.

    Attributes:
        name: The names of its groups and its own, joined by "/", with a loop's iteration in brackets.
        state: waiting, running, succeeded, cached, skipped, cancelled or failed.
        seconds: How long its program has run, or how long it has waited.
        message: Argo's message: why it waits, or why it failed if its program can't say.
        pod: The pod with the log of the failure; None if there is none.
        started: Start time, for sorting.
    """

    name: str
    state: str
    seconds: float
    message: str
    pod: Pod | None
    started: str


def read_nodes(workflow: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes of a workflow, which Argo compresses if it is large.

    Raises:
        ValueError: They can't be read.
    """
    status = workflow.get("status") or {}
    nodes = status.get("nodes")
    if not nodes and status.get("compressedNodes"):
        try:
            nodes = json.loads(gzip.decompress(base64.b64decode(status["compressedNodes"])))
        except (binascii.Error, OSError, EOFError) as error:
            raise ValueError(f"the workflow's compressed nodes can't be read: {error}") from None
    return list((nodes or {}).values())


def read_steps(workflow: Mapping[str, Any], cancelled: bool = False) -> list[Step]:
    """Return the steps of a workflow in order of their start.

    Args:
        workflow: The workflow.
        cancelled: Whether someone cancelled the run.
    """
    attempts: dict[tuple[str, ...], dict[tuple[int, ...], dict[str, dict[str, Any]]]] = {}
    for node in read_nodes(workflow):
        if node["type"] in _LEAVES:
            path, outer, kind = _place(node)
            attempt = attempts.setdefault(path, {}).setdefault(outer, {})
            # Retries of one pod: the last one counts.
            if kind not in attempt or _numbers(attempt[kind]) < _numbers(node):
                attempt[kind] = node
    metadata = workflow.get("metadata") or {}
    steps = [
        step
        for path, tries in attempts.items()
        for step in _step(path, [tries[outer] for outer in sorted(tries)], metadata, cancelled)
    ]
    if not attempts and not (workflow.get("status") or {}).get("phase"):
        made = str(metadata.get("creationTimestamp") or "")
        waits_for = "no workflow controller of Argo has taken it up"
        return [Step(_joined(()), "waiting", _seconds({"startedAt": made}), waits_for, None, made)]
    return sorted(steps, key=lambda step: (step.started, step.name))


def without_turns(name: str) -> str:
    """Return a step's name in its pipeline, the same for every iteration of a loop."""
    return re.sub(r"\[\d+\]", "", name)


def _place(node: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...], str]:
    """Return the path of a node's task, the attempts of its groups, and the node's role for the task."""
    parts = node["name"].split(".")
    path = [_named(part) for part in parts[1:]]
    kind, template = "gate", node.get("templateName") or ""
    if _EXECUTOR.search(template):
        kind = "executor"
        if "importer" not in template:
            path.pop()
    elif template.endswith("-driver"):
        kind = "driver"
        path[-1] = path[-1].removesuffix("-driver")
    return tuple(path), _numbers(node)[: len(path)], kind


def _named(part: str) -> str:
    match = _PART.fullmatch(part)
    assert match
    return match["name"] + (f"[{match['turn']}]" if match["turn"] else "")


def _numbers(node: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the attempt of each level of a node's name."""
    matches = (_PART.fullmatch(part) for part in node["name"].split("."))
    return tuple(int(match["attempt"] or 0) for match in matches if match)


def _step(
    path: tuple[str, ...],
    tries: list[dict[str, dict[str, Any]]],
    metadata: Mapping[str, Any],
    cancelled: bool,
) -> Iterator[Step]:
    last = tries[-1]
    executor, driver, gate = (last.get(kind) for kind in ("executor", "driver", "gate"))
    is_step = any(_STEP.search(node.get("templateName") or "") for node in last.values())
    node = executor or gate or driver
    assert node
    if not executor and driver and _STATES.get(driver["phase"]) not in ("succeeded", "skipped"):
        node = driver
    state = _STATES.get(node["phase"], "running")
    if node is executor and node["phase"] == "Skipped":
        state = "cached"
    if node is driver and state == "succeeded":
        state = "running"  # its executor is about to be created
    message = node.get("message") or ""
    if state == "failed":
        if cancelled and _TERMINATED.search(message):
            state = "cancelled"
        message = next(filter(None, (_cause(node), *(_cause(each.get("gate")) for each in tries))), "")
    # Groups are only reported if they block the run.
    if is_step or state in ("failed", "waiting"):
        yield Step(
            name=_joined(path),
            state=state,
            seconds=_seconds(node) if node is executor or state == "waiting" else 0.0,
            message=message if state != "waiting" else _waits_for(message),
            pod=_pod(node, metadata) if node["type"] != "Skipped" else None,
            started=node.get("startedAt") or "",
        )


def _joined(path: tuple[str, ...]) -> str:
    """Return a task's path in its pipeline: without Kubeflow's levels, with exit tasks beside their group."""
    names: list[str] = []
    for name in path:
        plain, bracket, turn = name.partition("[")
        if plain.endswith(".onExit") or plain == "onExit":
            names.pop()
        elif plain == "iteration-iterations" and names:
            names[-1] += bracket + turn
        elif plain not in _PLUMBING:
            names.append(name)
    return "/".join(names) or "start of the run"


def _seconds(node: Mapping[str, Any]) -> float:
    start, end = node.get("startedAt"), node.get("finishedAt")
    if not start or node.get("phase") == "Skipped":
        return 0.0
    ended = datetime.fromisoformat(end) if end else datetime.now(UTC)
    return max(0.0, (ended - datetime.fromisoformat(start)).total_seconds())


def _cause(node: Mapping[str, Any] | None) -> str:
    """Return why a node failed if Argo or Kubernetes ended it; empty if the program itself failed."""
    if not node or node["phase"] not in ("Failed", "Error"):
        return ""
    message = " ".join((node.get("message") or "").split())
    if "OOMKilled" in message:
        limit = _container(node).get("resources", {}).get("limits", {}).get("memory")
        at = f" of {limit}" if limit else ""
        return f"out of memory: it was killed at its limit{at} (OOMKilled); give it more"
    if "longer than the specified deadline" in message:
        return "timed out: it ran longer than the timeout that the pipeline sets for it"
    if "failed to evaluate expression" in message:
        return f"{message}; Argo evaluates {{{{…}}}} in values: an input of the step holds such text"
    return "" if _PROGRAM_FAILED.fullmatch(message) else message


def _waits_for(message: str) -> str:
    """Return why a pod waits, by Kubernetes' message without its part about preemption."""
    text = " ".join(message.split()).removeprefix("Unschedulable: ")
    if text in ("ContainerCreating", "PodInitializing"):
        return f"{text}: its image is pulled, or a volume or secret that it mounts isn't there"
    return re.sub(r"\. (no new claims|preemption:).*", "", text)


def _pod(node: Mapping[str, Any], metadata: Mapping[str, Any]) -> Pod:
    workflow = str(metadata.get("name", ""))
    number = node["id"].removeprefix(f"{workflow}-")
    arguments = _container(node).get("command", [])
    try:
        given = json.loads(arguments[arguments.index("--executor_input") + 1])
        output = given["outputs"]["artifacts"]["executor-logs"]["artifacts"][0]["uri"]
    except (ValueError, LookupError, TypeError):
        output = ""
    return Pod(
        node=node["id"],
        name=f"{workflow}-{node['templateName']}-{number}",
        namespace=str(metadata.get("namespace", "")),
        day=(node.get("startedAt") or "")[:10],
        output=f"{output}-{_numbers(node)[-1]}" if output else "",
    )


def _container(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the container of an executor's pod from its driver's patch; empty if there is none."""
    parameters = (node.get("inputs") or {}).get("parameters") or []
    patch = next((each.get("value") for each in parameters if each["name"] == "pod-spec-patch"), None)
    try:
        return dict(json.loads(patch or "{}").get("containers", [{}])[0])
    except (ValueError, LookupError):  # truncated, or of another version
        return {}
