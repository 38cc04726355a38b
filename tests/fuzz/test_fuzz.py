"""The same few hundred mutations of every kind each time; `make fuzz` tries others for longer."""

import os
import subprocess
import sys
from pathlib import Path


def test_mutations_give_a_result_or_a_one_line_error() -> None:
    # In a process of its own: the protocol's messages can't be loaded beside those of a client for it.
    ended = subprocess.run(
        [sys.executable, Path(__file__).with_name("mutate.py")],
        env=os.environ | {"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("300 mutations") == 8
