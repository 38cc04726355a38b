"""Google's real clients, over REST, against a server that speaks the API's routes."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import submit
from backends import package
from tests.stand_in import Trouble
from tests.submit.vertex_server import VertexServer
from tools import images

Do = Callable[..., int]
pytestmark = pytest.mark.filterwarnings("ignore")  # the client libraries warn about their own future


@pytest.fixture
def do(vertex: VertexServer) -> Do:
    settings = ["--endpoint", vertex.url, "--project", "project", "--location", "europe-west4"]

    def run(*arguments: str) -> int:
        return submit.main(["vertex", *arguments, *settings, "--pipeline-root", "gs://bucket/runs"])

    return run


def test_a_run_says_all_that_was_asked_for(
    vertex: VertexServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    assert (
        do(
            *("run", "batch-prediction", "-p", "model_name=churn", "-p", "key_columns=[id]"),
            *("--run-name", "nightly", "--service-account", "runner@project.iam.gserviceaccount.com"),
            *("--network", "projects/1/global/networks/n", "--labels", "{team: risk}", "--no-caching"),
            *("--kms-key", "projects/p/locations/l/keyRings/r/cryptoKeys/k", "--version", "1.2.3"),
        )
        == 0
    )
    (sent,) = vertex.sent("POST", "/pipelineJobs$")
    assert sent.query["pipelineJobId"] == "nightly"
    assert sent.path == "/v1/projects/project/locations/europe-west4/pipelineJobs"
    assert sent.headers["authorization"] == "Bearer from-the-server"
    body = sent.json
    spec = body.pop("pipelineSpec")
    label = body["labels"].pop("flowparts")
    assert re.fullmatch(r"1-2-3-0123456789ab-[0-9a-f]{12}", label)
    assert body == {
        "displayName": "nightly",
        "labels": {"team": "risk"},
        "runtimeConfig": {
            "gcsOutputDirectory": "gs://bucket/runs",
            "parameterValues": {"model_name": "churn", "key_columns": ["id"]},
        },
        "encryptionSpec": {"kmsKeyName": "projects/p/locations/l/keyRings/r/cryptoKeys/k"},
        "serviceAccount": "runner@project.iam.gserviceaccount.com",
        "network": "projects/1/global/networks/n",
    }
    assert "enableCache" not in json.dumps(spec)
    images = {each["container"]["image"] for each in spec["deploymentSpec"]["executors"].values()}
    assert "flowparts/flowparts-base:1.2.3" in images
    page = "https://console.cloud.google.com/vertex-ai/locations/europe-west4/pipelines/runs/nightly?project=project"
    assert page in capsys.readouterr().out


def test_the_compiled_pipeline_is_sent(vertex: VertexServer, do: Do, tmp_path: Path) -> None:
    import compile as compile_command

    assert compile_command.main(["batch-prediction", "--backend", "vertex", "--out", str(tmp_path)]) == 0
    assert do("run", "batch-prediction") == 0
    compiled = yaml.safe_load((tmp_path / "vertex" / "batch_prediction.yaml").read_text())
    assert vertex.sent("POST", "/pipelineJobs$")[0].json["pipelineSpec"] == compiled


def test_a_secret_goes_to_the_steps_that_ask_for_it_as_a_reference(
    vertex: VertexServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    assert do("run", "batch-prediction", "--secrets", "{AWS_KEY: projects/p/secrets/key/versions/1}") == 0
    executors = vertex.sent("POST", "/pipelineJobs$")[0].json["pipelineSpec"]["deploymentSpec"]["executors"]
    variable = {"name": "AWS_KEY", "value": "secretmanager://projects/p/secrets/key/versions/1"}
    given = {label for label, each in executors.items() if variable in each["container"].get("env", [])}
    assert {"exec-export-table", "exec-ingest-table", "exec-load-champion"} <= given
    assert "exec-batch-predict" not in given
    assert do("run", "batch-prediction", "--secrets", "{AWS_KEY: s3cret}") == 2
    assert "must be written VARIABLE=projects/PROJECT/secrets/" in capsys.readouterr().err


def test_waiting_shows_each_step_once_and_ends_well(
    vertex: VertexServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    vertex.story = [
        ("RUNNING", [("batch-prediction", "RUNNING", ""), ("load-champion", "RUNNING", "")]),
        ("SUCCEEDED", [("load-champion", "SKIPPED", ""), ("export-table", "NOT_TRIGGERED", "")]),
    ]
    assert do("run", "batch-prediction", "--wait") == 0
    out = capsys.readouterr().out
    assert re.findall(r"^([…✓✗-]) ([\w-]+)", out, re.MULTILINE) == [
        ("…", "load-champion"),
        ("✓", "load-champion"),
        ("-", "export-table"),
    ]
    assert " 0.0 s  (from the cache)" in out


def test_a_failed_run_ends_with_1_and_shows_the_error_of_the_step(
    vertex: VertexServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    vertex.story = [("FAILED", [("load-champion", "FAILED", "The replica exited with status 1.")])]
    assert do("run", "batch-prediction", "--wait") == 1
    assert "failed: load-champion\n  The replica exited with status 1." in capsys.readouterr().out


def test_a_run_is_shown_and_cancelled_by_its_name(
    vertex: VertexServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    vertex.story = [("RUNNING", [])]
    assert do("run", "batch-prediction", "--run-name", "nightly") == 0
    assert do("status", "nightly") == 0
    assert "nightly is running" in capsys.readouterr().out
    assert do("cancel", "nightly") == 0
    assert do("status", "nightly") == 3
    assert do("status", "nightli") == 2
    assert "unknown run 'nightli'; did you mean 'nightly'?" in capsys.readouterr().err


def test_a_run_of_a_name_that_exists_is_followed_instead_of_started_again(
    vertex: VertexServer, do: Do
) -> None:
    assert do("run", "batch-prediction", "--run-name", "ci-77") == 0
    assert do("run", "batch-prediction", "--run-name", "ci-77", "--wait") == 0
    assert list(vertex.jobs) == ["ci-77"]


@pytest.mark.parametrize("kind", ["cut", "lost", "late", 500, 502, 503, 504, 429])
def test_a_transient_error_starts_a_run_exactly_once(vertex: VertexServer, do: Do, kind: int | str) -> None:
    vertex.troubles = [Trouble(kind, "POST", "/pipelineJobs$")]
    assert do("run", "batch-prediction") == 0
    assert len(vertex.jobs) == 1
    assert {request.query["pipelineJobId"] for request in vertex.sent("POST", "/pipelineJobs$")} == set(
        vertex.jobs
    )


@pytest.mark.parametrize("kind", ["cut", "lost", "late", 503])
def test_a_transient_error_creates_a_schedule_exactly_once(
    vertex: VertexServer, do: Do, kind: int | str
) -> None:
    vertex.troubles = [Trouble(kind, "POST", "/schedules$")]
    assert do("schedule", "batch-prediction", "--cron", "30 6 * * *") == 0
    assert len(vertex.schedules) == 1


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (400, r"refused the request \(400\): the server's words"),
        (401, r"doesn't know who is asking \(401\): the server's words; log in with `gcloud auth"),
        (403, r"doesn't allow this \(403\): the server's words; docs/vertex.md lists the roles"),
        (404, r"has no such thing \(404\): the server's words; check project and location"),
        (409, r"has this already \(409\): the server's words"),
    ],
)
def test_a_permanent_error_is_reported_at_once_without_retries(
    vertex: VertexServer, do: Do, capsys: pytest.CaptureFixture, status: int, sentence: str
) -> None:
    vertex.troubles = [Trouble(status, "POST", "/pipelineJobs$", times=9, message="the server's words")]
    assert do("run", "batch-prediction") == 2
    error = capsys.readouterr().err
    assert re.search(rf"^error: Vertex AI \(projects/project/locations/europe-west4\) {sentence}", error)
    assert len(error.splitlines()) == 1
    # The library itself fetches a new token, twice, before it gives up.
    assert len(vertex.sent("POST", "/pipelineJobs$")) == (3 if status == 401 else 1)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (429, "is asked too often, or a quota is used up (429): busy; wait, or ask for more quota"),
        (500, "is out of order (500): busy; try again later"),
        ("lost", "gave no answer (ConnectionError); try again, and see what it has done"),
        ("late", "gave no answer (ReadTimeout)"),
    ],
)
def test_a_persistent_error_is_reported_after_the_retries(
    vertex: VertexServer, do: Do, capsys: pytest.CaptureFixture, kind: int | str, sentence: str
) -> None:
    vertex.troubles = [Trouble(kind, "GET", "/pipelineJobs/", times=99, message="busy")]
    assert do("status", "nightly") == 2
    assert sentence in capsys.readouterr().err
    assert len(vertex.sent("GET", "/pipelineJobs/")) == 6


def test_following_survives_faults(vertex: VertexServer, do: Do) -> None:
    vertex.story = [("RUNNING", []), ("RUNNING", []), ("SUCCEEDED", [])]
    vertex.troubles = [Trouble(kind, "GET", "/pipelineJobs/") for kind in ("lost", 503, "late")]
    assert do("run", "batch-prediction", "--wait") == 0


def test_missing_settings_and_credentials_are_reported(
    vertex: VertexServer, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def error(*arguments: str) -> str:
        assert submit.main(["vertex", "run", "batch-prediction", "--endpoint", vertex.url, *arguments]) == 2
        return capsys.readouterr().err

    place = ("--project", "project", "--location", "europe-west4")
    assert error().startswith("error: project is not set; give --project, set FLOWPARTS_PROJECT")
    assert error("--project", "project").startswith("error: location is not set")
    assert error(*place).startswith("error: pipeline root is not set; give --pipeline-root gs://")
    assert "must start with gs://" in error(*place, "--pipeline-root", "/runs")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    assert "there are no credentials for Google Cloud: log in with `gcloud auth" in error(*place)
    assert not vertex.requests


def test_a_wrong_parameter_is_reported_before_anything_is_sent(
    vertex: VertexServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    assert do("run", "batch-prediction", "-p", "model_nam=a") == 2
    assert "unknown parameter 'model_nam'; did you mean 'model_name'?" in capsys.readouterr().err
    assert not vertex.requests


def test_a_schedule_is_made_kept_changed_and_removed(
    vertex: VertexServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    def schedule(*arguments: str) -> str:
        assert do("schedule", "batch-prediction", *arguments) == 0
        return capsys.readouterr().out.strip().rpartition(": ")[2]

    daily = ("--cron", "30 6 * * *", "-p", "model_name=churn", "--service-account", "runner@p")
    assert schedule(*daily) == "created"
    (made,) = vertex.schedules.values()
    assert (made.display_name, made.cron, made.max_concurrent_run_count) == (
        "batch-prediction",
        "30 6 * * *",
        1,
    )
    job = made.create_pipeline_job_request.pipeline_job
    assert job.service_account == "runner@p"
    assert job.runtime_config.parameter_values["model_name"] == "churn"
    assert schedule(*daily) == "unchanged"
    assert schedule("--cron", "0 7 * * 1-5", "-p", "model_name=churn") == "updated"
    assert schedule("--cron", "0 7 * * 1-5", "-p", "model_name=other") == "updated"
    assert [each.cron for each in vertex.schedules.values()] == ["0 7 * * 1-5"]
    assert schedule("--remove") == "removed"
    assert schedule("--remove") == "absent"
    assert not vertex.schedules


def test_a_schedule_whose_change_fails_stays_as_it_was(vertex: VertexServer, do: Do) -> None:
    assert do("schedule", "batch-prediction", "--cron", "30 6 * * *") == 0
    vertex.troubles = [Trouble(400, "POST", "/schedules$")]
    assert do("schedule", "batch-prediction", "--cron", "30 7 * * *") == 2
    assert [(each.state.name, each.cron) for each in vertex.schedules.values()] == [("ACTIVE", "30 6 * * *")]


def test_a_template_is_uploaded_once_whatever_the_commit(
    vertex: VertexServer, do: Do, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates = ("--templates", f"{vertex.url}/templates")
    assert do("upload", "batch-prediction", *templates) == 0
    (tag,) = vertex.tags["batch-prediction"]
    assert re.fullmatch(rf"{re.escape(images.version())}-0123456789ab-[0-9a-f]{{12}}", tag)
    assert f"{vertex.url}/templates/batch-prediction/{tag}" in capsys.readouterr().out
    (sent,) = vertex.sent("POST", "/templates$")
    assert sent.headers["authorization"] == "Bearer from-the-server"
    spec = package.documents(sent.parts["content"].decode())[0]
    assert spec["pipelineInfo"]["name"] == "batch-prediction"
    monkeypatch.setenv("FLOWPARTS_GIT_COMMIT", "f" * 40)
    assert do("upload", "batch-prediction", *templates) == 0
    assert ": already there" in capsys.readouterr().out
    assert len(vertex.sent("POST", "/templates$")) == 1
    assert do("upload", "batch-prediction") == 2
    assert "give --templates" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cut", "lost", 503])
def test_a_transient_error_uploads_a_template_once(vertex: VertexServer, do: Do, kind: int | str) -> None:
    vertex.troubles = [Trouble(kind, "POST", "/templates$")]
    assert do("upload", "batch-prediction", "--templates", f"{vertex.url}/templates") == 0
    assert len(vertex.tags["batch-prediction"]) == 1


def test_an_upload_that_is_not_allowed_is_reported(
    vertex: VertexServer, do: Do, capsys: pytest.CaptureFixture
) -> None:
    vertex.troubles = [Trouble(403, "POST", "/templates$", message="no permission")]
    assert do("upload", "batch-prediction", "--templates", f"{vertex.url}/templates") == 2
    assert f"Artifact Registry ({vertex.url}/templates) doesn't allow this (403)" in capsys.readouterr().err


def test_an_address_without_a_server_is_reported(vertex: VertexServer, capsys: pytest.CaptureFixture) -> None:
    place = ("--endpoint", "http://127.0.0.1:9", "--project", "project", "--location", "europe-west4")
    assert submit.main(["vertex", "status", "nightly", *place]) == 2
    assert "can't be reached; check the network and the location" in capsys.readouterr().err
