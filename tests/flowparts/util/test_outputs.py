import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowparts.util import outputs


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_appears_with_its_parents(tmp_path: Path) -> None:
    outputs.write_text(tmp_path / "a" / "b" / "text", "größer")
    assert (tmp_path / "a" / "b" / "text").read_text(encoding="utf-8") == "größer"
    assert names(tmp_path / "a" / "b") == ["text"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with outputs.atomic(tmp_path / "table") as partial:
            partial.mkdir()
            (partial / "part").write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert names(tmp_path) == []


def test_a_killed_write_leaves_no_output_and_can_be_run_again(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from flowparts.util import outputs
with outputs.atomic(sys.argv[1]) as partial:
    partial.mkdir()
    (partial / "stale").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "table")])
    assert killed.returncode == -9
    assert not (tmp_path / "table").exists()
    with outputs.atomic(tmp_path / "table") as partial:
        partial.mkdir()
        (partial / "part").write_text("whole")
    assert names(tmp_path) == ["table"]
    assert names(tmp_path / "table") == ["part"]


def test_an_earlier_output_is_replaced_not_mixed(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with outputs.atomic(tmp_path / "table") as partial:
            partial.mkdir()
            (partial / name).touch()
    assert names(tmp_path / "table") == ["second"]


def test_an_earlier_output_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    def replace(fail: bool) -> None:
        with outputs.atomic(tmp_path / "table") as table, outputs.atomic(tmp_path / "text") as text:
            table.mkdir()
            (table / "part").write_text("new")
            text.write_text("new")
            assert (tmp_path / "table" / "part").read_text() == "old"
            assert (tmp_path / "text").read_text() == "old"
            if fail:
                raise RuntimeError("stopped")

    (tmp_path / "table").mkdir()
    for file in ("table/part", "text"):
        (tmp_path / file).write_text("old")
    with pytest.raises(RuntimeError, match="stopped"):
        replace(fail=True)
    assert (tmp_path / "table" / "part").read_text() == (tmp_path / "text").read_text() == "old"
    replace(fail=False)
    assert (tmp_path / "table" / "part").read_text() == (tmp_path / "text").read_text() == "new"
    assert names(tmp_path) == ["table", "text"]


def test_an_output_that_was_taken_away_by_a_killed_attempt_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".table.earlier").mkdir()
    (tmp_path / ".table.earlier" / "part").touch()
    with pytest.raises(RuntimeError, match="stopped"), outputs.atomic(tmp_path / "table"):
        raise RuntimeError("stopped")
    assert names(tmp_path) == ["table"]
    assert names(tmp_path / "table") == ["part"]


def test_a_file_never_replaces_a_directory(tmp_path: Path) -> None:
    (tmp_path / "home" / "important").mkdir(parents=True)
    with pytest.raises(ValueError, match="home is a directory; name the file to write in it"):
        outputs.write_text(tmp_path / "home", "text")
    assert names(tmp_path) == ["home"]
    assert names(tmp_path / "home") == ["important"]


@pytest.mark.parametrize("path", ["home/..", "home/a/..", "home/a/../..", "..", ".", ""])
@pytest.mark.parametrize("refuses", [False, True], ids=["local", "mount"])
def test_a_directory_above_is_never_replaced(
    path: str, refuses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("Operation not permitted")

    (tmp_path / "home" / "a").mkdir(parents=True)
    (tmp_path / "important").touch()
    monkeypatch.chdir(tmp_path / "home")
    if refuses:
        monkeypatch.setattr(Path, "rename", refuse)
    target = tmp_path / path if path.startswith("home") else path
    sentence = "end the path with the name of the output"
    with pytest.raises(ValueError, match=sentence), outputs.atomic(target) as partial:
        partial.mkdir()
    assert names(tmp_path) == ["home", "important"]
    assert names(tmp_path / "home") == ["a"]


def test_a_mount_that_refuses_renames_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(Path, "rename", refuse)
    with outputs.atomic(tmp_path / "table") as partial:
        partial.mkdir()
        (partial / "part").write_text("whole")
    outputs.write_text(tmp_path / "text", "whole")
    assert names(tmp_path) == ["table", "text"]
    assert (tmp_path / "table" / "part").read_text() == "whole"


def test_where_renames_are_refused_an_earlier_directory_is_replaced_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("Operation not permitted")

    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "old").touch()
    monkeypatch.setattr(Path, "rename", refuse)
    with outputs.atomic(tmp_path / "table") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert names(tmp_path) == ["table"]
    assert names(tmp_path / "table") == ["new"]


def test_a_copy_that_fails_halfway_restores_the_earlier_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refuse_new(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("Operation not permitted")
        return rename(self, target)

    def copy_half(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "new").touch()
        raise OSError("No space left on device")

    def replace() -> None:
        with outputs.atomic(tmp_path / "table") as partial:
            partial.mkdir()
            (partial / "new").touch()

    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "old").touch()
    monkeypatch.setattr(Path, "rename", refuse_new)
    monkeypatch.setattr(shutil, "copytree", copy_half)
    with pytest.raises(OSError, match="No space left"):
        replace()
    assert names(tmp_path) == ["table"]
    assert names(tmp_path / "table") == ["old"]


def test_leftovers_of_a_killed_replacement_are_removed_by_the_next_attempt(tmp_path: Path) -> None:
    for folder in (".table.earlier", "table"):
        (tmp_path / folder).mkdir()
    with pytest.raises(RuntimeError, match="stopped"), outputs.atomic(tmp_path / "table"):
        raise RuntimeError("stopped")
    assert names(tmp_path) == ["table"]


def test_json_is_written_the_same_each_time_for_people_to_read(tmp_path: Path) -> None:
    for value in ({"b": ["größer"], "a": 1}, {"a": 1, "b": ["größer"]}):
        outputs.write_json(tmp_path / "value", value)
        expected = '{\n  "a": 1,\n  "b": [\n    "größer"\n  ]\n}\n'
        assert (tmp_path / "value").read_text(encoding="utf-8") == expected


def test_json_refuses_values_that_json_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        outputs.write_json(tmp_path / "numbers", {"a": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "content", [None, "{", "\udcff", "[" * 100_000], ids=["missing", "broken", "not text", "too deep"]
)
def test_unreadable_json_gives_a_one_line_error(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"^the schema .*schema\.json"):
        outputs.read_json(file, "the schema")
