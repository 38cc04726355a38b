"""The tests of a running Kubeflow, called on the stand-in as `make test-cluster` calls them on a real one."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from kfp_server_api import models

from backends import catalogue
from tests.stand_in import Answer, Request
from tests.submit.kubeflow_server import KubeflowServer

ROOT = Path(__file__).parents[2]


class Cluster(KubeflowServer):
    """Has a run for each schedule, and lets everything be removed."""

    report: Path
    said: str

    routes = (
        *KubeflowServer.routes,
        ("DELETE", "/apis/v2beta1/(runs|experiments|pipelines)/([^/:]+)", "remove"),
        ("DELETE", "/apis/v2beta1/pipelines/[^/:]+/(versions)/([^/:]+)", "remove"),
    )

    def create_recurring_run(self, request: Request) -> Answer:
        answer = super().create_recurring_run(request)
        self.runs.append(
            models.V2beta1Run(
                run_id="5c4ed01e",
                display_name=f"{answer.body['display_name']}x7k2p-1-1",
                recurring_run_id=answer.body["recurring_run_id"],
                state="RUNNING",
            )
        )
        return answer

    def list_runs(self, request: Request) -> Answer:
        answer = super().list_runs(request)
        # The schedule's run goes on when it is first asked for, and has ended when its end is waited for.
        if "recurring_run_id" in request.query.get("filter", ""):
            for run in self.runs:
                run.state = "SUCCEEDED" if run.recurring_run_id else run.state
        return answer

    def remove(self, request: Request, kind: str, key: str) -> Answer:
        field = f"{kind.removesuffix('s')}_id".replace("version_id", "pipeline_version_id")
        kept = [each for each in getattr(self, kind) if getattr(each, field) != key]
        setattr(self, kind, kept)
        return Answer({})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Run the tests on a stand-in that holds somebody else's things; give it as they left it."""
    server = Cluster()
    server.runs.append(models.V2beta1Run(run_id="1", display_name="nightly", state="SUCCEEDED"))
    server.pipelines.append(models.V2beta1Pipeline(pipeline_id="2", display_name="theirs", name="theirs"))
    server.report = tmp_path_factory.mktemp("report") / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/cluster"]
    command += [f"--junitxml={server.report}", "-k", "a_pipeline_is_green or metrics or schedule or champion"]
    environment = {**os.environ, "FLOWPARTS_TEST_ENDPOINT": server.url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    server.close()
    server.said = done.stdout + done.stderr
    return server


def outcomes(cluster: Cluster) -> dict[str, str]:
    """Return what became of each test: passed, failed, or why it was skipped."""
    assert cluster.report.exists(), cluster.said
    found = {}
    for case in ElementTree.parse(cluster.report).iter("testcase"):
        skipped = case.find("skipped")
        failed = [case.find("failure"), case.find("error")]
        why = skipped.get("message", "") if skipped is not None else "passed"
        found[case.get("name", "")] = next((each.text for each in failed if each is not None), why)
    return found


def test_tests_without_their_backend_are_skipped_with_the_reason(cluster: Cluster) -> None:
    found = outcomes(cluster)
    green = {name: outcome for name, outcome in found.items() if "a_pipeline_is_green" in name}
    assert len(green) >= len(catalogue.pipelines()) - 2
    assert set(green.values()) == {"passed"}, green
    assert found["test_a_schedule_starts_runs_until_it_is_removed"] == "passed"
    assert "give the address of the UI" in found["test_metrics_are_numbers_on_an_artifact"]
    assert "TRACKING_URI=" in found["test_a_pipeline_that_uses_a_champion_is_green[batch-prediction]"]


def test_nothing_is_left_and_nothing_of_others_is_touched(cluster: Cluster) -> None:
    assert [run.display_name for run in cluster.runs] == ["nightly"]
    assert [pipeline.name for pipeline in cluster.pipelines] == ["theirs"]
    assert (cluster.versions, cluster.experiments, cluster.recurring) == ([], [], [])
