"""Requests that start runs, against kfp's real client and a server that speaks the API's routes."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import submit
from backends import profiles, triggers
from backends.kubeflow.service import KubeflowService
from tests.submit.kubeflow_server import KubeflowServer

TOKEN = "0123456789abcdef0123"
# What S3 and the stores that speak like it send when an object has been written.
BUCKET_EVENT = {
    "Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": "daily/2026-11-28.parquet"}}}]
}
# What Alertmanager sends.
ALERT = {"version": "4", "status": "firing", "alerts": [{"labels": {"alertname": "Drift"}}]}
NEW_DATA = {
    "pipeline": "batch-prediction",
    "parameters": {"model_name": "churn"},
    "take": {
        "source": {
            "pointer": "/Records/0/s3/object/key",
            "pattern": r"daily/[0-9-]+\.parquet",
            "template": "s3://sales/{}",
        }
    },
}
DRIFT = {"pipeline": "batch-prediction", "only_if": {"/status": "firing"}}

Ask = Callable[..., tuple[int, Any]]


def _file(folder: Path, **tables: Any) -> Path:
    file = folder / "triggers.toml"
    lines: list[str] = []
    for name, table in tables.items():
        lines.append(f"[{json.dumps(name)}]")
        lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
    file.write_text("\n".join(lines))
    return file


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


@contextmanager
def _serving(kubeflow: KubeflowServer, file: Path) -> Iterator[Ask]:
    chosen = profiles.Kubeflow(endpoint=kubeflow.url)
    prepared = triggers.prepare(file, "kubeflow", chosen)
    said: list[str] = []
    with triggers.server(prepared, KubeflowService(chosen), TOKEN, "127.0.0.1", 0, said.append) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

        def ask(path: str, body: Any = None, token: str = TOKEN, **headers: str) -> tuple[int, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, sent, {"Authorization": f"Bearer {token}", **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

        ask.port = server.server_port  # type: ignore[attr-defined]
        ask.said = said  # type: ignore[attr-defined]
        yield ask
        server.shutdown()


@pytest.fixture
def ask(kubeflow: KubeflowServer, tmp_path: Path) -> Iterator[Ask]:
    with _serving(kubeflow, _file(tmp_path, **{"new-data": NEW_DATA, "drift": DRIFT})) as asking:
        yield asking


def test_an_event_of_a_bucket_starts_one_run_with_what_it_names(kubeflow: KubeflowServer, ask: Ask) -> None:
    status, answer = ask("/triggers/new-data", BUCKET_EVENT)
    assert (status, answer["started"]) == (200, True)
    (sent,) = kubeflow.sent("POST", "/runs$")
    assert sent.json["runtime_config"]["parameters"]["source"] == "s3://sales/daily/2026-11-28.parquet"
    assert sent.json["display_name"] == answer["run"]
    # Buckets send an event at least once.
    status, again = ask("/triggers/new-data", BUCKET_EVENT)
    assert (status, again["run"], again["started"]) == (200, answer["run"], False)
    assert len(kubeflow.sent("POST", "/runs$")) == 1
    other = json.loads(json.dumps(BUCKET_EVENT).replace("28", "29"))
    assert ask("/triggers/new-data", other)[1]["started"]
    assert len(kubeflow.sent("POST", "/runs$")) == 2


def test_an_alert_starts_a_run_only_while_it_fires(kubeflow: KubeflowServer, ask: Ask) -> None:
    status, answer = ask("/triggers/drift", {**ALERT, "status": "resolved"})
    assert (status, answer) == (200, {"run": None, "reason": "/status is 'resolved', not 'firing'"})
    assert not kubeflow.sent("POST", "/runs$")
    assert ask("/triggers/drift", ALERT)[1]["started"]


def test_equal_requests_at_once_start_one_run(kubeflow: KubeflowServer, ask: Ask) -> None:
    answers: list[tuple[int, Any]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask("/triggers/drift", ALERT))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer["started"] for _, answer in answers) == [False] * 5 + [True]
    assert len(kubeflow.sent("POST", "/runs$")) == 1


def test_a_run_in_progress_also_counts_for_the_next_time_span(
    kubeflow: KubeflowServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.story = [("RUNNING", [])]
    first = ask("/triggers/drift", ALERT)[1]["run"]
    late = time.time() + 3600
    monkeypatch.setattr("time.time", lambda: late)
    assert ask("/triggers/drift", ALERT)[1]["run"] == first


@pytest.mark.parametrize(
    ("path", "body", "token", "status", "sentence"),
    [
        ("/triggers/drift", ALERT, "wrong", 401, "send the token"),
        ("/triggers/drfit", ALERT, TOKEN, 404, "did you mean 'drift'"),
        ("/elsewhere", ALERT, TOKEN, 404, "trigger"),
        ("/triggers/drift", b"{", TOKEN, 400, "the body must be JSON"),
        ("/triggers/drift", b"[" * 100_000, TOKEN, 400, "the body must be JSON"),
        ("/triggers/drift", b" " * 1_000_001, TOKEN, 413, "at most 1,000,000"),
        (
            "/triggers/new-data",
            ALERT,
            TOKEN,
            400,
            "no text at /Records/0/s3/object/key, where the parameter source is",
        ),
        (
            "/triggers/new-data",
            {"Records": [{"s3": {"object": {"key": "../secret.parquet"}}}]},
            TOKEN,
            400,
            "isn't allowed for source",
        ),
    ],
)
def test_a_request_that_asks_for_something_else_starts_nothing(
    kubeflow: KubeflowServer, ask: Ask, path: str, body: Any, token: str, status: int, sentence: str
) -> None:
    found, answer = ask(path, body, token)
    assert found == status
    assert sentence in answer["error"]
    assert not kubeflow.sent("POST", "/runs$")


def test_an_unavailable_service_is_reported_and_the_next_request_starts_the_run(
    kubeflow: KubeflowServer, tmp_path: Path
) -> None:
    with _serving(kubeflow, _file(tmp_path, drift=DRIFT)) as ask:
        kubeflow.close()
        status, answer = ask("/triggers/drift", ALERT)
        assert status == 502
        assert "Kubeflow Pipelines at" in answer["error"]


def test_an_unexpected_error_is_reported(
    kubeflow: KubeflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*_: Any) -> None:
        raise RuntimeError("no more files")

    monkeypatch.setattr(KubeflowService, "find", find)
    with _serving(kubeflow, _file(tmp_path, drift=DRIFT)) as ask:
        status, answer = ask("/triggers/drift", ALERT)
        assert status == 500
        assert answer["error"] == "the run can't be started: RuntimeError: no more files"
        assert "RuntimeError: no more files" in ask.said[-1]  # type: ignore[attr-defined]


def test_slow_clients_dont_keep_others_out(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "_SECONDS_TO_READ", 0.2)
    slow = [socket.create_connection(("127.0.0.1", ask.port)) for _ in range(40)]  # type: ignore[attr-defined]
    for connection in slow:
        connection.sendall(b"POST /triggers/drift HTTP/1.1\r\n")
    assert ask("/triggers/drift", ALERT)[0] == 200
    for connection in slow:
        connection.close()


def test_text_from_clients_cannot_inject_log_lines(ask: Ask) -> None:
    ask("/triggers/a%0Ab", ALERT)
    assert all("\n" not in line for line in ask.said)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"pipelin": "batch-prediction"}, "did you mean 'pipeline'"),
        ({"parameters": {}}, "must name a pipeline"),
        ({"pipeline": "batch-prediction", "at_most_every_seconds": 0}, "at least 1"),
        (
            {"pipeline": "batch-prediction", "take": {"source": {"pointer": "/a"}}},
            "needs a pointer and a pattern",
        ),
        (
            {"pipeline": "batch-prediction", "take": {"source": {"pointer": "/a", "pattern": "("}}},
            "needs a pointer and a pattern",
        ),
        (
            {
                "pipeline": "batch-prediction",
                "parameters": {"source": "x"},
                "take": {"source": {"pointer": "/a", "pattern": "."}},
            },
            "keep one",
        ),
        ({"pipeline": "batch-prediction", "only_if": {"status": "firing"}}, "JSON pointers"),
    ],
)
def test_a_mistake_in_the_file_is_reported_at_the_start(
    tmp_path: Path, table: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        triggers.read(_file(tmp_path, mine=table))


def test_the_command_checks_token_pipeline_and_parameters_before_it_listens(
    kubeflow: KubeflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command(table: dict[str, Any]) -> int:
        file = _file(tmp_path, mine=table)
        return submit.main(
            ["kubeflow", "serve-triggers", "--triggers", str(file), "--endpoint", kubeflow.url]
        )

    monkeypatch.delenv(triggers.TOKEN_VARIABLE, raising=False)
    assert command({"pipeline": "batch-prediction"}) == 2
    assert "set FLOWPARTS_TRIGGER_TOKEN" in capsys.readouterr().err
    assert command({"pipeline": "batch-predictoin"}) == 2
    assert "did you mean" in capsys.readouterr().err
    assert command({"pipeline": "batch-prediction", "parameters": {"modelname": "a"}}) == 2
    assert "did you mean 'model_name'" in capsys.readouterr().err
