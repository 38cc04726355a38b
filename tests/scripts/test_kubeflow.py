"""make kubeflow without the internet: git is real, Docker, kind and kubectl are scripts."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kubeflow.sh"
UPSTREAM = "https://github.com/argoproj/argo-workflows/manifests"
# What of the manifests the script changes, as it stands in the release.
PIPELINES = {
    "base": f"- {UPSTREAM}/base/workflow-controller?ref=v4.0.5&timeout=60s",
    "installs/namespace": f"- ../../base\n- {UPSTREAM}/namespace-install/workflow-controller-rbac?ref=v4.0.5",
    "installs/namespace/cluster-scoped": f"- {UPSTREAM}/base/crds/minimal?ref=v4.0.5",
}
ARGO = ("base/workflow-controller", "namespace-install/workflow-controller-rbac", "base/crds/minimal")

Run = Callable[..., subprocess.CompletedProcess[str]]


def repository(folder: Path, tag: str, files: dict[str, str]) -> str:
    """Make a repository with one tagged commit; return the commit."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(folder), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("config", "uploadpack.allowFilter", "true")
    git("add", ".")
    git("commit", "--quiet", "--message", "all")
    git("tag", tag)
    return git("rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a project with the script, whose pins are those of repositories on this machine."""
    commits = {
        "4a3592cb2dd0a91a4652ab93893ec8beda1f3158": repository(
            tmp_path / "pipelines",
            "2.17.0",
            {
                f"manifests/kustomize/third-party/argo/{folder}/kustomization.yaml": f"resources:\n{lines}\n"
                for folder, lines in PIPELINES.items()
            }
            | {"sdk/README.md": "not asked for"},
        ),
        "0ab1452144d8f4d57c50b37ce50dad218868e950": repository(
            tmp_path / "argo-workflows",
            "v4.0.5",
            {f"manifests/{folder}/kustomization.yaml": "resources: []\n" for folder in ARGO},
        ),
    }
    text = SCRIPT.read_text()
    for pinned, made in commits.items():
        assert pinned in text
        text = text.replace(pinned, made)
    script = tmp_path / "project" / "scripts" / "kubeflow.sh"
    script.parent.mkdir(parents=True)
    script.write_text(text)
    script.chmod(0o755)
    return script.parents[1]


@pytest.fixture
def run(project: Path, tmp_path: Path) -> Run:
    """Run the script; the cluster's programs record what they are asked, and kind knows its clusters."""
    programs = tmp_path / "bin"
    clusters = tmp_path / "clusters"
    clusters.touch()
    create = f'[ "$1 $2" = "create cluster" ] && echo "$4" >>{clusters}'
    for name, does in {
        "docker": "",
        "kubectl": "",
        "kind": f'{create}; [ "$1" = get ] && cat {clusters}; [ "$1" = delete ] && : >{clusters}; true',
    }.items():
        file = programs / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\n{does}\n')
        file.chmod(0o755)
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.copy(programs / "docker", python)
    config = tmp_path / "gitconfig"
    config.write_text(
        f'[url "file://{tmp_path}/pipelines"]\n insteadOf = https://github.com/kubeflow/pipelines\n'
        f'[url "file://{tmp_path}/argo-workflows"]\n insteadOf = https://github.com/argoproj/argo-workflows\n'
        "[safe]\n directory = *\n"
    )

    def do(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": str(config),
            "HOME": str(tmp_path),
        }
        command = [str(project / "scripts" / "kubeflow.sh"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return do


def calls(project: Path) -> list[str]:
    file = project.parent / "calls"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--name",), "--name needs a value"),
        (("--name", "Big"), "--name 'Big' must consist of a-z, 0-9 and inner hyphens"),
        (("--name", "-a"), "must consist of"),
        (("--port", "http"), "--port 'http' must be a number"),
        (("--port", "70000"), "--port 70000 must be from 1 to 65535"),
        (("--nam", "a"), "unknown option --nam"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_happens(
    project: Path, run: Run, arguments: tuple[str, ...], sentence: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert calls(project) == []


def test_the_plan_is_printed_without_being_carried_out(project: Path, run: Run) -> None:
    done = run("--dry-run", "--name", "mine", "--port", "9000")
    assert done.returncode == 0, done.stderr
    plan = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert re.match(
        r"\+ kind create cluster --name mine --image kindest/node:v\S+@sha256:[0-9a-f]{64} ", plan[0]
    )
    assert "+ .venv/bin/python -m tools.load --into kind-mine" in plan
    assert "http://localhost:9000" in done.stdout
    assert not (project / "build").exists()
    assert [call for call in calls(project) if call != "kind get clusters"] == []


def test_the_manifests_are_those_of_the_pinned_commits_and_name_nothing_outside(
    project: Path, run: Run
) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    pipelines = project / "build" / "kubeflow-manifests" / "pipelines"
    assert not (pipelines / "sdk").exists()
    argo = pipelines / "manifests" / "kustomize" / "third-party" / "argo"
    for folder in PIPELINES:
        text = (argo / folder / "kustomization.yaml").read_text()
        named = re.findall(r"^- (.*)$", text, re.MULTILINE)
        assert named
        for base in named:
            assert (argo / folder / base / "kustomization.yaml").is_file(), base
    applied = [call for call in calls(project) if " apply " in call]
    assert [call.rpartition("/")[2] for call in applied] == ["cluster-scoped-resources", "platform-agnostic"]
    assert all(call.startswith("kubectl --context kind-flowparts ") for call in applied)


def test_calling_it_again_creates_no_second_cluster_and_fetches_nothing(project: Path, run: Run) -> None:
    assert run().returncode == 0
    shutil.rmtree(project.parent / "pipelines")
    again = run()
    assert again.returncode == 0, again.stderr
    assert "the cluster flowparts is there already" in again.stdout
    assert sum(call.startswith("kind create") for call in calls(project)) == 1
    assert sum(call.endswith("-m tools.load --into kind-flowparts") for call in calls(project)) == 2


def test_a_tag_that_was_moved_is_refused(project: Path, run: Run, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "pipelines")
    repository(tmp_path / "pipelines", "2.17.0", {"manifests/kustomize/other.yaml": "a: b\n"})
    done = run()
    assert done.returncode == 2
    assert "the tag 2.17.0 of https://github.com/kubeflow/pipelines is no longer the commit" in done.stderr
    assert not [call for call in calls(project) if " apply " in call]


def test_removes_the_cluster_once(project: Path, run: Run) -> None:
    run()
    assert run("--delete").returncode == 0
    assert calls(project)[-1] == "kind delete cluster --name flowparts"
    assert "there is no cluster flowparts" in run("--delete").stdout


def test_every_script_satisfies_shellcheck() -> None:
    if not shutil.which("shellcheck"):
        if os.environ.get("CI") == "true":
            pytest.fail("CI must check the scripts; make system installs Debian's shellcheck")
        pytest.skip("needs Debian's package shellcheck; make system installs it")
    listed = subprocess.run(
        ["git", "ls-files", "*.sh"], cwd=SCRIPT.parents[1], capture_output=True, text=True
    )
    checked = subprocess.run(
        ["shellcheck", "--severity=warning", *listed.stdout.split()],
        cwd=SCRIPT.parents[1],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
