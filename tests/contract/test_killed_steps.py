"""A step that is killed while it writes leaves nothing that looks finished, and can be run again."""

import json
from pathlib import Path
from typing import Any

import pytest

from backends import catalogue
from flowparts import tables
from tests.contract.conftest import Recorded
from tests.contract.steps import MOVE, Step, Stop
from tests.endpoints import new_name

COMPONENTS = list(catalogue.components())
# Hold measured times, which no two runs share.
TIMED = {
    ("check_serving", "serving_metrics"),
    ("train_sklearn", "training_report"),
    ("train_ensemble", "ensemble_report"),
    ("train_tabular", "training_report"),
    ("tune_model", "tuning_report"),
    ("tune_on_platform", "tuning_report"),
} | {
    (component, f"{what}_{output}")
    for component, what in (("probe_endpoint", "probe"), ("roll_out", "rollout"))
    for output in ("metrics", "report")
}


def outputs(folder: Path) -> dict[str, Any]:
    """Return the content of each output in a folder: a table as its fingerprint, a directory as its files."""
    made = folder / "made"
    return {path.name: content(path) for path in made.iterdir() if not path.name.startswith(".")}


def content(path: Path) -> Any:
    if path.is_file():
        return path.read_bytes()
    # What is hidden is being written; no reader looks at it.
    visible = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    if all(entry.suffix == ".parquet" for entry in visible):
        return tables.fingerprint(tables.scan(path))
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def assert_equal(found: dict[str, Any], expected: dict[str, Any], component: str) -> None:
    for name, value in found.items():
        if (component, name) in TIMED and expected[name].endswith(b"</html>"):
            assert value.endswith(b"</html>")
        elif (component, name) in TIMED:
            assert json.loads(value).keys() == json.loads(expected[name]).keys()
        else:
            assert value == expected[name], f"{name} is not what an undisturbed step writes"


def spoil(folder: Path) -> None:
    """Cut whatever an interrupted step has left: it may be killed in the middle of any write."""
    for partial in folder.rglob(".*.partial"):
        for file in [partial] if partial.is_file() else filter(Path.is_file, partial.rglob("*")):
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_step_killed_while_it_writes_leaves_whole_outputs_or_none_and_can_be_run_again(
    component: str, recorded: Recorded, tmp_path: Path
) -> None:
    step = recorded.step(component)
    log = tmp_path / "log"

    undisturbed = tmp_path / "undisturbed"
    ended = step.inside(undisturbed, recorded.outside).run(log)
    assert ended.exit_code == 0, ended.log
    assert ended.moved or not artifacts(step), (
        f"{component} writes nothing, or not through flowparts.util.outputs"
    )
    if not ended.moved:  # its work is elsewhere, and leaves no file that could be half-written
        return
    expected = outputs(undisturbed)
    for name in expected.keys() | artifacts(step):
        assert str(undisturbed / "made" / name) in ended.moved, f"{name} is not written as a whole"
        later = [path for path in ended.moved if path.startswith(f"{undisturbed / 'made' / name}/")]
        is_model = (undisturbed / "made" / name / "MLmodel").is_file()
        assert not (is_model and later), f"the model {name} is written to after it has appeared"

    disturbed = tmp_path / "disturbed"
    again = step.inside(disturbed, recorded.outside)
    # The database of models is made once for all steps.
    moves = sum(not path.endswith("mlflow.db") for path in ended.moved)
    for call in sorted({1, moves}):
        assert again.run(log, Stop(MOVE, call)).exit_code == -9
        assert list(disturbed.rglob(".*.partial")), "nothing was being written"
        spoil(disturbed)
        assert_equal(outputs(disturbed), expected, component)
    assert again.run(log).exit_code == 0
    assert outputs(disturbed).keys() == expected.keys()
    assert_equal(outputs(disturbed), expected, component)
    assert not list(disturbed.rglob(".*.partial"))


def artifacts(step: Step) -> set[str]:
    return set(step.executor_input["outputs"].get("artifacts", {}))


@pytest.mark.filterwarnings("ignore")  # MLflow's database library warns about its own future
@pytest.mark.parametrize(
    "function",
    ["log_artifacts", "create_model_version", "set_registered_model_alias"],
    ids=["before the files", "before the version", "before the alias"],
)
def test_a_killed_registration_is_completed_by_the_next_try_and_never_doubled(
    function: str, recorded: Recorded, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    step = recorded.step("register_champion").inside(tmp_path / "step", recorded.outside)
    values = step.executor_input["inputs"]["parameterValues"]
    values["tracking_uri"] = uri
    name = values["model_name"]
    killed = step.run(tmp_path / "log", Stop(f"mlflow.MlflowClient.{function}", 1))
    assert killed.exit_code == -9, killed.log
    client = MlflowClient(uri, uri)
    before = client.search_model_versions(f"name = '{name}'")
    assert len(before) == (function == "set_registered_model_alias")
    assert all(not version.aliases for version in before)

    for _ in range(2):
        ended = step.run(tmp_path / "log")
        assert ended.exit_code == 0, ended.log
        (version,) = client.search_model_versions(f"name = '{name}'")
        assert client.get_model_version_by_alias(name, "champion").version == version.version


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("docker.models.containers.ContainerCollection.create", 2),
        ("flowparts.deploy.common.wait", 1),
        ("flowparts.deploy.common.wait", 2),
    ],
    ids=["before the server", "while the server starts", "before the endpoint is written"],
)
def test_a_killed_deployment_is_completed_by_the_next_try_and_leaves_nothing_else(
    function: str, call: int, recorded: Recorded, tmp_path: Path
) -> None:
    from docker.client import DockerClient

    from flowparts.deploy import endpoint as endpoints
    from flowparts.deploy.targets import docker

    step = recorded.step("deploy_docker").inside(tmp_path / "step", recorded.outside)
    name = new_name("killed")
    step.executor_input["inputs"]["parameterValues"] |= {"endpoint_name": name, "traffic_fraction": 1.0}
    engine = DockerClient.from_env()
    mine = {"label": f"flowparts.endpoint={name}"}
    try:
        killed = step.run(tmp_path / "log", Stop(function, call))
        assert killed.exit_code == -9, killed.log
        assert engine.volumes.list(filters=mine)
        assert not (tmp_path / "step" / "made" / "endpoint").exists()
        for _ in range(2):
            ended = step.run(tmp_path / "log")
            assert ended.exit_code == 0, ended.log
            made = endpoints.read(tmp_path / "step" / "made" / "endpoint")
            assert made.traffic == {made.revision: 100}
            containers = {
                found.name: found.status for found in engine.containers.list(all=True, filters=mine)
            }
            assert set(containers.values()) == {"running"}
            splitter, server = sorted(containers)
            assert splitter == f"endpoint-{name}"
            assert server.startswith(f"endpoint-{name}-{made.revision}-")
            volumes = {volume.name for volume in engine.volumes.list(filters=mine)}
            assert volumes == {f"endpoint-{name}", f"endpoint-{name}-{made.revision}"}
    finally:
        docker.remove(name)
        engine.close()
