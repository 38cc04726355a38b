"""Vertex AI Pipelines as a service: Google's clients over REST, with one-line errors."""

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import google.auth
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth import _default
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, RefreshError
from google.auth.transport.requests import Request
from google.cloud import aiplatform, aiplatform_v1
from google.cloud.aiplatform import base, pipeline_job_schedules
from google.cloud.aiplatform_v1.types import PipelineJob, PipelineState, PipelineTaskDetail
from google.protobuf import json_format
from kfp.registry import ApiAuth, RegistryClient
from requests.exceptions import ConnectTimeout, HTTPError, RequestException

from backends import faults, graph
from backends.profiles import Vertex
from backends.submission import (
    Package,
    RequestedSchedule,
    Run,
    RunSummary,
    Schedule,
    Task,
    images_in,
    uniquely_named,
)
from flowparts.util.shortening import shorten

TIMEOUT_SECONDS = 60
_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
_STATES = {
    PipelineState.PIPELINE_STATE_SUCCEEDED: "succeeded",
    PipelineState.PIPELINE_STATE_FAILED: "failed",
    PipelineState.PIPELINE_STATE_CANCELLED: "cancelled",
    PipelineState.PIPELINE_STATE_CANCELLING: "cancelling",
}
_TASK_STATES = {
    PipelineTaskDetail.State.PENDING: "waiting",
    PipelineTaskDetail.State.SUCCEEDED: "succeeded",
    PipelineTaskDetail.State.SKIPPED: "cached",
    PipelineTaskDetail.State.NOT_TRIGGERED: "skipped",
    PipelineTaskDetail.State.FAILED: "failed",
    PipelineTaskDetail.State.CANCELLED: "cancelled",
}
_LOG_IN = (
    "log in with `gcloud auth application-default login`, or name a key in GOOGLE_APPLICATION_CREDENTIALS"
)
_HINTS = {
    401: _LOG_IN,
    403: "docs/vertex.md lists the roles that are needed; an API may also have to be enabled",
    404: "check project and location",
    429: "wait, or ask for more quota in the Cloud console under IAM and Admin, Quotas",
}
_DIGEST_LABEL = "flowparts-schedule"
_Answer = TypeVar("_Answer")


class VertexService:
    """Uploads, runs and schedules pipelines on Vertex AI."""

    def __init__(self, settings: Vertex, environment: Mapping[str, str] = os.environ) -> None:  # noqa: ARG002
        """Connect with the application-default credentials.

        REST instead of gRPC, because it passes company proxies and has HTTP errors.

        Raises:
            ValueError: A setting is missing.
            faults.Fault: There are no credentials.
        """
        for name in ("project", "location"):
            if not getattr(settings, name):
                raise ValueError(
                    f"{name} is not set; give --{name}, set FLOWPARTS_{name.upper()} or use a profile"
                )
        root = settings.pipeline_root
        if root and not root.startswith("gs://"):
            raise ValueError(f"pipeline root {root!r} must start with gs:// on Vertex AI")
        self._settings = settings
        self._parent = f"projects/{settings.project}/locations/{settings.location}"
        endpoint = settings.endpoint or f"{settings.location}-aiplatform.googleapis.com"
        # They log each of their steps, with advice for notebooks.
        for noisy in (base, pipeline_job_schedules, _default):
            logging.getLogger(noisy.__name__).setLevel(logging.ERROR)
        self._credentials, _ = self._ask(lambda: google.auth.default(scopes=_SCOPES))
        aiplatform.init(
            project=settings.project,
            location=settings.location,
            credentials=self._credentials,
            api_endpoint=endpoint,
            api_transport="rest",
        )
        self._jobs = aiplatform_v1.PipelineServiceClient(
            credentials=self._credentials,
            transport="rest",
            client_options=ClientOptions(api_endpoint=endpoint),
        )

    def upload(self, sent: Package) -> tuple[str, bool]:
        """Upload a pipeline as a template to Artifact Registry, unless the same content exists."""
        if not self._settings.templates:
            raise ValueError(
                "upload keeps templates in Artifact Registry; give --templates or set it in the profile: "
                "https://LOCATION-kfp.pkg.dev/PROJECT/REPOSITORY. To run a pipeline, no upload is needed"
            )
        registry = self._registry()
        address = f"{self._settings.templates}/{sent.name}/{sent.version}"
        if earlier := self._template(registry, sent):
            return f"{self._settings.templates}/{sent.name}/{earlier}", False
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{sent.name}.yaml"
            file.write_text(sent.text, encoding="utf-8")
            self._ask(
                lambda: str(registry.upload_pipeline(str(file), tags=[sent.version])),
                made=lambda: self._template(registry, sent),
            )
        return address, True

    def run(self, sent: Package, parameters: Mapping[str, Any], name: str) -> Run:
        """Start a run with its name as the ID, which is unique on Vertex AI."""
        job = self._job(sent, parameters, name, {})
        created = self._ask(
            lambda: self._jobs.create_pipeline_job(
                parent=self._parent, pipeline_job=job, pipeline_job_id=name, timeout=TIMEOUT_SECONDS
            ),
            made=lambda: self._get(name),
        )
        return self._reported(created)

    def find(self, name: str) -> Run | None:
        """Return a run by its name; None if there is none."""
        job = self._get(name)
        return self._reported(job) if job else None

    def recent(self) -> list[str]:
        """Return the names of the latest runs."""
        return [_key(job) for job in self._listed(20)]

    def latest(self) -> list[RunSummary]:
        """Return the latest 100 runs, newest first."""
        return [
            RunSummary(_key(job), _STATES.get(job.state, "running") in ("running", "cancelling"))
            for job in self._listed(100)
        ]

    def _listed(self, count: int) -> list[PipelineJob]:
        listed = self._ask(
            lambda: self._jobs.list_pipeline_jobs(
                aiplatform_v1.ListPipelineJobsRequest(
                    parent=self._parent, page_size=count, order_by="create_time desc"
                ),
                timeout=TIMEOUT_SECONDS,
            )
        )
        return list(next(iter(listed.pages)).pipeline_jobs)

    def cancel(self, run: Run) -> None:
        """Cancel a run."""
        self._ask(
            lambda: self._jobs.cancel_pipeline_job(
                name=f"{self._parent}/pipelineJobs/{run.key}", timeout=TIMEOUT_SECONDS
            )
        )

    def schedules(self, name: str) -> list[Schedule]:
        """Return the schedules with a name."""
        listed = self._ask(lambda: aiplatform.PipelineJobSchedule.list(filter=f'display_name="{name}"'))
        return [
            Schedule(
                key=found.resource_name,
                digest=request.pipeline_job.labels.get(_DIGEST_LABEL, ""),
                active=found.state == aiplatform_v1.Schedule.State.ACTIVE,
            )
            for found in listed
            for request in [found.gca_resource.create_pipeline_job_request]
        ]

    def create_schedule(self, wanted: RequestedSchedule) -> None:
        """Create a schedule with at most one active run at a time."""
        labels = {_DIGEST_LABEL: wanted.digest}
        settings = self._settings

        def create() -> Any:
            schedule = aiplatform.PipelineJobSchedule(
                pipeline_job=self._described(wanted.package, wanted.parameters, wanted.name, labels),
                display_name=wanted.name,
            )
            schedule.create(
                cron=wanted.cron,
                max_concurrent_run_count=1,
                service_account=settings.service_account or None,
                network=settings.network or None,
                create_request_timeout=TIMEOUT_SECONDS,
            )

        def made() -> Any:
            found = self.schedules(wanted.name)
            return next((old for old in found if old.active and old.digest == wanted.digest), None)

        self._ask(create, made=made)

    def set_active(self, schedule: Schedule, active: bool) -> None:
        """Pause or resume a schedule."""
        found = self._ask(lambda: aiplatform.PipelineJobSchedule.get(schedule.key))
        self._ask(found.resume if active else found.pause)

    def runs_in_progress(self, schedule: Schedule) -> list[str]:  # noqa: ARG002 nothing hangs on it
        """Return no runs: on Vertex AI the runs of a removed schedule continue."""
        return []

    def delete_schedule(self, schedule: Schedule) -> None:
        """Remove a schedule."""
        try:
            self._ask(lambda: aiplatform.PipelineJobSchedule.get(schedule.key).delete())
        except faults.Fault as fault:
            if fault.status != 404:
                raise

    def _described(
        self, sent: Package, parameters: Mapping[str, Any], name: str, labels: Mapping[str, str]
    ) -> aiplatform.PipelineJob:
        settings = self._settings
        if not settings.pipeline_root:
            raise ValueError(
                "pipeline root is not set; give --pipeline-root gs://BUCKET/FOLDER, FLOWPARTS_PIPELINE_ROOT "
                "or a profile in flowparts.toml"
            )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pipeline.yaml"
            file.write_text(sent.text, encoding="utf-8")
            return aiplatform.PipelineJob(
                display_name=name,
                template_path=str(file),
                job_id=name,
                pipeline_root=settings.pipeline_root,
                parameter_values=dict(parameters),
                encryption_spec_key_name=settings.kms_key or None,
                labels={**settings.labels, "flowparts": sent.version.replace(".", "-")[:63], **labels},
            )

    def _job(self, sent: Package, parameters: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> Any:
        # Its submit() would also create the bucket and grant rights on it.
        job: Any = self._described(sent, parameters, name, labels)._gca_resource
        job.service_account = self._settings.service_account
        job.network = self._settings.network
        return job

    def _get(self, name: str) -> PipelineJob | None:
        try:
            return self._ask(
                lambda: self._jobs.get_pipeline_job(
                    name=f"{self._parent}/pipelineJobs/{name}", timeout=TIMEOUT_SECONDS
                )
            )
        except faults.Fault as fault:
            if fault.status == 404:
                return None
            raise

    def _reported(self, job: PipelineJob) -> Run:
        # The service lists groups together with the steps.
        spec = json_format.MessageToDict(job._pb.pipeline_spec)
        steps = {step.name for step in graph.steps(spec)}
        tasks = [
            Task(
                name=detail.task_name,
                state=_TASK_STATES.get(detail.state, "running"),
                seconds=_seconds(detail),
                error=" ".join(detail.error.message.split()),
            )
            for detail in sorted(job.job_detail.task_details, key=lambda detail: str(detail.create_time))
            if detail.task_name in steps
        ]
        key = _key(job)
        settings = self._settings
        return Run(
            name=job.display_name or key,
            key=key,
            state=_STATES.get(job.state, "running"),
            url=f"https://console.cloud.google.com/vertex-ai/locations/{settings.location}/pipelines/runs/{key}"
            f"?project={settings.project}",
            tasks=uniquely_named(tasks),
            error=" ".join(job.error.message.split()),
            parameters=json_format.MessageToDict(job._pb.runtime_config).get("parameterValues", {}),
            version=job.labels.get("flowparts", ""),
            images=images_in(spec),
            pipeline=str(spec.get("pipelineInfo", {}).get("name", "")),
        )

    def _registry(self) -> RegistryClient:
        def log_in() -> RegistryClient:
            if not self._credentials.valid:
                self._credentials.refresh(Request())
            return RegistryClient(self._settings.templates, auth=ApiAuth(str(self._credentials.token)))

        return self._ask(log_in)

    def _template(self, registry: RegistryClient, sent: Package) -> str | None:
        try:
            tags = self._ask(lambda: registry.list_tags(sent.name))
        except faults.Fault as fault:
            if fault.status == 404:  # the first version creates the package
                return None
            raise
        names = [str(tag["name"]).rpartition("/")[2] for tag in tags]
        return next((name for name in names if name.endswith(f"-{sent.digest}")), None)

    def _ask(self, ask: Callable[[], _Answer], made: Callable[[], _Answer | None] | None = None) -> _Answer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the libraries emit warnings about themselves
            return faults.with_retries(ask, self._fault, made)

    def _fault(self, error: Exception) -> faults.Fault | None:
        service = f"Vertex AI ({self._parent})"
        if isinstance(error, DefaultCredentialsError | RefreshError):
            return faults.Fault(f"there are no credentials for Google Cloud: {_LOG_IN}", 401)
        if isinstance(error, GoogleAPICallError) and error.code:
            said = re.sub(r"^[A-Z]+ https?://\S+ ", "", error.message or "")
            return faults.from_status(service, int(error.code), said, _HINTS)
        if isinstance(error, HTTPError) and error.response is not None:
            service = f"Artifact Registry ({self._settings.templates})"
            return faults.from_status(
                service, error.response.status_code, shorten(error.response.text, 300), _HINTS
            )
        if isinstance(error, ConnectTimeout) or re.search("NewConnection|NameResolution", repr(error)):
            return faults.Fault(
                f"{service} can't be reached; check the network and the location", transient=True
            )
        if isinstance(error, RequestException | RetryError | GoogleAuthError):
            return faults.Fault(
                f"{service} gave no answer ({type(error).__name__}); try again, and see what it has done",
                transient=True,
                may_be_done=True,
            )
        return None


def _key(job: PipelineJob) -> str:
    return str(job.name.rpartition("/")[2])


def _seconds(detail: PipelineTaskDetail) -> float:
    start = detail.start_time or detail.create_time
    # Cached results took no time, whatever the service reports.
    if not start or detail.state == PipelineTaskDetail.State.SKIPPED:
        return 0.0
    return float(((detail.end_time or datetime.now(UTC)) - start).total_seconds())
