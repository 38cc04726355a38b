"""Kubeflow Pipelines as a service: uploads, runs and schedules."""

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_server_api.api.pipeline_service_api import PipelineServiceApi
from kfp_server_api.models.v2beta1_pipeline import V2beta1Pipeline
from kfp_server_api.models.v2beta1_recurring_run_status import V2beta1RecurringRunStatus

from backends import faults
from backends.kubeflow.client import KubeflowClient
from backends.kubeflow.runs import KubeflowRuns
from backends.profiles import Kubeflow
from backends.submission import Package, RequestedSchedule, Run, RunSummary, Schedule, images_in

# A run that was due just before its schedule was disabled appears about three seconds later.
SETTLE_SECONDS = 5.0
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DIGEST = re.compile(r"flowparts ([0-9a-f]{16})")


class KubeflowService:
    """Uploads, runs and schedules pipelines on Kubeflow Pipelines."""

    def __init__(self, settings: Kubeflow, environment: Mapping[str, str] = os.environ) -> None:
        """Connect.

        Args:
            settings: Settings of the endpoint and of runs.
            environment: FLOWPARTS_TOKEN (bearer token) or FLOWPARTS_COOKIE (of a session behind Dex or
                another OIDC log-in); without them the pod's projected token is used, or none, as behind
                kubectl port-forward.

        Raises:
            ValueError: There is no endpoint.
        """
        self._settings = settings
        client = KubeflowClient(settings, environment)
        self._client, self._ask, self._endpoint = client.api, client.ask, client.endpoint
        self._runs = KubeflowRuns(client)

    def upload(self, sent: Package) -> tuple[str, bool]:
        """Upload a pipeline as a new version, unless the same content exists."""
        pipeline, version, new = self._uploaded(sent)
        return f"{self._endpoint}/#/pipelines/details/{pipeline}/version/{version}", new

    def run(self, sent: Package, parameters: Mapping[str, Any], name: str) -> Run:
        """Start a run of an uploaded version; an existing run with this name is returned unchanged."""
        earlier = self.find(name)
        if earlier:
            return earlier
        pipeline, version, _ = self._uploaded(sent)
        experiment = self._experiment()
        started = self._ask(
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
            starts=True,
        )
        return Run(
            name=name,
            key=started.run_id,
            state="running",
            url=self._runs.page(started.run_id),
            parameters=parameters,
            version=sent.version,
            images=images_in(sent.spec),
        )

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
        return self._runs.read(run)

    def recent(self) -> list[str]:
        """Return the names of the latest runs."""
        listed = self._ask(lambda: self._client.list_runs(page_size=20, sort_by="created_at desc"))
        return [run.display_name for run in listed.runs or []]

    def latest(self) -> list[RunSummary]:
        """Return the latest 100 runs, newest first."""
        listed = self._ask(
            lambda: self._client.list_runs(
                page_size=100, sort_by="created_at desc", namespace=self._settings.namespace or None
            )
        )
        return [
            RunSummary(run.run_id, self._runs.state(run) in ("running", "cancelling"))
            for run in listed.runs or []
        ]

    def cancel(self, run: Run) -> None:
        """Cancel a run."""
        self._ask(lambda: self._client.terminate_run(run.key))

    def schedules(self, name: str) -> list[Schedule]:
        """Return the recurring runs with a name."""
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

    def create_schedule(self, wanted: RequestedSchedule) -> None:
        """Create a recurring run of an uploaded version."""
        pipeline, version, _ = self._uploaded(wanted.package)
        experiment = self._experiment()
        self._ask(
            lambda: self._client.create_recurring_run(
                experiment_id=experiment,
                job_name=wanted.name,
                description=f"{wanted.package.description} (flowparts {wanted.digest})",
                cron_expression=f"0 {wanted.cron}",  # the server's first field is seconds
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
            starts=True,
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

    def runs_in_progress(self, schedule: Schedule) -> list[str]:
        """Return a schedule's active runs: deleting it deletes their workflows and pods."""
        if schedule.active:
            time.sleep(SETTLE_SECONDS)
        listed = self._ask(
            lambda: self._client.list_runs(
                page_size=100,
                sort_by="created_at desc",
                namespace=self._settings.namespace or None,
                filter=_filter("EQUALS", schedule.key, "recurring_run_id"),
            )
        )
        return [
            run.display_name
            for run in listed.runs or []
            if self._runs.state(run) in ("running", "cancelling")
        ]

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
        # It looks for the experiment before it creates one.
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


def _equals(name: str) -> str:
    return _filter("EQUALS", name)


def _filter(operation: str, value: str, key: str = "display_name") -> str:
    predicate = {"operation": operation, "key": key, "stringValue": value}
    return json.dumps({"predicates": [predicate]})
