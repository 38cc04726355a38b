import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flowparts.util import scratch

PREFIX = "flowparts-tried-"
PROGRAM = f"""
import time
from flowparts.util import scratch
with scratch.folder({PREFIX!r}) as folder:
    (folder / "features.npy").write_bytes(b"much")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_removed_after_its_block_even_if_that_fails(temporary: Path) -> None:
    with scratch.folder(PREFIX) as folder:
        (folder / "a").mkdir()
    assert not list(temporary.iterdir())
    with pytest.raises(ZeroDivisionError), scratch.folder(PREFIX) as folder:
        assert len(folder.name) / 0
    assert not list(temporary.iterdir())


def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_no_other(temporary: Path) -> None:
    (temporary / "other").mkdir()
    (temporary / f"{PREFIX}file").touch()
    (temporary / f"{PREFIX}link").symlink_to(temporary / "other")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    ) as process:
        assert process.stdout
        left = Path(process.stdout.readline().strip())
        with scratch.folder(PREFIX) as first:
            assert (left / "features.npy").exists(), "its process is running"
            process.send_signal(signal.SIGKILL)
            process.wait()
            with scratch.folder(PREFIX) as second:
                assert not left.exists()
                assert first.exists(), "this process uses it"
                assert second != first
    assert {each.name for each in temporary.iterdir()} == {"other", f"{PREFIX}file", f"{PREFIX}link"}


def test_a_folder_taken_for_an_abandoned_one_before_it_was_locked_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def interrupted(prefix: str) -> str:
        made.append(Path(tempfile.gettempdir()) / f"{prefix}{len(made)}")
        if len(made) > 1:
            made[-1].mkdir()
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", interrupted)
    with scratch.folder(PREFIX) as folder:
        assert folder == made[1]
        assert folder.is_dir()
    assert not list(temporary.iterdir())
