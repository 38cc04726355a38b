"""What is written from the templates passes all checks; see tests/contract for what holds for every part."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tools import authoring, readme

ROOT = Path(__file__).parents[2]


def test_a_new_component_and_a_new_pipeline_pass_every_check(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns(
        ".git", ".venv", ".venv-bench", "build", "runs", "__pycache__", "benchmarks"
    )
    shutil.copytree(ROOT, tmp_path / "copy", symlinks=True, ignore=ignored)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}/copy:{tmp_path}/copy/src"}

    def author(*words: str) -> str:
        command = [sys.executable, "-m", "tools.authoring", *words]
        answer = subprocess.run(
            command, cwd=tmp_path / "copy", env=environment, capture_output=True, text=True
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    # Long names: lines of the templates must be wrapped.
    name, pipeline = "drop_rows_of_customers_with_gaps", "churn-of-customers-with-monthly-contracts"
    made = author("new-component", f"prepare/{name}")
    assert f"components/prepare/{name}.py\ntests/components/prepare/test_{name}.py\nREADME.md" in made
    assert "passed" in author("check", f"prepare/{name}")
    author("new-pipeline", pipeline)
    assert "passed" in author("check", pipeline)
    assert f"| [prepare/{name}]" in (tmp_path / "copy" / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("drop_gaps", "must be STAGE/NAME in snake case, such as prepare/drop_outliers"),
        ("prepare/DropGaps", "must be STAGE/NAME"),
        ("prepare/split_table", "the name split_table is taken"),
    ],
)
def test_a_bad_name_is_refused(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        authoring.new_component(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"split_tabel.*split_table"):
        authoring.check("prepare/split_tabel")


def test_a_check_fails_where_the_catalogue_is_older_than_the_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passed = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: passed)
    assert authoring.check("prepare/split_table") == 0
    monkeypatch.setattr(readme, "is_current", lambda: False)
    assert authoring.check("prepare/split_table") == 1
    assert "make readme" in capsys.readouterr().err


def test_a_check_ends_with_what_failed_and_how_to_format(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], "ruff" in command)

    monkeypatch.setattr("subprocess.run", run)
    assert authoring.check("prepare/split_table") == 1
    files = "components/prepare/split_table.py tests/components/prepare/test_split_table.py"
    sentence = f"lint, format failed, see above; to format, run .venv/bin/ruff format {files}\n"
    assert capsys.readouterr().err == f"error: {sentence}"


GOOD = '''
from typing import NamedTuple

from flowparts.components import runs_in


@runs_in("base")
def count_rows(source: str) -> NamedTuple("Outputs", [("rows", int)]):
    """Count the rows of a file.

    Args:
        source: The file.

    Returns:
        rows: Their number.
    """
    return (1,)
'''


def imported(text: str, folder: Path) -> ModuleType:
    """Import a text as a component's file."""
    file = folder / "count_rows.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location("flowparts.components.ingest.count_rows", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        ('runs_in("base")', 'runs_in("pandas")', "there is no image 'pandas'; images are: base, deploy"),
        ("def count_rows", "def count", "the function is named count; name it count_rows, like its file"),
        (
            "\nfrom flowparts.components",
            "\nimport polars\n\nfrom flowparts.components",
            "imports polars at the top, which a step doesn't run; import it inside count_rows",
        ),
        (
            "\nfrom flowparts.components",
            "\nfrom .ingest_table import ingest_table\nfrom flowparts.components",
            "imports flowparts.components.ingest.ingest_table at the top",
        ),
        (
            "@runs_in",
            "ROWS = 1\n\n\n@runs_in",
            "defines ROWS outside of count_rows, .* move it into count_rows",
        ),
        ("source: str", "source", "parameter source has no type; write one, such as source: str"),
        ("source: The file.", "path: The file.", "count_rows: no description of source; add a line for each"),
        ('NamedTuple("Outputs", [("rows", int)])', "int", "its output has no name; write -> NamedTuple"),
    ],
    ids=["image", "name", "import", "relative import", "constant", "type", "description", "output"],
)
def test_a_mistake_is_reported_at_the_import(right: str, wrong: str, sentence: str, tmp_path: Path) -> None:
    imported(GOOD, tmp_path)
    assert right in GOOD
    with pytest.raises(ValueError, match=sentence):
        imported(GOOD.replace(right, wrong), tmp_path)
