"""Read the state of a run on Kubeflow Pipelines, and why its steps wait or fail.

The API's own details name no cause, report a pod that can't start as "pending" for ever, and freeze once the
workflow exceeds 1 MiB. The older path of the same API returns the complete Argo workflow.
"""

import base64
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from kfp_server_api.models.v2beta1_pipeline_task_detail import V2beta1PipelineTaskDetail
from kfp_server_api.models.v2beta1_run import V2beta1Run

from backends import faults, graph
from backends.kubeflow import argo
from backends.kubeflow.client import KubeflowClient
from backends.local import step_error
from backends.submission import Run, Task, images_in, uniquely_named

# Every pod waits for some seconds.
EXPLAINED_AFTER_SECONDS = 60
_STATES = {
    "SUCCEEDED": "succeeded",
    "SKIPPED": "skipped",
    "FAILED": "failed",
    "CANCELED": "cancelled",
    "CANCELING": "cancelling",
}
_NO_MESSAGE = "the step left no message; its log is in the UI"


class KubeflowRuns:
    """Reads runs, and caches what doesn't change between polls."""

    def __init__(self, client: KubeflowClient) -> None:
        self._client = client
        self._versions: dict[str, Any] = {}
        self._causes: dict[str, str] = {}
        self._workflows_are_served = True

    def read(self, run: V2beta1Run) -> Run:
        """Return a run with its steps."""
        spec, version = self._spec(run)
        state = self.state(run)
        over = state not in ("running", "cancelling")
        workflow = self._workflow(run.run_id)
        if workflow:
            tasks = self._from_workflow(
                run.run_id, workflow, over, cancelled=state in ("cancelled", "cancelling")
            )
            status = workflow.get("status") or {}
            error = str(status.get("message") or "") if state == "failed" else ""
        else:
            tasks, error = self._from_details(run, spec, over)
        if over and spec:
            # The details of a large workflow freeze before its end.
            details = (run.run_details.task_details if run.run_details else None) or []
            stood_still = not workflow and any(detail.state == "RUNNING" for detail in details)
            tasks += _unreported(tasks, spec, "unknown" if stood_still else "skipped")
        if spec:
            tasks = uniquely_named([replace(task, name=graph.titled(spec, task.name)) for task in tasks])
        return Run(
            name=run.display_name,
            key=run.run_id,
            state=state,
            url=self.page(run.run_id),
            tasks=tasks,
            error=_message(run.error) or error,
            parameters=(run.runtime_config.parameters if run.runtime_config else None) or {},
            version=version,
            images=images_in(spec or {}),
            pipeline=str(((spec or {}).get("pipelineInfo") or {}).get("name", "")),
        )

    def page(self, key: str) -> str:
        """Return the URL of a run's page."""
        return f"{self._client.endpoint}/#/runs/details/{key}"

    def state(self, run: V2beta1Run) -> str:
        """Return a run's state; a cancelled run reports FAILED in the end."""
        state = _STATES.get(run.state, "running")
        ended = any(entry.state == "CANCELING" for entry in run.state_history or [])
        return "cancelled" if state == "failed" and ended else state

    def _from_workflow(self, run: str, workflow: dict[str, Any], over: bool, cancelled: bool) -> list[Task]:
        tasks = []
        for step in argo.read_steps(workflow, cancelled):
            state, waits_for = step.state, ""
            if state in ("waiting", "running") and over:
                state = "unknown"
            if state == "waiting" and step.seconds >= EXPLAINED_AFTER_SECONDS:
                waits_for = step.message
            error = step.message if state == "waiting" else ""
            if state == "failed":
                error = step.message or self._cause(run, step.pod) or _NO_MESSAGE
            tasks.append(Task(step.name, state, step.seconds, error, waits_for))
        return tasks

    def _from_details(self, run: V2beta1Run, spec: Any, over: bool) -> tuple[list[Task], str]:
        """Return the steps from the API's details, and failures outside of them."""
        names = Counter(step.name for step in graph.steps(spec)) if spec else Counter()
        keys = {step.name: step.key for step in graph.steps(spec)} if spec else {}
        details = (run.run_details.task_details if run.run_details else None) or []
        tasks = []
        for detail in sorted(details, key=lambda detail: str(detail.start_time or detail.create_time)):
            name = detail.display_name
            if name not in names:  # drivers and groups are listed beside the steps
                continue
            state = _STATES.get(detail.state, "running") if detail.state else "skipped"
            if state == "succeeded" and detail.end_time == detail.start_time:
                state = "cached"
            elif state == "running" and over:
                state = "unknown"
            error = self._detail_cause(run.run_id, detail) if state == "failed" else ""
            shown = keys[name] if names[name] == 1 else name
            tasks.append(Task(shown, state, 0.0 if state == "unknown" else _seconds(detail), error))
        drivers = [
            each for each in details if each.state == "FAILED" and each.display_name.endswith("-driver")
        ]
        if drivers and not any(task.state == "failed" for task in tasks):
            return uniquely_named(
                tasks
            ), f"{drivers[0].display_name}: {self._detail_cause(run.run_id, drivers[0])}"
        return uniquely_named(tasks), ""

    def _detail_cause(self, run: str, detail: V2beta1PipelineTaskDetail) -> str:
        nodes = [child.pod_name for child in detail.child_tasks or [] if child.pod_name]
        for node in filter(None, [*nodes, detail.pod_name]):
            if cause := self._cause(run, argo.Pod(node, "", "", "")):
                return cause
        return _message(detail.error) or _NO_MESSAGE

    def _cause(self, run: str, pod: argo.Pod | None) -> str:
        """Return a failed pod's own message; empty without a log."""
        if pod and pod.node not in self._causes:
            logs = (
                self._log(read, run, pod) for read in (_archived, _read_by_api, _read_by_ui, _program_output)
            )
            # Not cached if empty: the archived log may appear some seconds after the failure.
            if cause := next(filter(None, map(step_error.error_in_pod, logs)), ""):
                self._causes[pod.node] = cause
        return self._causes.get(pod.node, "") if pod else ""

    def _log(
        self, read: Callable[[KubeflowClient, str, argo.Pod], str], run: str, pod: argo.Pod
    ) -> list[str]:
        try:
            return read(self._client, run, pod).splitlines()
        except (faults.Fault, LookupError, TypeError, ValueError):  # it doesn't exist, or isn't served
            return []

    def _workflow(self, run: str) -> dict[str, Any] | None:
        """Return a run's Argo workflow; None if the server doesn't serve the older path."""
        if not self._workflows_are_served:
            return None
        try:
            answer = self._client.read(f"/apis/v1beta1/runs/{run}")
            workflow = json.loads(answer["pipeline_runtime"]["workflow_manifest"])
            argo.read_nodes(workflow)
        except faults.Fault as fault:
            if fault.transient:
                raise
            self._workflows_are_served = False
            return None
        except (LookupError, TypeError, ValueError):
            return None
        return dict(workflow)

    def _spec(self, run: V2beta1Run) -> tuple[Any, str]:
        """Return a run's pipeline document and version name; None and "" without one."""
        spec, name, reference = run.pipeline_spec, "", run.pipeline_version_reference
        if not spec and reference and reference.pipeline_version_id:
            found = self._version(reference.pipeline_id, reference.pipeline_version_id)
            spec, name = (found.pipeline_spec, found.display_name) if found else (None, "")
        return (spec or {}).get("pipeline_spec", spec), name

    def _version(self, pipeline: str, version: str) -> Any:
        if version not in self._versions:
            try:
                found = self._client.ask(lambda: self._client.api.get_pipeline_version(pipeline, version))
            except faults.Fault as fault:
                if fault.status != 404:  # a version may be deleted before its runs
                    raise
                found = None
            self._versions[version] = found
        return self._versions[version]


def _archived(client: KubeflowClient, run: str, pod: argo.Pod) -> str:
    """Read a pod's log from the archive."""
    answer = client.read_log(f"/apis/v2beta1/runs/{run}/nodes/{pod.node}/artifacts/main-logs:read")
    return base64.b64decode(answer["data"]).decode(errors="replace")


def _read_by_api(client: KubeflowClient, run: str, pod: argo.Pod) -> str:
    """Read a pod's log from the API's path: its errors have status 200, and the UI doesn't proxy it."""
    answer = client.read_log(f"/apis/v1alpha1/runs/{run}/nodes/{pod.node}/log")
    return "" if isinstance(answer, dict) and "error_message" in answer else str(answer)


def _read_by_ui(client: KubeflowClient, run: str, pod: argo.Pod) -> str:
    """Read a pod's log from Kubernetes through the UI's server, the only way for workflows over 1 MiB."""
    where = {"podname": pod.name, "podnamespace": pod.namespace, "createdat": pod.day}
    return str(client.read_log("/k8s/pod/logs", runid=run, **where)) if pod.name else ""


def _program_output(client: KubeflowClient, run: str, pod: argo.Pod) -> str:  # noqa: ARG001 as the others
    """Read the artifact with the program's own output through the UI's server."""
    source, _, place = pod.output.partition("://")
    bucket, _, key = place.partition("/")
    if not key:
        return ""
    query = {"source": source, "namespace": pod.namespace, "bucket": bucket, "key": key}
    return str(client.read_log("/artifacts/get", **query))


def _unreported(tasks: list[Task], spec: Any, state: str) -> list[Task]:
    """Return the steps that a run doesn't report, such as those in skipped branches."""
    reported = {argo.without_turns(task.name) for task in tasks}
    return [Task(step.key, state) for step in graph.steps(spec) if step.key not in reported]


def _message(error: Any) -> str:
    """Return a status object's message on one line; empty for none."""
    return " ".join((error.message or "").split()) if error else ""


def _seconds(detail: V2beta1PipelineTaskDetail) -> float:
    start = detail.start_time or detail.create_time
    if not start:
        return 0.0
    end = detail.end_time if detail.end_time and detail.end_time >= start else datetime.now(UTC)
    return max(0.0, float((end - start).total_seconds()))
