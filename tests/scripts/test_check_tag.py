import subprocess
from pathlib import Path

import pytest

from flowparts import __version__

SCRIPT = Path(__file__).parents[2] / "scripts" / "check-tag.sh"


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        (f"v{__version__}", ""),
        (
            "v99.0.0",
            f"error: tag v99.0.0 is not the version in src/flowparts/__init__.py, {__version__}; "
            f"change that file, or tag v{__version__}\n",
        ),
    ],
    ids=["the version", "another"],
)
def test_a_release_is_tagged_with_the_version_of_the_package(tag: str, message: str) -> None:
    done = subprocess.run([SCRIPT, tag], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1 if message else 0, message)
