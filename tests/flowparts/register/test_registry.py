import http.server
import multiprocessing
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flowparts import models
from flowparts.prepare import preprocess
from flowparts.register import registry

ROWS = pl.DataFrame({"size": [1.0, 2, 3, 4, 5, 6], "kind": list("aabbab"), "bought": list("nnnyyy")})


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Make a small model directory: `saved(strength)`."""

    def make(strength: float = 1.0) -> Path:
        from sklearn.linear_model import LogisticRegression

        path = tmp_path / f"model-{strength}"
        preprocessor, features = preprocess.fit(ROWS.lazy(), label="bought", task="classification")
        matrix = features.drop("bought").to_numpy()
        models.save(
            path,
            LogisticRegression(C=strength).fit(matrix, features["bought"].to_numpy()),
            preprocessor=preprocessor,
            task="classification",
            label="bought",
            classes=["n", "y"],
            metadata={
                "estimator": "LogisticRegression",
                "parameters": {"C": strength},
                "training_fingerprint": preprocessor.training_fingerprint,
                "git_commit": "abc123",
                "validation": {"accuracy": 1.0},
            },
        )
        return path

    return make


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry') / 'new folder' / 'mlflow.db'}"


@pytest.fixture(params=["database", "mlflow_server"])
def uri(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    # Database and server live through all tests: each has a model of its own.
    return "".join(letter for letter in request.node.name if letter.isalnum()) + ".v1"


def register(model: Path, name: str, uri: str | None, **options: Any) -> str:
    metrics = {"accuracy": 0.9, "roc_auc": 0.95}
    return registry.register(
        model, name, metrics=metrics, reports={"evaluation": "<p>größer</p>"}, tracking_uri=uri, **options
    )


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri, uri)


def test_without_a_model_or_an_alias_there_is_no_champion(
    uri: str, name: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    assert registry.champion_version(name, uri) is None
    register(saved(), name, uri)
    client(uri).delete_registered_model_alias(name, "champion")
    assert registry.champion_version(name, uri) is None
    with pytest.raises(ValueError, match=f"model '{name}' has no version with the alias 'champion' at"):
        registry.fetch_champion(name, tmp_path / "fetched", uri)
    assert not (tmp_path / "fetched").exists()


def test_the_champion_comes_back_as_it_was_registered(
    uri: str, name: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    model, found = saved(), tmp_path / "fetched"
    assert register(model, name, uri) == "1"
    assert registry.fetch_champion(name, found, uri) == "1"
    assert models.metadata(found) == models.metadata(model)
    assert models.load(found).predict(ROWS).equals(models.load(model).predict(ROWS))


def test_a_second_model_becomes_the_champion_and_the_first_stays_a_version(
    uri: str, name: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    register(saved(1.0), name, uri, pipeline_run_id="run-1")
    version = register(saved(9.0), name, uri, pipeline_run_id="run-2")
    assert version == "2"
    assert registry.champion_version(name, uri) == "2"
    registry.fetch_champion(name, tmp_path / "fetched", uri)
    assert models.metadata(tmp_path / "fetched")["parameters"] == {"C": 9.0}
    assert len(client(uri).search_model_versions(f"name = '{name}'")) == 2


def test_a_retried_step_finds_its_version_and_moves_the_alias_that_it_had_not_moved(
    uri: str, name: str, saved: Callable[..., Path]
) -> None:
    model = saved()
    register(model, name, uri, pipeline_run_id="run-1")
    client(uri).delete_registered_model_alias(name, "champion")
    assert register(model, name, uri, pipeline_run_id="run-1") == "1"
    assert registry.champion_version(name, uri) == "1"
    assert len(client(uri).search_model_versions(f"name = '{name}'")) == 1


def test_version_and_run_tell_the_lineage(
    uri: str, name: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    model = saved(3.0)
    version = register(model, name, uri, experiment="lineage", pipeline_run_id="run-7")
    found = client(uri).get_model_version(name, version)
    assert found.tags == {
        "model_fingerprint": registry.fingerprint(model),
        "data_fingerprint": models.metadata(model)["training_fingerprint"],
        "git_commit": "abc123",
        "task": "classification",
        "estimator": "LogisticRegression",
        "pipeline_run_id": "run-7",
        "accuracy": "0.9",
        "roc_auc": "0.95",
    }
    run = client(uri).get_run(found.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"C": "3.0", "estimator": "LogisticRegression"}
    assert run.data.metrics == {"accuracy": 0.9, "roc_auc": 0.95}
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"
    assert client(uri).get_experiment(run.info.experiment_id).name == "lineage"
    stored = client(uri).download_artifacts(run.info.run_id, "reports/evaluation.html", str(tmp_path))
    assert Path(stored).read_text(encoding="utf-8") == "<p>größer</p>"


@pytest.mark.filterwarnings("ignore")  # MLflow's own, about its type hints
def test_mlflow_itself_loads_the_champion(
    uri: str, name: str, saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    model = saved()
    register(model, name, uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    expected = models.load(model).predict(ROWS)["prediction"].to_list()
    assert list(loaded.predict(ROWS.drop("bought").to_pandas())) == expected


def test_without_a_uri_everything_lies_in_the_home_directory(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    register(saved(), "mine", None)
    assert registry.champion_version("mine") == "1"
    assert (tmp_path / "home" / ".flowparts" / "mlflow.db").is_file()
    assert list((tmp_path / "home" / ".flowparts" / "artifacts").rglob("MLmodel"))
    assert not list(work.iterdir())


def test_a_given_uri_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:5000")
    assert registry.resolve_uri("http://given:5000") == "http://given:5000"
    assert registry.resolve_uri() == "http://environment:5000"


def test_environment_and_output_stay_as_they_were(
    saved: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    register(saved(), "quiet", f"sqlite:///{tmp_path / 'mlflow.db'}")
    registry.fetch_champion("quiet", tmp_path / "fetched", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


def test_processes_that_meet_a_fresh_database_together_each_get_their_version(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    database = tmp_path / "fresh" / "mlflow.db"
    arguments = (saved(), "shared", f"sqlite:///{database}")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=register, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        versions = connection.execute("SELECT version FROM model_versions ORDER BY version").fetchall()
    assert versions == [(1,), (2,)]
    assert registry.champion_version("shared", arguments[2]) in ("1", "2")


BREAKS = {
    "killed": "lambda engine: os.kill(os.getpid(), signal.SIGKILL)",
    "a full disk": "lambda engine: resource.setrlimit(resource.RLIMIT_FSIZE, (2**18,) * 2) or whole(engine)",
}


@pytest.mark.parametrize("breaks", BREAKS.values(), ids=BREAKS)
def test_an_incomplete_database_is_recreated_by_the_next_process(breaks: str, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    code = f"""
import os, resource, signal
from flowparts.register import registry
from mlflow.store.db import utils
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
whole = utils._upgrade_db
utils._upgrade_db = {breaks}
registry.champion_version("any", "sqlite:///{database}")
"""
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode != 0
    assert not database.exists()
    assert registry.champion_version("any", f"sqlite:///{database}") is None
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    assert registry.champion_version("any", f"sqlite:///{tmp_path / 'mlflow.db'}") is None


@pytest.fixture
def tracking_server() -> Iterator[tuple[str, list[str]]]:
    """Give the address of a server that knows no experiments, and the credentials that it is sent."""
    received: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if sent := self.headers.get("authorization"):
                received.append(sent)
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET  # noqa: N815 by its base class

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


CREDENTIALS = {
    "a token": ({"MLFLOW_TRACKING_TOKEN": "s3cret"}, "Bearer s3cret"),
    "a password": (
        {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "s3cret"},
        "Basic bWU6czNjcmV0",
    ),
}


@pytest.mark.parametrize(("variables", "header"), CREDENTIALS.values(), ids=CREDENTIALS)
def test_credentials_go_only_to_the_server_that_the_environment_names(
    variables: dict[str, str],
    header: str,
    tracking_server: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uri, received = tracking_server
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for named in ("http://127.0.0.1:1", "https://mlflow.example", ""):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
        registry.champion_version("any", uri)
        assert received == []
        assert "gets no credentials" in caplog.text
    assert os.environ[next(iter(variables))]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri}/")
    registry.champion_version("any", uri)
    assert set(received) == {header}


def test_credentials_of_the_home_directory_stay_too(
    tracking_server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, received = tracking_server
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = s3cret\n"
    )
    registry.champion_version("any", uri)
    assert received == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    registry.champion_version("any", uri)
    assert set(received) == {"Basic bWU6czNjcmV0"}


def test_a_password_in_a_tracking_uri_is_never_shown() -> None:
    for uri in ("http://me:hid/den@127.0.0.1:1", "sqlite://me:hidden@/", "ftp://me:hidden@host"):
        with pytest.raises(ValueError, match=r"MLflow|tracking URI") as raised:
            registry.champion_version("any", uri)
        assert "hid" not in str(raised.value)


def test_a_missing_server_is_reported_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://user:hidden@127.0.0.1:{unused.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(
            ValueError, match=r"MLflow at http://\*\*\*@127.*: no server answers there"
        ) as raised:
            registry.champion_version("any", uri)
    assert time.monotonic() - started < 10
    assert "hidden" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._QUICK, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(ValueError, match="no server answers there; start it, or correct"):
            registry.champion_version("any", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - started < 7


def test_an_address_without_an_mlflow_server_is_reported(mlflow_server: str) -> None:
    with pytest.raises(ValueError, match=r"can't be used: API request to .* failed"):
        registry.champion_version("any", f"{mlflow_server}/elsewhere")


def test_a_file_that_is_not_a_database_is_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("nothing of a database " * 100)
    with pytest.raises(ValueError, match=r"notes\.db can't be opened: file is not a database"):
        registry.champion_version("any", f"sqlite:///{file}")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("/some/folder", "is not a URI"),
        ("sqlite://", "names no file"),
        ("ftp://host/x", "can't be used"),
    ],
)
def test_a_wrong_uri_is_reported(uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.champion_version("any", uri)


@pytest.mark.parametrize("wrong", ["", "a/b", "a:b", "it's", "../up", "50%"])
def test_a_name_that_no_model_can_have_is_reported_before_anything_is_opened(
    wrong: str, saved: Callable[..., Path]
) -> None:
    for call in (
        lambda: registry.champion_version(wrong, "http://127.0.0.1:1"),
        lambda: register(saved(), wrong, "http://127.0.0.1:1"),
    ):
        with pytest.raises(ValueError, match=r"model name .* is not valid in MLflow and its queries"):
            call()


def test_a_version_whose_files_are_gone_is_reported(saved: Callable[..., Path], tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    register(saved(), "lost", uri)
    shutil.rmtree(tmp_path / "artifacts")
    with pytest.raises(ValueError, match="the files of version 1 of model 'lost' are gone"):
        registry.fetch_champion("lost", tmp_path / "fetched", uri)
    assert not (tmp_path / "fetched").exists()


def test_a_run_that_breaks_off_is_marked_and_makes_no_version(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(ValueError, match="refused"):
        registry.register(saved(), "broken", metrics={"no|name": 1.0}, reports={}, tracking_uri=uri)
    experiment = client(uri).get_experiment_by_name("flowparts")
    assert [run.info.status for run in client(uri).search_runs([experiment.experiment_id])] == ["FAILED"]
    assert registry.champion_version("broken", uri) is None


def test_fingerprint_stands_for_names_and_content(tmp_path: Path) -> None:
    for directory, name, content in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / name).write_text(content)
    first, second, *others = (registry.fingerprint(tmp_path / name) for name in "abcd")
    assert first == second
    assert first not in others
    assert len(first) == 16


def test_a_deleted_experiment_is_refused_with_the_way_to_restore_it(
    uri: str, name: str, saved: Callable[..., Path]
) -> None:
    register(saved(), name, uri, experiment=name)
    found = client(uri).get_experiment_by_name(name).experiment_id
    client(uri).delete_experiment(found)
    with pytest.raises(ValueError, match=f"was deleted in MLflow; restore it .* --experiment-id {found}"):
        register(saved(2.0), name, uri, experiment=name)
    assert registry.champion_version(name, uri) == "1"


def test_a_parameter_named_estimator_is_logged_beside_the_estimator(
    uri: str, name: str, saved: Callable[..., Path]
) -> None:
    model = saved()
    models.annotate(model, {"parameters": {"estimator": "DecisionTreeClassifier", "n_estimators": 50}})
    version = register(model, name, uri)
    run = client(uri).get_run(client(uri).get_model_version(name, version).run_id)
    assert run.data.params == {
        "estimator": "LogisticRegression",
        "parameter estimator": "DecisionTreeClassifier",
        "n_estimators": "50",
    }
