"""Holds the copy of artifacts to what a real backend did with the same files."""

import os
import stat
from pathlib import Path

import pytest

from backends.strict.store import SESSION, MetadataStore, ObjectStore, local_path
from backends.strict.values import BackendError

URI = "minio://mlpipeline/v2/artifacts/p/run/step/uuid/d"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "written"
    folder.mkdir()
    return folder


def arrived(store: ObjectStore, source: Path, tmp_path: Path) -> Path:
    assert store.upload(source, URI, "d") == ""
    store.download(URI, tmp_path / "read")
    return tmp_path / "read"


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_loses_its_mode(store: ObjectStore, written: Path, tmp_path: Path) -> None:
    file = written / "run.sh"
    file.write_text("echo")
    file.chmod(0o750)
    read = arrived(store, file, tmp_path)
    assert read.read_text() == "echo"
    assert stat.S_IMODE(read.stat().st_mode) == 0o666


def test_a_tree_keeps_hidden_and_empty_files_and_loses_empty_folders(
    store: ObjectStore, written: Path, tmp_path: Path
) -> None:
    (written / "a" / ".hidden").mkdir(parents=True)
    (written / "a" / ".hidden" / "with space #%20?ü").write_text("x")
    (written / "a" / "empty").touch()
    (written / "gone" / "too").mkdir(parents=True)
    read = arrived(store, written, tmp_path)
    assert tree(read) == ["a", "a/.hidden", "a/.hidden/with space #%20?ü", "a/empty"]


def test_a_backslash_in_a_name_becomes_a_folder(store: ObjectStore, written: Path, tmp_path: Path) -> None:
    (written / "back\\slash").write_text("x")
    assert tree(arrived(store, written, tmp_path)) == ["back", "back/slash"]


@pytest.mark.parametrize("what", ["nothing", "empty folder"])
def test_an_output_without_files_does_not_exist_for_the_next_step(
    store: ObjectStore, written: Path, tmp_path: Path, what: str
) -> None:
    assert not arrived(store, written / "none" if what == "nothing" else written, tmp_path).exists()


def test_a_link_to_a_file_becomes_a_copy(store: ObjectStore, written: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("x")
    (written / "link").symlink_to(tmp_path / "target")
    read = arrived(store, written, tmp_path)
    assert (read / "link").read_text() == "x"
    assert not (read / "link").is_symlink()


def test_a_link_to_a_folder_fails_the_step(store: ObjectStore, written: Path) -> None:
    (written / "folder").mkdir()
    (written / "link_to_dir").symlink_to("folder")
    with pytest.raises(BackendError, match="link_to_dir in output 'd' is a link to a folder") as raised:
        store.upload(written, URI, "d")
    assert "unable to complete copying" in raised.value.words
    assert "is a directory" in raised.value.words


def test_a_broken_link_is_reported(store: ObjectStore, written: Path) -> None:
    for name in ("a.txt", "z.txt"):
        (written / name).touch()
    (written / "m").symlink_to("nowhere")
    assert "files of output 'd' that sort after it are not stored" in store.upload(written, URI, "d")
    assert tree(store.path(URI)) == ["a.txt"]


def test_a_file_that_the_images_user_cannot_read_fails_the_step(store: ObjectStore, written: Path) -> None:
    (written / "secret").touch(mode=0o000)
    with pytest.raises(BackendError, match="can't be read") as raised:
        store.upload(written, URI, "d")
    assert raised.value.words.endswith("permission denied")


def test_a_bucket_that_the_run_lacks_is_reported(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"would download s3://models/churn/1 .* put the files in"):
        store.download("s3://models/churn/1", tmp_path / "read")
    store.path("s3://models/churn/1").mkdir(parents=True)
    (store.path("s3://models/churn/1") / "MLmodel").touch()
    store.download("s3://models/churn/1", tmp_path / "read")
    assert os.listdir(tmp_path / "read") == ["MLmodel"]


def test_paths_of_buckets() -> None:
    assert local_path(URI) == "/minio/mlpipeline/v2/artifacts/p/run/step/uuid/d"
    assert local_path("gs://bucket/a") == "/gcs/bucket/a"
    assert local_path("s3://bucket/a") == "/s3/bucket/a"
    assert local_path("/tmp/elsewhere.txt") == ""


def test_artifacts_are_numbered_and_the_latest_of_a_key_is_remembered_by_pipeline(tmp_path: Path) -> None:
    file = tmp_path / "metadata.db"
    first = MetadataStore(file).record("system.Model", URI, {"a": {"double_value": 1.0}})
    second = MetadataStore(file).record("system.Model", URI, {})
    assert second.id == first.id + 1
    assert MetadataStore(file).artifact(first.id) == first
    assert MetadataStore(file).same("system.Model", URI, first.properties) == first
    assert MetadataStore(file).same("system.Model", URI, {"b": {"double_value": 1.0}}) is None
    for number in (first.id, second.id):
        MetadataStore(file).remember("key", "pipeline", {"n": number}, {"model": number})
    assert MetadataStore(file).remembered("key", "pipeline") == ({"n": second.id}, {"model": second.id})
    assert MetadataStore(file).remembered("key", "another") is None
    assert '"secretName":"mlpipeline-minio-artifact"' in SESSION
