"""Starts runs through submit.py, follows them, and removes everything again."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from kfp_server_api.exceptions import ApiException

import submit
from backends import compilation, faults, package, profiles, submission
from backends.kubeflow.client import KubeflowClient
from backends.kubeflow.service import KubeflowService
from tests.cluster.metadata_store import MetadataStore

POLL_SECONDS = 3.0
# On two busy cores tabular-training takes some 6 minutes beside the other runs.
RUN_SECONDS = 900.0
_Seen = TypeVar("_Seen")


class Backend:
    """A Kubeflow Pipelines, and the runs of one test session on it."""

    def __init__(self, chosen: profiles.Kubeflow) -> None:
        self.settings = chosen
        # MLflow server, as steps in the cluster reach it; empty for none.
        self.tracking_uri = os.environ.get("FLOWPARTS_TEST_TRACKING_URI", "")
        # A folder in a bucket that steps may write to, and the secret whose keys tell them how.
        self.bucket = os.environ.get("FLOWPARTS_TEST_S3", "").rstrip("/")
        self.bucket_secret = os.environ.get("FLOWPARTS_TEST_S3_SECRET") or "bucket"
        self.service = KubeflowService(chosen)
        connection = KubeflowClient(chosen)
        self.client, self.endpoint = connection.api, connection.endpoint
        self.store = MetadataStore(self.endpoint, os.environ.get("FLOWPARTS_TOKEN", ""))
        # Pipelines, runs, models and endpoints of this session bear it; so nothing of others is touched.
        self.prefix = f"test-{os.urandom(3).hex()}"
        self.runs: dict[str, str] = {}  # names by keys
        self._folder = TemporaryDirectory()

    def name(self, key: str) -> str:
        """Return the name of a run or pipeline of this session."""
        return f"{self.prefix}-{key}"

    def package(self, key: str, pipeline: Any, secrets: Mapping[str, list[str]] | None = None) -> Path:
        """Compile a pipeline as submit.py does for this backend, under a name of this session."""
        chosen = dataclasses.replace(self.settings, secrets={**self.settings.secrets, **(secrets or {})})
        text = compilation.pipeline_text(pipeline, "kubeflow", chosen, embed_source=False)
        spec = package.documents(text)[0]
        spec["pipelineInfo"]["name"] = self.name(key)
        file = Path(self._folder.name) / f"{key}.yaml"
        file.write_text(package.with_pipeline(text, spec), encoding="utf-8")
        return file

    def start(self, key: str, file: Path, parameters: Mapping[str, Any], again: str = "") -> None:
        """Start a run of a compiled pipeline.

        Args:
            key: Names the pipeline.
            file: Its YAML.
            parameters: Those that differ from the pipeline's defaults.
            again: Names a further run of it.
        """
        self.runs[key + again] = self.name(key + again)
        given = [
            f"-p={name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in parameters.items()
        ]
        self.submit(
            "run", self.name(key), "--package", str(file), "--run-name", self.name(key + again), *given
        )

    def submit(self, *arguments: str, expected: int = 0) -> None:
        """Call submit.py."""
        more = ["--endpoint", self.endpoint, "--experiment", self.prefix]
        assert submit.main(["kubeflow", *arguments, *more]) == expected, arguments

    def run(self, key: str) -> submission.Run:
        """Return a run as it is now."""
        found = self.service.find(self.runs[key])
        assert found, f"{self.runs[key]} was deleted"
        return found

    def ended(self, key: str) -> submission.Run:
        """Return a run when it has ended."""
        return self.eventually(
            lambda: None if (run := self.run(key)).in_progress else run, f"{self.name(key)} to end"
        )

    def eventually(self, look: Callable[[], _Seen | None], what: str, seconds: float = RUN_SECONDS) -> _Seen:
        """Return what `look` returns as soon as it is something."""
        deadline = time.monotonic() + seconds
        while True:
            if seen := look():
                return seen
            if time.monotonic() > deadline:
                pytest.fail(f"waited {seconds:.0f} s for {what}")
            time.sleep(POLL_SECONDS)

    def clean_up(self) -> None:
        """Remove what bears this session's prefix."""
        client, said = self.client, list[str]()
        for recurring in self._listed(client.list_recurring_runs, "recurring_runs"):
            self._remove(said, client.delete_recurring_run, recurring.recurring_run_id)
        for run in self._listed(client.list_runs, "runs"):
            # A run whose schedule was removed goes on only in name: it can't be ended, but removed.
            with suppress(ApiException):
                client.terminate_run(run.run_id)
            self._remove(said, client.delete_run, run.run_id)
        for pipeline in self._listed(client.list_pipelines, "pipelines"):
            for version in self._versions(pipeline.pipeline_id):
                self._remove(said, client.delete_pipeline_version, pipeline.pipeline_id, version)
            self._remove(said, client.delete_pipeline, pipeline.pipeline_id)
        for experiment in self._listed(client.list_experiments, "experiments"):
            self._remove(said, client.delete_experiment, experiment.experiment_id)
        self._folder.cleanup()
        if said:
            pytest.fail("left on the backend: " + "; ".join(said))

    def _listed(self, ask: Callable[..., Any], field: str) -> list[Any]:
        """Return all that bears the prefix."""
        found: list[Any] = []
        token = ""
        with suppress(faults.Fault, ApiException):
            while True:
                listed = ask(page_size=100, page_token=token, namespace=self.settings.namespace or None)
                found += getattr(listed, field) or []
                token = listed.next_page_token or ""
                if not token:
                    break
        return [each for each in found if (each.display_name or "").startswith(self.prefix)]

    def _versions(self, pipeline: str) -> list[str]:
        listed = self.client.list_pipeline_versions(pipeline, page_size=100)
        return [each.pipeline_version_id for each in listed.pipeline_versions or []]

    def _remove(self, said: list[str], remove: Callable[..., Any], *keys: str) -> None:
        try:
            remove(*keys)
        except ApiException as error:
            if error.status != 404:
                said.append(f"{' '.join(keys)}: {error.status} {str(error.body)[:200]}")
