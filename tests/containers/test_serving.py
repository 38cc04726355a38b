"""The image of the model server, run as platforms run it."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import urllib3

from flowparts import estimators, models, preprocess
from targets import docker

ROWS = pl.DataFrame({"size": [float(i) for i in range(60)], "kind": ["x", "y", None] * 20}).with_columns(
    big=pl.col("size") > 30
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "model"
    learned, features = preprocess.fit(ROWS.lazy(), label="big", task="classification")
    data = estimators.examples(features.lazy(), learned)
    fitted = estimators.fit(estimators.build("Linear", "classification"), data, data)
    models.save(
        path, fitted, preprocessor=learned, task="classification", label="big", classes=learned.classes,
        metadata={},
    )  # fmt: skip
    path.parent.chmod(0o755)
    return path


@pytest.fixture
def run(containers: docker.Containers) -> Iterator[Callable[..., tuple[str, str]]]:
    """Run the image with options and arguments; give the container's id and its address."""
    started: list[str] = []

    def begin(*options: str, arguments: tuple[str, ...] = (), port: int = 8080) -> tuple[str, str]:
        command = [
            "docker",
            "run",
            "--detach",
            "--read-only",
            "--tmpfs=/tmp",
            "--cap-drop=ALL",
            "--user=4711:0",
        ]
        command += [
            f"--publish=127.0.0.1::{port}",
            *options,
            containers.reference("flowparts-serving"),
            *arguments,
        ]
        container = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        started.append(container)
        address = subprocess.run(
            ["docker", "port", container, str(port)], capture_output=True, text=True, check=True
        ).stdout.split()[0]
        return container, f"http://{address}"

    yield begin
    for container in started:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=True)


def wait(address: str, path: str) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if urllib3.request("GET", address + path, retries=False, timeout=5).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            time.sleep(0.1)
    raise AssertionError(f"{address} did not answer")


@pytest.mark.parametrize(
    ("mount", "variables", "arguments", "port", "health", "predict"),
    [
        ("/mnt/models", {}, ("--name=size",), 8080, "/v2/health/ready", "/v1/models/size:predict"),
        ("/opt/ml/model", {}, ("serve",), 8080, "/ping", "/invocations"),
        ("/model", {"AIP_HTTP_PORT": "9000", "AIP_HEALTH_ROUTE": "/h", "AIP_PREDICT_ROUTE": "/p",
                    "AIP_STORAGE_URI": "file:///model"}, (), 9000, "/h", "/p"),
        ("/model", {"FLOWPARTS_SERVING_MODEL": "/model", "FLOWPARTS_SERVING_WORKERS": "2"}, (), 8080, "/ping",
         "/predict"),
    ],
    ids=["KServe", "SageMaker", "Vertex AI", "several workers"],
)  # fmt: skip
def test_serves_by_each_platforms_rules_and_ends_in_order(
    run: Callable[..., tuple[str, str]], model: Path, mount: str, variables: dict[str, str],
    arguments: tuple[str, ...], port: int, health: str, predict: str,
) -> None:  # fmt: skip
    given = [f"--env={name}={value}" for name, value in variables.items()]
    volume = f"--volume={model}:{mount}:ro"
    container, address = run(
        volume, "--env=FLOWPARTS_SERVING_DRAIN_SECONDS=0", *given, arguments=arguments, port=port
    )
    wait(address, health)
    rows = [{"size": 3.0, "kind": "x"}, {"size": 55.0, "kind": None}]
    answer = urllib3.request("POST", address + predict, json={"instances": rows}, retries=False)
    assert [row["prediction"] for row in json.loads(answer.data)["predictions"]] == [False, True]
    subprocess.run(["docker", "stop", "--time=30", container], capture_output=True, check=True)
    state: Any = subprocess.run(["docker", "inspect", container], capture_output=True, check=True).stdout
    assert json.loads(state)[0]["State"]["ExitCode"] == 0
    log = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True).stderr
    assert all(json.loads(line)["level"] == "info" for line in log.splitlines())


def test_a_step_of_a_pipeline_may_run_in_it(containers: docker.Containers) -> None:
    command = ["docker", "run", "--rm", "--network=none", containers.reference("flowparts-serving")]
    answer = subprocess.run([*command, "sh", "-c", "echo here"], capture_output=True, text=True)
    assert answer.stdout == "here\n"
