"""Runs pipelines for real in the images, through kfp.local's DockerRunner."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output

from backends import catalogue, package
from backends.local import containers as docker
from backends.local import runner
from flowparts.components import runs_in
from tests import secret_manager

# Where the environment picks OpenBLAS's kernels, the containers take the same, and so give the same digits.
KERNELS = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
SECRET = "s3cr3t-value-that-must-not-show"


@runs_in("base")
def look_around(source: str, facts: Output[Metrics], report: Output[Dataset]) -> int:
    """Write down what a step may do.

    Args:
        source: A path to read, or empty.
        facts: What was found.
        report: A file.

    Returns:
        The user's id.
    """
    import json
    import os
    import socket
    from pathlib import Path

    def writes(folder: str) -> bool:
        try:
            Path(folder, "written").write_text("x")
            Path(folder, "written").unlink()
        except OSError:
            return False
        return True

    interfaces = [name for _, name in socket.if_nameindex()]
    found = {
        "uid": os.getuid(),
        "interfaces": len(interfaces),
        "writes_root": writes("/opt") or writes("/usr"),
        "writes_tmp": writes("/tmp"),
        "writes_home": writes(os.environ["HOME"]),
        "writes_runs": writes(str(Path(facts.path).parents[4])),
        "writes_source": bool(source) and writes(str(Path(source).parent)),
        "source": Path(source).read_text() if source else "",
        "secret_length": len(os.environ.get("MY_TOKEN", "")),
    }
    facts.metadata.update(found)
    Path(facts.path).write_text(json.dumps(found))
    Path(report.path).write_text("report")
    return os.getuid()


@runs_in("base")
def join_registry(facts: Output[Metrics], tracking_uri: str = "") -> None:
    """Write down what a step that takes part in the registry may do.

    Args:
        facts: What was found.
        tracking_uri: The registry.
    """
    import os
    import socket
    from pathlib import Path

    facts.metadata["interfaces"] = len(socket.if_nameindex())
    facts.metadata["writes_runs"] = os.access(Path(facts.path).parents[4], os.W_OK)
    Path(facts.path).write_text("{}")


@runs_in("base")
def allocate(megabytes: int, done: Output[Dataset]) -> None:
    """Take memory.

    Args:
        megabytes: How much.
        done: A file.
    """
    from pathlib import Path

    block = bytearray(megabytes * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    Path(done.path).write_text("done")


@runs_in("sklearn")
def refuse(facts: Input[Metrics], reason: str) -> None:
    """Fail.

    Args:
        facts: Waited for.
        reason: Why.
    """
    raise ValueError(reason)


@dsl.pipeline(name="looking")
def looking(source: str = "", tracking_uri: str = "") -> None:
    look_around(source=source)
    join_registry(tracking_uri=tracking_uri)


@dsl.pipeline(name="allocating")
def allocating() -> None:
    allocate(megabytes=400).set_memory_limit("200M")
    allocate(megabytes=50).set_memory_limit("200M")


@dsl.pipeline(name="refusing")
def refusing() -> None:
    facts = look_around(source="").outputs["facts"]
    refuse(facts=facts, reason="label column 'price' is not in the table")


def outputs(record: runner.Run, task: str, name: str) -> dict[str, Any]:
    (found,) = [found for found in record.tasks if found.name == task]
    return found.outputs[name].metadata


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_step_is_not_root_and_sees_no_more_than_it_needs(
    containers: docker.Containers, tmp_path: Path
) -> None:
    source = tmp_path / "data" / "rows.csv"
    source.parent.mkdir()
    source.write_text("a\n1\n")
    record = runner.run(looking, {"source": str(source)}, tmp_path / "runs", containers=containers)
    assert record.succeeded, record.failed[0].error if record.failed else record.problem
    facts = outputs(record, "look-around", "facts")
    assert facts.pop("uid") == (os.getuid() or 65532)
    assert facts == {
        "interfaces": 1,  # the loopback
        "writes_root": False,
        "writes_tmp": True,
        "writes_home": True,
        "writes_runs": False,
        "writes_source": False,
        "source": "a\n1\n",
        "secret_length": 0,
    }
    # A step that takes part in the registry writes to the folder of its database.
    assert outputs(record, "join-registry", "facts")["writes_runs"]
    assert outputs(record, "join-registry", "facts")["interfaces"] == 1


def test_a_step_whose_registry_is_a_server_has_a_network(
    containers: docker.Containers, tmp_path: Path
) -> None:
    record = runner.run(
        looking, {"tracking_uri": "http://localhost:5000"}, tmp_path / "runs", containers=containers
    )
    assert outputs(record, "look-around", "facts")["interfaces"] == 1
    assert outputs(record, "join-registry", "facts")["interfaces"] > 1


def test_files_belong_to_the_caller_afterwards_and_nothing_temporary_stays(
    containers: docker.Containers, tmp_path: Path
) -> None:
    runner.run(looking, {}, tmp_path / "runs", containers=containers)
    files = list((tmp_path / "runs").rglob("*"))
    assert [file for file in files if file.name == "report"]
    assert {file.stat().st_uid for file in files} == {os.getuid()}
    assert not [file for file in files if file.name == "scratch"]
    left = subprocess.run(
        ["docker", "ps", "-a", "--filter=name=flowparts-", "--format={{.Names}}"], capture_output=True
    )
    assert not left.stdout


def test_a_step_above_its_memory_limit_is_killed_and_the_reason_reported(
    containers: docker.Containers, tmp_path: Path
) -> None:
    record = runner.run(allocating, {}, tmp_path, containers=containers)
    states = {task.name: task.state for task in record.tasks}
    assert states["allocate"] == "failed"
    (failed,) = record.failed
    assert "more memory than its limit, 0.19 GiB" in failed.error


def test_a_failing_step_shows_its_error_and_a_second_run_uses_the_cache(
    containers: docker.Containers, tmp_path: Path
) -> None:
    record = runner.run(refusing, {}, tmp_path, containers=containers)
    assert [task.error for task in record.failed] == ["label column 'price' is not in the table"]
    again = runner.run(refusing, {}, tmp_path, containers=containers)
    assert [task.state for task in again.tasks] == ["cached", "failed"]


def test_a_secret_reaches_the_steps_and_shows_nowhere(containers: docker.Containers, tmp_path: Path) -> None:
    record = runner.run(
        looking, {}, tmp_path / "runs", containers=containers, environment={"MY_TOKEN": SECRET}
    )
    assert outputs(record, "look-around", "facts")["secret_length"] == len(SECRET)
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert {"look-around.log", "kfp.log", "run.json"} <= {file.name for file in files}
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
    assert SECRET not in package.compiled(looking, containers.reference)
    for image_id in containers.ids.values():
        for asked in (["history", "--no-trunc"], ["inspect"]):
            told = subprocess.run(["docker", *asked, image_id], capture_output=True, text=True, check=True)
            assert SECRET not in told.stdout


def test_an_image_reads_a_secret_of_secret_manager_when_a_step_starts(
    containers: docker.Containers, tmp_path: Path
) -> None:
    with secret_manager.serving(tmp_path / "account.json") as server:
        (tmp_path / "account.json").chmod(0o644)
        environment = server.environment(Path("/tmp/account.json"))
        for image_id in containers.ids.values():
            command = ["docker", "run", "--rm", "--read-only", "--network=host", "--tmpfs=/tmp"]
            command += [f"--mount=type=bind,source={tmp_path}/account.json,target=/tmp/account.json,readonly"]
            command += [f"--env={name}={value}" for name, value in environment.items()]
            told = "import os; print(len(os.environ['MY_TOKEN']))"
            command += [image_id, "python", "-m", "flowparts.util.secrets", "python", "-c", told]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.stdout == f"{len(secret_manager.VALUE)}\n", done.stderr


def fingerprints(record: runner.Run) -> dict[str, str]:
    """Content fingerprints of every table by task and output."""
    summary = json.loads((record.folder / "run.json").read_text(encoding="utf-8"))
    return {
        f"{task['name']}/{name}": value["metadata"]["fingerprint"]
        for task in summary["tasks"]
        for name, value in task["outputs"].items()
        if isinstance(value, dict) and "fingerprint" in value.get("metadata", {})
    }


@pytest.mark.parametrize("name", ["tabular-training", "batch-prediction", "image-training", "network"])
def test_a_pipeline_gives_in_containers_what_it_gives_in_subprocesses(
    name: str,
    containers: docker.Containers,
    tmp_path: Path,
    training: dict[str, runner.Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "tabular-training":
        here, there = training["subprocess"], training["docker"]
    else:
        registry = {"tracking_uri": f"sqlite:///{training['subprocess'].folder.parents[1] / 'mlflow.db'}"}
        pipeline, parameters = {
            "batch-prediction": ("batch-prediction", registry),
            "image-training": ("image-training", {"epochs": 2}),
            "network": ("tabular-training", {"trainer": "keras"}),
        }[name]
        both = (catalogue.pipeline(pipeline), parameters)
        # Each has a registry of its own, which a run leaves in the environment.
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        here = runner.run(*both, tmp_path / "subprocess")
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        there = runner.run(*both, tmp_path / "docker", containers=containers, environment=KERNELS)
    for record in (here, there):
        assert record.succeeded, record.failed[0].error if record.failed else record.problem
    assert fingerprints(here) == fingerprints(there) != {}
    ours, theirs = runner.metrics(here), runner.metrics(there)
    assert set(ours) == set(theirs)
    for task, values in ours.items():
        stable = {key for key in values if "latency" not in key and "seconds" not in key}
        assert {key: theirs[task][key] for key in stable} == pytest.approx(
            {key: values[key] for key in stable}, rel=1e-9
        ), task


@pytest.fixture(scope="module")
def training(
    containers: docker.Containers, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, runner.Run]:
    """Runs of tabular-training, each with a registry of its own."""
    runs = {}
    with pytest.MonkeyPatch.context() as patch:
        for kind, where in {"subprocess": None, "docker": containers}.items():
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            folder = tmp_path_factory.mktemp(kind)
            runs[kind] = runner.run(
                catalogue.pipeline("tabular-training"), {}, folder, containers=where, environment=KERNELS
            )
    return runs
