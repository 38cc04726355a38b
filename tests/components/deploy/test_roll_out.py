"""Rollouts on this machine's Docker engine: real models in the real server, promoted and rolled back."""

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from flowparts import tables
from flowparts.components.deploy.roll_out import roll_out
from flowparts.components.predict.batch_predict import batch_predict
from flowparts.deploy import endpoint as endpoints
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import docker
from flowparts.models import agreement
from tests import endpoints as endpoints_of_tests

pytestmark = pytest.mark.container

CANCER = pl.read_parquet("src/flowparts/samples/breast_cancer.parquet")
ROWS = agreement.to_records(CANCER.drop("target").head(5))
WATCH: dict[str, Any] = {"requests": 20, "seconds": 1.0}
# A step in a process of its own, which a test can end.
STEP = """
import json, logging, sys
from kfp import dsl
from flowparts.components.deploy.roll_out import roll_out
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
kinds = {"model": dsl.Model, "predictions": dsl.Dataset, "endpoint": dsl.Artifact,
         "rollout_metrics": dsl.Metrics, "rollout_report": dsl.HTML}
given, artifacts = json.loads(sys.argv[1])
roll_out.python_func(**given, **{name: kinds[name](name=name, uri=uri) for name, uri in artifacts.items()})
"""


@dataclass
class Step:
    """A rollout's ports, and what it returned."""

    folder: Path
    parameters: dict[str, Any]
    artifacts: dict[str, dsl.Artifact] = field(default_factory=dict)
    returned: Any = None

    @property
    def report(self) -> Path:
        return Path(self.artifacts["rollout_report"].path)

    @property
    def measured(self) -> dict[str, float]:
        numbers: dict[str, float] = json.loads(Path(self.artifacts["rollout_metrics"].path).read_text())
        assert numbers.items() <= self.artifacts["rollout_metrics"].metadata.items()
        return numbers

    @property
    def endpoint(self) -> Endpoint:
        return endpoints.read(self.artifacts["endpoint"].path)

    def run(self) -> "Step":
        self.returned = roll_out.python_func(**self.parameters, **self.artifacts)
        return self

    def until(self, line: str, number: signal.Signals) -> tuple[int, str]:
        """Run the step in a process, send that a signal when it says a line; return how it ended."""
        uris = {name: artifact.uri for name, artifact in self.artifacts.items()}
        command = [sys.executable, "-c", STEP, json.dumps([self.parameters, uris])]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout
            said = ""
            for text in process.stdout:
                said += text
                if line in text:
                    process.send_signal(number)
            return process.wait(), said


@dataclass
class World:
    """An endpoint, and the revision that serves it."""

    folder: Path
    name: str
    save_model: Callable[..., dict[str, Any]]
    serving: Endpoint | None = None

    def step(self, stem: str, estimator: Any, rows: pl.DataFrame = CANCER, **parameters: Any) -> Step:
        """Train a model, predict with it, and give the step that rolls it out."""
        folder = self.folder / stem
        model = dsl.Model(name="model", uri=str(folder / "model"))
        self.save_model(model.path, rows, "target", estimator)
        table, predictions = (
            dsl.Dataset(name=name, uri=str(folder / name)) for name in ("rows", "predictions")
        )
        tables.write(CANCER, table.path)
        batch_predict.python_func(table=table, model=model, predictions=predictions)
        kinds = {"endpoint": dsl.Artifact, "rollout_metrics": dsl.Metrics, "rollout_report": dsl.HTML}
        made = {name: kind(name=name, uri=str(folder / name)) for name, kind in kinds.items()}
        given = {
            "deploy_target": "docker",
            "endpoint_name": self.name,
            "deploy_options": {"memory": "1Gi"},
            **WATCH,
            **parameters,
        }
        return Step(folder, given, {"model": model, "predictions": predictions, **made})

    def assert_serves(self, expected: Endpoint) -> None:
        """Require that clients get their answers from the expected endpoint's revision alone."""
        assert docker.predict(expected, ROWS, expected.revision) == docker.predict(expected, ROWS)
        assert expected.traffic[expected.revision] == 100

    def assert_rolled_back(self, step: Step) -> str:
        """Require that a step rolled its model back and says so everywhere; return the reason."""
        assert self.serving
        promoted, reason, revision, url = step.returned
        assert not promoted
        assert (revision, url) == (self.serving.revision, self.serving.url)
        assert step.endpoint.traffic == {revision: 100}
        assert step.measured["promoted"] == 0
        assert step.artifacts["endpoint"].metadata["rolled_back"] in reason
        assert step.artifacts["endpoint"].metadata["reason"][:100] == reason[:100]
        self.assert_serves(step.endpoint)
        return str(reason)


def linear(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=5000)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    new_endpoint: Callable[[str], str],
    save_model: Callable[..., dict[str, Any]],
) -> World:
    world = World(tmp_path_factory.mktemp("rollouts"), new_endpoint("cancer"), save_model)
    step = world.step("first", linear(1.0)).run()
    promoted, reason, revision, url = step.returned
    assert promoted, reason
    world.serving = step.endpoint
    assert world.serving.traffic == {revision: 100}
    assert url == world.serving.url
    assert (step.measured["stages"], step.measured["traffic_fraction"]) == (1, 1.0)
    return world


def test_an_already_deployed_model_is_probed_and_kept(world: World) -> None:
    step = world.step("first-again", linear(1.0)).run()
    assert step.returned[0]
    assert step.endpoint == world.serving
    assert step.measured["stages"] == 1


def test_a_server_that_does_not_come_up_never_gets_a_request(world: World) -> None:
    step = world.step("too-large", linear(2.0), deploy_options={"memory": "64Mi"})
    assert world.serving
    with pytest.raises(ValueError, match=r"its server .* needs more memory than its limit, 64 MiB") as raised:
        step.run()
    assert str(raised.value).endswith(f"{world.serving.revision} keeps serving")
    world.assert_serves(world.serving)


def test_a_model_that_predicts_otherwise_than_offline_is_rolled_back(world: World, stale_image: str) -> None:
    step = world.step("stale", linear(0.5), deploy_options={"image": stale_image, "memory": "1Gi"}).run()
    assert "differ from the offline ones" in world.assert_rolled_back(step)
    assert step.measured["stages"] == 1


def test_a_server_that_crashes_while_it_serves_is_rolled_back_and_the_page_says_why(
    world: World, open_page: Callable[[Path], Any]
) -> None:
    # Requests alone don't show it: the splitter asks the other revision's server instead.
    step = world.step("crashing", linear(0.3), seconds=10.0, requests=40, max_error_rate=0.9)
    assert world.serving
    serving = world.serving.revision
    with at("stage 1 of 3", lambda: kill_servers(world.name, serving)):
        step.run()
    reason = world.assert_rolled_back(step)
    assert "its server ended with exit code 137: " in reason
    page = open_page(step.report)
    assert "ended with exit code 137" in page.find_element("css selector", ".callout.bad").text


def test_a_model_that_is_slow_is_rolled_back(world: World) -> None:
    # Compares each request with 400,000 remembered rows.
    generator = np.random.default_rng(0)
    rows = CANCER.sample(400_000, with_replacement=True, seed=0)
    rows = rows.with_columns(
        pl.col(name) * (1 + pl.Series(generator.normal(0, 0.01, rows.height)))
        for name in rows.columns
        if name != "target"
    )
    step = world.step("slow", KNeighborsClassifier(algorithm="brute"), rows).run()
    reason = world.assert_rolled_back(step)
    assert "at the same moment" in reason
    assert "2 times is allowed" in reason


def test_a_terminated_rollout_is_rolled_back(world: World) -> None:
    step = world.step("ended", linear(0.2), seconds=60.0)
    code, said = step.until("stage 1 of 3", signal.SIGTERM)
    assert world.serving
    assert code == 1
    assert f"terminated (SIGTERM); it is rolled back, and {world.serving.revision} serves as before" in said
    assert endpoints.read(step.artifacts["endpoint"].path).traffic == {world.serving.revision: 100}
    assert "rolled back at 10 %" in step.report.read_text()
    world.assert_serves(world.serving)


def test_a_terminated_deployment_is_undone(world: World) -> None:
    # With a tenth of a processor the server takes long to start.
    step = world.step("ended-early", linear(0.15), deploy_options={"cpu": "100m", "memory": "1Gi"})
    code, said = step.until("the server loads the model", signal.SIGTERM)
    assert world.serving
    assert code == 1
    assert f"terminated (SIGTERM); {world.serving.revision} keeps serving" in said
    assert not step.report.exists()
    world.assert_serves(world.serving)


def test_a_good_model_is_promoted_on_a_busy_machine_and_though_its_step_was_killed(
    world: World, open_page: Callable[[Path], Any]
) -> None:
    step = world.step("good", linear(0.1))
    assert world.serving
    old = world.serving.revision
    for line, share in {"stage 1 of 3": 10, "stage 3 of 3": 100}.items():
        code, _ = step.until(line, signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert shares(world.serving)[old] == 100 - share
    # Killed with all requests but not judged: it is watched there once more, beside the previous one.
    step.run()
    assert step.returned[0], step.returned
    assert step.measured["stages"] == 1
    assert step.measured["previous_requests"] >= 10

    other = world.step("better", linear(0.05))
    with busy(processes=4):
        other.run()
    promoted, reason, revision, _ = other.returned
    assert promoted, reason
    assert other.measured["stages"] == 3
    assert other.endpoint.traffic == {revision: 100, step.endpoint.revision: 0}
    world.assert_serves(other.endpoint)
    page = open_page(other.report)
    rows = [row.text.split() for row in page.find_elements("css selector", "section tbody tr")]
    assert [row[3] for row in rows if "healthy" in row] == ["10", "50", "100"]


def test_an_unhealthy_first_revision_fails_the_step_and_the_page_is_there(
    world: World, stale_image: str, new_endpoint: Callable[[str], str]
) -> None:
    name = new_endpoint("stale")
    step = world.step(
        "first-stale", linear(0.5), endpoint_name=name, deploy_options={"image": stale_image, "memory": "1Gi"}
    )
    with pytest.raises(
        ValueError, match=r"differ from the offline .* there is no revision before it, so it serves"
    ):
        step.run()
    docker.remove(name)  # before its image is removed
    assert "differ from the offline" in step.report.read_text()


@contextmanager
def at(line: str, act: Callable[[], None]) -> Iterator[None]:
    """Do something when a step of this process says a line."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if line in record.getMessage():
                act()

    logger, listener = logging.getLogger("flowparts"), Listener()
    before = logger.level
    logger.setLevel("INFO")
    logger.addHandler(listener)
    yield
    logger.removeHandler(listener)
    logger.setLevel(before)


def kill_servers(name: str, but: str) -> None:
    """Kill the servers of an endpoint that aren't of a revision; the engine starts them again."""
    from docker.client import DockerClient

    engine = DockerClient.from_env()
    labels = [f"flowparts.endpoint={name}", "flowparts.role=server"]
    for server in engine.containers.list(filters={"label": labels}):
        if server.labels["flowparts.revision"] != but:
            endpoints_of_tests.kill(engine, server)
    engine.close()


def shares(endpoint: Endpoint) -> dict[str, int]:
    from flowparts.deploy.targets import _splitter

    state = json.loads(docker._get(f"{endpoint.url}{_splitter.TRAFFIC_PATH}"))
    found: dict[str, int] = state["endpoint"]["traffic"]
    return found


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Let processes compute for nothing, so that whatever else runs here waits."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


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
    save_model(folder / "model", CANCER, "target", linear(1e-5))
    before, copied = ["env", "FLOWPARTS_SERVING_MODEL=/opt/stale"], ["COPY --chown=65532:0 model /opt/stale"]
    with image_with(containers.reference("flowparts-serving"), folder, before, copied) as image:
        yield image
