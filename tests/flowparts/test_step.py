import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from backends import catalogue
from flowparts import step, tables


def run(name: str, executor_input: dict[str, Any], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a component as the backend does, in an image of version 1.2.3."""
    command = [sys.executable, "-m", "flowparts.step", name, "--version", "1.2.3"]
    return subprocess.run(
        [*command, "--executor_input", json.dumps(executor_input)],
        env={"PATH": os.environ["PATH"], "FLOWPARTS_IMAGE_VERSION": "1.2.3", **variables},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def executor_input(tmp_path: Path) -> dict[str, Any]:
    """Give what Kubeflow gives to validate_table: artifacts without a schema title, named by numbers."""
    tables.write(pl.DataFrame({"size": [1, 2, 3]}), tmp_path / "table")

    def artifact(name: str, number: int) -> dict[str, Any]:
        path = str(tmp_path / name)
        known = {"name": str(number), "type": {"instanceSchema": ""}, "uri": path, "metadata": {}}
        return {"artifacts": [known]}

    return {
        "inputs": {"artifacts": {"table": artifact("table", 332)}},
        "outputs": {
            "artifacts": {
                name: artifact(name, 333 + number)
                for number, name in enumerate(["table_schema", "anomalies", "validation_report"])
            },
            "outputFile": str(tmp_path / "output_metadata.json"),
        },
    }


def test_runs_the_component_of_the_image(executor_input: dict[str, Any], tmp_path: Path) -> None:
    done = run("validate_table", executor_input)
    assert done.returncode == 0, done.stderr
    schema = json.loads((tmp_path / "table_schema").read_text())
    assert [column["name"] for column in schema["columns"]] == ["size"]
    told = json.loads((tmp_path / "output_metadata.json").read_text())
    known = told["artifacts"]["table_schema"]["artifacts"][0]["metadata"]
    assert known == {"columns": 1, "source": "inferred"}


def test_an_image_of_another_version_is_refused(executor_input: dict[str, Any], tmp_path: Path) -> None:
    done = run("validate_table", executor_input, FLOWPARTS_IMAGE_VERSION="1.2.4")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ValueError: this pipeline was compiled for images of version 1.2.3, but the step runs in an image "
        "of version 1.2.4; compile it again with --version 1.2.4, or push images of version 1.2.3"
    )
    assert not (tmp_path / "table_schema").exists()


def test_an_unknown_component_is_named_with_the_near_one(executor_input: dict[str, Any]) -> None:
    done = run("validate_tabel", executor_input)
    assert done.returncode == 1
    assert "unknown component 'validate_tabel'; did you mean 'validate_table'? known: " in done.stderr


def test_every_component_can_be_imported_inside_of_a_step() -> None:
    # kfp has no authoring API there, so in a process of its own.
    code = "import sys; from flowparts import step; [step.component(name) for name in sys.argv[1:]]"
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *catalogue.components()],
        env={**os.environ, "_KFP_RUNTIME": "true"},
        check=True,
    )


def test_outside_of_an_image_any_version_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWPARTS_IMAGE_VERSION", raising=False)
    step.check_version("9.9.9")
