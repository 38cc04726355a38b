import json
from pathlib import Path

import pytest

from targets import images

DIGEST = "sha256:" + "0a" * 32


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    parents = {"zoo": "", "ant": "bee", "bee": "zoo"}
    for name, parent in parents.items():
        (tmp_path / name).mkdir()
        argument = f"ARG PARENT_IMAGE=flowparts/flowparts-{parent}:1-environment\n" if parent else ""
        (tmp_path / name / "Dockerfile").write_text(f"ARG BASE_IMAGE=python\n{argument}FROM x\n")
    monkeypatch.setattr(images, "CONTAINERS", tmp_path)
    return tmp_path


def test_images_are_found_by_their_folders_parents_first(folders: Path) -> None:
    assert {name: image.parent for name, image in images.find().items()} == {
        "zoo": "",
        "bee": "zoo",
        "ant": "bee",
    }
    assert list(images.find()) == ["zoo", "bee", "ant"]


def test_an_image_brings_all_that_it_is_built_from(folders: Path) -> None:
    assert [image.name for image in images.chosen(["bee"])] == ["flowparts-zoo", "flowparts-bee"]
    assert len(images.chosen([])) == 3
    with pytest.raises(ValueError, match="unknown image 'bea'; did you mean 'bee'"):
        images.chosen(["bea"])


def test_a_second_list_of_packages_is_a_second_image_which_is_built_when_it_is_named(folders: Path) -> None:
    (folders / "bee" / "requirements-gpu.in").write_text("")
    image = images.find()["bee-gpu"]
    assert (image.name, image.parent, image.variant) == ("flowparts-bee-gpu", "zoo", "gpu")
    assert image.lock == folders / "bee" / "requirements-gpu.txt"
    assert [found.key for found in images.chosen([])] == ["zoo", "bee", "ant"]
    assert [found.key for found in images.chosen(["bee-gpu"])] == ["zoo", "bee-gpu"]


def test_names_what_a_list_asks_for(tmp_path: Path) -> None:
    asked = tmp_path / "requirements.in"
    asked.write_text("-r ../base/requirements.in\n# why\nfsspec[http]\nScikit_Learn>=1.9\n")
    assert images.requested(asked) == {"fsspec", "scikit-learn"}


def client(folder: Path, status: int) -> Path:
    """Make a Docker client that does or doesn't know BuildKit."""
    folder.mkdir()
    file = folder / "docker"
    file.write_text(f'#!/bin/sh\n[ "$DOCKER_BUILDKIT $*" = "1 build --help" ] && exit {status}\nexit 2\n')
    file.chmod(0o755)
    return file


def test_builds_with_the_first_client_on_the_path_that_knows_buildkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without, knowing = client(tmp_path / "a", 1), client(tmp_path / "b", 0)
    monkeypatch.setenv("PATH", f"{tmp_path / 'nowhere'}:{without.parent}:{knowing.parent}")
    assert images._builder() == str(knowing)
    monkeypatch.setenv("PATH", str(without.parent))
    with pytest.raises(ValueError, match="no Docker client here builds with BuildKit; install its plugin"):
        images._builder()


def test_a_parent_without_a_folder_is_refused(folders: Path) -> None:
    (folders / "cat").mkdir()
    (folders / "cat" / "Dockerfile").write_text("ARG PARENT_IMAGE=flowparts-dog:1\nFROM x\n")
    with pytest.raises(ValueError, match="cat is built from 'dog'"):
        images.find()


def test_reads_back_what_a_build_wrote(tmp_path: Path) -> None:
    file = tmp_path / "images.json"
    described = {"flowparts-base": {"image": "a/flowparts-base:1", "id": DIGEST, "digest": None}}
    file.write_text(json.dumps(described))
    assert images.read(file) == described
    with pytest.raises(ValueError, match=r"cannot read the images in .*; make images writes it"):
        images.read(tmp_path / "missing.json")
