"""Kubeflow Pipelines as a service: kfp's own client, with time limits, and faults said in sentences."""

import contextlib
import io
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kfp.client import KF_PIPELINES_SA_TOKEN_PATH
from kfp.client.client import Client
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from kfp_server_api.api.pipeline_service_api import PipelineServiceApi
from kfp_server_api.api_client import ApiClient
from kfp_server_api.exceptions import ApiException
from kfp_server_api.models.v2beta1_get_healthz_response import V2beta1GetHealthzResponse
from kfp_server_api.models.v2beta1_pipeline import V2beta1Pipeline
from kfp_server_api.models.v2beta1_pipeline_task_detail import V2beta1PipelineTaskDetail
from kfp_server_api.models.v2beta1_recurring_run_status import V2beta1RecurringRunStatus
from kfp_server_api.models.v2beta1_run import V2beta1Run

from targets import faults, graph, step_error
from targets.settings import Kubeflow
from targets.submission import Package, Run, Schedule, Task, Wanted, uniquely_named

# To connect, and to wait for an answer.
TIMEOUT_SECONDS = (10, 60)
_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_STATES = {
    "SUCCEEDED": "succeeded",
    "SKIPPED": "skipped",
    "FAILED": "failed",
    "CANCELED": "cancelled",
}
_HINTS = {
    401: "set FLOWPARTS_TOKEN or FLOWPARTS_COOKIE anew, as docs/kubeflow.md says; both expire",
    403: "ask for the role kubeflow-edit in the namespace, or set the namespace that is yours",
    404: "check the endpoint; it ends where /apis would follow",
}
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DIGEST = re.compile(r"flowparts ([0-9a-f]{16})")
_Answer = TypeVar("_Answer")


class KubeflowService:
    """Uploads, runs and schedules pipelines on Kubeflow Pipelines."""

    def __init__(self, settings: Kubeflow, environment: Mapping[str, str] = os.environ) -> None:
        """Connect.

        Args:
            settings: Where, and how runs are started.
            environment: FLOWPARTS_TOKEN (bearer token) or FLOWPARTS_COOKIE (of a session behind Dex or
                another OIDC log-in); without them the token that Kubernetes projects into a pod is used,
                or none, as behind kubectl port-forward.

        Raises:
            ValueError: There is no endpoint.
        """
        in_cluster = "KUBERNETES_SERVICE_HOST" in environment
        self._settings = settings
        self._endpoint = (settings.endpoint or (_IN_CLUSTER if in_cluster else "")).rstrip("/")
        if not self._endpoint.startswith(("http://", "https://")):
            raise ValueError(
                f"endpoint {settings.endpoint!r} must be the address of Kubeflow Pipelines, such as "
                "http://localhost:8080; give --endpoint, FLOWPARTS_ENDPOINT or a profile in flowparts.toml"
            )
        token_file = environment.get("KF_PIPELINES_SA_TOKEN_PATH", KF_PIPELINES_SA_TOKEN_PATH)
        projected = not environment.get("FLOWPARTS_TOKEN") and Path(token_file).is_file()
        self._specs: dict[str, Any] = {}
        self._client = _Client(
            host=self._endpoint,
            namespace=settings.namespace or None,
            existing_token=environment.get("FLOWPARTS_TOKEN"),
            cookies=environment.get("FLOWPARTS_COOKIE"),
            credentials=ServiceAccountTokenVolumeCredentials(token_file) if projected else None,
            ssl_ca_cert=settings.ca_certificate or None,
        )

    def upload(self, sent: Package) -> tuple[str, bool]:
        """Keep a pipeline as a new version; the same content isn't kept twice."""
        pipeline, version, new = self._uploaded(sent)
        return f"{self._endpoint}/#/pipelines/details/{pipeline}/version/{version}", new

    def run(self, sent: Package, parameters: Mapping[str, Any], name: str) -> Run:
        """Start a run of an uploaded version; one of this name that exists already is returned as it is."""
        earlier = self.find(name)
        if earlier:
            return earlier
        pipeline, version, _ = self._uploaded(sent)
        experiment = self._experiment()
        self._ask(
            lambda: self._client.run_pipeline(
                experiment_id=experiment,
                job_name=name,
                params=dict(parameters),
                pipeline_id=pipeline,
                version_id=version,
                pipeline_root=self._settings.pipeline_root or None,
                service_account=self._settings.service_account or None,
            ),
            made=lambda: self._named(name),
        )
        return self.find(name) or Run(name, name, "running", self._endpoint)

    def find(self, name: str) -> Run | None:
        """Return a run by its name or ID; None if there is none."""
        named = None if _ID.fullmatch(name) else self._named(name)
        if not named and not _ID.fullmatch(name):
            return None
        try:
            run = self._ask(lambda: self._client.get_run(named.run_id if named else name))
        except faults.Fault as fault:
            if fault.status == 404:
                return None
            raise
        steps = self._steps(run)
        details = (run.run_details.task_details if run.run_details else None) or []
        tasks = [
            Task(
                name=detail.display_name,
                state=_STATES.get(detail.state, "running"),
                seconds=_seconds(detail),
                error=self._error(run.run_id, detail) if detail.state == "FAILED" else "",
            )
            for detail in sorted(details, key=lambda detail: str(detail.start_time or detail.create_time))
            if detail.display_name in steps
        ]
        return Run(
            name=run.display_name,
            key=run.run_id,
            state=_STATES.get(run.state, "running"),
            url=f"{self._endpoint}/#/runs/details/{run.run_id}",
            tasks=uniquely_named(tasks),
            error=_message(run.error) or self._driver_error(run.run_id, details, steps),
        )

    def recent(self) -> list[str]:
        """Return the names of the latest runs."""
        listed = self._ask(lambda: self._client.list_runs(page_size=20, sort_by="created_at desc"))
        return [run.display_name for run in listed.runs or []]

    def cancel(self, run: Run) -> None:
        """Ask for a run's end."""
        self._ask(lambda: self._client.terminate_run(run.key))

    def schedules(self, name: str) -> list[Schedule]:
        """Return the recurring runs of a name."""
        listed = self._ask(
            lambda: self._client.list_recurring_runs(
                page_size=100, namespace=self._settings.namespace or None, filter=_equals(name)
            )
        )
        return [
            Schedule(
                key=found.recurring_run_id,
                digest=match[1] if (match := _DIGEST.search(found.description or "")) else "",
                active=found.status != V2beta1RecurringRunStatus.DISABLED,
            )
            for found in listed.recurring_runs or []
        ]

    def create_schedule(self, wanted: Wanted) -> None:
        """Make a recurring run of an uploaded version."""
        pipeline, version, _ = self._uploaded(wanted.package)
        experiment = self._experiment()
        self._ask(
            lambda: self._client.create_recurring_run(
                experiment_id=experiment,
                job_name=wanted.name,
                description=f"{wanted.package.description} (flowparts {wanted.digest})",
                cron_expression=f"0 {wanted.cron}",  # the server's first field is the second
                max_concurrency=1,
                no_catchup=True,
                params=dict(wanted.parameters),
                pipeline_id=pipeline,
                version_id=version,
                pipeline_root=self._settings.pipeline_root or None,
                service_account=self._settings.service_account or None,
            ),
            made=lambda: next(
                (old for old in self.schedules(wanted.name) if old.active and old.digest == wanted.digest),
                None,
            ),
        )

    def set_active(self, schedule: Schedule, active: bool) -> None:
        """Pause or resume a recurring run."""
        change = self._client.enable_recurring_run if active else self._client.disable_recurring_run
        self._ask(lambda: change(schedule.key))

    def delete_schedule(self, schedule: Schedule) -> None:
        """Remove a recurring run."""
        try:
            self._ask(lambda: self._client.delete_recurring_run(schedule.key))
        except faults.Fault as fault:
            if fault.status != 404:
                raise

    def _uploaded(self, sent: Package) -> tuple[str, str, bool]:
        """Return the IDs of a package's pipeline and version, and whether the version is new."""
        pipeline = self._pipeline(sent.name) or self._ask(
            lambda: (
                PipelineServiceApi(self._client.api_client)
                .pipeline_service_create_pipeline(
                    pipeline=V2beta1Pipeline(
                        display_name=sent.name,
                        name=sent.name,
                        description=sent.description,
                        namespace=self._settings.namespace or None,
                    )
                )
                .pipeline_id
            ),
            made=lambda: self._pipeline(sent.name),
        )
        if version := self._version(pipeline, sent):
            return pipeline, version, False
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pipeline.yaml"
            file.write_text(sent.text, encoding="utf-8")
            version = self._ask(
                lambda: (
                    self._client.upload_pipeline_version(
                        str(file),
                        pipeline_version_name=sent.version,
                        pipeline_id=pipeline,
                        description=sent.description,
                    ).pipeline_version_id
                ),
                made=lambda: self._version(pipeline, sent),
            )
        return pipeline, version, True

    def _pipeline(self, name: str) -> str | None:
        listed = self._ask(
            lambda: self._client.list_pipelines(
                filter=_equals(name), namespace=self._settings.namespace or None
            )
        )
        return next((found.pipeline_id for found in listed.pipelines or []), None)

    def _version(self, pipeline: str, sent: Package) -> str | None:
        listed = self._ask(
            lambda: self._client.list_pipeline_versions(
                pipeline, filter=_filter("IS_SUBSTRING", f"-{sent.digest}"), sort_by="created_at desc"
            )
        )
        return next((found.pipeline_version_id for found in listed.pipeline_versions or []), None)

    def _experiment(self) -> str:
        # It looks for the experiment before it makes one.
        created = self._ask(
            lambda: self._client.create_experiment(
                self._settings.experiment, namespace=self._settings.namespace
            )
        )
        return str(created.experiment_id)

    def _named(self, name: str) -> Any:
        listed = self._ask(
            lambda: self._client.list_runs(
                page_size=2, namespace=self._settings.namespace or None, filter=_equals(name)
            )
        )
        return next(iter(listed.runs or []), None)

    def _steps(self, run: V2beta1Run) -> set[str]:
        """Return the names of a run's steps; the service lists drivers and groups beside them."""
        spec = run.pipeline_spec
        reference = run.pipeline_version_reference
        if not spec and reference:
            spec = self._spec(reference.pipeline_id, reference.pipeline_version_id)
        spec = (spec or {}).get("pipeline_spec", spec)
        return {step.name for step in graph.steps(spec)} if spec else set()

    def _spec(self, pipeline: str, version: str) -> Any:
        if version not in self._specs:
            try:
                found = self._ask(lambda: self._client.get_pipeline_version(pipeline, version))
            except faults.Fault as fault:
                if fault.status != 404:  # a version may be deleted before its runs
                    raise
                return None
            self._specs[version] = found.pipeline_spec
        return self._specs[version]

    def _error(self, run: str, detail: V2beta1PipelineTaskDetail) -> str:
        """Return what a failed step said, from the service or from the log of its pod."""
        pods = [child.pod_name for child in detail.child_tasks or [] if child.pod_name]
        for pod in filter(None, [*pods, detail.pod_name]):
            if said := step_error.error_in(self._log(run, pod)):
                return said
        return _message(detail.error) or "the step left no message; its log is in the UI"

    def _driver_error(self, run: str, details: list[Any], steps: set[str]) -> str:
        """Return what failed beside the steps, such as the driver that prepares one."""
        failed = [detail for detail in details if detail.state == "FAILED"]
        drivers = [detail for detail in failed if (detail.display_name or "").endswith("-driver")]
        if not drivers or any(detail.display_name in steps for detail in failed):
            return ""
        return f"{drivers[0].display_name}: {self._error(run, drivers[0])}"

    def _log(self, run: str, pod: str) -> list[str]:
        try:
            answer = self._client.api_client.call_api(
                f"/apis/v1alpha1/runs/{run}/nodes/{pod}/log",
                "GET",
                auth_settings=["Bearer"],
                response_type="str",
                _return_http_data_only=True,
            )
        except (ApiException, urllib3.exceptions.HTTPError):  # logs are kept for a while only
            return []
        return str(answer).splitlines()

    def _ask(self, ask: Callable[[], _Answer], made: Callable[[], _Answer | None] | None = None) -> _Answer:
        # The client prints links to what it makes.
        with contextlib.redirect_stdout(io.StringIO()):
            return faults.answered(ask, self._fault, made)

    def _fault(self, error: Exception) -> faults.Fault | None:
        service = f"Kubeflow Pipelines at {self._endpoint}"
        if isinstance(error, ApiException) and error.status:
            return faults.from_status(service, error.status, _said(error.body or error.reason), _HINTS)
        if isinstance(error, _LogInPageError):
            return faults.from_status(service, 401, "it sent its log-in page", _HINTS)
        cause = (
            getattr(error, "reason", error) if isinstance(error, urllib3.exceptions.MaxRetryError) else error
        )
        if isinstance(cause, urllib3.exceptions.SSLError | ApiException):
            return faults.Fault(f"{service} has no certificate to trust: {cause}; give --ca-certificate")
        if isinstance(cause, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            return faults.Fault(
                f"{service} can't be reached; is the address right, and kubectl port-forward running?",
                transient=True,
            )
        if isinstance(cause, urllib3.exceptions.HTTPError):
            return faults.Fault(
                f"{service} gave no answer ({type(cause).__name__}); try again, and see what it has done",
                transient=True,
                perhaps_done=True,
            )
        return None


class _LogInPageError(Exception):
    """A page for people came where an answer was due."""


class _Client(Client):
    """The client with a time limit for every request, and without retries of its own."""

    def __init__(self, **given: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it only speaks to servers of version 2
            super().__init__(**given)
        self.api_client: ApiClient = self._run_api.api_client
        rest = self.api_client.rest_client
        request = rest.request

        def limited(*args: Any, **more: Any) -> Any:
            answer = request(*args, **{**more, "_request_timeout": TIMEOUT_SECONDS})
            # Behind an OIDC log-in, who isn't known is sent to a page for people, with a status of success.
            if "text/html" in answer.urllib3_response.headers.get("content-type", ""):
                raise _LogInPageError
            return answer

        rest.request = limited

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:  # noqa: ARG002 the client's own signature
        """Answer without a request: the client would ask five times and log a traceback each."""
        return V2beta1GetHealthzResponse(multi_user=False)

    def _load_config(self, *given: Any) -> Any:
        config = super()._load_config(*given)
        # Whether to send again is decided where it is known what the request does.
        config.retries = urllib3.Retry(0, redirect=5)
        return config


def _message(error: Any) -> str:
    """Return a status object's message on one line; empty for none."""
    return " ".join((error.message or "").split()) if error else ""


def _said(body: str) -> str:
    """Return the message of an error's body, which is JSON unless it comes from a gateway."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return body[:300]
    return str(parsed.get("message") or parsed.get("error") or body) if isinstance(parsed, dict) else body


def _seconds(detail: V2beta1PipelineTaskDetail) -> float:
    start = detail.start_time or detail.create_time
    if not start:
        return 0.0
    end = detail.end_time if detail.end_time and detail.end_time > start else datetime.now(UTC)
    return max(0.0, float((end - start).total_seconds()))


def _equals(name: str) -> str:
    return _filter("EQUALS", name)


def _filter(operation: str, value: str) -> str:
    predicate = {"operation": operation, "key": "display_name", "stringValue": value}
    return json.dumps({"predicates": [predicate]})
