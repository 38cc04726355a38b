import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

# A child in a session of its own, as H2O's server is, whose number is written to a file.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}], start_new_session=True)
print(child.pid, file=open("child", "w"))
{then}
"""
WORKING = "import time; block = bytearray(200_000_000)\nwhile True: pass"


@pytest.fixture
def usage(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path("benchmarks").resolve())
    return importlib.import_module("usage")


def test_a_command_that_takes_too_long_is_killed_with_its_descendants(usage: Any, tmp_path: Path) -> None:
    seen: list[int] = []
    script = PARENT.format(child=WORKING, then="time.sleep(600)")
    taken = usage.run(
        [sys.executable, "-c", script], tmp_path, os.environ, 5, noticed=seen.append, interval=0.05
    )
    child = int((tmp_path / "child").read_text())
    assert taken.timed_out
    assert child in seen
    assert taken.megabytes > 200
    assert taken.cpu_seconds > 0
    assert _ends(child)


def _ends(process: int) -> bool:
    """Wait for a killed process: it dies when a processor has time for it, and is a zombie until reaped."""
    status = Path(f"/proc/{process}/status")
    for _ in range(600):
        try:
            if "State:\tZ" in status.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


def test_a_failure_and_its_reason_are_reported(usage: Any, tmp_path: Path) -> None:
    taken = usage.run([sys.executable, "-c", "raise SystemExit('no rows')"], tmp_path, os.environ, 60)
    assert (taken.returncode, taken.timed_out) == (1, False)
    assert "no rows" in taken.errors
