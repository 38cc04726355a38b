"""Fixtures that every test may use."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import requests
from kfp import dsl

from backends.local import containers as targets_docker
from flowparts import models, tables
from flowparts.prepare import preprocess
from flowparts.util.errors import MissingError
from tests import clouds, endpoints
from tests.flowparts.deploy import kubernetes_api
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.deploy.sagemaker_service import SageMakerService
from tests.flowparts.deploy.vertex_service import VertexService
from tests.flowparts.serving.conftest import free_ports
from tools.browser import chromium

# Reports and pages are looked at in a real browser; keep its pictures when asked to.
SCREENSHOTS = os.environ.get("FLOWPARTS_SCREENSHOTS")
IMAGES = Path(__file__).parents[1] / "build" / "images.json"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remove what earlier runs of the tests, which were killed, have left deployed."""
    if not hasattr(session.config, "workerinput") and IMAGES.exists():
        # Asked for by its own program first: where no engine runs, docker's library leaves a socket open.
        with suppress(ValueError):
            targets_docker.prepare(IMAGES)
            endpoints.remove_left_behind()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove what the contract tests have deployed, when the last of their processes has ended."""
    if hasattr(session.config, "workerinput"):
        return
    temporary: pytest.TempPathFactory = vars(session.config)["_tmp_path_factory"]
    file = temporary.getbasetemp() / "recorded" / "endpoints"
    if file.exists():
        from flowparts.deploy.targets import docker

        for name in file.read_text().split():
            docker.remove(name)


@pytest.fixture(scope="session")
def kserve_python() -> str:
    """Give the Python of the environment with KServe's own client, which wants pandas 2."""
    python = Path(".venv-bench/kserve/bin/python")
    if not python.exists() and os.environ.get("CI") != "true":
        pytest.skip("needs KServe's client; make .venv-bench/kserve/installed installs it")
    return str(python)


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[..., Any]:
    """Make an artifact to be written by a component: `artifact("train", dsl.Dataset)`."""

    def make(name: str, kind: type[dsl.Artifact] = dsl.Artifact) -> dsl.Artifact:
        return kind(name=name, uri=str(tmp_path / "artifacts" / name))

    return make


@pytest.fixture
def table(artifact: Callable[..., Any]) -> Callable[..., dsl.Dataset]:
    """Make a written table to be read by a component: `table(frame, "train")`."""

    def make(frame: pl.DataFrame | pl.LazyFrame, name: str = "table") -> dsl.Dataset:
        dataset: dsl.Dataset = artifact(name, dsl.Dataset)
        dataset.metadata.update(tables.write(frame, dataset.path))
        return dataset

    return make


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URI of a real MLflow server on this machine, on an SQLite file, with artifacts through it."""
    home = tmp_path_factory.mktemp("mlflow-server")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{home / 'server.db'}"]
    command += ["--artifacts-destination", str(home / "artifacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = home / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command,
            cwd=home,
            env={**os.environ, **quiet},
            stdout=output,
            stderr=output,
            # Its workers end with it: the whole process group is told to.
            start_new_session=True,
        )
        try:
            uri = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 90
            while not clouds.answers(f"{uri}/health"):
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the MLflow server did not start:\n{log.read_text()}")
                time.sleep(0.2)
            yield uri
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Give a headless Chromium (Selenium driver)."""
    try:
        with chromium(1280, 1600) as opened:
            yield opened
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def open_page(browser: Any) -> Callable[[Path], Any]:
    """Open an HTML file in the browser, fail on any console error, return the driver."""

    def open_file(path: Path) -> Any:
        page = path
        if path.suffix != ".html":
            page = path.with_name(path.name + ".html")
            shutil.copyfile(path, page)
        browser.get(page.resolve().as_uri())
        errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not errors, errors
        if SCREENSHOTS:
            target = Path(SCREENSHOTS)
            target.mkdir(parents=True, exist_ok=True)
            height = browser.execute_script("return document.documentElement.scrollHeight")
            browser.set_window_size(1280, min(height + 150, 6000))
            browser.save_screenshot(str(target / f"{page.parent.name}-{page.stem}.png"))
        return browser

    return open_file


@pytest.fixture(scope="session")
def amazon() -> Iterator[str]:
    """Start an emulation of AWS; give its URL."""
    with clouds.amazon() as address:
        yield address


@pytest.fixture
def moto_server(amazon: str) -> str:
    """Empty the emulation of AWS; give its URL."""
    requests.post(f"{amazon}/moto-api/reset", timeout=60).raise_for_status()
    return amazon


@pytest.fixture
def s3_server(moto_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point the AWS clients of this test at the S3 server; give its URL."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return moto_server


@pytest.fixture(scope="session")
def save_model() -> Callable[..., dict[str, Any]]:
    """Train a scikit-learn estimator on rows and save it: `save_model(path, rows, "label", estimator)`."""

    def make(
        path: str | Path,
        rows: pl.DataFrame,
        label: str,
        estimator: Any,
        task: str = "classification",
        **told: Any,
    ) -> dict[str, Any]:
        preprocessor, features = preprocess.fit(rows.lazy(), label=label, task=task)
        estimator.fit(features.drop(label).to_numpy(), features[label].to_numpy())
        return models.save(
            path,
            estimator,
            preprocessor=preprocessor,
            task=task,
            label=label,
            classes=preprocessor.classes,
            metadata={
                "estimator": type(estimator).__name__,
                "parameters": {},
                "training_fingerprint": preprocessor.training_fingerprint,
                "git_commit": "unknown",
                "validation": {},
            }
            | told,
        )

    return make


@pytest.fixture(scope="session")
def containers() -> targets_docker.Containers:
    """Give the images of the last `make images`; without Docker the test is skipped, in CI it fails."""
    try:
        return targets_docker.prepare(IMAGES)
    except ValueError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must test the containers: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def new_endpoint(containers: targets_docker.Containers) -> Iterator[Callable[[str], str]]:
    """Make names for endpoints on this Docker engine, `new_endpoint("wine")`, and remove these afterwards."""
    from flowparts.deploy.targets import docker

    names = []

    def name(stem: str) -> str:
        names.append(endpoints.new_name(stem))
        return names[-1]

    with pytest.MonkeyPatch.context() as patch:
        for folder in ("serving", "deploy"):
            patch.setenv(f"FLOWPARTS_{folder.upper()}_IMAGE", containers.reference(f"flowparts-{folder}"))
        yield name
        for made in names:
            docker.remove(made)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """Run a stand-in for the Kubernetes API, and name it in a kubeconfig as a user's would.

    Models have digests, although nothing is at their addresses.
    """
    monkeypatch.setattr("flowparts.deploy.common.digest", kubernetes_api.digest_of)
    monkeypatch.setattr("flowparts.deploy.common._LOOK_EVERY_SECONDS", 0.02)
    # The addresses that a mesh gives lead nowhere here.
    monkeypatch.setattr("flowparts.deploy.common._SERVED_SECONDS", 0.1)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with kubernetes_api.serving() as running:
        file = tmp_path / "kubeconfig"
        file.write_text(running.kubeconfig)
        monkeypatch.setenv("KUBECONFIG", str(file))
        yield running


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[clouds.Served, clouds.Served]]:
    """Give two models for the clouds, which lie in a bucket by their keys, with a real server each."""
    with clouds.served(tmp_path_factory.mktemp("served")) as models:
        yield models


@pytest.fixture(scope="session")
def cloud_storage(served: tuple[clouds.Served, clouds.Served]) -> Iterator[str]:
    """Run an emulation of Cloud Storage that holds the models; give its address."""
    with clouds.cloud_storage(clouds.BUCKET) as address:
        for model in served:
            for name, content in clouds.files(model):
                clouds.put(address, clouds.BUCKET, name, content)
        yield address


@pytest.fixture
def vertex_ai(
    served: tuple[clouds.Served, clouds.Served],
    cloud_storage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[VertexService]:
    """Run a stand-in for Vertex AI, which a step finds as it would the real one."""
    service = VertexService()
    service.servers = {model.gs: model.server.url for model in served}
    monkeypatch.setattr("flowparts.deploy.common._LOOK_EVERY_SECONDS", 0.02)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud_storage)
    for name, value in service.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    yield service
    service.close()


@pytest.fixture
def sagemaker_ai(
    served: tuple[clouds.Served, clouds.Served], moto_server: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SageMakerService]:
    """Run a stand-in for SageMaker before moto's server, which holds the models and an empty bucket."""
    service = SageMakerService(moto_server)
    for model in served:
        service.serve(model.path, model.server.url)
    monkeypatch.setattr("flowparts.deploy.common._LOOK_EVERY_SECONDS", 0.02)
    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    clouds.fill_buckets(served)
    yield service
    service.close()
    assert service.mistakes == []
