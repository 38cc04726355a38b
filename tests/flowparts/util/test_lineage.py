import subprocess
from pathlib import Path

import pytest

from flowparts.util import lineage


@pytest.fixture(autouse=True)
def _not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWPARTS_GIT_COMMIT", raising=False)


def test_the_environment_variable_names_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPARTS_GIT_COMMIT", "abc123")
    assert lineage.git_commit() == "abc123"


def test_a_repository_names_its_own_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.hooksPath=/dev/null"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = (tmp_path / ".git" / "HEAD").read_text().removeprefix("ref: ").strip()
    assert lineage.git_commit() == (tmp_path / ".git" / head).read_text().strip()


def test_outside_a_repository_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lineage.git_commit() == "unknown"


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert lineage.git_commit() == "unknown"
