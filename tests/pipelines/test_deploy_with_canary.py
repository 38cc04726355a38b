"""Deploys to this machine's Docker engine: real models in the real server image, promoted and rolled back."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from flowparts import endpoint as endpoints
from flowparts import registry, serving_check
from flowparts.deploy import docker as host
from flowparts.endpoint import Endpoint
from pipelines.deploy_with_canary import deploy_with_canary
from pipelines.tabular_training import tabular_training
from targets import local

pytestmark = pytest.mark.container

CANCER = pl.read_parquet("containers/flowparts/samples/breast_cancer.parquet")
ROWS = serving_check.to_records(CANCER.drop("target").head(5))
WATCH = {"requests": 30, "seconds": 2.0}


@dataclass
class World:
    """An endpoint that serves the champion of a training run, and the folder of that run."""

    runs: Path
    name: str
    serving: Endpoint

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.runs / 'mlflow.db'}"

    def champion(self, model: Path) -> None:
        """Make a model the champion."""
        registry.register(model, "churn", metrics={}, reports={}, tracking_uri=self.tracking_uri)

    def deploy(self, **parameters: Any) -> local.Run:
        """Run the pipeline on the champion."""
        given = {
            "model_name": "churn",
            "name": self.name,
            "tracking_uri": self.tracking_uri,
            "options": {"memory": "1Gi"},
            **WATCH,
        }
        return local.run(deploy_with_canary, given | parameters, self.runs)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, new_endpoint: Callable[[str], str]) -> World:
    runs = tmp_path_factory.mktemp("runs")
    name = new_endpoint("churn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs / 'mlflow.db'}")
        parameters = {
            "candidates": [{"estimator": "Linear", "parameters": {}}],
            "model_name": "churn",
            "deploy_target": "docker",
            "endpoint_name": name,
            "deploy_options": {"memory": "1Gi"},
        }
        trained = local.run(tabular_training, parameters, runs)
        assert trained.succeeded, trained.problem
    assert verdicts(trained)[0][0]
    return World(runs, name, written(trained, "deploy-model", "endpoint"))


def outputs(record: local.Run, task: str) -> dict[str, Any]:
    return next(each.outputs for each in record.tasks if each.name == task)


def written(record: local.Run, task: str, name: str) -> Endpoint:
    return endpoints.read(outputs(record, task)[name].path)


def components(record: local.Run) -> list[str]:
    """Return what ran after the deployment, in order; the offline predictions run beside it."""
    names = [
        task.component.removeprefix("comp-").rpartition("/")[2].rstrip("-0123456789") for task in record.tasks
    ]
    return [name for name in names[names.index("deploy-model") + 1 :] if name != "batch-predict"]


def verdicts(record: local.Run) -> list[tuple[bool, str]]:
    probes = [task.outputs for task in record.tasks if task.name.startswith("probe-endpoint")]
    return [(probe["healthy"], probe["reason"]) for probe in probes]


def assert_serves(world: World, expected: Endpoint) -> None:
    """Require that clients get their answers from the expected endpoint's revision alone."""
    assert host.predict(expected, ROWS, expected.revision) == host.predict(expected, ROWS)
    assert expected.traffic[expected.revision] == 100


def test_the_first_revision_gets_all_traffic_and_a_second_run_changes_nothing(world: World) -> None:
    assert world.serving.traffic == {world.serving.revision: 100}
    record = world.deploy()
    assert record.succeeded, record.problem
    assert components(record) == ["probe-endpoint"]
    assert verdicts(record)[0][0]
    assert written(record, "deploy-model", "endpoint") == world.serving


def test_a_server_that_does_not_come_up_never_gets_a_request(
    world: World, tmp_path: Path, save_model: Callable[..., dict[str, Any]]
) -> None:
    save_model(tmp_path / "model", CANCER, "target", LogisticRegression(C=2.0, max_iter=5000))
    world.champion(tmp_path / "model")
    record = world.deploy(options={"memory": "64Mi"})
    (failed,) = record.failed
    assert failed.name == "deploy-model"
    assert "does not serve: its server" in failed.error
    assert "needs more memory than its limit, 64 MiB" in failed.error
    assert failed.error.endswith(f"{world.serving.revision} keeps serving")
    assert_serves(world, world.serving)


def test_a_model_that_predicts_otherwise_than_offline_is_rolled_back(
    world: World, tmp_path: Path, save_model: Callable[..., dict[str, Any]], stale_image: str
) -> None:
    save_model(tmp_path / "model", CANCER, "target", LogisticRegression(C=0.5, max_iter=5000))
    world.champion(tmp_path / "model")
    record = world.deploy(options={"image": stale_image, "memory": "1Gi"})
    assert record.succeeded, record.problem
    assert components(record) == ["probe-endpoint", "rollback"]
    ((healthy, reason),) = verdicts(record)
    assert not healthy
    assert "rows otherwise than the model offline" in reason
    restored = written(record, "rollback", "restored")
    assert restored.traffic == world.serving.traffic
    assert_serves(world, world.serving)


def test_a_server_that_crashes_while_it_serves_is_rolled_back(
    world: World, tmp_path: Path, save_model: Callable[..., dict[str, Any]], crashing_image: str
) -> None:
    save_model(tmp_path / "model", CANCER, "target", LogisticRegression(C=0.3, max_iter=5000))
    world.champion(tmp_path / "model")
    # Requests alone don't show it: the splitter asks the other revision's server instead.
    record = world.deploy(
        options={"image": crashing_image, "memory": "1Gi"}, seconds=15.0, requests=60, max_error_rate=0.9
    )
    assert record.succeeded, record.problem
    assert components(record) == ["probe-endpoint", "rollback"]
    ((healthy, reason),) = verdicts(record)
    assert not healthy
    assert "crashed" in reason
    assert_serves(world, world.serving)


def test_a_model_that_is_slow_is_rolled_back(
    world: World, tmp_path: Path, save_model: Callable[..., dict[str, Any]], open_page: Any
) -> None:
    # Compares each request with 400,000 remembered rows.
    generator = np.random.default_rng(0)
    rows = CANCER.sample(400_000, with_replacement=True, seed=0)
    rows = rows.with_columns(
        pl.col(name) * (1 + pl.Series(generator.normal(0, 0.01, rows.height)))
        for name in rows.columns
        if name != "target"
    )
    save_model(tmp_path / "model", rows, "target", KNeighborsClassifier(algorithm="brute"))
    world.champion(tmp_path / "model")
    record = world.deploy()
    assert record.succeeded, record.problem
    assert components(record) == ["probe-endpoint", "rollback"], verdicts(record)
    ((healthy, reason),) = verdicts(record)
    assert not healthy
    assert "2 times is allowed" in reason
    assert_serves(world, world.serving)
    page = next(page for name, page in local.reports(record).items() if name.startswith("probe-endpoint"))
    assert "times the" in open_page(page).find_element("css selector", ".callout.bad").text


def test_a_good_model_is_promoted_in_steps(
    world: World, tmp_path: Path, save_model: Callable[..., dict[str, Any]], open_page: Any
) -> None:
    save_model(tmp_path / "model", CANCER, "target", LogisticRegression(C=0.1, max_iter=5000))
    world.champion(tmp_path / "model")
    record = world.deploy(max_slowdown=10.0)
    assert record.succeeded, record.problem
    assert components(record) == [
        *("probe-endpoint", "shift-traffic", "probe-endpoint", "shift-traffic", "probe-endpoint"),
    ]
    assert [healthy for healthy, _ in verdicts(record)] == [True, True, True]
    deployed = written(record, "deploy-model", "endpoint")
    assert deployed.traffic == {deployed.revision: 10, world.serving.revision: 90}
    promoted = written(record, "shift-traffic-2", "shifted")
    assert promoted.traffic == {deployed.revision: 100, world.serving.revision: 0}
    assert_serves(world, promoted)
    told = f"{promoted.url} ({deployed.revision} 100 %, {world.serving.revision} 0 %)"
    assert local.endpoints(record) == {world.name: told}
    for page in local.reports(record).values():
        open_page(page)


@contextmanager
def image_with(serving: str, folder: Path, before: list[str], copied: list[str] = []) -> Iterator[str]:  # noqa: B006
    """Give an image of the server whose start has words before it, and files that lie in a folder."""
    from docker.client import DockerClient

    engine = DockerClient.from_env()
    command = engine.images.get(serving).attrs["Config"]
    start = [*(command["Entrypoint"] or []), *(command["Cmd"] or [])]
    lines = [f"FROM {serving}", *copied, f"ENTRYPOINT {json.dumps([*before, *start])}", "CMD []"]
    (folder / "Dockerfile").write_text("\n".join(lines))
    image, _ = engine.images.build(path=str(folder), rm=True)
    yield image.id
    engine.images.remove(image.id, force=True)
    engine.close()


@pytest.fixture(scope="module")
def stale_image(
    containers: Any, tmp_path_factory: pytest.TempPathFactory, save_model: Callable[..., dict[str, Any]]
) -> Iterator[str]:
    """Give an image of the server that serves a model of its own whatever it is told to serve."""
    folder = tmp_path_factory.mktemp("stale")
    save_model(folder / "model", CANCER, "target", LogisticRegression(C=1e-5, max_iter=5000))
    before, copied = ["env", "FLOWPARTS_SERVING_MODEL=/opt/stale"], ["COPY --chown=65532:0 model /opt/stale"]
    with image_with(containers.reference("flowparts-serving"), folder, before, copied) as image:
        yield image


@pytest.fixture(scope="module")
def crashing_image(containers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give an image of the server that is killed some seconds after each start."""
    folder = tmp_path_factory.mktemp("crashing")
    before = ["timeout", "--signal=KILL", "8"]
    with image_with(containers.reference("flowparts-serving"), folder, before) as image:
        yield image
