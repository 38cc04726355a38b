"""What people are told of runs as a real Kubeflow Pipelines served them, and of runs on Vertex AI."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import submit
from flowparts.util import outgoing
from tests.stand_in import Answer, Request, StandIn, Trouble
from tests.submit.kubeflow_server import RECORDED, KubeflowServer
from tests.submit.test_kubeflow_runs import LOGS
from tests.submit.vertex_server import VertexServer


class Hook(StandIn):
    routes = (("POST", "/hook", "take"),)

    def take(self, request: Request) -> Answer:
        return Answer("ok", content_type="text/plain")

    @property
    def titles(self) -> list[str]:
        return [request.json["title"] for request in self.requests]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr(outgoing, "PAUSES_SECONDS", (0.01, 0.01))
    server = Hook()
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK", f"{server.url}/hook")
    yield server
    server.close()


@pytest.fixture
def watch(kubeflow: KubeflowServer, hook: Hook, tmp_path: Path) -> Callable[..., int]:
    """Look once: `watch("--on", "failed")`; the first look knows no run."""

    def look(*arguments: str) -> int:
        place = ["--endpoint", kubeflow.url, "--state", str(tmp_path / "watch.json"), "--once"]
        return submit.main(["kubeflow", "watch", *place, *arguments])

    assert look() == 0
    return look


def spec(pipeline: str) -> dict[str, Any]:
    return {"pipelineInfo": {"name": pipeline}, "root": {"dag": {"tasks": {}}}, "components": {}}


def test_a_failed_run_is_reported_once_with_its_step_cause_and_page(
    kubeflow: KubeflowServer, hook: Hook, watch: Callable[..., int]
) -> None:
    kubeflow.logs = {node: next(iter(texts.values())) for node, texts in LOGS.items()}
    key = kubeflow.replay("failed-step-in-exit-handler")
    kubeflow.replay("succeeded-one-step")
    assert watch() == watch() == 0
    (request,) = hook.requests
    message = request.json
    assert message["state"] == "failed"
    assert message["step"] == "exit-handler-1/fails"
    assert message["error"] == 'planned failure: the table has no column "x"'
    assert message["link"] == f"{kubeflow.url}/#/runs/details/{key}"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("failed-oom-timeout-nan", "out of memory: it was killed at its limit (OOMKilled)"),
        ("argument-list-too-long", "exec /var/run/argo/argoexec: argument list too long"),
        ("unknown-service-account", 'serviceaccount "nobody" not found'),
        ("workflow-too-large", "Request entity too large: limit is 3145728"),
    ],
)
def test_failures_invisible_to_exit_handlers_are_reported_with_their_cause(
    name: str, error: str, kubeflow: KubeflowServer, hook: Hook, watch: Callable[..., int]
) -> None:
    kubeflow.logs = {node: next(iter(texts.values())) for node, texts in LOGS.items()}
    kubeflow.replay(name, spec("churn"))
    watch()
    (request,) = hook.requests
    assert error in request.json["error"] + request.json["message"]
    assert request.json["pipeline"] == "churn"


@pytest.mark.parametrize(
    ("name", "cause"),
    [("image-cannot-be-pulled", "ImagePullBackOff"), ("never-scheduled-cpu-request", "Insufficient cpu")],
)
def test_a_step_that_cannot_start_is_reported_once(
    name: str, cause: str, kubeflow: KubeflowServer, hook: Hook, watch: Callable[..., int]
) -> None:
    kubeflow.replay(name)
    watch("--waiting-minutes", "60")
    assert hook.requests == []
    watch("--waiting-minutes", "1")
    watch("--waiting-minutes", "1")
    (request,) = hook.requests
    assert request.json["state"] == "waiting"
    assert cause in request.json["error"]


@pytest.mark.parametrize(
    ("states", "titles"),
    [
        (["failed"], []),
        (["cancelled"], ["churn cancelled"]),
        (["succeeded", "cancelled"], ["churn cancelled", "churn succeeded"]),
    ],
)
def test_users_choose_which_states_are_notified(
    states: list[str],
    titles: list[str],
    kubeflow: KubeflowServer,
    hook: Hook,
    watch: Callable[..., int],
) -> None:
    kubeflow.replay("succeeded-one-step", spec("churn"))
    kubeflow.replay("terminated-while-a-step-runs", spec("churn"))
    watch("--on", *states)
    assert sorted(hook.titles) == titles


def test_the_first_poll_reports_no_past_runs(kubeflow: KubeflowServer, hook: Hook, tmp_path: Path) -> None:
    kubeflow.replay("workflow-too-large")
    arguments = ["--endpoint", kubeflow.url, "--state", str(tmp_path / "watch.json"), "--once"]
    submit.main(["kubeflow", "watch", *arguments])
    submit.main(["kubeflow", "watch", *arguments])
    assert hook.requests == []


def test_a_watched_run_that_fails_is_reported_even_after_a_hundred_newer_ones(
    kubeflow: KubeflowServer, hook: Hook, watch: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.replay("running")
    watch()
    run = kubeflow.runs[0]
    kubeflow.workflows.clear()
    run.state = "FAILED"
    monkeypatch.setattr(kubeflow, "list_runs", lambda request: Answer({"runs": []}))
    watch()
    assert len(hook.requests) == 1


def test_a_storm_of_failures_is_bounded(
    kubeflow: KubeflowServer, hook: Hook, watch: Callable[..., int]
) -> None:
    recorded = json.loads((RECORDED / "runs" / "workflow-too-large.json").read_text())["run"]
    # Names of letters only: numbers don't make news of the same news.
    for number in range(30):
        kubeflow.replay("workflow-too-large", spec(f"pipeline-{chr(97 + number % 26)}{'z' * (number // 26)}"))
        kubeflow.runs[-1].run_id = f"{number:08x}{recorded['run_id'][8:]}"
    watch()
    assert len(hook.requests) == 10
    assert hook.titles[-1] == "21 more runs failed"


def test_the_same_failure_of_the_next_run_is_not_notified_within_the_quiet_hours(
    kubeflow: KubeflowServer, hook: Hook, watch: Callable[..., int]
) -> None:
    kubeflow.replay("workflow-too-large", spec("churn"))
    watch()
    kubeflow.replay("workflow-too-large", spec("churn"))
    again = kubeflow.runs[-1]
    again.run_id, workflow = f"11111111{again.run_id[8:]}", kubeflow.workflows[again.run_id]
    kubeflow.workflows[again.run_id] = workflow
    watch()
    assert len(hook.requests) == 1


def test_a_receiver_that_is_down_does_not_end_the_watch(
    kubeflow: KubeflowServer, hook: Hook, watch: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    hook.troubles = [Trouble(500, "POST", "/hook", times=99)]
    kubeflow.replay("workflow-too-large")
    assert watch() == 0
    assert len(hook.requests) == 3
    assert "not notified" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"place": "kubeflow elsewhere"}', "is the state of a watch of kubeflow elsewhere"),
        ('{"other": 1}', "isn't the state of a watch"),
        ("{", "is not valid JSON"),
    ],
)
def test_another_state_is_refused(
    content: str,
    sentence: str,
    watch: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    (tmp_path / "watch.json").write_text(content)
    assert watch() == 2
    assert sentence in capsys.readouterr().err


def test_without_a_channel_nothing_is_watched(
    kubeflow: KubeflowServer, capsys: pytest.CaptureFixture
) -> None:
    assert submit.main(["kubeflow", "watch", "--once", "--endpoint", kubeflow.url]) == 2
    assert "no channel for notices is set; set one of FLOWPARTS_NOTIFY_WEBHOOK" in capsys.readouterr().err


@pytest.mark.parametrize(("state", "count"), [("FAILED", 1), ("SUCCEEDED", 0)])
def test_a_run_that_is_waited_for_is_reported_if_it_fails(
    state: str, count: int, kubeflow: KubeflowServer, hook: Hook
) -> None:
    kubeflow.story = [("RUNNING", []), (state, [])]
    code = submit.main(["kubeflow", "run", "batch-prediction", "--wait", "--endpoint", kubeflow.url])
    assert code == count
    assert hook.titles == ["batch-prediction failed"] * count


def test_runs_on_vertex_ai_are_watched(vertex: VertexServer, hook: Hook, tmp_path: Path) -> None:
    place = ["--endpoint", vertex.url, "--project", "p", "--location", "europe-west4"]
    state = ["--state", str(tmp_path / "watch.json"), "--once"]
    assert submit.main(["vertex", "watch", *place, *state]) == 0
    vertex.story = [("FAILED", [("ingest-table", "FAILED", "no\nfile")])]
    root = ["--pipeline-root", "gs://bucket/runs"]
    assert submit.main(["vertex", "run", "batch-prediction", *place, *root]) == 0
    for _ in range(3):
        assert submit.main(["vertex", "watch", *place, *state]) == 0
    (request,) = hook.requests
    assert request.json["title"] == "batch-prediction failed at ingest-table"
    assert request.json["error"] == "no file"
