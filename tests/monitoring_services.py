"""Prometheus, its Pushgateway and Alertmanager, started on free ports of this machine."""

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.flowparts.serving.conftest import free_ports


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


@contextlib.contextmanager
def running(command: list[str], ready: str, log: Path) -> Iterator[None]:
    """Run a server until the block ends; wait for the address that answers when it is ready."""
    assert shutil.which(command[0]), f"{command[0]} is missing: make system"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError, urllib.error.URLError):
                    get(ready)
                    break
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.05)
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def pushgateway(folder: Path) -> Iterator[str]:
    """Run a Pushgateway; yield its address."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    # Debian's keeps what was pushed in /var/lib, else.
    options = [f"--web.listen-address=127.0.0.1:{port}", "--persistence.file="]
    command = ["prometheus-pushgateway", *options]
    with running(command, f"{url}/-/ready", folder / "pushgateway.log"):
        yield url


@contextlib.contextmanager
def prometheus(folder: Path, config: Path, data: Path | None = None) -> Iterator[str]:
    """Run Prometheus with a configuration; yield its address."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={data or folder / 'prometheus'}",
        "--storage.tsdb.retention.time=10y",
        "--web.enable-lifecycle",
    ]
    with running(command, f"{url}/-/ready", folder / "prometheus.log"):
        yield url


@contextlib.contextmanager
def alertmanager(folder: Path, config: Path) -> Iterator[str]:
    """Run Alertmanager with a configuration; yield its address."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [
        "prometheus-alertmanager",
        f"--config.file={config}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        f"--storage.path={folder / 'alertmanager'}",
    ]
    with running(command, f"{url}/-/ready", folder / "alertmanager.log"):
        yield url


def query(url: str, expression: str, at: float | None = None) -> list[dict[str, Any]]:
    """Return the result of an instant query."""
    asked = {"query": expression, **({} if at is None else {"time": str(at)})}
    answer = json.loads(get(f"{url}/api/v1/query?{urllib.parse.urlencode(asked)}"))
    return list(answer["data"]["result"])
