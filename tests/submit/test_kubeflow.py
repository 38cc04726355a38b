"""kfp's real client against a server that speaks the API's routes."""

import json
import re
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from kfp import dsl

import submit
from backends import package
from tests.stand_in import Trouble
from tests.submit.kubeflow_server import KubeflowServer
from tools import images

Do = Callable[..., int]


@pytest.fixture
def do(kubeflow: KubeflowServer) -> Do:
    def run(*arguments: str) -> int:
        return submit.main(["kubeflow", *arguments, "--endpoint", kubeflow.url])

    return run


def test_a_run_is_of_an_uploaded_version_and_says_all_that_was_asked_for(
    kubeflow: KubeflowServer, do: Do
) -> None:
    assert (
        do(
            *(
                "run",
                "batch-prediction",
                "-p",
                "model_name=churn",
                "-p",
                "key_columns=[id]",
                "--run-name",
                "nightly",
            ),
            *("--experiment", "team", "--pipeline-root", "s3://bucket/runs", "--service-account", "runner"),
            *("--registry", "registry.example/team", "--version", "1.2.3"),
        )
        == 0
    )
    (pipeline,), (version,), (experiment,) = kubeflow.pipelines, kubeflow.versions, kubeflow.experiments
    assert (pipeline.name, pipeline.display_name) == ("batch-prediction", "batch-prediction")
    assert pipeline.description.startswith("Score a table with the champion")
    assert re.fullmatch(r"1\.2\.3-0123456789ab-[0-9a-f]{12}", version.display_name)
    executors = version.pipeline_spec["pipeline_spec"]["deploymentSpec"]["executors"]
    images = {each["container"]["image"] for each in executors.values()}
    assert "registry.example/team/flowparts-base:1.2.3" in images
    assert experiment.display_name == "team"
    (sent,) = kubeflow.sent("POST", "/runs$")
    assert sent.json == {
        "display_name": "nightly",
        "experiment_id": experiment.experiment_id,
        "pipeline_version_reference": {
            "pipeline_id": pipeline.pipeline_id,
            "pipeline_version_id": version.pipeline_version_id,
        },
        "runtime_config": {
            "parameters": {"model_name": "churn", "key_columns": ["id"]},
            "pipeline_root": "s3://bucket/runs",
        },
        "service_account": "runner",
    }


def test_the_same_content_is_uploaded_once_whatever_the_commit(
    kubeflow: KubeflowServer, do: Do, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert do("upload", "batch-prediction") == 0
    assert ": uploaded" in capsys.readouterr().out
    monkeypatch.setenv("FLOWPARTS_GIT_COMMIT", "f" * 40)
    assert do("upload", "batch-prediction") == 0
    assert ": already there" in capsys.readouterr().out
    assert len(kubeflow.versions) == 1
    assert do("upload", "batch-prediction", "--version", "9.9") == 0
    assert [version.display_name[:16] for version in kubeflow.versions] == [
        images.version()[:16],
        "9.9-ffffffffffff",
    ]
    assert len(kubeflow.pipelines) == 1


def test_without_caching_every_task_of_every_group_runs_again(kubeflow: KubeflowServer, do: Do) -> None:
    assert do("upload", "tabular-training", "--no-caching") == 0
    assert "enableCache" not in json.dumps(kubeflow.versions[0].pipeline_spec)
    assert do("upload", "tabular-training") == 0
    assert "enableCache" in json.dumps(kubeflow.versions[1].pipeline_spec)


def test_waiting_shows_each_step_once_and_ends_well(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    kubeflow.story = [
        ("PENDING", []),
        (
            "RUNNING",
            [
                ("root", "RUNNING", []),
                ("load-champion-driver", "SUCCEEDED", []),
                ("load-champion", "RUNNING", []),
            ],
        ),
        (
            "SUCCEEDED",
            [
                ("load-champion", "SUCCEEDED", []),
                ("executor", "SUCCEEDED", []),
                ("export-table", "SKIPPED", []),
            ],
        ),
    ]
    assert do("run", "batch-prediction", "--wait") == 0
    out = capsys.readouterr().out
    told = re.findall(r"^([…✓✗-]) ([\w/-]+)", out, re.MULTILINE)
    assert told[:2] == [("…", "load-champion"), ("✓", "load-champion")]
    # Neither what the service says isn't run nor what it never came to.
    assert {mark for mark, name in told[2:]} == {"-"}
    assert len(told) == len({name for _, name in told}) + 1
    assert re.search(r"^- [\w/-]*export-table +not run$", out, re.MULTILINE)
    assert f"{kubeflow.url}/#/runs/details/{kubeflow.runs[0].run_id}" in out
    assert "succeeded" in out


def test_a_failed_run_ends_with_1_and_shows_what_the_step_said(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    kubeflow.story = [("FAILED", [("load-champion", "FAILED", ["run-123"])])]
    kubeflow.logs["run-123"] = (
        "starting\nTraceback (most recent call last):\nValueError: no model 'churn' is registered\n"
    )
    assert do("run", "batch-prediction", "--wait") == 1
    out = capsys.readouterr().out
    assert "failed: load-champion\n  no model 'churn' is registered" in out


def test_a_step_that_could_not_be_prepared_is_named(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    kubeflow.story = [("FAILED", [("load-champion-driver", "FAILED", ["driver-1"])])]
    assert do("run", "batch-prediction", "--wait") == 1
    assert "failed: load-champion-driver: " in capsys.readouterr().out


def test_a_run_is_shown_and_cancelled_by_its_name(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    kubeflow.story = [("RUNNING", [("load-champion", "RUNNING", [])])]
    assert do("run", "batch-prediction", "--run-name", "nightly") == 0
    assert do("status", "nightly") == 0
    assert "nightly is running" in capsys.readouterr().out
    assert do("status", kubeflow.runs[0].run_id) == 0
    assert do("cancel", "nightly") == 0
    assert kubeflow.runs[0].state == "CANCELED"
    assert do("status", "nightly") == 3
    assert do("status", "nightli") == 2
    assert "unknown run 'nightli'; did you mean 'nightly'?" in capsys.readouterr().err


def test_a_run_of_a_name_that_exists_is_followed_instead_of_started_again(
    kubeflow: KubeflowServer, do: Do
) -> None:
    assert do("run", "batch-prediction", "--run-name", "ci-77") == 0
    assert do("run", "batch-prediction", "--run-name", "ci-77", "--wait") == 0
    assert len(kubeflow.runs) == 1


@pytest.mark.parametrize("kind", ["cut", "lost", "late", 500, 502, 503, 504, 429])
def test_a_transient_error_starts_a_run_exactly_once(
    kubeflow: KubeflowServer, do: Do, kind: int | str
) -> None:
    kubeflow.troubles = [
        # After a 500 a workflow may run of which the server keeps nothing.
        *([] if kind == 500 else [Trouble(kind, "POST", "/runs$")]),
        Trouble(kind, "POST", "/upload_version$"),
        Trouble(kind, "POST", "/pipelines$"),
        Trouble(503, "GET", "/runs$"),
    ]
    assert do("run", "batch-prediction") == 0
    assert [len(made) for made in (kubeflow.runs, kubeflow.versions, kubeflow.pipelines)] == [1, 1, 1]


@pytest.mark.parametrize("command", ["run", "schedule"])
def test_a_request_that_starts_a_workflow_is_not_retried_after_a_500(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture, command: str
) -> None:
    kubeflow.troubles = [Trouble(500, "POST", "runs$", times=9, message="Incorrect string value")]
    assert do(command, "batch-prediction", *(["--cron", "30 6 * * *"] if command == "schedule" else [])) == 2
    error = capsys.readouterr().err
    assert "is out of order (500): Incorrect string value; its workflow may run all the same: look" in error
    assert len(kubeflow.sent("POST", "runs$")) == 1


@pytest.mark.parametrize(
    ("recorded", "sentence"),
    [
        (
            "create-with-unknown-version",
            r"refused the request \(500\): Failed to create a new run: .* PipelineVersion 0\S+ not found$",
        ),
        (
            "create-with-placeholder",
            r"refused the request \(500\): .* failed to resolve {{inputs.parameters.x}}; Argo evaluates "
            "{{…}} in parameters and in components' source: take it out$",
        ),
        (
            "create-with-placeholder-in-source",
            r"refused the request \(500\): .* failed to resolve {{inputs.parameters.x}}; Argo evaluates",
        ),
        ("create-with-unknown-pipeline", r"refused the request \(500\): .* Pipeline 0\S+ not found$"),
        (
            "create-with-unknown-parameter",
            r"refused the request \(400\): .*are not required by pipeline: nosuch$",
        ),
    ],
)
def test_a_run_that_the_server_can_never_start_is_asked_for_once(
    kubeflow: KubeflowServer,
    do: Do,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    recorded: str,
    sentence: str,
) -> None:
    monkeypatch.setattr(kubeflow, "create_run", lambda _: kubeflow.recorded(recorded))
    assert do("run", "batch-prediction") == 2
    assert re.search(sentence, capsys.readouterr().err.strip())
    assert len(kubeflow.sent("POST", "/runs$")) == 1


@pytest.mark.parametrize("kind", ["cut", "lost", "late", 503])
def test_a_transient_error_creates_a_schedule_exactly_once(
    kubeflow: KubeflowServer, do: Do, kind: int | str
) -> None:
    kubeflow.troubles = [Trouble(kind, "POST", "/recurringruns$")]
    assert do("schedule", "batch-prediction", "--cron", "30 6 * * *") == 0
    assert len(kubeflow.recurring) == 1


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (400, r"refused the request \(400\): the server's words"),
        (401, r"doesn't know who is asking \(401\): the server's words; set FLOWPARTS_TOKEN or"),
        (403, r"doesn't allow this \(403\): the server's words; ask for the role kubeflow-edit"),
        (404, r"has no such thing \(404\): the server's words; check the endpoint"),
        (409, r"has this already \(409\): the server's words"),
    ],
)
def test_a_permanent_error_is_reported_at_once_without_retries(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture, status: int, sentence: str
) -> None:
    kubeflow.troubles = [Trouble(status, "POST", "/runs$", times=9, message="the server's words")]
    assert do("run", "batch-prediction") == 2
    error = capsys.readouterr().err
    assert re.search(rf"^error: Kubeflow Pipelines at {kubeflow.url} {sentence}", error)
    assert len(error.splitlines()) == 1
    assert len(kubeflow.sent("POST", "/runs$")) == 1


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (429, "is asked too often, or a quota is used up (429): busy; try again later"),
        (500, "is out of order (500): busy; try again later"),
        ("lost", "gave no answer (ProtocolError); try again, and see what it has done"),
        ("late", "gave no answer (ReadTimeoutError)"),
        ("log in", "doesn't know who is asking (401): it sent its log-in page; set FLOWPARTS_TOKEN"),
    ],
)
def test_a_persistent_error_is_reported_after_the_retries(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture, kind: int | str, sentence: str
) -> None:
    kubeflow.troubles = [Trouble(kind, "GET", "/pipelines$", times=99, message="busy")]
    assert do("upload", "batch-prediction") == 2
    assert sentence in capsys.readouterr().err
    assert len(kubeflow.sent("GET", "/pipelines$")) == (1 if kind == "log in" else 6)
    assert not kubeflow.pipelines


def test_a_gateway_s_page_is_not_repeated(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    kubeflow.troubles = [Trouble(502, "GET", "/pipelines$", times=99, message="<html>Bad Gateway</html>")]
    assert do("upload", "batch-prediction") == 2
    said = f"error: Kubeflow Pipelines at {kubeflow.url} is out of order (502); try again later\n"
    assert capsys.readouterr().err == said


def test_following_survives_faults(kubeflow: KubeflowServer, do: Do) -> None:
    kubeflow.story = [("RUNNING", []), ("RUNNING", []), ("SUCCEEDED", [])]
    kubeflow.troubles = [Trouble(kind, "GET", "/runs/") for kind in ("lost", 503, "late")]
    assert do("run", "batch-prediction", "--wait") == 0


def test_an_address_without_a_server_is_reported(do: Do, capsys: pytest.CaptureFixture) -> None:
    assert submit.main(["kubeflow", "upload", "batch-prediction", "--endpoint", "http://127.0.0.1:9"]) == 2
    assert (
        "can't be reached; is the address right, and kubectl port-forward running?" in capsys.readouterr().err
    )
    assert submit.main(["kubeflow", "upload", "batch-prediction"]) == 2
    assert "give --endpoint, FLOWPARTS_ENDPOINT or a profile" in capsys.readouterr().err


def test_the_address_is_found_automatically_inside_a_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert submit.main(["kubeflow", "upload", "batch-prediction"]) == 2
    assert (
        "Kubeflow Pipelines at http://ml-pipeline.kubeflow.svc.cluster.local:8888 " in capsys.readouterr().err
    )


def test_a_given_certificate_authority_is_trusted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=here"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server = KubeflowServer(tls)
    upload = ["kubeflow", "upload", "batch-prediction", "--endpoint", server.url]
    assert submit.main(upload) == 2
    assert re.search("has no certificate to trust: .*; give --ca-certificate", capsys.readouterr().err)
    assert submit.main([*upload, "--ca-certificate", str(certificate)]) == 0
    assert len(server.versions) == 1
    server.close()


def test_a_run_is_shown_after_its_version_was_deleted(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    assert do("run", "batch-prediction", "--run-name", "nightly") == 0
    kubeflow.versions.clear()
    assert do("status", "nightly") == 0
    assert "nightly succeeded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "model_nam=a"], "unknown parameter 'model_nam'; did you mean 'model_name'?"),
        (["-p", "key_columns=a"], "parameter 'key_columns' takes a list"),
        (["-p", f"source={'a' * 10_001}"], "parameter 'source' takes 10,003 of 10,000 bytes"),
        (["--run-name", "Nightly"], "name 'Nightly' must start with a letter"),
        (["--registry", "https://x"], "registry 'https://x' is not a registry"),
        (["--node-selector", "pool"], "setting 'node_selector' takes a mapping"),
    ],
)
def test_invalid_options_are_reported_before_anything_is_sent(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture, arguments: list[str], sentence: str
) -> None:
    assert do("run", "batch-prediction", *arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not kubeflow.requests


def test_a_parameter_without_default_is_asked_for(
    kubeflow: KubeflowServer, do: Do, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    @dsl.component(base_image="registry.example/image:1", install_kfp_package=False)
    def greet(name: str) -> str:
        return f"hello {name}"

    @dsl.pipeline(name="greeting")
    def greeting(name: str) -> None:
        greet(name=name)

    file = tmp_path / "greeting.yaml"
    file.write_text(package.compiled(greeting, str))
    assert do("run", "greeting", "--package", str(file)) == 2
    assert "parameter 'name' has no default; give it as -p name=value" in capsys.readouterr().err
    assert not kubeflow.requests
    assert do("run", "greeting", "--package", str(file), "-p", "name=you") == 0
    assert kubeflow.sent("POST", "/runs$")[0].json["runtime_config"]["parameters"] == {"name": "you"}
    assert do("run", "batch-prediction", "--package", str(file)) == 2
    assert "holds the pipeline 'greeting', not 'batch-prediction'" in capsys.readouterr().err


def test_a_schedule_is_made_kept_changed_and_removed(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    def schedule(*arguments: str) -> str:
        assert do("schedule", "batch-prediction", *arguments) == 0
        return capsys.readouterr().out.strip().rpartition(": ")[2]

    daily = ("--cron", "30 6 * * *", "-p", "model_name=churn")
    assert schedule(*daily) == "created"
    (recurring,) = kubeflow.recurring
    assert (recurring.trigger.cron_schedule.cron, recurring.mode) == ("0 30 6 * * *", "ENABLE")
    assert (recurring.max_concurrency, recurring.no_catchup) == ("1", True)
    assert recurring.runtime_config.parameters == {"model_name": "churn"}
    assert schedule(*daily) == "unchanged"
    assert schedule("--cron", "0 7 * * 1-5", "-p", "model_name=churn") == "updated"
    assert schedule("--cron", "0 7 * * 1-5", "-p", "model_name=other") == "updated"
    assert schedule("--cron", "0 7 * * 1-5", "-p", "model_name=other", "--version", "2.0") == "updated"
    (recurring,) = kubeflow.recurring
    assert recurring.trigger.cron_schedule.cron == "0 0 7 * * 1-5"
    assert schedule("--cron", "0 1 * * *", "--schedule-name", "second") == "created"
    assert schedule("--remove") == "removed"
    assert schedule("--remove") == "absent"
    assert [each.display_name for each in kubeflow.recurring] == ["second"]


def test_a_schedule_with_a_run_in_progress_is_disabled_and_removed_after_the_run(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    def schedule(*arguments: str) -> str:
        assert do("schedule", "batch-prediction", *arguments) == 0
        return capsys.readouterr().out

    schedule("--cron", "30 6 * * *")
    (old,) = kubeflow.recurring
    kubeflow.replay("running")
    kubeflow.runs[0].recurring_run_id = old.recurring_run_id
    said = schedule("--cron", "30 7 * * *")
    assert (
        "updated; the former one is disabled, but not removed, because that would cut off rec-slow: " in said
    )
    assert [each.status for each in kubeflow.recurring] == ["DISABLED", "ENABLED"]
    assert "unchanged; the former one is disabled, but not removed" in schedule("--cron", "30 7 * * *")
    said = schedule("--remove")
    assert (
        "disabled, but not removed, because that would cut off rec-slow: give the same command again" in said
    )
    # The new one had no run and is gone.
    assert [each.status for each in kubeflow.recurring] == ["DISABLED"]

    looks = []
    list_runs = kubeflow.list_runs

    def ending(request: object) -> object:
        looks.append(request)
        if len(looks) == 3:
            kubeflow.runs[0].state = "SUCCEEDED"
        return list_runs(request)

    kubeflow.list_runs = ending
    said = schedule("--remove", "--wait")
    assert said.count("waiting for run rec-slow to end; removing its schedule now would cut it off") == 1
    assert said.endswith(": removed\n")
    assert (len(looks), kubeflow.recurring) == (3, [])


def test_a_schedule_whose_change_fails_stays_as_it_was(kubeflow: KubeflowServer, do: Do) -> None:
    assert do("schedule", "batch-prediction", "--cron", "30 6 * * *") == 0
    kubeflow.troubles = [Trouble(400, "POST", "/recurringruns$")]
    assert do("schedule", "batch-prediction", "--cron", "30 7 * * *") == 2
    assert [(each.status, each.trigger.cron_schedule.cron) for each in kubeflow.recurring] == [
        ("ENABLED", "0 30 6 * * *")
    ]


@pytest.mark.parametrize("cron", ["* * * *", "0 30 6 * * *", "every day"])
def test_a_cron_expression_needs_five_fields(
    kubeflow: KubeflowServer, do: Do, capsys: pytest.CaptureFixture, cron: str
) -> None:
    assert do("schedule", "batch-prediction", "--cron", cron) == 2
    assert "must have five fields" in capsys.readouterr().err
    assert not kubeflow.requests


def test_a_token_from_the_environment_goes_with_every_request_and_nowhere_else(
    kubeflow: KubeflowServer, do: Do, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("FLOWPARTS_TOKEN", "s3cret")
    assert do("run", "batch-prediction", "--wait") == 0
    assert {request.headers.get("authorization") for request in kubeflow.requests} == {"Bearer s3cret"}
    assert "s3cret" not in capsys.readouterr().out
    assert not any(b"s3cret" in request.body for request in kubeflow.requests)


def test_a_session_cookie_is_sent_as_the_browser_would(
    kubeflow: KubeflowServer, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPARTS_COOKIE", "oauth2_proxy_kubeflow=abc")
    assert do("upload", "batch-prediction") == 0
    assert {request.headers.get("cookie") for request in kubeflow.requests} == {"oauth2_proxy_kubeflow=abc"}


def test_a_token_that_kubernetes_renews_is_read_for_every_request(
    kubeflow: KubeflowServer, do: Do, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token))
    act = kubeflow.act

    def renewing(request: object) -> object:
        token.write_text("second")
        return act(request)

    monkeypatch.setattr(kubeflow, "act", renewing)
    assert do("upload", "batch-prediction") == 0
    sent = [request.headers.get("authorization") for request in kubeflow.requests]
    assert (sent[0], set(sent[1:])) == ("Bearer first", {"Bearer second"})


def test_a_namespace_goes_where_kubeflow_serves_many_users(kubeflow: KubeflowServer, do: Do) -> None:
    assert do("run", "batch-prediction", "--namespace", "team") == 0
    assert kubeflow.pipelines[0].namespace == "team"
    assert kubeflow.experiments[0].namespace == "team"
    assert kubeflow.sent("GET", "/runs$")[0].query["namespace"] == "team"


def test_kubernetes_settings_of_steps_come_from_the_profile(
    kubeflow: KubeflowServer, do: Do, tmp_path: Path
) -> None:
    config = tmp_path / "flowparts.toml"
    config.write_text(
        '[local]\nbackend = "kubeflow"\nsecrets = { s3 = ["AWS_KEY"] }\nvolumes = { cache = "/cache" }\n'
    )
    assert do("run", "batch-prediction", "--config", str(config), "-p", "model_name=churn") == 0
    executors = kubeflow.versions[0].pipeline_spec["platform_spec"]["platforms"]["kubernetes"][
        "deploymentSpec"
    ]["executors"]
    assert executors["exec-ingest-table"]["secretAsEnv"][0]["secretName"] == "s3"
    assert executors["exec-ingest-table"]["pvcMount"][0]["mountPath"] == "/cache"


def test_a_package_is_sent_as_it_is(kubeflow: KubeflowServer, do: Do, tmp_path: Path) -> None:
    import compile as compile_command

    assert compile_command.main(["batch-prediction", "--backend", "kubeflow", "--out", str(tmp_path)]) == 0
    file = tmp_path / "kubeflow" / "batch_prediction.yaml"
    assert do("upload", "batch-prediction", "--package", str(file)) == 0
    assert kubeflow.sent("POST", "upload_version")[0].parts["uploadfile"] == file.read_bytes()
    spec, overlay = yaml.safe_load_all(file.read_text())
    assert kubeflow.versions[0].pipeline_spec == {"pipeline_spec": spec, "platform_spec": overlay}
    file.write_text("a: [")
    assert do("upload", "batch-prediction", "--package", str(file)) == 2


def test_ctrl_c_leaves_the_run_alone_and_says_how_to_end_it(
    kubeflow: KubeflowServer, do: Do, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    kubeflow.story = [("RUNNING", [])]
    monkeypatch.setattr("time.sleep", interrupt)
    assert do("run", "batch-prediction", "--run-name", "nightly", "--wait") == 130
    out = capsys.readouterr().out
    place = f"--endpoint {kubeflow.url}"
    assert f"nightly continues; follow it again with: submit.py kubeflow status nightly --wait {place}" in out
    assert f"end it with: submit.py kubeflow cancel nightly {place}" in out
    assert kubeflow.runs[0].state == "RUNNING"
