"""What is wrong with an author's pipeline is one line, as soon as any command looks for it."""

import importlib
import sys
from pathlib import Path

import pytest
from kfp.dsl.base_component import BaseComponent

from backends import catalogue

GOOD = '''
from kfp import dsl

from flowparts.components.ingest.ingest_table import ingest_table


@dsl.pipeline(name="read-twice")
def read_twice(source: str = "sample://iris") -> None:
    """Read a table.

    Args:
        source: The rows.
    """
    ingest_table(source=source)
'''


def pipelines(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseComponent]:
    """Return the pipelines of a package with one file."""
    package = folder / "authors" / "pipelines"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "read_twice.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    for name in [name for name in sys.modules if name.split(".")[0] == "authors"]:
        monkeypatch.delitem(sys.modules, name)
    return catalogue._walk(importlib.import_module("authors.pipelines"), "*.py")


def test_a_pipeline_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(pipelines(GOOD, tmp_path, monkeypatch)) == ["read_twice"]


@pytest.mark.parametrize(
    ("right", "wrong", "sentence"),
    [
        (
            "def read_twice",
            "def read",
            "read_twice.py has no pipeline named read_twice; name it like its file",
        ),
        ('"read-twice"', '"reader"', "is named 'reader'; name it 'read-twice', like its file"),
        ("        source: The rows.\n", "", "no description of source; add a line to the docstring"),
        (' = "sample://iris"', "", "source has no default"),
        ("source: str", "source", "read_twice.py, line 7: TypeError: Missing type annotation"),
        ("(source=source)", "(sauce=source)", "read_twice.py, line 14: TypeError: .* unexpected keyword"),
        ("(source=source)", "(source=source).outputs['rowz']", "read_twice.py, line 14: KeyError: 'rowz'"),
        ("def read_twice(", "def read_twice((", "read_twice.py, line 8: SyntaxError"),
        (
            "ingest.ingest_table",
            "ingest.ingest",
            "read_twice.py, line 4: ModuleNotFoundError: No module named",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    right: str, wrong: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert right in GOOD
    with pytest.raises(ValueError, match=sentence) as raised:
        pipelines(GOOD.replace(right, wrong), tmp_path, monkeypatch)
    assert "\n" not in str(raised.value)
