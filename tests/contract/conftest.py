"""One small run of every pipeline, whose steps the tests of this folder run again."""

import fcntl
import itertools
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from backends import graph, package
from backends.local import containers as docker
from backends.local import runner
from tests import clouds
from tests.conftest import IMAGES
from tests.contract import examples
from tests.contract.steps import Step, from_command
from tests.endpoints import new_name
from tests.flowparts.deploy import kubernetes_api
from tests.flowparts.deploy.sagemaker_service import ROLE, SageMakerService
from tests.flowparts.deploy.vertex_service import VertexService

# Two champions of these names are registered by the runs of tabular-training.
CHAMPIONS = {"champion": "tabular-training", "other_champion": "diabetes"}
# `make check` runs the example of one component alone, without any service.
CHECKED = os.environ.get("FLOWPARTS_CHECK", "")


@dataclass(frozen=True)
class Recorded:
    """The steps of the runs, one for each component, and the folder outside of the run that they write to.

    That of a component's own example goes first, then the last one of a pipeline.
    """

    steps: dict[str, Step]
    outside: Path
    missing: str  # why some pipelines were not run; empty if all were

    def step(self, component: str) -> Step:
        """Return the step of a component; skip the test where its pipeline can't be run."""
        if component not in self.steps and self.missing and os.environ.get("CI") != "true":
            pytest.skip(self.missing)
        found = self.steps.get(component)
        assert found, f"{examples.missing(component)}. {self.missing}"
        return found


@pytest.fixture(scope="session")
def platforms(
    tmp_path_factory: pytest.TempPathFactory,
    served: tuple[clouds.Served, clouds.Served],
    cloud_storage: str,
) -> Iterator[dict[str, str]]:
    """Run a stand-in for every platform that is deployed to; give the variables by which steps find them."""
    folder = tmp_path_factory.mktemp("platforms")
    with kubernetes_api.serving() as cluster, clouds.amazon() as moto_server:
        vertex_ai, sagemaker_ai = VertexService(), SageMakerService(moto_server)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(cluster.kubeconfig)
        yield {
            "KUBECONFIG": str(kubeconfig),
            "STORAGE_EMULATOR_HOST": cloud_storage,
            **vertex_ai.environment(folder),
            **sagemaker_ai.environment(),
        }
        vertex_ai.close()
        sagemaker_ai.close()


@pytest.fixture
def recorded(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Recorded:
    """Run every pipeline and example once, however many test processes there are."""
    if CHECKED:
        return _recorded(tmp_path_factory, "it runs with `make test`", {})
    platforms, served = (request.getfixturevalue(name) for name in ("platforms", "served"))
    for name, value in platforms.items():
        monkeypatch.setenv(name, value)
    clouds.fill_buckets(served)
    missing = ""
    try:
        containers = docker.prepare(IMAGES)
        for image in ("serving", "deploy"):
            monkeypatch.setenv(f"FLOWPARTS_{image.upper()}_IMAGE", containers.reference(f"flowparts-{image}"))
    except ValueError as error:
        missing = str(error)
    given = {
        **CHAMPIONS,
        "s3": served[0].s3,
        "s3_unread": served[0].s3,  # a model of scikit-learn, for those who don't look
        "gs": served[0].gs,
        "role": ROLE,
        "storage": f"s3://{clouds.ARCHIVES}/models",
    }
    return _recorded(tmp_path_factory, missing, given)


def _recorded(tmp_path_factory: pytest.TempPathFactory, missing: str, given: dict[str, str]) -> Recorded:
    base = tmp_path_factory.getbasetemp()
    # The workers of pytest-xdist have folders beside each other.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "recorded"
    folder.mkdir(exist_ok=True)
    file, failed, outside = folder / "steps.json", folder / "failed.txt", folder / "outside"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if failed.exists():
            pytest.fail(failed.read_text(), pytrace=False)
        if not file.exists():
            try:
                with pytest.MonkeyPatch.context() as patch:
                    steps = _run_all(folder, patch, given | {"outside": str(outside)}, bool(missing))
            except BaseException:
                # Every other test would run everything again, for minutes each.
                failed.write_text("the runs that all contract tests read have failed; see the first failure")
                raise
            file.write_text(json.dumps([asdict(step) for step in steps]))
    steps = [Step(**step) for step in json.loads(file.read_text())]
    return Recorded({step.component: step for step in steps}, outside, missing)


def _runs() -> list[examples.Run]:
    """Return what is run, in an order in which the last step of a component is the one to keep."""
    if CHECKED:
        return [run for run in examples.examples() if run.name == CHECKED and run.needs <= {"outside"}]
    return [*examples.pipelines(), *examples.examples()]


def _run_all(
    folder: Path, patch: pytest.MonkeyPatch, given: dict[str, str], without_docker: bool
) -> list[Step]:
    from kfp import components, local
    from kfp.local import config, subprocess_task_handler

    steps: list[Step] = []
    numbers = itertools.count()

    def run_here(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        step = from_command(full_command)
        steps.append(step)
        log = folder / f"{next(numbers):03}-{step.component}.log"
        log.touch()
        ended = step.run(log)
        if ended.exit_code:
            pytest.fail(f"{step.component} failed: {ended.log}", pytrace=False)
        return ended.exit_code

    patch.setattr(subprocess_task_handler, "run_local_subprocess", run_here)
    patch.setattr(config.LocalExecutionConfig, "instance", None)
    endpoints: list[str] = []
    own: list[Step] = []
    others: list[Step] = []
    of_pipelines: list[Step] = []
    with runner.print_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runner's remarks about the names of images
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder), raise_on_error=True)
        for run in _runs():
            places = {**given, "tracking_uri": f"sqlite:///{folder / 'mlflow.db'}"}
            if not without_docker:
                places["docker_endpoint"] = _endpoint(folder, run.name, endpoints)
            if not run.needs <= places.keys():
                continue
            text = package.compiled(run.pipeline, lambda image: f"{image}:here")
            # Steps that share a component would share a folder, and overwrite each other's outputs.
            document = graph.unshared(package.documents(text)[0])
            steps.clear()
            components.load_component_from_text(package.dumped(document))(**run.filled(places))
            if run.is_example:
                own += [step for step in steps if step.component == run.name]
                others += [step for step in steps if step.component != run.name]
            else:
                of_pipelines += steps
    return [*others, *of_pipelines, *own]


def _endpoint(folder: Path, name: str, endpoints: list[str]) -> str:
    """Return the endpoint of a pipeline or example on this machine's Docker engine.

    tests/conftest.py removes those that the file names, at the end of the session.
    """
    stem = name.replace("_", "-")[:12].strip("-")
    known = [endpoint for endpoint in endpoints if endpoint.startswith(f"{stem}-of-")]
    if not known:
        known = [new_name(stem)]
        endpoints += known
        (folder / "endpoints").write_text(" ".join(endpoints))
    return known[0]
