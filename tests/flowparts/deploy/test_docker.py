"""The Docker target on a real engine: the images of `make images`, HAProxy, real requests."""

import http.client
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from flowparts import models
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import docker as host
from flowparts.models import agreement
from tests import endpoints

pytestmark = pytest.mark.container

WINE = pl.read_parquet("src/flowparts/samples/wine.parquet")
ROWS = agreement.to_records(WINE.drop("target").head(3))


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    from docker.client import DockerClient

    client = DockerClient.from_env()
    yield client
    client.close()


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, save_model: Callable[..., dict[str, Any]]
) -> dict[str, Path]:
    """Two good models and a damaged one."""
    folder = tmp_path_factory.mktemp("models")
    for name, strength in {"first": 1.0, "second": 0.01}.items():
        save_model(folder / name, WINE, "target", LogisticRegression(C=strength, max_iter=1000))
    shutil.copytree(folder / "first", folder / "damaged")
    (folder / "damaged" / "model.skops").write_bytes(b"no weights")
    return {name: folder / name for name in ("first", "second", "damaged")}


@pytest.fixture(scope="module")
def first(made: dict[str, Path], new_endpoint: Callable[[str], str]) -> Endpoint:
    return host.deploy(str(made["first"]), new_endpoint("wine"), memory="512Mi")


def containers_of(engine: Any, endpoint: Endpoint) -> dict[str, str]:
    """Return the endpoint's containers and their ids."""
    found = engine.containers.list(all=True, filters={"label": f"flowparts.endpoint={endpoint.name}"})
    return {container.name: container.id for container in found}


def volumes_of(engine: Any, endpoint: Endpoint) -> set[str]:
    return {
        volume.name
        for volume in engine.volumes.list(filters={"label": f"flowparts.endpoint={endpoint.name}"})
    }


class Client(threading.Thread):
    """Sends requests over an open connection until told to stop; notes who answered and what was lost."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(daemon=True)
        self.address = endpoint.url.removeprefix("http://")
        self.answered: Counter[str] = Counter()
        self.lost: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        body = json.dumps({"instances": ROWS})
        connection = http.client.HTTPConnection(self.address, timeout=30)
        while not self.ended.is_set():
            try:
                connection.request("POST", "/predict", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                predictions = json.loads(answer.read())["predictions"]
                assert answer.status == 200
                assert len(predictions) == len(ROWS)
                self.answered[answer.headers["x-flowparts-revision"]] += 1
            except Exception as error:
                self.lost.append(repr(error))
                connection.close()
        connection.close()


@contextmanager
def load(endpoint: Endpoint, clients: int = 3) -> Iterator[list[Client]]:
    running = [Client(endpoint) for _ in range(clients)]
    for client in running:
        client.start()
    try:
        yield running
    finally:
        for client in running:
            client.ended.set()
        for client in running:
            client.join()


def shares(endpoint: Endpoint, requests: int = 100, clients: Sequence[Client] = ()) -> Counter[str]:
    """Ask so many times over one connection and return who answered, also the clients that ask meanwhile.

    The splitter gives turns to all that ask: what one of them gets depends on when the others do.
    """
    before = sum((client.answered for client in clients), Counter())
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=30)
    found: Counter[str] = Counter()
    for _ in range(requests):
        connection.request("GET", "/v2/health/ready")
        answer = connection.getresponse()
        answer.read()
        found[answer.headers["x-flowparts-revision"]] += 1
    connection.close()
    return found + sum((client.answered for client in clients), Counter()) - before


def percent(answered: Counter[str], revision: str) -> float:
    return 100 * answered[revision] / answered.total()


def test_a_model_is_served_as_it_predicts_offline(first: Endpoint, made: dict[str, Path]) -> None:
    model = models.load(made["first"])
    offline = model.predict(WINE.head(3))
    assert first.traffic == {first.revision: 100}
    assert first in host.endpoints()
    for revision in ("", first.revision):
        served = pl.DataFrame(host.predict(first, ROWS, revision), schema=offline.schema)
        assert not agreement.differences(offline, served, "classification").any()
    with pytest.raises(ValueError, match="404: no such revision"):
        host.predict(first, ROWS, "r000000000000")


def test_a_server_is_confined_and_restarts_with_the_machine(first: Endpoint, engine: Any) -> None:
    for name in containers_of(engine, first):
        container = engine.containers.get(name)
        settings = container.attrs["HostConfig"]
        assert settings["ReadonlyRootfs"]
        assert settings["CapDrop"] == ["ALL"]
        assert settings["SecurityOpt"] == ["no-new-privileges"]
        assert settings["RestartPolicy"]["Name"] == "unless-stopped"
        assert 0 < settings["Memory"] <= 512 * 2**20
        assert container.exec_run(["id", "-u"]).output.strip() == b"65532"
        assert container.exec_run(["touch", "/mnt/models/x"]).exit_code != 0
    published = engine.containers.get(f"endpoint-{first.name}").ports["8080/tcp"]
    assert {place["HostIp"] for place in published} == {"127.0.0.1"}


def test_deploying_again_changes_nothing_and_other_settings_replace_the_servers(
    first: Endpoint, made: dict[str, Path], engine: Any
) -> None:
    before = containers_of(engine, first)
    assert host.deploy(str(made["first"]), first.name, memory="512Mi", percent=10) == first
    assert containers_of(engine, first) == before

    with load(first) as clients:
        more = host.deploy(str(made["first"]), first.name, memory="600Mi", replicas=2)
    assert more == first
    after = containers_of(engine, first)
    assert len(after) == 3
    assert set(after) & set(before) == {f"endpoint-{first.name}"}
    assert [client.lost for client in clients] == [[], [], []]


def test_a_rolling_restart_of_all_servers_loses_none_of_a_thousand_requests(
    first: Endpoint, made: dict[str, Path], engine: Any
) -> None:
    host.deploy(str(made["first"]), first.name, memory="600Mi", replicas=2)
    before = containers_of(engine, first)
    with load(first) as clients:
        for memory in ("512Mi", "600Mi", "512Mi"):
            assert host.deploy(str(made["first"]), first.name, memory=memory, replicas=2) == first
        while sum(client.answered.total() for client in clients) < 1000:
            time.sleep(0.1)
    assert set(containers_of(engine, first)) & set(before) == {f"endpoint-{first.name}"}
    assert [client.lost for client in clients] == [[], [], []]


def test_a_model_that_does_not_load_is_reported_and_removed_while_the_previous_serves(
    first: Endpoint, made: dict[str, Path], engine: Any
) -> None:
    before, stored = containers_of(engine, first), volumes_of(engine, first)
    with (
        load(first) as clients,
        pytest.raises(
            ValueError,
            match=f"does not serve: its server ended with exit code .*model.*{first.revision} keeps serving",
        ) as raised,
    ):
        host.deploy(str(made["damaged"]), first.name, percent=10)
    assert "model.skops is not a valid skops file" in str(raised.value)
    assert str(raised.value).endswith(f"{first.revision} keeps serving")
    assert "\n" not in str(raised.value)
    assert containers_of(engine, first) == before
    assert volumes_of(engine, first) == stored
    assert [client.lost for client in clients] == [[], [], []]
    assert sum(client.answered[first.revision] for client in clients) > 20


def test_a_port_that_is_taken_leaves_everything_as_it_was(
    first: Endpoint, made: dict[str, Path], engine: Any
) -> None:
    servers = containers_of(engine, first).keys()
    stored = volumes_of(engine, first)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"the Docker engine at .* refused: .*{port}"):
            host.deploy(str(made["second"]), first.name, memory="512Mi", percent=10, port=port)
    assert shares(first, 20) == {first.revision: 20}
    assert containers_of(engine, first).keys() == servers
    assert volumes_of(engine, first) == stored
    assert host.shift(first, 100) == first


def test_a_splitter_that_does_not_start_leaves_everything_as_it_was(
    first: Endpoint, made: dict[str, Path], containers: Any
) -> None:
    other = containers.reference("flowparts-base")  # has no HAProxy
    with pytest.raises(ValueError, match="haproxy"):
        host.deploy(str(made["second"]), first.name, memory="512Mi", percent=10, splitter_image=other)
    assert shares(first, 20) == {first.revision: 20}
    assert host.shift(first, 100) == first


def test_another_token_replaces_the_servers(
    made: dict[str, Path], new_endpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_endpoint("guarded")
    for token in ("first", "second"):
        monkeypatch.setenv("FLOWPARTS_SERVING_TOKEN", token)
        endpoint = host.deploy(str(made["first"]), name, memory="512Mi")
        assert len(host.predict(endpoint, ROWS)) == len(ROWS)
    monkeypatch.setenv("FLOWPARTS_SERVING_TOKEN", "first")
    with pytest.raises(ValueError, match="401"):
        host.predict(endpoint, ROWS)


def test_no_request_is_lost_and_each_revision_gets_its_fraction_while_traffic_shifts(
    first: Endpoint, made: dict[str, Path], engine: Any
) -> None:
    with load(first) as clients:
        canary = host.deploy(str(made["second"]), first.name, memory="512Mi", percent=10)
        assert canary.traffic == {canary.revision: 10, first.revision: 90}
        # What is on its way when the count begins and ends makes it off by a few turns.
        assert 5 <= percent(shares(canary, clients=clients), canary.revision) <= 15
        half = host.shift(canary, 50)
        assert 45 <= percent(shares(half, clients=clients), canary.revision) <= 55
        promoted = host.shift(half, 100)
        assert shares(promoted) == {canary.revision: 100}
        assert host.shift(promoted, 100) == promoted
        back = host.rollback(promoted)
        assert shares(back) == {first.revision: 100}
    assert [client.lost for client in clients] == [[], [], []]
    answered = sum((client.answered for client in clients), Counter())
    assert set(answered) == {first.revision, canary.revision}

    assert host.rollback(promoted) == back
    assert back.traffic == {first.revision: 100}
    assert not [name for name in containers_of(engine, first) if canary.revision in name]
    with pytest.raises(ValueError, match=f"its revision is {first.revision}, not {canary.revision}"):
        host.shift(promoted, 50)


def test_a_server_that_is_killed_is_replaced_and_costs_no_more_than_what_it_was_answering(
    first: Endpoint, made: dict[str, Path], engine: Any
) -> None:
    host.deploy(str(made["first"]), first.name, memory="600Mi", replicas=2)
    server = next(name for name in containers_of(engine, first) if name.endswith("-1"))
    container = engine.containers.get(server)
    container.reload()
    started = container.attrs["State"]["StartedAt"]
    with load(first) as clients:
        time.sleep(0.5)
        endpoints.kill(engine, container)
        deadline = time.monotonic() + 60
        while container.attrs["State"]["StartedAt"] == started:
            assert time.monotonic() < deadline, "the engine did not restart the server"
            time.sleep(0.2)
            container.reload()
        before = sum(client.answered.total() for client in clients)
        time.sleep(0.5)
    assert max(host.crashes(first, first.revision).values()) >= 1
    # Each client waits for one answer at a time.
    assert all(len(client.lost) <= 1 for client in clients), [client.lost for client in clients]
    assert sum(client.answered.total() for client in clients) > before


def test_a_missing_splitter_is_restarted_with_its_configuration(
    made: dict[str, Path], engine: Any, new_endpoint: Callable[[str], str]
) -> None:
    name = new_endpoint("headless")
    first = host.deploy(str(made["first"]), name, memory="512Mi")
    engine.containers.get(f"endpoint-{name}").remove(force=True)
    canary = host.deploy(str(made["second"]), name, memory="512Mi", percent=10)
    assert canary.traffic == {canary.revision: 10, first.revision: 90}
    assert canary.url == first.url
    engine.containers.get(f"endpoint-{name}").remove(force=True)
    back = host.rollback(canary)
    assert back.url == first.url
    assert shares(back, 20) == {first.revision: 20}


def test_a_step_that_is_killed_before_the_splitter_reads_is_taken_up_by_the_next(
    made: dict[str, Path], new_endpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_endpoint("killed")
    host.deploy(str(made["first"]), name, memory="512Mi")
    canary = host.deploy(str(made["second"]), name, memory="512Mi", percent=10)
    with monkeypatch.context() as patch:
        patch.setattr("docker.models.containers.Container.kill", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            host.shift(canary, 100)
    promoted = host.shift(canary, 100)
    assert shares(promoted, 20) == {canary.revision: 20}


def test_a_missing_endpoint_is_refused(new_endpoint: Callable[[str], str]) -> None:
    gone = Endpoint("docker", new_endpoint("gone"), "http://127.0.0.1:9", "r1", {"r1": 100, "r0": 0}, "r0")
    for act in (lambda: host.shift(gone, 50), lambda: host.rollback(gone)):
        with pytest.raises(ValueError, match=r"there is no endpoint 'gone-.*deploy a model first"):
            act()
    with pytest.raises(ValueError, match="gave no answer"):
        host.predict(gone, ROWS)


def test_a_missing_image_is_named(made: dict[str, Path], new_endpoint: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match="image nobody/flowparts-serving:9 is not on this Docker engine"):
        host.deploy(str(made["first"]), new_endpoint("imageless"), image="nobody/flowparts-serving:9")


def test_without_an_engine_the_error_says_what_to_do(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"no Docker engine answers at .*as a subprocess on its machine"):
        host.deploy(str(made["first"]), "wine")


def test_only_leftovers_of_killed_test_runs_are_removed(engine: Any) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f"left-of-{ended.pid}-0123abcd", endpoints.new_name("kept"), f"somebodys-{ended.pid}-0123abcd"]
    labels = [{"flowparts.endpoint": name} for name in names]
    made = [
        engine.volumes.create(f"endpoint-{name}", labels=label)
        for name, label in zip(names, labels, strict=True)
    ]
    try:
        endpoints.remove_left_behind()
        left = {volume.name for volume in engine.volumes.list(filters={"label": "flowparts.endpoint"})}
        assert [volume.name in left for volume in made] == [False, True, True]
    finally:
        for volume in made[1:]:
            volume.remove()


def test_servers_write_a_prediction_log_that_the_deployer_can_delete(
    made: dict[str, Path], new_endpoint: Callable[[str], str], tmp_path: Path
) -> None:
    log = {"directory": str(tmp_path / "customers' log"), "seconds": 0.1}
    endpoint = host.deploy(str(made["first"]), new_endpoint("wine"), memory="512Mi", prediction_log=log)
    host.predict(endpoint, ROWS)
    deadline = time.monotonic() + 60
    while not (files := list(Path(log["directory"]).rglob("part-*.parquet"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    logged = pl.read_parquet(files[0])
    assert logged["ash"].to_list() == [row["ash"] for row in ROWS]
    host.remove(endpoint.name)
    assert files[0].exists()
    shutil.rmtree(log["directory"])
