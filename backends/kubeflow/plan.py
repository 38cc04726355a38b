"""The overhead of a compiled pipeline on Kubeflow: time, pods, and size in Kubernetes.

A run is simulated like Kubeflow Pipelines with Argo Workflows, with the times of version 2.17.0 and its stock
settings.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from backends import graph, package, resources
from backends.kubeflow import workflow_size
from backends.strict.conditions import condition
from backends.strict.values import BackendError

# Argo polls a workflow every 10 s, and only then sees that a pod has ended. A step has two pods, one after
# the other: its driver and itself. A group, a loop and each of its iterations have a driver.
POD_SECONDS = 10

# Requests of Kubeflow's own containers, in CPUs and bytes: a driver, and the launcher in each step's pod.
_DRIVER = (0.1, 64 * 2**20)
_LAUNCHER = (0.1, 256 * 2**20)


@dataclass(frozen=True)
class Path:
    """The critical path to the end of a task."""

    seconds: int = 0
    steps: int = 0
    levels: int = 1

    def through(self, steps: int, level: int) -> "Path":
        """Return the path extended by a step, or by the driver of a group."""
        return Path(
            self.seconds + POD_SECONDS * (1 + steps),
            self.steps + steps,
            max(self.levels, level) if steps else self.levels,
        )


@dataclass(frozen=True)
class Pod:
    """A pod with its requests and its duration in seconds."""

    start: int
    end: int
    cpus: float
    memory: int


@dataclass(frozen=True)
class Way:
    """A run, or a part of one."""

    path: Path
    pods: tuple[Pod, ...] = ()
    status_bytes: int = 0
    largest_argument: tuple[int, str] = (0, "")  # bytes, and the task that gets it

    def beside(self, other: "Way") -> "Way":
        """Return both parts combined, ending with the later one."""
        return Way(
            max(self.path, other.path, key=lambda path: path.seconds),
            self.pods + other.pods,
            self.status_bytes + other.status_bytes,
            max(self.largest_argument, other.largest_argument),
        )

    def asked_at_once(self) -> tuple[float, int]:
        """Return the maximum CPUs and bytes of memory that simultaneous pods request."""
        times = [[pod for pod in self.pods if pod.start <= moment.start < pod.end] for moment in self.pods]
        return max(sum(pod.cpus for pod in now) for now in times), max(
            sum(pod.memory for pod in now) for now in times
        )


@dataclass(frozen=True)
class Plan:
    """The overhead of a pipeline."""

    usual: Way  # with its default parameters, without an If of no Else that a step decides on
    longest: Way  # whatever its parameters, through every If
    yaml_bytes: int
    spec_bytes: int  # of the workflow
    steps: Mapping[str, resources.Resources]  # by name of the executor

    @property
    def largest_step(self) -> str:
        """The step with the largest memory request, and of those the most CPUs."""
        return max(
            self.steps,
            key=lambda name: (self.steps[name].memory_requested, self.steps[name].cpus_requested),
            default="",
        )

    def workflow_bytes(self, way: Way) -> int:
        """Return the size of the workflow at the end of a run."""
        return self.spec_bytes + way.status_bytes


@lru_cache(maxsize=16)
def of(text: str) -> Plan:
    """Return the plan of a compiled pipeline.

    Args:
        text: The compiled YAML of any pipeline.
    """
    spec, *overlays = package.documents(text)
    configs = overlays[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if overlays else {}
    return Plan(
        usual=_Backend(spec, configs, with_defaults=True).run(),
        longest=_Backend(spec, configs, with_defaults=False).run(),
        yaml_bytes=len(text.encode()),
        spec_bytes=workflow_size.specification(spec, configs),
        steps={
            label.removeprefix("exec-"): resources.of(executor["container"])
            for label, executor in spec["deploymentSpec"].get("executors", {}).items()
            if "container" in executor
        },
    )


def table(plans: Mapping[str, Plan]) -> str:
    """Return the plans of pipelines, by name, as a text table."""
    rows = [["on Kubeflow", "steps", "levels", "pods", "overhead", "YAML", "workflow", "asks for at most"]]
    for name, plan in plans.items():
        step = plan.steps.get(plan.largest_step, resources.Resources())
        limit = f", limit {step.limits()}" if step.limits() else ""
        rows.append([name, *_numbers(plan, plan.usual), f"{step.requests()} ({plan.largest_step}{limit})"])
        if plan.longest != plan.usual:
            rows.append(["  with every branch", *_numbers(plan, plan.longest), ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        [
            cell.rjust(width) if 0 < index < 7 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return "\n".join("  ".join(row).rstrip() for row in aligned)


def _numbers(plan: Plan, way: Way) -> list[str]:
    size = plan.workflow_bytes(way)
    percent = round(100 * size / workflow_size.MAX_WORKFLOW_BYTES)
    return [
        str(way.path.steps),
        str(way.path.levels),
        str(len(way.pods)),
        f"{way.path.seconds} s",
        f"{plan.yaml_bytes / 1000:.0f} kB",
        f"{size / 1000:.0f} kB {percent:3} %",
    ]


class _Backend:
    """Simulates the backend's processing of a pipeline document."""

    def __init__(self, spec: Mapping[str, Any], configs: Mapping[str, Any], with_defaults: bool) -> None:
        self._spec, self._configs, self._with_defaults = spec, configs, with_defaults

    def run(self) -> Way:
        root = self._spec["root"]
        driver = self._driver(Path(), workflow_size.quoted(root))
        return driver.beside(self._group(root, _defaults(root), driver.path, 1))

    def _group(
        self,
        component: Mapping[str, Any],
        values: Mapping[str, Any],
        start: Path,
        level: int,
        are_branches: bool = False,
    ) -> Way:
        tasks = component["dag"]["tasks"]
        verdicts: dict[str, bool | None] = {}
        ways: dict[str, Way] = {}
        for name in graph.in_order(tasks):
            task = tasks[name]
            given = {**_defaults(self._component(task)), **_known(task, values)}
            before = [ways[other].path for other in task.get("dependentTasks", [])]
            begin = max([start, *before], key=lambda path: path.seconds)
            verdicts[name] = self._verdict(task, given, is_rare=not are_branches)
            ways[name] = (
                self._skipped(task, begin)
                if verdicts[name] is False
                else self._task(name, task, given, begin, level, _artifacts(task, tasks, values))
            )
        if are_branches:
            certain = [name for name, verdict in verdicts.items() if verdict]
            taken = certain[0] if certain else max(ways, key=lambda name: ways[name].path.seconds)
            ways = {
                name: way if name == taken else self._skipped(tasks[name], start)
                for name, way in ways.items()
            }
        whole = Way(start)
        for way in ways.values():
            whole = whole.beside(way)
        return whole

    def _task(
        self,
        name: str,
        task: Mapping[str, Any],
        given: Mapping[str, Any],
        start: Path,
        level: int,
        artifacts: Mapping[str, int],
    ) -> Way:
        component = self._component(task)
        if "dag" not in component:
            return self._step(name, task, given, start, level, artifacts)
        size = workflow_size.quoted(component) + workflow_size.quoted(task)
        driver = self._driver(start, size)
        if "parameterIterator" not in task and "artifactIterator" not in task:
            # kfp puts If, Elif and Else into a group with this name; one of them runs.
            are_branches = name.startswith("condition-branches-")
            return driver.beside(self._group(component, given, driver.path, level + 1, are_branches))
        count = _iterations(task, given)
        side_by_side = int(task.get("iteratorPolicy", {}).get("parallelismLimit", 0)) or max(count, 1)
        whole, begins = driver, [driver.path] * side_by_side
        for number in range(count):
            iteration = self._driver(begins[number % side_by_side], size)
            iteration = iteration.beside(self._group(component, given, iteration.path, level + 1))
            begins[number % side_by_side] = iteration.path
            whole = whole.beside(iteration)
        return whole

    def _step(
        self,
        name: str,
        task: Mapping[str, Any],
        given: Mapping[str, Any],
        start: Path,
        level: int,
        artifacts: Mapping[str, int],
    ) -> Way:
        component = self._component(task)
        label = component["executorLabel"]
        executor = self._spec["deploymentSpec"]["executors"][label]
        if "container" not in executor:
            # An importer has a driver only.
            return self._driver(start, workflow_size.quoted(component) + workflow_size.quoted(task))
        container, config = executor["container"], self._configs.get(label)
        own = workflow_size.executor_input(
            self._spec["pipelineInfo"]["name"], name, component, given, artifacts
        )
        patch = workflow_size.of_patch(
            workflow_size.quoted(own),
            workflow_size.quoted(component),
            workflow_size.quoted([*container.get("command", []), *container.get("args", [])]),
        )
        specifications = sum(
            map(workflow_size.quoted, (component, container, task, *([config] if config else [])))
        )
        asked = resources.of(container)
        path = start.through(1, level)
        middle, end = path.seconds - POD_SECONDS, path.seconds
        return Way(
            path,
            (
                Pod(start.seconds, middle, *_DRIVER),
                Pod(
                    middle,
                    end,
                    max(asked.cpus_requested, _LAUNCHER[0]),
                    max(asked.memory_requested, _LAUNCHER[1]),
                ),
            ),
            workflow_size.of_step(patch, specifications),
            (patch, name),
        )

    def _driver(self, start: Path, specifications: int) -> Way:
        path = start.through(0, 0)
        return Way(
            path, (Pod(start.seconds, path.seconds, *_DRIVER),), workflow_size.of_group(specifications)
        )

    def _skipped(self, task: Mapping[str, Any], start: Path) -> Way:
        """Return only the driver, which evaluates a condition to false."""
        size = workflow_size.quoted(self._component(task)) + workflow_size.quoted(task)
        driver = self._driver(start, size)
        return dataclasses.replace(
            driver, status_bytes=workflow_size.of_group(size, workflow_size.SKIPPED_NODES)
        )

    def _verdict(self, task: Mapping[str, Any], given: Mapping[str, Any], is_rare: bool) -> bool | None:
        """Return whether a task's condition holds; None, or False for a rare one, if it depends on a step."""
        text = _condition(task)
        if not text or not self._with_defaults:
            return None
        try:
            return condition(text, given)
        except BackendError:
            return False if is_rare else None

    def _component(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        component: Mapping[str, Any] = self._spec["components"][task["componentRef"]["name"]]
        return component


def _condition(task: Mapping[str, Any]) -> str:
    return str(task.get("triggerPolicy", {}).get("condition", ""))


def _defaults(component: Mapping[str, Any]) -> dict[str, Any]:
    parameters = component.get("inputDefinitions", {}).get("parameters", {})
    return {name: port["defaultValue"] for name, port in parameters.items() if "defaultValue" in port}


def _known(task: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a task that are known before a run, given its group's."""
    known = {}
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        constant = source.get("runtimeValue", {}).get("constant")
        if "parameterExpressionSelector" in source:
            continue
        if source.get("componentInputParameter") in values:
            known[name] = values[source["componentInputParameter"]]
        elif constant is not None and "{{$" not in str(constant):
            known[name] = constant
    return known


def _iterations(task: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """Return a loop's number of iterations; 1 if its list is only known at run time."""
    items = task.get("parameterIterator", {}).get("items", {})
    try:
        listed = json.loads(items["raw"]) if "raw" in items else given.get(items.get("inputParameter"))
    except ValueError:
        return 1
    return len(listed) if isinstance(listed, list) else 1


def _artifacts(
    task: Mapping[str, Any], tasks: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, int]:
    """Return the number of artifacts per input of a task; a preceding loop gives one per iteration."""
    counts = {}
    for name, source in task.get("inputs", {}).get("artifacts", {}).items():
        producer = tasks.get(source.get("taskOutputArtifact", {}).get("producerTask"), {})
        is_loop = "parameterIterator" in producer
        counts[name] = _iterations(producer, _known(producer, values)) if is_loop else 1
    return counts
