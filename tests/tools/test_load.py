"""Programs of clusters stand on the PATH as scripts that write down what they are asked for."""

import json
from pathlib import Path

import pytest

from tools import load

ID = "sha256:" + "0a" * 32


@pytest.fixture
def images(tmp_path: Path) -> Path:
    file = tmp_path / "images.json"
    file.write_text(
        json.dumps(
            {
                f"flowparts-{name}": {"image": f"flowparts/flowparts-{name}:1", "id": ID, "digest": None}
                for name in ("base", "sklearn")
            }
        )
    )
    return file


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave nothing but a folder for programs on the PATH; `calls` beside it gets what they are asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, does: str = "") -> None:
    file = folder / name
    file.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin\necho "{name} $*" >>{folder.parent}/calls\n{does}\n')
    file.chmod(0o755)


def calls(programs: Path) -> list[str]:
    return (programs.parent / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("context", "call"),
    [
        ("kind-flowparts", "kind load docker-image --name flowparts"),
        ("k3d-two-words", "k3d image import --cluster two-words"),
    ],
)
def test_images_go_into_the_cluster_of_kubectls_context(
    images: Path, programs: Path, context: str, call: str, capsys: pytest.CaptureFixture
) -> None:
    program(programs, "kubectl", f"echo {context}")
    program(programs, context.partition("-")[0])
    assert load.main(["--images", str(images)]) == 0
    assert calls(programs)[-1] == f"{call} flowparts/flowparts-base:1 flowparts/flowparts-sklearn:1"
    assert capsys.readouterr().out.split() == ["flowparts/flowparts-base:1", "flowparts/flowparts-sklearn:1"]


def test_a_named_cluster_gets_the_named_images_whatever_the_context(images: Path, programs: Path) -> None:
    program(programs, "kubectl", "echo kind-other")
    program(programs, "kind")
    assert load.main(["sklearn", "--into", "kind-mine", "--images", str(images)]) == 0
    assert calls(programs) == ["kind load docker-image --name mine flowparts/flowparts-sklearn:1"]


def test_a_local_node_gets_the_images_through_containerd(images: Path, programs: Path) -> None:
    program(programs, "docker", "echo all the layers")
    program(programs, "ctr", 'case "$*" in "namespaces "*) echo k8s.io ;; *) cat >&2 ;; esac')
    assert load.main(["base", "--images", str(images)]) == 0
    assert set(calls(programs)) == {
        "ctr namespaces list --quiet",
        "docker save flowparts/flowparts-base:1",
        "ctr --namespace k8s.io images import -",
    }


def test_missing_files_are_reported(images: Path, programs: Path, capsys: pytest.CaptureFixture) -> None:
    def refused(*arguments: str) -> str:
        assert load.main([*arguments, "--images", str(images)]) == 1
        return capsys.readouterr().err

    assert "no cluster on this machine: kubectl has no context" in refused()
    assert "kind is not on the PATH" in refused("--into", "kind-a")
    assert "cluster 'minikube' must be one of kind-NAME, k3d-NAME, containerd" in refused(
        "--into", "minikube"
    )
    assert "did you mean 'flowparts-base'" in refused("bases", "--into", "kind-a")
    program(programs, "kind", "exit 7")
    assert "kind failed, as it says above" in refused("--into", "kind-a")
    program(programs, "docker", "exit 1")
    program(programs, "ctr", "cat >&2")
    assert "docker failed" in refused("--into", "containerd")
