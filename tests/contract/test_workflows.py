import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_workflows_have_no_finding() -> None:
    linter = Path(sys.executable).parent / "zizmor"
    report = subprocess.run([linter, "--offline", ROOT / ".github"], capture_output=True, text=True)
    assert report.returncode == 0, report.stdout + report.stderr
