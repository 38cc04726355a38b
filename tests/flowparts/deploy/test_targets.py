import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from flowparts import __version__, deploy
from flowparts.deploy import common
from flowparts.util import sources


def test_a_target_is_found_by_its_name_and_offers_what_all_do() -> None:
    assert "docker" in deploy.target_names()
    for name in deploy.target_names():
        target = deploy.target(name)
        for function in ("deploy", "shift", "rollback", "predict", "endpoints", "writing", "remove"):
            assert callable(getattr(target, function)), f"{name} has no {function}"
        on_clouds = name in ("vertex", "sagemaker")
        assert isinstance(target, deploy.SupportsDiagnosis) is not on_clouds
        assert isinstance(target, deploy.SupportsRelease) is (
            not on_clouds and name not in ("docker", "seldon")
        )
    with pytest.raises(
        ValueError, match=r"unknown deployment target 'dockr'; did you mean 'docker'\? known: "
    ):
        deploy.target("dockr")
    with pytest.raises(ValueError, match="unknown deployment target '_splitter'"):
        deploy.target("_splitter")


def test_the_servers_image_is_the_one_given_or_of_the_same_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLOWPARTS_SERVING_IMAGE", "FLOWPARTS_REGISTRY", "FLOWPARTS_IMAGE_VERSION"):
        monkeypatch.delenv(name, raising=False)
    assert common.image("serving", "mine:1") == "mine:1"
    assert common.image("serving") == f"flowparts/flowparts-serving:{__version__}"
    monkeypatch.setenv("FLOWPARTS_REGISTRY", "registry.example/team")
    monkeypatch.setenv("FLOWPARTS_IMAGE_VERSION", "1.2.3")
    assert common.image("serving") == "registry.example/team/flowparts-serving:1.2.3"
    monkeypatch.setenv("FLOWPARTS_SERVING_IMAGE", "mine:2")
    assert common.image("serving") == "mine:2"


@pytest.mark.parametrize(("cpu", "number"), [("2", 2.0), ("0.5", 0.5), ("500m", 0.5), ("1500m", 1.5)])
def test_processors_are_written_as_in_kubernetes(cpu: str, number: float) -> None:
    assert common.cpus(cpu) == number


@pytest.mark.parametrize("cpu", ["0", "-1", "two", "", "1.5.0", "0m"])
def test_an_invalid_number_of_cpus_is_refused(cpu: str) -> None:
    with pytest.raises(ValueError, match="is not a number of processors"):
        common.cpus(cpu)


@pytest.mark.parametrize(
    ("memory", "number"), [("128Mi", 2**27), ("2Gi", 2**31), ("1.5Gi", 3 * 2**29), ("1G", 10**9)]
)
def test_memory_is_written_as_in_kubernetes(memory: str, number: int) -> None:
    assert common.memory_bytes(memory) == number


@pytest.mark.parametrize("memory", ["", "2", "2GB", "12Mi", "-2Gi", "much"])
def test_an_invalid_amount_of_memory_is_refused(memory: str) -> None:
    with pytest.raises(ValueError, match="is not an amount such as '512Mi'"):
        common.memory_bytes(memory)


@pytest.mark.parametrize("name", ["", "Churn", "churn_model", "1churn", "churn-", "a" * 39])
def test_a_name_that_some_platform_refuses_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must start with a letter"):
        common.check_name(name)
    common.check_name("churn-2")
    common.check_name("a" * 38)


def test_equal_files_are_the_same_revision_and_others_another(
    save_model: Callable[..., dict[str, Any]], s3_server: str, tmp_path: Path
) -> None:
    wine = pl.read_parquet("src/flowparts/samples/wine.parquet")
    for name, strength in {"a": 1.0, "b": 1.0, "c": 0.1}.items():
        save_model(tmp_path / name, wine, "target", LogisticRegression(C=strength, max_iter=1000))
    first, same, other = (common.revision(tmp_path / name) for name in "abc")
    assert first == same != other
    with common.local_copy((tmp_path / "a").as_uri()) as directory:
        assert common.revision(directory) == first
    sources.filesystem("s3").put(str(tmp_path / "a"), "s3://revisions/", recursive=True)
    with common.local_copy("s3://revisions/a") as directory:
        assert common.revision(directory) == first
    digests = {common.digest(address) for address in (str(tmp_path / "a"), "s3://revisions/a")}
    assert digests == {common.digest("minio://revisions/a")} != {common.digest(str(tmp_path / "c"))}
    with pytest.raises(ValueError, match="no model at"):
        common.revision(tmp_path)


def test_a_uri_that_holds_nothing_is_refused(s3_server: str) -> None:
    with (
        pytest.raises(ValueError, match=r"there is nothing at s3://revisions/nothing"),
        common.local_copy("s3://revisions/nothing"),
    ):
        pass
    with pytest.raises(
        ValueError, match=r"digest of the model is not known \(there is nothing at s3://rev.*; give"
    ):
        common.digest("s3://revisions/nothing")
    with pytest.raises(ValueError, match="digest must be 16 hexadecimal digits, not 'x'"):
        common.digest("s3://revisions/nothing", "x")


def test_a_volume_of_a_cluster_has_the_digest_that_is_given(caplog: pytest.LogCaptureFixture) -> None:
    assert common.digest("pvc://models/churn", "0" * 16) == "0" * 16
    assert common.digest("pvc://models/churn") == ""
    assert "the files at pvc://models/churn are not verified by the pods" in caplog.text


def test_waiting_ends_when_it_is_ready_or_the_time_is_over() -> None:
    states = iter(["pulling", "starting", ""])
    common.wait("the server", lambda: next(states), 60)
    assert list(states) == []
    with pytest.raises(ValueError, match=r"the server is not ready after 0\.1 s: pulling"):
        common.wait("the server", lambda: "pulling", 0.1)


@pytest.fixture
def answering() -> Iterator[Callable[[int, bytes], str]]:
    """Answer every request alike: `answering(200, b"{}")` gives the address."""
    servers = []

    def start(status: int, body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/predict"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_predictions_are_taken_from_the_answer(answering: Callable[[int, bytes], str]) -> None:
    url = answering(200, json.dumps({"predictions": [{"prediction": 1.5}]}).encode())
    assert common.ask(url, [{"a": 1}]) == [{"prediction": 1.5}]
    with pytest.raises(ValueError, match="instead of 2 predictions"):
        common.ask(url, [{"a": 1}, {"a": 2}])


REFUSED = {
    "an error": (422, b"column 'a' is missing", "answered 422: column 'a' is missing"),
    "no JSON": (200, b"<html>", "answered something that is not JSON"),
    "other JSON": (200, b"[]", r"answered \[\] instead of 1 predictions"),
}


@pytest.mark.parametrize(("status", "body", "words"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_prediction_is_refused(
    status: int, body: bytes, words: str, answering: Callable[[int, bytes], str]
) -> None:
    with pytest.raises(ValueError, match=words):
        common.ask(answering(status, body), [{"a": 1}])
    with pytest.raises(ValueError, match="gave no answer"):
        common.ask("http://127.0.0.1:9/predict", [{"a": 1}])
