"""What a user sees of runs as a real Kubeflow Pipelines served them."""

import base64
import gzip
import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

import submit
from backends import submission
from backends.local.live_view import LiveView
from tests.stand_in import Trouble
from tests.submit.kubeflow_server import RECORDED, KubeflowServer

LOGS = json.loads((RECORDED / "logs.json").read_text())
Do = Callable[..., int]


@pytest.fixture
def do(kubeflow: KubeflowServer) -> Do:
    def run(*arguments: str) -> int:
        return submit.main(["kubeflow", *arguments, "--endpoint", kubeflow.url])

    return run


@pytest.fixture
def shown(kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str]]:
    """Ask for the status of a recorded run: `code, text = shown("running")`."""

    def show(name: str, spec: Any = None, *arguments: str) -> tuple[int, str]:
        code = do("status", kubeflow.replay(name, spec), *arguments)
        return code, capsys.readouterr().out

    return show


def pipeline(*keys: str) -> dict[str, Any]:
    """Return a pipeline document with steps of these keys, such as group/step."""
    components: dict[str, Any] = {}

    def dag(prefix: str) -> dict[str, Any]:
        names = {key[len(prefix) :].split("/")[0] for key in keys if key.startswith(prefix)}
        for name in names:
            inside = f"{prefix}{name}/"
            is_group = any(key.startswith(inside) for key in keys)
            components[f"comp-{prefix}{name}"] = {"dag": dag(inside)} if is_group else {"executorLabel": name}
        return {
            "tasks": {
                name: {"componentRef": {"name": f"comp-{prefix}{name}"}, "taskInfo": {"name": name}}
                for name in names
            }
        }

    return {"root": {"dag": dag("")}, "components": components, "deploymentSpec": {"executors": {}}}


def steps(text: str) -> dict[str, str]:
    """Return what is said of each step, by mark and name."""
    found = re.findall(r"^([…○✓✗?-]) (\S.*?) {2,}(.*)$", text, re.MULTILINE)
    return {f"{mark} {name}": said.strip() for mark, name, said in found}


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("succeeded-one-step", 0, {"✓ hello": "15.0 s"}),
        (
            "succeeded-three-steps",
            0,
            {"✓ io-write": "16.0 s", "✓ io-read": "7.0 s", "✓ io-read-again": "5.0 s"},
        ),
        ("served-from-cache-and-scheduled", 0, {"✓ hello": "0.0 s  (from the cache)"}),
        (
            "loop-and-exit-handler",
            0,
            {
                "✓ exit-handler-1/for-loop-2[0]/square": "10.0 s",
                "✓ exit-handler-1/for-loop-2[1]/square": "15.0 s",
                "✓ exit-handler-1/add": "17.0 s",
                "✓ note": "10.0 s",
            },
        ),
        (
            "failed-then-retried-by-the-api",
            0,
            {"✓ first": "5.0 s", "✓ toggled": "5.0 s", "✓ last": "5.0 s"},
        ),
        (
            "failed-step-in-exit-handler",
            1,
            {
                "✗ exit-handler-1/fails": "10.0 s",
                "✓ exit-handler-1/quick-4": "11.0 s",
                "- exit-handler-1/quick": "not run",
                "- exit-handler-1/quick-2": "not run",
                "✓ note": "154.0 s",
            },
        ),
        ("terminated-one-step", 3, {"✗ hello": "10.0 s"}),
        ("terminated-while-a-step-runs", 3, {"✗ slow": "24.0 s"}),
        ("terminated-in-exit-handler", 3, {"✗ exit-handler-1/slow": "12.0 s", "✓ notify": "5.0 s"}),
        ("unknown-service-account", 1, {"✗ start of the run": "0.0 s"}),
        ("workflow-too-large", 1, {}),
    ],
)
def test_a_run_is_shown_as_it_was(
    shown: Callable[..., Any], name: str, code: int, told: dict[str, str]
) -> None:
    got, text = shown(name)
    assert (got, steps(text)) == (code, told)


@pytest.mark.parametrize("name", ["terminated-one-step", "terminated-in-exit-handler"])
def test_a_terminated_run_is_reported_as_cancelled_though_the_api_says_failed(
    shown: Callable[..., Any], name: str
) -> None:
    _, text = shown(name)
    assert re.search(r"^\S+ cancelled$", text, re.MULTILINE)
    assert "failed" not in text


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        (
            "unknown-service-account",
            [
                'failed: start of the run\n  pods "kfp-smoke-hc8sx-system-dag-driver-3441057610" is '
                "forbidden: error looking up service account kubeflow/nobody: "
                'serviceaccount "nobody" not found\n'
            ],
        ),
        ("workflow-too-large", ["failed: Request entity too large: limit is 3145728\n"]),
        (
            "failed-oom-timeout-nan",
            [
                "failed: oom\n  out of memory: it was killed at its limit (OOMKilled)",
                "failed: slow\n  timed out: it ran longer than the timeout that the pipeline sets for it\n",
                'failed: infout\n  failed to unmarshall ExecutorOutput in file ".../output_metadata.json": '
                "proto: syntax error (line 1:437): invalid value Infinity\n",
                "invalid value NaN\n",
            ],
        ),
        (
            "argument-list-too-long",
            ["failed: biglen\n  exec /var/run/argo/argoexec: argument list too long\n"],
        ),
        ("condition-that-cannot-be-read", ["failed: condition-1\n", "failed: condition-2\n"]),
        (
            "expression-in-a-value-fails-the-dag",
            [
                "failed: ru\n  task 'rec-braces-trclt(0).root(0).ru' errored: failed to evaluate expression",
                "Argo evaluates {{…}} in values: an input of the step holds such text\n",
            ],
        ),
    ],
)
def test_a_failure_beside_the_program_is_reported_with_its_reason(
    kubeflow: KubeflowServer, shown: Callable[..., Any], name: str, sentences: list[str]
) -> None:
    kubeflow.logs = {node: next(iter(texts.values())) for node, texts in LOGS.items()}
    code, text = shown(name)
    assert code == 1
    for sentence in sentences:
        assert sentence in text


@pytest.mark.parametrize("where", ["archive", "the API's own path", "Kubernetes", "artifact"])
def test_the_failed_steps_error_is_found_wherever_it_is_stored(
    kubeflow: KubeflowServer, shown: Callable[..., Any], where: str
) -> None:
    node, pod = "rec-fail-cckg8-194544459", "rec-fail-cckg8-system-container-impl-194544459"
    log = LOGS[node]["log"]
    if where == "archive":
        kubeflow.logs[node] = log
    elif where == "the API's own path":
        kubeflow.logs[node], kubeflow.is_the_ui = log, False
        kubeflow.troubles = [Trouble(404, "GET", "main-logs:read", times=9)]
    elif where == "Kubernetes":
        kubeflow.pod_logs[pod] = log
    if where != "artifact":
        _, text = shown("failed-step-in-exit-handler")
        assert 'failed: exit-handler-1/fails\n  planned failure: the table has no column "x"\n' in text
        return
    # The recorded text of this run's pod is cut; that of another has the place of its output.
    place = "mlpipeline/v2/artifacts/kfp-big-300000/243d8a54-c306-4928-a438-78a075b09578/biglen"
    kubeflow.artifacts = {
        f"{place}/{identifier}/executor-logs-0": LOGS[node]["output"]
        for identifier in (
            re.findall(rf"{place}/([0-9a-f-]+)/executor-logs", _nodes("argument-list-too-long"))
        )
    }
    _, text = shown("argument-list-too-long")
    assert 'failed: biglen\n  planned failure: the table has no column "x"\n' in text


def _nodes(name: str) -> str:
    workflow = json.loads((RECORDED / "runs" / f"{name}.json").read_text())["workflow"]
    return gzip.decompress(base64.b64decode(workflow["status"]["compressedNodes"])).decode()


def test_a_step_without_any_log_says_so_at_once(kubeflow: KubeflowServer, shown: Callable[..., Any]) -> None:
    _, text = shown("failed-step-in-exit-handler")
    assert "failed: exit-handler-1/fails\n  the step left no message; its log is in the UI\n" in text
    # A server says 500 for the log of a pod that is gone: no reason to ask again.
    assert len(kubeflow.sent("GET", "/k8s/pod/logs")) == 1


def test_a_workflow_compressed_by_argo_is_followed_to_its_end(
    kubeflow: KubeflowServer, shown: Callable[..., Any]
) -> None:
    code, text = shown("tabular-training-green-but-compressed")
    told = steps(text)
    assert code == 0
    assert len(told) == 15
    assert {key[0] for key in told} == {"✓"}
    turn = "condition-branches-1/condition-3/for-loop-4[3]/train-sklearn"
    assert told[f"✓ {turn}"] == "0.0 s  (from the cache)"

    pod = "tabular-training-wf95r-system-container-impl-272159991"
    end = LOGS["tabular-training-wf95r-272159991"]["end of the log"].split("\n", 1)[1]
    kubeflow.pod_logs[pod] = f"Traceback (most recent call last):\nValueError: 'classes' is missing\n{end}"
    code, text = shown("tabular-training-failed-compressed")
    assert code == 1
    assert len(steps(text)) == 16
    assert re.search(r"^failed: \S+/summarize-run\n  'classes' is missing$", text, re.MULTILINE)


def test_without_the_older_api_the_available_details_are_shown(
    kubeflow: KubeflowServer, shown: Callable[..., Any]
) -> None:
    kubeflow.serves_workflows = False
    kubeflow.logs["rec-fail-cckg8-3447270776"] = LOGS["rec-fail-cckg8-194544459"]["log"]
    inside = [f"exit-handler-1/{name}" for name in ("fails", "quick", "quick-2", "quick-4")]
    kubeflow.logs |= {"rec-fail-cckg8-3718541389": LOGS["rec-fail-cckg8-194544459"]["log"]}
    code, text = shown("failed-step-in-exit-handler", pipeline(*inside, "note"))
    assert code == 1
    assert steps(text)["- exit-handler-1/quick"] == "not run"
    assert steps(text)["✓ note"] == "163.0 s"
    assert 'failed: exit-handler-1/fails\n  planned failure: the table has no column "x"\n' in text

    _, text = shown("served-from-cache-and-scheduled", pipeline("hello"))
    assert steps(text) == {"✓ hello": "0.0 s  (from the cache)"}
    _, text = shown("terminated-one-step", pipeline("hello"))
    assert "hello" in text
    assert re.search(r"^\S+ cancelled$", text, re.MULTILINE)
    # The rows of a compressed workflow stand still.
    _, text = shown(
        "tabular-training-green-but-compressed", pipeline("ingest-table", "branch/summarize-run-2")
    )
    assert steps(text) == {
        "✓ ingest-table": "0.0 s  (from the cache)",
        "? branch/summarize-run-2": "not reported by the service",
    }
    code, text = shown("batch-prediction-scheduled", pipeline("load-champion", "batch-predict"))
    assert code == 0
    assert re.search(r"^✓ batch-predict +\d+\.0 s$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("never-scheduled-cpu-request", {"○ quick": "waiting: 0/1 nodes are available: 1 Insufficient cpu"}),
        ("running", {"… slow": ""}),
    ],
)
def test_a_step_that_cannot_start_waits_with_the_reason(
    shown: Callable[..., Any], name: str, said: dict[str, str]
) -> None:
    code, text = shown(name)
    assert (code, steps(text)) == (0, said)
    assert " is running" in text


def test_an_image_that_cannot_be_pulled_is_named(shown: Callable[..., Any]) -> None:
    _, text = shown("image-cannot-be-pulled")
    said = steps(text)["○ noimage"]
    assert said.startswith(
        'waiting: ImagePullBackOff: Back-off pulling image "REGISTRY/nosuch:1": ErrImagePull: '
    )


@pytest.mark.parametrize(
    ("argo", "said"),
    [
        (
            'CreateContainerConfigError: secret "s3" not found',
            'waiting: CreateContainerConfigError: secret "s3" not found',
        ),
        (
            "ContainerCreating",
            "waiting: ContainerCreating: its image is pulled, or a volume or secret that it mounts isn't "
            "there",
        ),
    ],
)
def test_other_reasons_for_a_waiting_pod_are_reported(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture, argo: str, said: str
) -> None:
    key = kubeflow.replay("never-scheduled-cpu-request")
    workflow = json.loads(kubeflow.workflows[key])
    for node in workflow["status"]["nodes"].values():
        if node["phase"] == "Pending":
            node["message"] = argo
    kubeflow.workflows[key] = json.dumps(workflow)
    assert do("status", key) == 0
    assert steps(capsys.readouterr().out) == {"○ quick": said}


def test_a_workflow_without_a_controller_is_waiting(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    key = kubeflow.replay("running")
    workflow = json.loads(kubeflow.workflows[key])
    first = min(node["startedAt"] for node in workflow["status"]["nodes"].values())
    metadata = {**workflow["metadata"], "creationTimestamp": first}
    kubeflow.workflows[key] = json.dumps({"metadata": metadata, "status": {}})
    assert do("status", key) == 0
    told = {"○ start of the run": "waiting: no workflow controller of Argo has taken it up"}
    assert steps(capsys.readouterr().out) == told


def test_a_pod_that_was_made_just_now_waits_without_a_reason(
    shown: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.kubeflow.runs.EXPLAINED_AFTER_SECONDS", 3600)
    _, text = shown("never-scheduled-cpu-request")
    assert steps(text) == {"○ quick": "waiting"}


def test_a_run_whose_step_cannot_start_in_time_is_ended_as_failed(
    kubeflow: KubeflowServer, shown: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reason is said then, however short the time.
    monkeypatch.setattr("backends.kubeflow.runs.EXPLAINED_AFTER_SECONDS", 3600)
    code, text = shown("never-scheduled-cpu-request", None, "--wait", "--start-timeout", "120")
    assert code == 1
    assert kubeflow.runs[0].state == "CANCELED"
    assert (
        "failed: quick\n  it couldn't start within 120 s, so the run was ended: 0/1 nodes are available"
        in text
    )


def test_the_limit_of_a_step_that_ran_out_of_memory_is_named(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    key = kubeflow.replay("failed-oom-timeout-nan")
    workflow = json.loads(kubeflow.workflows[key])
    container = {"name": "main", "resources": {"limits": {"memory": "256Mi"}}}
    patch = {"name": "pod-spec-patch", "value": json.dumps({"containers": [container]})}
    for node in workflow["status"]["nodes"].values():
        if ".oom(0).executor(0)" in node["name"]:
            node["inputs"] = {"parameters": [patch]}
    kubeflow.workflows[key] = json.dumps(workflow)
    assert do("status", key) == 1
    assert "out of memory: it was killed at its limit of 256Mi" in capsys.readouterr().out


def test_a_service_that_is_away_for_a_while_does_not_end_the_wait(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    key = kubeflow.replay("running")
    look = kubeflow.get_run
    looks = []

    def get_run(*given: Any) -> Any:
        looks.append(given)
        if len(looks) == 2:
            # As many as the tries for one look, and some more.
            kubeflow.troubles = [Trouble("lost", "GET", "/v2beta1/runs/", times=10)]
        if len(looks) == 4:
            kubeflow.runs[0].state = "SUCCEEDED"
        return look(*given)

    kubeflow.get_run = get_run
    assert do("status", key, "--wait") == 0
    out = capsys.readouterr().out
    assert re.search(
        r"^lost contact with rec-slow, which continues: .* gave no answer .*; retrying for 600 s$",
        out,
        re.MULTILINE,
    )
    assert "the contact with rec-slow is restored" in out


@pytest.mark.parametrize("kind", ["lost", 503, 401])
def test_a_lost_connection_says_how_to_follow_the_run_with_its_own_exit_code(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture, kind: str | int
) -> None:
    key = kubeflow.replay("running")
    look = kubeflow.get_run

    def get_run(*given: Any) -> Any:
        kubeflow.troubles = [Trouble(kind, "GET", "/v2beta1/runs/", times=999)]
        return look(*given)

    kubeflow.get_run = get_run
    assert do("status", key, "--wait", "--reconnect-timeout", "0.05") == 4
    captured = capsys.readouterr()
    assert captured.err.startswith("error: lost contact with rec-slow: Kubeflow Pipelines at ")
    again = f"submit.py kubeflow status rec-slow --wait --endpoint {kubeflow.url}"
    assert f"rec-slow continues; follow it again with: {again}" in captured.out
    assert kubeflow.runs[0].state == "RUNNING"


def test_a_runs_page_and_parameters_are_shown_without_secrets(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    key = kubeflow.replay(
        "running",
        {**pipeline("slow"), "deploymentSpec": {"executors": {"e": {"container": {"image": "r/i:1"}}}}},
    )
    kubeflow.runs[0].runtime_config.parameters = {
        "source": "postgresql://me:p/w@d@db.example/shop",
        "urls": ["https://bucket.example/a.csv?X-Amz-Signature=abc&part=1"],
        "rows": 5,
    }
    assert do("status", key) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"run rec-slow\n  {kubeflow.url}/#/runs/details/{key}\n")
    assert "\n  images: r/i:1\n" in out
    assert "\n  source = postgresql://***@db.example/shop\n" in out
    assert '\n  urls = ["https://bucket.example/a.csv?X-Amz-Signature=***&part=1"]\n' in out
    assert "\n  rows = 5\n" in out


def test_a_request_that_always_fails_is_not_retried(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = kubeflow.replay("running")
    monkeypatch.setattr(kubeflow, "terminate_run", lambda *_: kubeflow.recorded("terminate-without-workflow"))
    assert do("cancel", key) == 2
    assert "refused the request (500): Failed to terminate a run: " in capsys.readouterr().err
    assert len(kubeflow.sent("POST", ":terminate")) == 1


def test_a_terminal_shows_complete_reasons_during_the_run() -> None:
    waits_for = "0/1 nodes are available: 1 node(s) had untolerated taint(s), 1 Insufficient nvidia.com/gpu"
    tasks = [
        submission.Task(
            "read", "failed", 3.0, "the table has no column 'x', only a, b and c; see the schema"
        ),
        submission.Task("train", "waiting", 90.0, waits_for, waits_for),
    ]
    drawn = io.StringIO()
    screen = Console(file=drawn, force_terminal=True, width=80, legacy_windows=False)
    with LiveView(screen) as view:
        view.update(submission.Run("nightly", "key", "running", "", tasks))
        view._live.refresh()
        text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", drawn.getvalue())
    shown = " ".join(text.split())
    assert waits_for.split()[-1] in shown
    assert "schema" in shown


def test_every_recorded_run_is_tested() -> None:
    text = (RECORDED.parent / "test_kubeflow_runs.py").read_text()
    assert [file.stem for file in (RECORDED / "runs").glob("*.json") if f'"{file.stem}"' not in text] == []
