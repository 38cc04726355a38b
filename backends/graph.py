"""The graph of a compiled pipeline with its groups flattened: the dependencies of steps."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """One step of a pipeline."""

    key: str  # names of the groups around it and its own, joined by "/"
    component: str
    upstream: frozenset[str]  # keys of the steps it waits for, without those implied by others

    @property
    def name(self) -> str:
        """The task's name inside its group."""
        return self.key.rpartition("/")[2]


def unshared(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a pipeline document for kfp.local.

    Every step gets its own component, named comp- and its key: as compiled, the steps of a nested pipeline in
    two branches can't be distinguished. Conditions name the outputs that they read.
    """
    components: dict[str, Any] = {}

    def owned(dag: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        tasks = {}
        for name, task in dag["tasks"].items():
            key = prefix + name
            component = spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                component = {**component, "dag": owned(component["dag"], f"{key}/")}
            components[f"comp-{key}"] = component
            tasks[name] = {**_with_readable_condition(task), "componentRef": {"name": f"comp-{key}"}}
        return {**dag, "tasks": tasks}

    root = {**spec["root"], "dag": owned(spec["root"]["dag"], "")}
    return {**spec, "root": root, "components": components}


def steps(spec: Mapping[str, Any]) -> list[Step]:
    """Return the steps of a pipeline document in topological order."""
    found: dict[str, Step] = {}
    _walk(spec["root"]["dag"], spec["components"], "", {}, frozenset(), found)
    return [Step(step.key, step.component, _without_implied(step.upstream, found)) for step in found.values()]


def titled(spec: Mapping[str, Any], key: str) -> str:
    """Return the key of a step or group with the displayed names of its groups: "deploy/roll-out".

    Args:
        spec: The pipeline document.
        key: The key; a loop's iteration is in brackets after the loop's name, and is kept.
    """
    dag, shown = spec["root"]["dag"], []
    for part in key.split("/"):
        name, bracket, turn = part.partition("[")
        task = dag.get("tasks", {}).get(name)
        if not task:  # such as Kubeflow's node for the start of a run
            return key
        component = spec["components"][task["componentRef"]["name"]]
        dag = component.get("dag", {})
        shown.append((task["taskInfo"]["name"] if dag else name) + bracket + turn)
    return "/".join(shown)


def layers(graph: list[Step]) -> list[list[Step]]:
    """Return the steps in rows: each one row below the lowest step that it depends on."""
    depth: dict[str, int] = {}
    for step in graph:
        depth[step.key] = 1 + max((depth[key] for key in step.upstream), default=-1)
    return [
        [step for step in graph if depth[step.key] == row]
        for row in range(max(depth.values(), default=-1) + 1)
    ]


def _with_readable_condition(task: Mapping[str, Any]) -> dict[str, Any]:
    """Name task outputs in a condition as kfp.local expects them, TASK--OUTPUT.

    With the compiler's names, it silently takes a condition on them as false.
    """
    policy = task.get("triggerPolicy", {})
    condition = policy.get("condition")
    if not condition:
        return dict(task)
    for name, value in task.get("inputs", {}).get("parameters", {}).items():
        if output := value.get("taskOutputParameter"):
            there = f"{output['producerTask']}--{output['outputParameterKey']}"
            condition = condition.replace(f"'{name}'", f"'{there}'")
    return {**task, "triggerPolicy": {**policy, "condition": condition}}


def _walk(
    dag: Mapping[str, Any],
    components: Mapping[str, Any],
    prefix: str,
    producers: Mapping[str, frozenset[str]],
    waits_for: frozenset[str],
    found: dict[str, Step],
) -> frozenset[str]:
    """Add the steps of a group to `found`; return the keys of the steps that produce its outputs.

    Args:
        dag: The group.
        components: All components of the document.
        prefix: Key of the group with a trailing slash, empty at the top.
        producers: For each input of the group, the outer steps that produce it.
        waits_for: Steps that the whole group depends on.
        found: Steps by key, in topological order.
    """
    yields: dict[str, frozenset[str]] = {}
    for name in in_order(dag["tasks"]):
        task = dag["tasks"][name]
        component_name = task["componentRef"]["name"]
        component = components[component_name]
        inputs = {key: _sources(value, producers, yields) for key, value in _inputs(task)}
        before = waits_for.union(*(yields[other] for other in task.get("dependentTasks", [])))
        if "dag" in component:
            loop = task.get("parameterIterator", {})
            loop_item = loop.get("itemInput")
            if loop_item:
                inputs[loop_item] = inputs.get(loop.get("items", {}).get("inputParameter", ""), frozenset())
            yields[name] = _walk(component["dag"], components, f"{prefix}{name}/", inputs, before, found)
        else:
            key = prefix + name
            found[key] = Step(key, component_name, before.union(*inputs.values()))
            yields[name] = frozenset({key})
    outputs = dag.get("outputs", {})
    subtasks = set(_values(outputs, "producerSubtask")) or set(yields)
    return frozenset().union(*(yields[subtask] for subtask in subtasks))


def in_order(tasks: Mapping[str, Any]) -> list[str]:
    """Return the names of a group's tasks in topological order."""
    order: list[str] = []
    waiting = sorted(tasks)
    while waiting:
        ready = [name for name in waiting if set(tasks[name].get("dependentTasks", [])) <= set(order)]
        order += ready
        waiting = [name for name in waiting if name not in ready]
    return order


def _inputs(task: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for kind in ("parameters", "artifacts"):
        yield from task.get("inputs", {}).get(kind, {}).items()


def _sources(
    value: Mapping[str, Any], producers: Mapping[str, frozenset[str]], yields: Mapping[str, frozenset[str]]
) -> frozenset[str]:
    for kind in ("taskOutputParameter", "taskOutputArtifact"):
        if kind in value:
            return yields[value[kind]["producerTask"]]
    for kind in ("componentInputParameter", "componentInputArtifact"):
        if kind in value:
            return producers.get(value[kind], frozenset())
    return frozenset()


def _values(tree: Any, key: str) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            if name == key:
                yield value
            else:
                yield from _values(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _values(value, key)


def _without_implied(upstream: frozenset[str], found: Mapping[str, Step]) -> frozenset[str]:
    implied: set[str] = set()
    reached = [other for key in upstream for other in found[key].upstream]
    while reached:
        key = reached.pop()
        if key not in implied:
            implied.add(key)
            reached += found[key].upstream
    return upstream - implied
