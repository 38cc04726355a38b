from pathlib import Path
from typing import Any

import pytest

from backends.local import containers

RUN = Path("/data/runs/pipeline/1")


def step(environment: dict[str, str] | None = None, memory_bytes: int = 0, **inputs: Any) -> list[str]:
    given = containers.Step(run=RUN, inputs=inputs, memory_bytes=memory_bytes, environment=environment or {})
    return given.options(RUN / "scratch" / "a")


@pytest.mark.parametrize(
    "inputs",
    [
        {"source": "s3://bucket/rows.csv"},
        {"schema_uri": "https://host/schema.json"},
        {"sources": [{"uri": "gs://bucket"}]},
        {"tracking_uri": "http://localhost:5000"},
    ],
)
def test_a_step_with_a_remote_input_has_a_network(inputs: dict[str, Any]) -> None:
    assert "--network=host" in step(**inputs)


@pytest.mark.parametrize(
    "inputs",
    [{"source": "sample://wine"}, {"source": "/data/rows.csv"}, {"tracking_uri": "sqlite:////data/x.db"}, {}],
)
def test_other_steps_have_no_network(inputs: dict[str, Any]) -> None:
    assert "--network=none" in step(**inputs)


def test_a_server_in_the_environment_counts_for_steps_that_use_the_registry_only() -> None:
    server = {"MLFLOW_TRACKING_URI": "https://mlflow.example"}
    assert "--network=host" in step(server, tracking_uri="")
    assert "--network=none" in step(server, source="")


def test_only_the_run_and_a_registry_in_use_can_be_written() -> None:
    options = step({"MLFLOW_TRACKING_URI": "sqlite:////data/mlflow/mlflow.db"}, tracking_uri="")
    assert "--mount=type=bind,source=/data/runs,target=/data/runs,readonly" in options
    assert f"--mount=type=bind,source={RUN},target={RUN}" in options
    assert "--mount=type=bind,source=/data/mlflow,target=/data/mlflow" in options
    assert f"--mount=type=bind,source={RUN}/scratch/a,target=/tmp" in options


@pytest.mark.parametrize("stores_checkpoints", [True, False])
def test_only_a_step_that_stores_checkpoints_can_write_to_their_folder(stores_checkpoints: bool) -> None:
    def options(folder: str) -> list[str]:
        made = containers.Step(
            RUN, {}, 0, {"FLOWPARTS_CHECKPOINTS": folder}, stores_checkpoints=stores_checkpoints
        )
        return made.options(RUN / "scratch" / "a")

    mount = "--mount=type=bind,source=/data/runs/.checkpoints,target=/data/runs/.checkpoints"
    assert (mount in options("/data/runs/.checkpoints")) == stores_checkpoints
    assert f"--network={'host' if stores_checkpoints else 'none'}" in options("s3://bucket/states")


def test_local_sources_are_seen_read_only_and_a_glob_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n")
    for source in (str(tmp_path / "*.csv"), f"file://{tmp_path}"):
        assert f"--mount=type=bind,source={tmp_path},target={tmp_path},readonly" in step(source=source)
    assert not [option for option in step(source=str(tmp_path / "no.csv")) if str(tmp_path) in option]


def test_memory_is_limited_without_swap() -> None:
    assert {"--memory=2000000000", "--memory-swap=2000000000"} <= set(step(memory_bytes=2_000_000_000))
    assert not [option for option in step() if "memory" in option]


def test_environment_values_are_not_on_the_command_line() -> None:
    options = step({"TOKEN": "s3cret"})
    assert "--env=TOKEN" in options
    assert "s3cret" not in " ".join(options)
