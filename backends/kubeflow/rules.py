"""Rules for pipelines that Kubeflow Pipelines accepts at upload but fails on or runs unexpectedly."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from backends import resources
from backends.kubeflow import plan, workflow_size
from backends.strict.conditions import ConditionSyntaxError, condition
from backends.strict.values import BackendError

# Argo evaluates these in every text of a workflow, unlike others, such as kfp's {{$.inputs...}}.
_EXPRESSION = re.compile(r"\{\{\s*(?:=|inputs\.)[^}]*\}{0,2}")
_FILLED_IN = re.compile(r"\{\{\s*(?:workflow|pod)\.[^}]*\}\}")
_OPTIONAL_ARTIFACT = re.compile(r"\bOptional\[\s*(?:\w+\.)*Input\[")
_UNNAMED = re.compile(r"(condition|for-loop|exit-handler)-\d+")
_PAGES = ("system.HTML", "system.Markdown")


def errors(spec: Mapping[str, Any], whole: plan.Plan) -> Iterator[str]:
    """Yield errors that are certain, one sentence each.

    Args:
        spec: The pipeline document.
        whole: Its plan.
    """
    for path, value in _leaves(spec):
        if isinstance(value, str) and (found := _EXPRESSION.search(value)):
            yield (
                f"{path} holds {found[0]!r}, which Argo evaluates or refuses wherever it stands; "
                "write it without the two braces"
            )
    for label, executor in spec["deploymentSpec"].get("executors", {}).items():
        # Kubeflow passes an artifact without its type, so kfp uses this annotation as its class.
        if _OPTIONAL_ARTIFACT.search(" ".join(map(str, executor.get("container", {}).get("command", [])))):
            yield f"{label} can't read its Optional[Input[...]]; write Input[...] = None instead"
    for name, task in _tasks(spec):
        text = task.get("triggerPolicy", {}).get("condition", "")
        try:
            condition(text, defaultdict(lambda: "0")) if text else None
        except ConditionSyntaxError:
            yield f"the condition of {name!r} compares with a text that holds a single quote: {text}"
        except BackendError:
            pass  # type mismatches only show in a run
    for name, step in whole.steps.items():
        if step.cpus_requested > (step.cpu_limit or math.inf) or step.memory_requested > (
            step.memory_limit or math.inf
        ):
            yield (
                f"step {name!r} asks for {step.requests()} and may use {step.limits()}; "
                "set its requests no higher than its limits"
            )
    size, name = whole.longest.largest_argument
    if size > workflow_size.MAX_ARGUMENT_BYTES:
        yield (
            f"step {name!r} is given about {size:,} bytes in one argument, which may have "
            f"{workflow_size.MAX_ARGUMENT_BYTES:,}; pass large values as artifacts"
        )


def unfit(whole: plan.Plan, node: str) -> Iterator[str]:
    """Yield the steps that request more than a node has free, one sentence each.

    Args:
        whole: The pipeline's plan.
        node: CPUs and memory of the node, such as "2 8Gi".

    Raises:
        ValueError: The node is malformed.
    """
    free = resources.node(node)
    for name, step in whole.steps.items():
        if step.cpus_requested > free.cpus_requested or step.memory_requested > free.memory_requested:
            yield (
                f"step {name!r} asks for {step.requests()} and the largest node has {free.requests()}, so it "
                "would wait for ever; lower its requests in the setting `resources`"
            )


def warnings(spec: Mapping[str, Any], whole: plan.Plan) -> Iterator[str]:
    """Yield warnings, one sentence each; the arguments are those of `errors`."""
    yield from _sizes(whole)
    for path, value in _leaves(spec):
        if isinstance(value, str) and (found := _FILLED_IN.search(value)):
            yield f"{path} holds {found[0]}, which Argo replaces"
        if isinstance(value, float) and abs(value) >= 2**53:
            yield f"{path} is {value:.0f}; whole numbers from 2^53 on lose digits on the way, so pass a text"
    tasks = list(_tasks(spec))
    if retried := [name for name, task in tasks if task.get("retryPolicy", {}).get("maxRetryCount")]:
        yield (
            f"set_retry of {_listed(retried)} doesn't run a program again that fails: stock installations "
            "retry errors of Kubernetes only"
        )
    for name in _chosen_outputs(spec):
        yield (
            f"dsl.OneOf reads from {name!r}, and fails when the chosen branch comes from the cache; "
            "switch caching off for the steps of its branches"
        )
    if unnamed := _unnamed_groups(spec):
        yield (
            f"the UI will show {_listed(unnamed)}; say what a group does, as in "
            "dsl.If(..., name='promoted') or dsl.ParallelFor(..., name='candidates')"
        )
    for pages in _pages_of_one_name(spec):
        yield f"{pages} beside each other in the UI; give the outputs different names"


def _sizes(whole: plan.Plan) -> Iterator[str]:
    most = workflow_size.MAX_WORKFLOW_BYTES
    usual, longest = whole.workflow_bytes(whole.usual), whole.workflow_bytes(whole.longest)
    # Unknowns, such as longer metadata of every artifact, add at most a tenth.
    if usual > 0.75 * most or longest > most:
        size = max(usual, longest)
        yield (
            f"a run's workflow takes about {size / 1000:,.0f} of {most / 1000:,.0f} kB"
            + (", so the API's details of a run stop changing before its end" if size > most else "")
            + "; use fewer steps and groups"
        )
    size, name = whole.usual.largest_argument
    most = workflow_size.MAX_ARGUMENT_BYTES
    if 0.75 * most < size <= most:
        yield f"step {name!r} is given about {size:,} of at most {most:,} bytes in one argument"


def _chosen_outputs(spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield the groups that return one of several branches' outputs, if their steps can be cached."""
    for name, task in _tasks(spec):
        component = spec["components"][task["componentRef"]["name"]]
        outputs = component.get("dag", {}).get("outputs", {})
        chosen = any(
            len(port.get("artifactSelectors", [])) > 1 for port in outputs.get("artifacts", {}).values()
        )
        chosen = chosen or any("valueFromOneof" in port for port in outputs.get("parameters", {}).values())
        if chosen and any(
            inner.get("cachingOptions", {}).get("enableCache") for inner in _inside(spec, component)
        ):
            yield name


def _unnamed_groups(spec: Mapping[str, Any]) -> list[str]:
    names = []
    for dag in _dags(spec):
        # Kubeflow doesn't find a producer with a display name other than its key.
        read = {value for key, value in _leaves(dag) if key.endswith(("producerTask", "producerSubtask"))}
        names += [
            name
            for name, task in dag["tasks"].items()
            if _UNNAMED.fullmatch(task.get("taskInfo", {}).get("name", name)) and name not in read
        ]
    return names


def _pages_of_one_name(spec: Mapping[str, Any]) -> Iterator[str]:
    for dag in _dags(spec):
        pages = Counter(
            port
            for task in dag["tasks"].values()
            for port, output in _outputs(spec, task).items()
            if output.get("artifactType", {}).get("schemaTitle") in _PAGES
        )
        yield from (f"{number} pages are called {port!r}" for port, number in pages.items() if number > 1)


def _outputs(spec: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    component = spec["components"][task["componentRef"]["name"]]
    outputs: dict[str, Any] = component.get("outputDefinitions", {}).get("artifacts", {})
    return outputs if "executorLabel" in component else {}


def _inside(spec: Mapping[str, Any], component: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for task in component.get("dag", {}).get("tasks", {}).values():
        yield task
        yield from _inside(spec, spec["components"][task["componentRef"]["name"]])


def _dags(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for component in (spec["root"], *spec.get("components", {}).values()):
        if "dag" in component:
            yield component["dag"]


def _tasks(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for dag in _dags(spec):
        yield from dag["tasks"].items()


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf value with the path to it."""
    if isinstance(tree, Mapping | list):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
