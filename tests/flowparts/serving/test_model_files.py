import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from flowparts.serving import model_files
from flowparts.util import trees
from tests.flowparts.serving.conftest import Server, same


@pytest.fixture
def bucket(s3_server: str, model: Path) -> str:
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="models")
    for file in model.iterdir():
        client.upload_file(str(file), "models", f"plans/1/{file.name}")
    client.upload_file(str(model / "MLmodel"), "models", "plans/1/below/further")
    client.close()
    return "s3://models/plans/1"


def test_a_model_in_object_storage_is_downloaded_whole_and_served(
    serve: Callable[..., Server], bucket: str, model: Path, records: Any, expected: Any, tmp_path: Path
) -> None:
    # s3fs reads the same variables as boto3, which the fixture has set.
    server = serve(bucket, environment=dict(os.environ))
    same(server.call("/predict", {"instances": records})[1]["predictions"], expected)
    copy = tmp_path / "copy"
    copy.mkdir()
    assert model_files.fetch(f"{bucket}/", copy) == copy
    assert {file.name: file.read_bytes() for file in copy.iterdir() if file.is_file()} == {
        file.name: file.read_bytes() for file in model.iterdir()
    }
    assert (copy / "below" / "further").is_file()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://models/elsewhere", "there is nothing at s3://models/elsewhere"),
        ("s3://nobucket/x", "s3://nobucket/x"),
        ("ftp://x/y", "has the unknown scheme 'ftp'; use a directory or one of: file://, gs://, s3://"),
        ("/nowhere", "there is no model directory at /nowhere"),
        ("file:///nowhere", "there is no model directory at file:///nowhere"),
    ],
)
def test_a_directory_without_a_model_gives_a_one_line_error(
    bucket: str, tmp_path: Path, uri: str, message: str
) -> None:
    with pytest.raises(ValueError, match=r"no|nothing") as caught:
        model_files.fetch(uri, tmp_path)
    assert message in str(caught.value)


def test_a_directory_is_served_where_it_is(model: Path, tmp_path: Path) -> None:
    assert model_files.fetch(str(model), tmp_path) == model
    assert model_files.fetch(model.as_uri(), tmp_path) == model


def test_the_download_of_a_model_in_a_pod_is_atomic(bucket: str, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "flowparts.serving.model_files"]
    subprocess.run([*run, bucket, str(tmp_path / "model")], check=True)
    assert (tmp_path / "model" / "MLmodel").is_file()
    failed = subprocess.run([*run, f"{bucket}/elsewhere", str(tmp_path / "other")], stderr=subprocess.PIPE)
    assert failed.returncode == 1
    assert failed.stderr.decode().strip() == f"there is nothing at {bucket}/elsewhere"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_files_that_have_changed_since_they_were_deployed_are_refused(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "as-deployed").mkdir()
    model_files.fetch(bucket, tmp_path / "as-deployed")
    digest = trees.digest(tmp_path / "as-deployed")
    model_files.download(bucket, tmp_path / "same", digest)
    with pytest.raises(
        ValueError,
        match=f"files at {bucket} have changed since they were deployed: their digest is {digest}, not 0",
    ):
        model_files.download(bucket, tmp_path / "other", "0" * 16)
    assert not (tmp_path / "other").exists()
