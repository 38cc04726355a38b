"""The object store and the metadata store of a strict run: folders and an SQLite file below the runs.

Artifacts pass through the object store as KFP's launcher copies them, file by file under their object names,
so everything but the files' content is lost.
"""

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.strict.values import BackendError

# The launcher's mount folder of buckets, by URI scheme.
PLACES = {"minio": "/minio", "s3": "/s3", "gs": "/gcs"}
BUCKET = "minio://mlpipeline"
SESSION = json.dumps(
    {
        "Provider": "minio",
        "Params": {
            "accessKeyKey": "accesskey",
            "disableSSL": "true",
            "endpoint": "seaweedfs.kubeflow:9000",
            "fromEnv": "false",
            "maxRetries": "5",
            "region": "minio",
            "secretKeyKey": "secretkey",
            "secretName": "mlpipeline-minio-artifact",
        },
    },
    separators=(",", ":"),
)


@dataclass(frozen=True)
class Stored:
    """An artifact in ML Metadata."""

    id: int
    schema: str  # such as "system.Dataset"
    uri: str
    properties: dict[str, dict[str, Any]]


def local_path(uri: str) -> str:
    """Return a step's path for a URI; empty for a URI without a bucket."""
    scheme, separator, rest = uri.partition("://")
    return f"{PLACES[scheme]}/{rest}" if separator and scheme in PLACES else ""


class ObjectStore:
    """Buckets as folders: the object minio://mlpipeline/a/b is the file minio/mlpipeline/a/b."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, uri: str) -> Path:
        """Return the file or folder of a URI."""
        scheme, _, rest = uri.partition("://")
        return self.folder / scheme / rest

    def upload(self, source: Path, uri: str, port: str) -> str:
        """Copy an output to the store; return problems that don't fail the step, empty for none.

        Args:
            source: The file or folder that the step wrote; it may be missing.
            uri: The destination.
            port: The name of the output.

        Raises:
            BackendError: It contains a link to a folder, or files that the step's user can't read.
        """
        try:
            if source.is_dir():
                self._upload_folder(source, self.path(uri))
            elif source.exists():
                _copy(source, self.path(uri))
        except FileNotFoundError as error:  # a dangling link silently ends the walk
            return (
                f"{error.filename} points nowhere: files of output {port!r} that sort after it are not stored"
            )
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            what = "is a link to a folder" if error.errno == errno.EISDIR else f"can't be read ({reason})"
            raise BackendError(
                f"{error.filename} in output {port!r} {what}; write files and folders that everyone can read",
                f'failed to execute component: failed to upload output artifact "{port}" to remote storage '
                f'URI "{uri}": uploadFile(): unable to complete copying "{error.filename}": {reason}',
            ) from None
        return ""

    def download(self, uri: str, target: Path) -> None:
        """Copy the object at a URI to a path; a missing object leaves the path empty.

        Raises:
            BackendError: The store has no such bucket.
        """
        scheme, _, rest = uri.partition("://")
        bucket = self.folder / scheme / rest.partition("/")[0]
        if not bucket.is_dir() and not uri.startswith(f"{BUCKET}/"):
            raise BackendError(
                f"the launcher would download {uri} before the step starts, and a strict run reaches no "
                f"bucket but its own; put the files in {bucket}",
                f"failed to download input artifact from remote storage URI {uri!r}",
            )
        source = self.path(uri)
        for file in [source] if source.is_file() else sorted(filter(Path.is_file, source.rglob("*"))):
            _copy(file, target / file.relative_to(source) if file != source else target)

    def _upload_folder(self, source: Path, target: Path) -> None:
        for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
            # Like the launcher, which takes a link to a folder for a file.
            if entry.is_dir(follow_symlinks=False):
                self._upload_folder(Path(entry.path), target / entry.name)
            else:
                _copy(Path(entry.path), target / entry.name.replace("\\", "/"))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(source))
    if source.exists() and not source.stat().st_mode & 0o400:
        raise PermissionError(errno.EACCES, "permission denied", str(source))  # root could read it
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o666)


class MetadataStore:
    """The state of ML Metadata and the API server's cache across runs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with self._opened() as database:
            database.executescript(
                "CREATE TABLE IF NOT EXISTS artifact(id INTEGER PRIMARY KEY, schema, uri, properties);"
                "CREATE TABLE IF NOT EXISTS cache(fingerprint, pipeline, outputs, artifacts);"
            )

    def record(self, schema: str, uri: str, properties: Mapping[str, Any]) -> Stored:
        """Register an artifact under a new ID."""
        values = (schema, uri, json.dumps(properties))
        with self._opened() as database, database:
            cursor = database.execute(
                "INSERT INTO artifact(schema, uri, properties) VALUES (?, ?, ?)", values
            )
        assert cursor.lastrowid
        return Stored(cursor.lastrowid, schema, uri, dict(properties))

    def artifact(self, number: int) -> Stored:
        """Return an artifact by its ID."""
        with self._opened() as database:
            query = "SELECT schema, uri, properties FROM artifact WHERE id = ?"
            schema, uri, properties = database.execute(query, (number,)).fetchone()
        return Stored(number, schema, uri, json.loads(properties))

    def same(self, schema: str, uri: str, properties: Mapping[str, Any]) -> Stored | None:
        """Return a previously imported artifact; None if there is none."""
        query = "SELECT id FROM artifact WHERE schema = ? AND uri = ? AND properties = ?"
        with self._opened() as database:
            row = database.execute(query, (schema, uri, json.dumps(properties))).fetchone()
        return self.artifact(row[0]) if row else None

    def remember(
        self, fingerprint: str, pipeline: str, outputs: Mapping[str, Any], artifacts: Mapping[str, int]
    ) -> None:
        """Store the outputs of an execution under its cache key."""
        values = (fingerprint, pipeline, json.dumps(outputs), json.dumps(artifacts))
        with self._opened() as database, database:
            database.execute("INSERT INTO cache VALUES (?, ?, ?, ?)", values)

    def remembered(self, fingerprint: str, pipeline: str) -> tuple[dict[str, Any], dict[str, int]] | None:
        """Return the outputs and artifact IDs of the latest execution with a cache key."""
        query = (
            "SELECT outputs, artifacts FROM cache WHERE fingerprint = ? AND pipeline = ? ORDER BY rowid DESC"
        )
        with self._opened() as database:
            row = database.execute(query, (fingerprint, pipeline)).fetchone()
        return (json.loads(row[0]), json.loads(row[1])) if row else None

    def _opened(self) -> "closing[sqlite3.Connection]":
        self._file.parent.mkdir(parents=True, exist_ok=True)
        return closing(sqlite3.connect(self._file))
