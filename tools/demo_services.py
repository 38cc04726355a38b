"""Auxiliary servers of the monitoring demonstration."""

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from backends import profiles, triggers
from tools import dashboards

_TOKEN = "only-for-this-demonstration"  # noqa: S105 of a temporary server on 127.0.0.1
_WAIT_SECONDS = 120


def get(url: str, body: Any = None) -> Any:
    """Send a request and return the answer, parsed if it is JSON."""
    return json.loads(ask(url, body)[0])


def ask(url: str, body: Any) -> tuple[bytes, str]:
    """Return an answer and its revision."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return answer.read(), answer.headers.get("x-flowparts-revision", "")


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition; raise ValueError on timeout."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if found := condition():
                return found
        if time.monotonic() > deadline:
            raise ValueError(f"{what} didn't happen within {_WAIT_SECONDS} s")
        time.sleep(0.2)


@contextlib.contextmanager
def started(command: list[str], ready: str, log: Path) -> Iterator[None]:
    """Run a server until the block ends, after waiting until a URL answers."""
    if not shutil.which(command[0]):
        raise ValueError(f"{command[0]} is missing; `make system` installs it")
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:  # noqa: S603
        try:
            until(lambda: ask(ready, None), f"the start of {command[0]} ({log})")
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def answering(server: ThreadingHTTPServer) -> Iterator[str]:
    """Serve until the block ends; yield the address."""
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def hook(alerts: list[dict[str, Any]]) -> ThreadingHTTPServer:
    """Return a server that receives Alertmanager's webhooks and records their alerts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            alerts.extend(body["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def triggered(
    folder: Path,
    runs: triggers.Runner,
    pipeline: str,
    parameters: Mapping[str, Any],
    say: Callable[[str], None],
) -> ThreadingHTTPServer:
    """Return a server whose trigger `drift` runs a pipeline, as `submit.py serve-triggers` does."""
    file = folder / "triggers.toml"
    only_if = {"/status": "firing", "/commonLabels/alertname": "FlowpartsDrift"}
    file.write_text(
        f'[drift]\npipeline = "{pipeline}"\n\n[drift.only_if]\n{_toml(only_if)}\n'
        f"[drift.parameters]\n{_toml(parameters)}",
        encoding="utf-8",
    )
    prepared = triggers.prepare(file, "kubeflow", profiles.Kubeflow())
    return triggers.server(prepared, runs, _TOKEN, "127.0.0.1", 0, lambda what: say(f"trigger {what}"))


def _toml(values: Mapping[str, Any]) -> str:
    return "".join(f"{json.dumps(key)} = {_toml_value(value)}\n" for key, value in values.items())


def _toml_value(value: Any) -> str:
    # Text and numbers are the same as in JSON, mappings aren't.
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(each)}" for key, each in value.items()) + "}"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value)


@contextlib.contextmanager
def monitored(folder: Path, webhook: str, trigger: str, port: int) -> Iterator[tuple[str, str]]:
    """Run Pushgateway, Alertmanager and Prometheus; yield the addresses of Prometheus and the Pushgateway.

    They have the shipped configuration, but poll every second and send at once.
    """
    shipped = dashboards.RULES.parent
    token = folder / "trigger-token"
    token.write_text(_TOKEN, encoding="utf-8")
    alerting = yaml.safe_load((shipped / "alertmanager.yml").read_text(encoding="utf-8"))
    alerting["route"] |= {"group_wait": "1s", "group_interval": "5s"}
    for receiver in alerting["receivers"]:
        receiver["webhook_configs"] = [
            {"url": webhook, "send_resolved": True},
            {
                "url": f"{trigger}/triggers/drift",
                "send_resolved": False,
                "http_config": {"authorization": {"credentials_file": str(token)}},
            },
        ]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(alerting), encoding="utf-8")
    config = yaml.safe_load((shipped / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(dashboards.RULES)]
    config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port + 2}"]}]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    jobs["docker"]["docker_sd_configs"][0] |= {
        "host": os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"),
        "refresh_interval": "1s",
    }
    jobs["pushgateway"]["static_configs"] = [{"targets": [f"127.0.0.1:{port + 1}"]}]
    config["scrape_configs"] = [jobs["docker"], jobs["pushgateway"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    commands = {
        # Debian's keeps what was pushed in /var/lib, else.
        port + 1: ["prometheus-pushgateway", "--persistence.file="],
        port + 2: [
            "prometheus-alertmanager",
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'alertmanager'}",
            "--cluster.listen-address=",
        ],
        port: [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
        ],
    }
    with contextlib.ExitStack() as stack:
        for each, command in commands.items():
            command.append(f"--web.listen-address=127.0.0.1:{each}")
            ready = f"http://127.0.0.1:{each}/-/ready"
            stack.enter_context(started(command, ready, folder / f"{command[0]}.log"))
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
