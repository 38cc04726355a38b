"""The image of the model server, run as platforms run it."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
import urllib3

from backends.local import containers as docker
from backends.local import runner
from flowparts import models
from flowparts.pipelines.tabular_training import tabular_training
from flowparts.prepare import preprocess
from flowparts.train import estimators
from tests.flowparts.serving.conftest import same

CANCER = pl.read_parquet("src/flowparts/samples/breast_cancer.parquet")

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
        return container, f"http://{published(container, port)}"

    yield begin
    for container in started:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=True)


def published(container: str, port: int) -> str:
    command = ["docker", "port", container, str(port)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the model that a run of tabular-training chose."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs / 'mlflow.db'}")
        candidates = [{"estimator": "Linear", "parameters": {}}]
        record = runner.run(tabular_training, {"candidates": candidates}, runs)
    assert record.succeeded, record.problem
    (chosen,) = [task.outputs["model"].path for task in record.tasks if task.name == "train-tabular"]
    # The server's user must read it, as it could on a mounted volume.
    model = runs / "model"
    shutil.copytree(chosen, model)
    runs.chmod(0o755)
    return model


def test_a_model_of_tabular_training_is_served_by_every_contract(
    run: Callable[..., tuple[str, str]], trained: Path
) -> None:
    rows = CANCER.drop("target").head(20)
    records = rows.to_dicts()
    expected = models.load(trained).predict(rows).to_dicts()
    container, address = run(
        f"--volume={trained}:/mnt/models:ro",
        "--publish=127.0.0.1::8081",
        "--env=AIP_HEALTH_ROUTE=/health",
        "--env=AIP_PREDICT_ROUTE=/vertex",
        arguments=("--name=cancer",),
    )
    for health in ("/v2/health/ready", "/health", "/ping"):
        wait(address, health)
    # The plain address, KServe's V1, Vertex AI's and SageMaker's.
    for path in ("/predict", "/v1/models/cancer:predict", "/vertex", "/invocations"):
        answer = urllib3.request("POST", address + path, json={"instances": records}, retries=False)
        same(answer.json()["predictions"], expected)
    answer = urllib3.request(
        "POST",
        f"{address}/invocations",
        body=rows.write_csv().encode(),
        headers={"content-type": "text/csv", "accept": "text/csv"},
        retries=False,
    )
    labels = [line.partition(",")[0] for line in answer.data.decode().split()]
    assert labels == [row["prediction"] for row in expected]
    # Open Inference V2, over REST and gRPC.
    for library, place in ((over_http, address), (over_grpc, f"http://{published(container, 8081)}")):
        with library.InferenceServerClient(place.removeprefix("http://")) as client:
            tensors = []
            for column in rows.iter_columns():
                tensors.append(library.InferInput(column.name, [len(column)], "FP64"))
                tensors[-1].set_data_from_numpy(column.to_numpy())
            found = client.infer("cancer", tensors)
        columns = {name: found.as_numpy(name).tolist() for name in expected[0]}
        columns["prediction"] = [text.decode() for text in columns["prediction"]]
        same([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], expected)


def test_a_step_of_a_pipeline_may_run_in_it(containers: docker.Containers) -> None:
    command = ["docker", "run", "--rm", "--network=none", containers.reference("flowparts-serving")]
    answer = subprocess.run([*command, "sh", "-c", "echo here"], capture_output=True, text=True)
    assert answer.stdout == "here\n"
