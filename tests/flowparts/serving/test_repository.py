"""The model repository extension as NVIDIA's client speaks it, on a directory as Seldon's agent fills it."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
import urllib3
from tritonclient.utils import InferenceServerException

from flowparts import models
from tests.flowparts.serving.conftest import Server, rows, train
from tests.flowparts.serving.test_metrics import samples
from tests.flowparts.serving.test_open_inference import check, tensors, whole


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("other") / "model", "regression")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    # The agent makes it when its first model comes.
    return tmp_path / "models"


@pytest.fixture
def repository(serve: Callable[..., Server], directory: Path) -> Server:
    return serve("", f"--repository={directory}")


@pytest.fixture(params=["http", "grpc"])
def client(repository: Server, request: pytest.FixtureRequest) -> Any:
    with connected(request.param, repository) as found:
        yield found


def connected(kind: str, server: Server) -> Any:
    library, port = (over_http, server.port) if kind == "http" else (over_grpc, server.grpc_port)
    return library.InferenceServerClient(f"127.0.0.1:{port}")


def library(client: Any) -> Any:
    return over_grpc if isinstance(client, over_grpc.InferenceServerClient) else over_http


def place(model: Path, directory: Path, name: str, version: int = 1) -> Path:
    """Do as the agent: copy a model to NAME_VERSION/VERSION, and write its name into the settings there."""
    folder = directory / f"{name}_{version}" / str(version)
    shutil.copytree(model, folder)
    settings = json.loads((folder / "model-settings.json").read_text())
    settings |= {"name": f"{name}_{version}", "parameters": {"version": str(version), "extra": {}}}
    (folder / "model-settings.json").write_text(json.dumps(settings))
    return folder


def index(client: Any) -> dict[str, str]:
    """Return the state of each model."""
    found = client.get_model_repository_index()
    if library(client) is over_grpc:
        return {model.name: model.state for model in found.models}
    return {model["name"]: model["state"] for model in found}


def test_an_unknown_path_is_told_where_the_models_are_listed(repository: Server) -> None:
    status, body, _ = repository.call("/predict", {})
    assert (status, body["error"]) == (404, "there is nothing at /predict; /v1/models lists the models")


def test_a_server_without_models_is_alive_and_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert index(client) == {}
    options = {"as_json": True} if library(client) is over_grpc else {}
    assert "model_repository" in client.get_server_metadata(**options)["extensions"]


def test_models_are_loaded_and_unloaded_beside_each_other(
    client: Any, repository: Server, directory: Path, model: Path, other: Path, records: Any, expected: Any
) -> None:
    place(model, directory, "plans")
    place(other, directory, "amounts", 3)
    assert index(client) == {"amounts_3": "UNAVAILABLE", "plans_1": "UNAVAILABLE"}
    client.load_model("plans_1")
    client.load_model("amounts_3")
    assert index(client) == {"amounts_3": "READY", "plans_1": "READY"}
    assert client.is_model_ready("plans_1")
    sent, wanted = whole(records, expected)
    result = client.infer("plans_1", tensors(library(client), sent))
    check(result, wanted)
    offline = models.load(other).predict(rows().head(40)).to_dicts()
    assert repository.call("/v1/models", None)[1] == {"models": ["plans_1", "amounts_3"]}
    found = repository.call("/v1/models/amounts_3:predict", {"instances": records})[1]["predictions"]
    wanted_amounts = [row["prediction"] for row in offline]
    assert [row["prediction"] for row in found] == pytest.approx(wanted_amounts, abs=1e-5)
    counted = samples(repository.call("/metrics")[1].decode())
    served = {key.partition("name=")[2].partition(",")[0] for key in counted if "model_info" in key}
    assert served == {"plans_1", "amounts_3"}

    client.unload_model("plans_1")
    assert index(client) == {"amounts_3": "READY", "plans_1": "UNAVAILABLE"}
    with pytest.raises(InferenceServerException, match="there is no") as caught:
        client.infer("plans_1", tensors(library(client), sent))
    assert "404" in str(caught.value.status()) or "NOT_FOUND" in str(caught.value.status())
    assert repository.call("/v1/models/plans_1:predict", {"instances": records})[0] == 404
    assert repository.call("/v1/models/amounts_3:predict", {"instances": records})[0] == 200
    client.load_model("plans_1")
    check(client.infer("plans_1", tensors(library(client), sent)), wanted)


def test_a_loaded_model_is_left_alone_until_its_files_change(
    client: Any, repository: Server, directory: Path, model: Path, other: Path, records: Any
) -> None:
    folder = place(model, directory, "plans")
    for _ in range(3):
        client.load_model("plans_1")
    assert len(repository.say("model loaded")) == 1
    before = repository.call("/v2/models/plans_1")[1]["versions"]
    shutil.rmtree(folder)
    shutil.copytree(other, folder)
    client.load_model("plans_1")
    assert repository.call("/v2/models/plans_1")[1]["versions"] != before
    predictions = repository.call("/v1/models/plans_1:predict", {"instances": records})[1]["predictions"]
    assert set(predictions[0]) == {"prediction"}


def test_a_model_that_fails_to_load_gives_a_one_line_error_and_loaded_ones_stay(
    client: Any, repository: Server, directory: Path, model: Path, records: Any
) -> None:
    folder = place(model, directory, "plans")
    client.load_model("plans_1")
    described = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text("{")
    with pytest.raises(InferenceServerException, match=r"model 'plans_1' can't be loaded: .*not valid YAML"):
        client.load_model("plans_1")
    assert repository.call("/v1/models/plans_1:predict", {"instances": records})[0] == 200
    client.unload_model("plans_1")
    with pytest.raises(InferenceServerException, match="not valid YAML"):
        client.load_model("plans_1")
    [entry] = repository.call("/v2/repository/index", b"")[1]
    assert (entry["state"], "not valid YAML" in entry["reason"]) == ("UNAVAILABLE", True)
    assert repository.call("/v2/repository/index", {"ready": True})[1] == []
    (folder / "MLmodel").write_text(described)
    client.load_model("plans_1")
    assert index(client) == {"plans_1": "READY"}


@pytest.mark.parametrize("name", ["plans_2", "..", "../elsewhere", "/", "plans_1/1", ""])
def test_only_names_of_the_directory_are_loaded(
    client: Any, directory: Path, tmp_path: Path, model: Path, name: str
) -> None:
    place(model, directory, "plans")
    shutil.copytree(model, tmp_path / "elsewhere")
    with pytest.raises(InferenceServerException, match="there is no"):
        client.load_model(name)
    with pytest.raises(InferenceServerException, match="there is no"):
        client.unload_model("plans_1")


def test_no_request_is_lost_while_a_model_changes(
    repository: Server, directory: Path, model: Path, other: Path, records: Any
) -> None:
    folder = place(model, directory, "plans")
    answers: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append(repository.call("/v1/models/plans_1:predict", {"instances": records})[0])

    with connected("grpc", repository) as client:
        client.load_model("plans_1")
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for content in (other, model, other, model):
            shutil.rmtree(folder)
            shutil.copytree(content, folder)
            client.load_model("plans_1")
        done.set()
        for thread in threads:
            thread.join()
    assert len(repository.say("model unloaded")) == 4
    assert len(answers) > 20
    assert set(answers) == {200}


def test_the_token_guards_the_repository(serve: Callable[..., Server], directory: Path, model: Path) -> None:
    place(model, directory, "plans")
    server = serve("", f"--repository={directory}", environment={"FLOWPARTS_SERVING_TOKEN": "abc"})
    for path in ("/v2/repository/index", "/v2/repository/models/plans_1/load"):
        assert server.call(path, b"{}")[0] == 401
        assert server.call(path, b"{}", {"authorization": "Bearer abc"})[0] == 200
    with (
        connected("grpc", server) as client,
        pytest.raises(InferenceServerException, match="send the server"),
    ):
        client.unload_model("plans_1")


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_a_wrong_method_is_answered_and_the_connection_stays_open(repository: Server, verb: str) -> None:
    path = f"/v2/repository/models/plans_1/{verb}"
    with urllib3.HTTPConnectionPool("127.0.0.1", repository.port, maxsize=1, timeout=10) as pool:
        answers = [pool.request("GET", address, retries=False) for address in (path, "/v2/health/live")]
        assert pool.num_connections == 1
    assert [answer.status for answer in answers] == [405, 200]
    assert answers[0].headers["allow"] == "POST"
    assert answers[0].json()["error"] == f"{path} takes POST, not GET"


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_server_of_one_model_loads_no_others(server: Server, kind: str) -> None:
    with connected(kind, server) as client:
        for call in (client.get_model_repository_index, lambda: client.load_model("plans")):
            with pytest.raises(InferenceServerException):
                call()
        assert client.is_model_ready("plans")
