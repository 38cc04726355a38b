"""Small files that persist between runs, when several processes write them at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from flowparts.util import state_files

ADD = """
import sys
from flowparts.util import state_files

uri, name = sys.argv[1:]
for number in range(30):
    with state_files.locked(uri):
        state_files.write(uri, {**(state_files.read(uri, "a test") or {}), f"{name}{number}": 1})
"""


def test_concurrent_writers_lose_no_entry(tmp_path: Path) -> None:
    uri = str(tmp_path / "new" / "kept.json")
    writers = [subprocess.Popen([sys.executable, "-c", ADD, uri, name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert state_files.read(uri, "a test").keys() == {
        f"{name}{number}" for name in "abc" for number in range(30)
    }
    assert [path.name for path in Path(uri).parent.iterdir()] == ["kept.json"]


def test_an_unwritable_file_gives_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    uri = str(tmp_path / "file" / "kept.json")
    with (
        pytest.raises(ValueError, match=r"can't write .*kept\.json: (NotADirectory|FileExists)Error"),
        state_files.locked(uri),
    ):
        pass
    with pytest.raises(ValueError, match=r"can't write .*kept\.json: "):
        state_files.write(uri, {})
