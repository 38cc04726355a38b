"""What goes wrong: processes killed, servers restarted under load, models that can't be served."""

import json
import shutil
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import tritonclient.grpc
import urllib3
import yaml
from tritonclient.utils import InferenceServerException

from flowparts.util import trees
from tests.flowparts.serving.conftest import Server, free_ports, start, wait
from tests.flowparts.serving.test_open_inference import tensors

# The engine of a test may take a second: as slow models do.
SLOW = """
from flowparts.models import engines
load = engines.load
def slow(*arguments):
    import time
    engine = load(*arguments)
    predict = engine.predict_columns
    def wait(columns):
        time.sleep(0.3)
        return predict(columns)
    engine.predict_columns = wait
    return engine
engines.load = slow
"""
BROKEN = """
from flowparts.models import engines
load = engines.load
def broken(*arguments):
    engine = load(*arguments)
    predict = engine.predict_columns
    def fail(columns):
        if "Atlantis" in columns["town"]:
            raise RuntimeError("the engine stumbled")
        return predict(columns)
    engine.predict_columns = fail
    return engine
engines.load = broken
"""


class Load:
    """Clients that send requests one after another until told to stop, and note what came of each.

    A client goes to the first server unless that has asked it, by closing the connection, to go elsewhere.
    """

    def __init__(self, servers: list[Server], record: dict[str, Any], clients: int = 8) -> None:
        self.statuses: list[int] = []
        self.lost: list[str] = []
        self._servers = servers
        self._body = json.dumps({"instances": [record]}).encode()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int) -> None:
        """Wait until so many more requests are answered."""
        aim = len(self.statuses) + count
        deadline = time.monotonic() + 60
        while len(self.statuses) < aim:
            assert time.monotonic() < deadline, self.lost
            time.sleep(0.01)

    def _run(self) -> None:
        servers = list(self._servers)
        headers = {"content-type": "application/json"}
        with urllib3.PoolManager(maxsize=1) as pool:
            while not self._stop.is_set():
                try:
                    answer = pool.request(
                        "POST", f"{servers[0].url}/predict", body=self._body, headers=headers, retries=False,
                        timeout=30,
                    )  # fmt: skip
                except urllib3.exceptions.HTTPError as error:
                    self.lost.append(repr(error))
                    time.sleep(0.01)
                    continue
                self.statuses.append(answer.status)
                if answer.headers.get("connection") == "close" and len(servers) > 1:
                    servers.append(servers.pop(0))


def test_a_rolling_restart_under_load_loses_no_request(
    serve: Callable[..., Server], model: Path, records: Any
) -> None:
    old, new = serve(model, "--drain-seconds=1"), serve(model)
    with Load([old, new], records[0]) as load:
        load.wait_for(200)
        old.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert old.call("/v2/health/ready")[0] == 503
        assert old.call("/v2/health/live")[0] == 200
        assert old.process.wait(20) == 0
        load.wait_for(200)
    assert len(load.statuses) >= 400
    assert set(load.statuses) == {200}
    assert load.lost == []


def test_requests_before_sigterm_are_answered(
    serve: Callable[..., Server], model: Path, records: Any
) -> None:
    server = serve(model, "--drain-seconds=0", "--max-batch-rows=1", code=SLOW)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.call, "/predict", {"instances": records[:1]}) for _ in range(8)]
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert [future.result()[0] for future in asked] == [200] * 8
    assert server.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_repeated_stop_signals_still_end_the_server_gracefully(
    serve: Callable[..., Server], model: Path, workers: int
) -> None:
    server = serve(model, f"--workers={workers}")
    while server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert server.stop() == 0
    assert len(server.say("stopped")) == workers


def test_a_server_stopped_while_its_workers_start_ends(serve: Callable[..., Server], model: Path) -> None:
    code = """
import os, signal, subprocess
begin = subprocess.Popen
def told_meanwhile(command, **options):
    process = begin(command, **options)
    os.kill(os.getpid(), signal.SIGTERM)
    return process
subprocess.Popen = told_meanwhile
"""
    server = serve(model, "--workers=2", code=code, ready=False)
    assert server.process.wait(20) == 0


def test_a_call_over_grpc_ends_at_its_deadline_and_the_next_is_answered(
    serve: Callable[..., Server], model: Path, records: Any
) -> None:
    server = serve(model, "--name=plans", code=SLOW)
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        rows = tensors(tritonclient.grpc, records[1:2])
        with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
            client.infer("plans", rows, client_timeout=0.1)
        assert client.infer("plans", rows).as_numpy("prediction").shape == (1,)
        going = client.async_infer("plans", rows, callback=lambda **_: None)
        time.sleep(0.1)
        going.cancel()
        wait_for(server, 'flowparts_rejected_total{reason="cancelled"}', 1)
    assert metric(server, 'flowparts_rejected_total{reason="deadline"}') == "1.0"
    assert metric(server, 'flowparts_requests_total{code="504",protocol="grpc"}') == "1.0"
    assert metric(server, 'flowparts_requests_total{code="499",protocol="grpc"}') == "1.0"
    assert metric(server, 'flowparts_requests_total{code="200",protocol="grpc"}') == "1.0"
    assert metric(server, "flowparts_requests_in_flight") == "1.0"


def test_a_client_that_resets_its_connection_is_counted_and_no_more_in_flight(
    serve: Callable[..., Server], model: Path, records: Any
) -> None:
    server = serve(model, code=SLOW)
    body = json.dumps({"instances": records[:1]}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + body)
            time.sleep(0.1)
            # Closing resets it.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(server, 'flowparts_rejected_total{reason="cancelled"}', 3)
    assert metric(server, 'flowparts_requests_total{code="499",protocol="predict"}') == "3.0"
    # The question itself.
    assert metric(server, "flowparts_requests_in_flight") == "1.0"


def test_killed_workers_are_replaced_and_lose_only_what_they_held(
    serve: Callable[..., Server], model: Path, records: Any
) -> None:
    server = serve(model, "--workers=2", "--name=m")
    supervisor = psutil.Process(server.process.pid)

    def workers() -> list[psutil.Process]:
        return [child for child in supervisor.children() if "worker" in " ".join(child.cmdline())]

    before = workers()
    assert len(before) == 2
    with Load([server], records[0]) as load:
        load.wait_for(100)
        before[0].send_signal(signal.SIGKILL)
        load.wait_for(300)
        deadline = time.monotonic() + 60
        while len(server.say("serving m")) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        load.wait_for(100)
    # A client has one connection, and so one request at most on the worker that was killed.
    assert len(load.lost) <= 8
    assert set(load.statuses) == {200}
    assert len(workers()) == 2
    assert len(server.say("worker ended; starting a new one")) == 1
    # The new worker has gone on counting where the killed one stopped.
    counted = float(metric(server, 'flowparts_requests_total{code="200",protocol="predict"}'))
    assert counted >= len(load.statuses)
    assert server.stop() == 0
    assert not [process for process in before if process.is_running()]


def test_workers_replaced_one_after_another_under_load_lose_no_request(
    serve: Callable[..., Server], model: Path, records: Any
) -> None:
    server = serve(model, "--workers=2", "--name=m", "--drain-seconds=0.5")
    supervisor = psutil.Process(server.process.pid)
    before = [child for child in supervisor.children() if "worker" in " ".join(child.cmdline())]
    with Load([server], records[0]) as load:
        load.wait_for(200)
        for number, worker in enumerate(before):
            worker.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 60
            while len(server.say("serving m")) < 3 + number and time.monotonic() < deadline:
                time.sleep(0.05)
            load.wait_for(200)
    assert not [worker for worker in before if worker.is_running()]
    assert len(load.statuses) >= 600
    assert set(load.statuses) == {200}
    assert load.lost == []


def test_workers_end_with_their_supervisor(serve: Callable[..., Server], model: Path) -> None:
    server = serve(model, "--workers=2")
    workers = psutil.Process(server.process.pid).children()
    server.stop(signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


def wait_for(server: Server, name: str, value: float) -> None:
    deadline = time.monotonic() + 20
    while float(metric(server, name)) != value:
        assert time.monotonic() < deadline, metric(server, name)
        time.sleep(0.02)


def metric(server: Server, name: str) -> str:
    lines = server.call("/metrics")[1].decode().splitlines()
    return next(line.rpartition(" ")[2] for line in lines if line.startswith(name))


def test_requests_beyond_the_queue_are_refused_at_once_and_the_rest_answered(
    serve: Callable[..., Server], model: Path, records: Any
) -> None:
    server = serve(model, "--max-waiting-rows=4", "--max-batch-rows=1", code=SLOW)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(server.call, "/predict", {"instances": records[:1]}) for _ in range(12)]
        answers = [future.result() for future in asked]
    refused = [(body, headers) for status, body, headers in answers if status == 429]
    assert sorted({status for status, _, _ in answers}) == [200, 429]
    assert 6 <= len(refused) <= 8
    for body, headers in refused:
        assert headers["retry-after"] == "1"
        assert "rows are waiting already" in body["error"]
    assert metric(server, 'flowparts_rejected_total{reason="busy"}') == f"{len(refused)}.0"


def test_a_deadline_ends_the_waiting_not_the_server(
    serve: Callable[..., Server], model: Path, records: Any
) -> None:
    server = serve(model, code=SLOW)
    body = {"instances": records[:1]}
    started = time.monotonic()
    status, answer, _ = server.call("/predict", body, {"x-request-timeout-ms": "50"})
    assert (status, answer["error"]) == (504, "there was no prediction within 0.05 s")
    assert time.monotonic() - started < 0.28
    # Health is answered while the engine works.
    assert server.call("/v2/health/live")[0] == 200
    assert server.call("/predict", body)[0] == 200


def test_an_engine_that_fails_is_a_500_without_a_traceback_and_for_its_request_only(
    serve: Callable[..., Server], model: Path, records: Any
) -> None:
    server = serve(model, code=BROKEN)
    status, answer, _ = server.call("/predict", {"instances": [records[0] | {"town": "Atlantis"}]})
    assert (status, answer["error"]) == (500, "the model failed on this request; the server's log says why")
    assert server.call("/predict", {"instances": records})[0] == 200
    server.stop()
    [line] = server.say("a request failed")
    assert "the engine stumbled" in line["traceback"]


def described(model: Path, part: str, **other: str) -> None:
    """Take a part out of what a model says of itself, or put another one there."""
    told = yaml.safe_load((model / "MLmodel").read_text())
    told[part] = other
    told = {name: value for name, value in told.items() if value}
    (model / "MLmodel").write_text(yaml.safe_dump(told))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda model: (model / "model.onnx").write_bytes(b"broken"), "it is not the file that was checked"),
        (lambda model: (model / "MLmodel").unlink(), "the directory holds no file MLmodel"),
        (lambda model: (model / "input_example.json").write_text("{"), "the model's input example"),
        (lambda model: (model / "input_example.json").write_text('{"columns": ["visits"], "data": [["x"]]}'),
         "can't score its own input example: instances[0].visits must be a number"),
        (shutil.rmtree, "there is no model directory at"),
        (lambda model: described(model, "model_uuid"), "is damaged: its MLmodel lacks model_uuid"),
        (lambda model: described(model, "signature", inputs='[{"name": "a"}]'),
         "is damaged: its MLmodel has a wrong signature"),
        (lambda model: described(model, "signature", inputs="{"),
         "is damaged: its MLmodel has a wrong signature"),
    ],
    ids=["weights", "MLmodel", "example", "example's types", "everything", "identity", "signature",
         "signature's JSON"],
)  # fmt: skip
def test_a_model_that_cannot_be_served_gives_a_one_line_error_and_a_failure(
    serve: Callable[..., Server], model: Path, tmp_path: Path, damage: Any, message: str, workers: int
) -> None:
    broken = tmp_path / "m"
    shutil.copytree(model, broken)
    damage(broken)
    server = serve(broken, f"--workers={workers}", ready=False)
    assert server.process.wait(60) == 1
    server.reader.join()
    sentences = {line["message"] for line in server.lines}
    assert len(sentences) == 1, server.lines
    assert message in sentences.pop()


def test_a_model_with_other_files_than_were_deployed_is_not_served(
    serve: Callable[..., Server], model: Path
) -> None:
    digest = trees.digest(model)
    server = serve(model, f"--digest={digest}", "--name=plans")
    status, ready, _ = server.call("/v2/models/plans/ready")
    assert (status, ready["ready"], ready["digest"]) == (200, True, digest)
    other = serve(model, f"--digest={'0' * 16}", ready=False)
    assert other.process.wait(60) == 1
    other.reader.join()
    assert "have changed since they were deployed" in other.lines[-1]["message"]


def test_a_taken_port_gives_a_one_line_error(serve: Callable[..., Server], model: Path) -> None:
    [port] = free_ports(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        server = serve(model, f"--port={port}", ready=False)
        assert server.process.wait(60) == 1
    server.reader.join()
    assert [line["message"] for line in server.lines] == [
        f"the server can't listen on 127.0.0.1:{port}: Address already in use"
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_server_does_not_share_the_first_ones_grpc_port(
    serve: Callable[..., Server], model: Path, workers: int
) -> None:
    first = serve(model, f"--workers={workers}", f"--grpc-port={free_ports(1)[0]}")
    port = next(line["grpc_port"] for line in first.say("serving "))
    second = serve(model, f"--workers={workers}", f"--grpc-port={port}", ready=False)
    assert second.process.wait(60) == 1
    second.reader.join()
    assert [line["message"] for line in second.lines] == [
        f"the gRPC server can't listen on 127.0.0.1:{port}: Address already in use"
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_of_servers_started_at_once_on_a_port_one_gives_a_one_line_error(
    serve: Callable[..., Server], model: Path, workers: int
) -> None:
    [port] = free_ports(1)
    servers = [serve(model, f"--port={port}", f"--workers={workers}", ready=False) for _ in range(2)]
    deadline = time.monotonic() + 60
    while all(server.process.poll() is None for server in servers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    [ended] = [server for server in servers if server.process.poll() is not None]
    assert ended.process.wait() == 1
    ended.reader.join()
    wrong = {line["message"] for line in ended.lines if line["level"] != "info"}
    assert wrong == {f"the server can't listen on 127.0.0.1:{port}: Address already in use"}


def test_an_invalid_host_gives_a_one_line_error(serve: Callable[..., Server], model: Path) -> None:
    server = serve(model, "--host=nonsense.invalid", "--port=8080", ready=False)
    assert server.process.wait(60) == 1
    server.reader.join()
    [line] = server.lines
    assert line["message"].startswith("the server can't listen on nonsense.invalid:8080: ")
    assert "Unknown error" not in line["message"]


def test_sigterm_while_the_model_loads_ends_it(model: Path) -> None:
    server = start(model)
    time.sleep(1)
    assert server.stop() in (0, -signal.SIGTERM)


def test_a_server_is_ready_only_when_it_has_predicted(model: Path) -> None:
    code = SLOW.replace("0.3", "1")
    server = start(model, code=code)
    began = time.monotonic()
    while not server.say("model loaded"):
        with pytest.raises(urllib3.exceptions.HTTPError):
            server.call("/v2/health/ready")
        assert time.monotonic() - began < 60
        time.sleep(0.05)
    wait(server)
    assert server.stop() == 0
