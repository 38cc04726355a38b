"""A real server process for the tests, on a model with a column of every type."""

import contextlib
import datetime
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import urllib3

from flowparts import models
from flowparts.models import agreement
from flowparts.prepare import preprocess
from flowparts.train import estimators

CODE = Path(__file__).parents[3] / "src"


def rows(count: int = 200) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    start = datetime.datetime(2024, 1, 1)
    frame = pl.DataFrame(
        {
            "size (cm)": rng.normal(size=count),
            "visits": rng.integers(0, 9, count),
            "member": rng.integers(0, 2, count).astype(bool),
            "town": rng.choice(["Köln", "Paris"], count),
            "at": [start + datetime.timedelta(minutes=int(m)) for m in rng.integers(0, 99_999, count)],
            "born": [start.date() - datetime.timedelta(days=int(d)) for d in rng.integers(0, 9999, count)],
        }
    ).with_columns(
        # Missing in training, so these may be left out of a request.
        pl.when(pl.int_range(count) % 7 == 0).then(None).otherwise(pl.col(name)).alias(name)
        for name in ("size (cm)", "town")
    )
    return frame.with_columns(
        plan=pl.when(pl.col("visits") > 4).then(pl.lit("pro")).otherwise(pl.lit("basic")),
        amount=pl.col("visits") * 2.0 + rng.normal(size=count),
    )


def train(
    path: Path, task: str = "classification", without: Sequence[str] = (), table: pl.DataFrame | None = None
) -> Path:
    label, other = ("plan", "amount") if task == "classification" else ("amount", "plan")
    learned, features = preprocess.fit(
        (rows() if table is None else table).lazy(), label=label, task=task, exclude_columns=[other, *without]
    )
    data = estimators.examples(features.lazy(), learned)
    fitted = estimators.fit(estimators.build("Linear", task), data, data)
    models.save(
        path,
        fitted,
        preprocessor=learned,
        task=task,
        label=label,
        classes=learned.classes,
        metadata={},
        train_features=data.matrix,
    )
    return path


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    grpc_port: int
    workers: int
    lines: list[dict[str, Any]] = field(default_factory=list)
    reader: threading.Thread = field(default_factory=threading.Thread)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str | None = None
    ) -> tuple[int, Any, Any]:
        """Return status, body (JSON where it is such) and headers."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json"} | (headers or {})
        answer = urllib3.request(
            method or ("GET" if data is None else "POST"), self.url + path, body=data, headers=given,
            retries=False, timeout=20,
        )  # fmt: skip
        kind = answer.headers.get("content-type", "")
        content = json.loads(answer.data) if kind == "application/json" and answer.data else answer.data
        return answer.status, content, answer.headers

    def stop(self, signum: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signum)
        status = self.process.wait(30)
        self.reader.join()
        return status

    def say(self, message: str) -> list[dict[str, Any]]:
        """Return the log's lines with a message."""
        return [line for line in self.lines if line["message"].startswith(message)]


# Below the ports that the system gives to outgoing connections, which can take one between its choice here
# and the start of a server. Each process of a parallel run has a range of its own, and begins elsewhere in it
# than the processes of another run do.
_RANGE = 10_000 + 2_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_PORTS = (_RANGE + (os.getpid() * 31 + number) % 2_000 for number in itertools.count())


def free_ports(count: int) -> list[int]:
    """Return ports of this machine on which nobody listens."""
    ports: list[int] = []
    for port in _PORTS:
        if len(ports) == count:
            break
        with socket.socket() as candidate, contextlib.suppress(OSError):
            # As servers do: a connection that has ended doesn't hold the port.
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def start(
    model: Path | str, *options: str, environment: dict[str, str] | None = None, code: str | None = None
) -> Server:
    """Start a server and return at once; `code` runs first, in the server's own process."""
    port, grpc_port = free_ports(2)
    module = ["-m", "flowparts.serving"]
    if code:
        main = "import sys; from flowparts.serving.__main__ import main; sys.exit(main(sys.argv[1:]))"
        module = ["-c", f"{code}\n{main}"]
    given = ["--host=127.0.0.1", f"--port={port}", f"--grpc-port={grpc_port}", "--drain-seconds=0.3"]
    process = subprocess.Popen(
        [sys.executable, *module, f"--model={model}", *given, *options],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(CODE)} | (environment or {}),
    )
    workers = next(
        (int(option.partition("=")[2]) for option in options if option.startswith("--workers=")), 1
    )
    server = Server(process, port, grpc_port, workers)

    def read() -> None:
        assert process.stderr
        with process.stderr:
            for line in process.stderr:
                try:
                    server.lines.append(json.loads(line))
                except ValueError:
                    server.lines.append({"message": line, "level": "garbage"})

    server.reader = threading.Thread(target=read, daemon=True)
    server.reader.start()
    return server


def wait(server: Server) -> Server:
    """Wait until a server answers, with each of its workers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            ready = server.call("/v2/health/ready")[0] == 200
        except urllib3.exceptions.HTTPError:
            ready = False
        if ready and len(server.say("serving ")) >= server.workers:
            return server
        time.sleep(0.05)
    raise AssertionError(f"the server did not start: {server.lines}")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("serving") / "model")


@pytest.fixture(scope="session")
def server(model: Path) -> Iterator[Server]:
    """Give a server with default options."""
    running = wait(start(model, "--name=plans"))
    yield running
    assert running.stop() == 0
    assert not [line for line in running.lines if line["level"] in ("error", "garbage")]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers with other options, and stop them at the end."""
    running: list[Server] = []

    def begin(*arguments: Any, ready: bool = True, **options: Any) -> Server:
        running.append(start(*arguments, **options))
        return wait(running[-1]) if ready else running[-1]

    yield begin
    for each in running:
        each.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def records() -> list[dict[str, Any]]:
    """Give 40 rows as JSON records."""
    return agreement.to_records(rows().drop("plan", "amount").head(40))


@pytest.fixture(scope="session")
def expected(model: Path) -> list[dict[str, Any]]:
    """Give what the model predicts offline for `records`."""
    return models.load(model).predict(rows().head(40)).to_dicts()


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Assert that predictions are those."""
    assert [row["prediction"] for row in found] == [row["prediction"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
