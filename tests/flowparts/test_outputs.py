import subprocess
import sys
from pathlib import Path

import pytest

from flowparts import outputs


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_appears_with_its_parents(tmp_path: Path) -> None:
    outputs.write_text(tmp_path / "a" / "b" / "text", "größer")
    assert (tmp_path / "a" / "b" / "text").read_text(encoding="utf-8") == "größer"
    assert names(tmp_path / "a" / "b") == ["text"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with outputs.whole(tmp_path / "table") as partial:
            partial.mkdir()
            (partial / "part").write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert names(tmp_path) == []


def test_a_killed_write_leaves_no_output_and_can_be_run_again(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from flowparts import outputs
with outputs.whole(sys.argv[1]) as partial:
    partial.mkdir()
    (partial / "stale").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "table")])
    assert killed.returncode == -9
    assert not (tmp_path / "table").exists()
    with outputs.whole(tmp_path / "table") as partial:
        partial.mkdir()
        (partial / "part").write_text("whole")
    assert names(tmp_path) == ["table"]
    assert names(tmp_path / "table") == ["part"]


def test_an_earlier_output_is_replaced_not_mixed(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with outputs.whole(tmp_path / "table") as partial:
            partial.mkdir()
            (partial / name).touch()
    assert names(tmp_path / "table") == ["second"]


def test_a_mount_that_refuses_renames_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(Path, "rename", refuse)
    with outputs.whole(tmp_path / "table") as partial:
        partial.mkdir()
        (partial / "part").write_text("whole")
    outputs.write_text(tmp_path / "text", "whole")
    assert names(tmp_path) == ["table", "text"]
    assert (tmp_path / "table" / "part").read_text() == "whole"


def test_json_refuses_values_that_json_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        outputs.write_json(tmp_path / "numbers", {"a": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "content", [None, "{", "\udcff", "[" * 100_000], ids=["missing", "broken", "not text", "too deep"]
)
def test_unreadable_json_is_answered_with_a_sentence(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"^the schema .*schema\.json"):
        outputs.read_json(file, "the schema")
