import io
import os
import re
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flowparts.deploy import common
from flowparts.deploy.server_pod import ServerPod
from flowparts.deploy.targets import sagemaker
from flowparts.register import registry
from flowparts.util import trees


@pytest.mark.parametrize("name", ["a", "a/b", "a.b/..c", "..a/b..", "A b/ü"])
def test_a_plain_relative_name_is_joined(name: str, tmp_path: Path) -> None:
    assert trees.inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name", ["", "/a", "//a", "a//b", "a/", "..", "../a", "a/../b", ".", "a/./b", "a\0b"]
)
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"leads out of its directory; rename it"):
        trees.inside(tmp_path, name)


def test_a_name_below_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"'link/a' leads out of its directory by a link"):
        trees.inside(home, "link/a")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give a directory with a file, one in a folder, and links to both."""
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    (home / "file").write_text("1")
    (home / "folder" / "file").write_text("2")
    (home / "link").symlink_to("file")
    (home / "linked").symlink_to("folder")
    (tmp_path / "secret").write_text("secret")
    return home


def test_links_inside_a_directory_are_followed_and_copied_as_files(home: Path, tmp_path: Path) -> None:
    names = ["file", "folder/file", "link", "linked/file"]
    assert trees.files(home) == [home / name for name in names]
    trees.copy(home, tmp_path / "copy")
    assert [str(file.relative_to(tmp_path / "copy")) for file in trees.files(tmp_path / "copy")] == names
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.is_symlink()]


def to_secret(at: Path) -> None:
    at.symlink_to("../secret")


def to_secret_folder(at: Path) -> None:
    at.symlink_to("..")


def to_nothing(at: Path) -> None:
    at.symlink_to("nothing")


def to_itself(at: Path) -> None:
    at.symlink_to(at.name)


def unix_socket(at: Path) -> None:
    # Bound by its name alone: the whole path may be longer than such an address.
    before = Path.cwd()
    os.chdir(at.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(at.name)
    finally:
        os.chdir(before)


def to_device(at: Path) -> None:
    at.symlink_to("/dev/zero")


HOSTILE = {
    "link out": (to_secret, "is a link that leads out of"),
    "link to the folder above": (to_secret_folder, "is a link that leads out of"),
    "link to nothing": (to_nothing, "can't be read: No such file"),
    "link to itself": (to_itself, "can't be read: Too many levels"),
    "pipe": (os.mkfifo, "is a device, pipe or socket, not a file"),
    "socket": (unix_socket, "is a device, pipe or socket, not a file"),
    "device": (to_device, "is a link that leads out of"),
}


@pytest.mark.parametrize(("make", "message"), HOSTILE.values(), ids=list(HOSTILE))
def test_files_outside_the_directory_are_never_copied_packed_or_sent(
    make: Callable[[Path], None], message: str, home: Path, tmp_path: Path
) -> None:
    make(home / "odd")
    for act in (
        lambda: trees.files(home),
        lambda: trees.copy(home, tmp_path / "copy"),
        lambda: registry.fingerprint(home),
        lambda: sagemaker.archive(home, io.BytesIO()),
    ):
        with pytest.raises(ValueError, match=f"odd {message}"):
            act()
    assert not (tmp_path / "copy").exists()


def test_a_link_to_a_folder_above_inside_the_directory_ends(home: Path) -> None:
    (home / "folder" / "up").symlink_to("..")
    assert len(trees.files(home)) == 4


@pytest.mark.parametrize("path", ["..", "../secrets", "a/../../..", "a//b", "/etc"])
def test_a_model_path_cannot_leave_the_volume(path: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"the name {path!r} leads out")):
        ServerPod(f"pvc://claim/{path}", "plans", "registry/image:1", "1", "2Gi")


@pytest.mark.parametrize("path", ["", "/", "/plans/1", "/plans/1/"])
def test_a_model_s_path_on_a_volume_may_be_anything_below_it(path: str) -> None:
    assert ServerPod(f"pvc://claim{path}", "plans", "registry/image:1", "1", "2Gi").mounted


def test_a_model_path_cannot_leave_the_mount(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr("flowparts.deploy.common._MOUNTS", {"gs": home})
    assert common.mounted("gs://folder/") == home / "folder"
    assert common.mounted("gs://nothing") is None
    with pytest.raises(ValueError, match="leads out"):
        common.mounted("gs://folder/../..")


def test_an_archive_holds_the_files_with_their_names(home: Path) -> None:
    packed = io.BytesIO()
    sagemaker.archive(home, packed)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        assert {entry.name for entry in archive if entry.isfile()} >= {"file", "folder/file", "link"}
