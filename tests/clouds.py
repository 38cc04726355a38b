"""What the tests of Vertex AI and SageMaker need beside the services: buckets, and models with servers."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
import requests

from tests.flowparts.serving.conftest import Server, free_ports, start, train, wait

BUCKET, ARCHIVES = "models", "archives"

# The emulation can't answer what gcsfs asks over gRPC of how a bucket is laid out.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


@dataclass(frozen=True)
class Served:
    """A model that lies in a bucket, and a real model server with it."""

    key: str
    path: Path
    server: Server

    @property
    def gs(self) -> str:
        return f"gs://{BUCKET}/{self.key}"

    @property
    def s3(self) -> str:
        return f"s3://{BUCKET}/{self.key}"


@contextmanager
def served(folder: Path) -> Iterator[tuple[Served, Served]]:
    """Train two models that differ in what they predict, and serve each."""
    paths = {task: train(folder / task, task) for task in ("classification", "regression")}
    servers = {task: start(path, "--name=churn") for task, path in paths.items()}
    try:
        first, second = (Served(task, path, wait(servers[task])) for task, path in paths.items())
        yield first, second
    finally:
        for server in servers.values():
            server.stop()


@contextmanager
def cloud_storage(bucket: str) -> Iterator[str]:
    """Run an emulation of Cloud Storage with a bucket, as there is none to run; give its address."""
    from gcp_storage_emulator.server import create_server
    from gcsfs import GCSFileSystem

    (port,) = free_ports(1)
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket)
    server.start()
    GCSFileSystem.clear_instance_cache()  # one that is kept knows another address
    yield f"http://127.0.0.1:{port}"
    server.stop()
    GCSFileSystem.clear_instance_cache()


@contextmanager
def amazon() -> Iterator[str]:
    """Run moto's server, which emulates services of AWS; give its address.

    A process of its own: servers within one share what they hold.
    """
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "--host=127.0.0.1", f"--port={port}"]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not answers(f"{address}/moto-api/data.json"):
                assert process.poll() is None, "moto's server ended"
                assert time.monotonic() < deadline, "moto's server doesn't answer"
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()


def answers(address: str) -> bool:
    """Say whether a server is up, without a proxy that the environment names."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=2):
            return True
    except OSError:
        return False


def put(address: str, bucket: str, name: str, content: bytes) -> None:
    """Store an object in the emulation of Cloud Storage."""
    requests.post(
        f"{address}/upload/storage/v1/b/{bucket}/o",
        params={"uploadType": "media", "name": name},
        data=content,
    ).raise_for_status()


def files(model: Served) -> Iterator[tuple[str, bytes]]:
    """Give the key in the bucket and the content of each of a model's files."""
    for path in sorted(model.path.rglob("*")):
        if path.is_file():
            yield f"{model.key}/{path.relative_to(model.path).as_posix()}", path.read_bytes()


def fill_buckets(models: tuple[Served, ...]) -> None:
    """Make a bucket in S3 that holds models, and an empty one."""
    s3 = boto3.resource("s3")
    for name in (BUCKET, ARCHIVES):
        bucket = s3.Bucket(name)
        with suppress(s3.meta.client.exceptions.BucketAlreadyOwnedByYou):
            bucket.create(CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        bucket.objects.delete()
    for model in models:
        for key, content in files(model):
            s3.Object(BUCKET, key).put(Body=content)
