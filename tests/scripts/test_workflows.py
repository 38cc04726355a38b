"""What the workflows under .github do with code, images and tokens."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = {file.stem: file for file in sorted((ROOT / ".github/workflows").glob("*.yml"))}


def steps(workflow: str, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(WORKFLOWS[workflow].read_text("utf-8"))["jobs"][job]["steps"]
    return found


def commands(workflow: str, job: str) -> str:
    return "\n".join(step.get("run", "") for step in steps(workflow, job))


def test_the_linter_has_no_findings() -> None:
    """Actions pinned by commit, few permissions, no code from outside, no credentials left behind."""
    linter = Path(sys.executable).parent / "zizmor"
    report = subprocess.run([linter, "--offline", ROOT / ".github"], capture_output=True, text=True)
    assert report.returncode == 0, report.stdout + report.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_actions_are_pinned_by_commit(workflow: str) -> None:
    used = re.findall(r"uses: (\S+)", WORKFLOWS[workflow].read_text("utf-8"))
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in used)


def test_a_release_pushes_what_was_tested_and_builds_nothing() -> None:
    said = commands("ci", "publish")
    assert not re.search(r"make (push|images)|images build|docker build", said)
    assert "docker load" in said
    assert "tools.images push" in said
    kept, *_ = (
        step["with"]["path"] for step in steps("ci", "test") if step.get("with", {}).get("name") == "images"
    )
    assert {"build/images.json", "build/images.tar.zst"} <= set(kept.split())
    # Under the name of the release, which stands in the images.
    (tested,) = (step["run"] for step in steps("ci", "test") if ".ci/run" in step.get("run", ""))
    assert {"REGISTRY", "VERSION"} <= set(re.findall(r"(\w+)=", tested))


def test_githubs_token_goes_to_githubs_registry_alone(tmp_path: Path) -> None:
    (log_in,) = (step["run"] for step in steps("ci", "publish") if step.get("name") == "log in")
    client = tmp_path / "docker"
    client.write_text('#!/bin/sh\necho "$@ $(cat)"\n')
    client.chmod(0o755)

    def sent(registry: str, password: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "REGISTRY": registry, "TOKEN": "githubs"}
        environment |= {"GITHUB_ACTOR": "me", "USERNAME": "us", "PASSWORD": password}
        return subprocess.run(["bash", "-ec", log_in], env=environment, capture_output=True, text=True)

    assert sent("ghcr.io/team").stdout == "login ghcr.io --username me --password-stdin githubs\n"
    assert (
        sent("registry.example/team", "own").stdout
        == "login registry.example --username us --password-stdin own\n"
    )
    for foreign in ("registry.example/team", "ghcr.io.example/team", "localhost:5000"):
        refused = sent(foreign)
        assert refused.returncode != 0
        assert "githubs" not in refused.stdout


def test_every_lock_is_audited(tmp_path: Path) -> None:
    (audit,) = (step["run"] for step in steps("ci", "test") if step.get("name") == "known vulnerabilities")
    (listing,) = (line.partition(" | ")[0] for line in audit.splitlines() if line.startswith("git "))
    found = subprocess.run(["bash", "-ec", listing], cwd=ROOT, capture_output=True, text=True).stdout.split()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    locks = [
        name for name in tracked if (ROOT / name).suffix == ".txt" and "--hash=" in (ROOT / name).read_text()
    ]
    assert sorted(found) == sorted(locks)
    assert len(locks) > 10
