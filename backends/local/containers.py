"""Run steps in the images that a cluster would pull: user, mounts, network, memory.

A step gets minimal rights: it isn't root, its root file system is read-only, it has a network only if one of
its inputs is remote, and it writes only to its own run (and the MLflow file, if it uses the registry).
"""

import glob
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from flowparts.train.networks import checkpoints
from tools import images

# If the caller is root: the images' own user, in root's group.
_STEP_USER = 65532
_TMP = Path("/tmp")  # noqa: S108 where steps keep temporary files
_REMOTE = re.compile(r"(?!file:|sample:|sqlite:)[a-z][a-z0-9+.-]*://")


@dataclass(frozen=True)
class Containers:
    """The images of a run and the user in them."""

    ids: Mapping[str, str]  # name such as "flowparts-base" to the id on this engine
    user: int = field(default_factory=lambda: os.getuid() or _STEP_USER)
    group: int = field(default_factory=os.getgid)

    def reference(self, name: str) -> str:
        """Return the reference of a step's image in the compiled pipeline.

        Raises:
            ValueError: The image isn't built.
        """
        if name not in self.ids:
            raise ValueError(f"the image {name} is needed and not built; run: make images")
        return self.ids[name]

    @contextmanager
    def started(self, step: "Step") -> Iterator[list[str]]:
        """Yield the docker command for a step, without its image and command, and clean up after it."""
        name = f"flowparts-{uuid.uuid4().hex[:12]}"
        scratch = step.run / "scratch" / name
        scratch.mkdir(parents=True)
        try:
            yield [
                *("docker", "run", "--rm", f"--name={name}", f"--user={self.user}:{self.group}"),
                *("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
                f"--workdir={Path.cwd()}",
                *step.options(scratch),
            ]
        except BaseException:
            subprocess.run(["docker", "rm", "--force", name], capture_output=True)  # noqa: S603, S607
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @contextmanager
    def access(self, run: Path, tracking_uri: str, environment: Mapping[str, str]) -> Iterator[None]:
        """Make a run, MLflow's file and the folder of checkpoints writable for the steps.

        Afterwards everything belongs to the caller.
        """
        home = database_folder(tracking_uri)
        folders = [run, *_checkpoints(environment)]
        for folder in [*folders, *([home] if home else [])]:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            if os.getuid() == 0:  # other callers' steps run as the caller
                mask = os.umask(0o002)
                _share(folders, home)
            yield
        finally:
            shutil.rmtree(run / "scratch", ignore_errors=True)
            if os.getuid() == 0:
                os.umask(mask)
                _share(folders, home)


@dataclass(frozen=True)
class Step:
    """The facts of a step that decide what it can access.

    Attributes:
        run: The run's folder, writable; the other runs are readable, for cached results.
        inputs: Its inputs by name, artifacts as URIs.
        memory_bytes: Its memory limit; 0 for none.
        environment: Its environment.
        online: Whether it needs a network regardless of its inputs.
        stores_checkpoints: Whether it writes to its environment's folder of checkpoints.
    """

    run: Path
    inputs: Mapping[str, Any]
    memory_bytes: int
    environment: Mapping[str, str]
    online: bool = False
    stores_checkpoints: bool = False

    def options(self, scratch: Path) -> list[str]:
        """Return a step's options of `docker run`; /tmp is the scratch folder.

        Environment variables are passed by name: docker takes the values from its own environment, so they
        aren't visible.
        """
        runs = self.run.parents[1]
        mounts = {runs: (runs, "readonly"), self.run: (self.run, ""), _TMP: (scratch, "")}
        mounts |= {path: (path, "readonly") for path in local_paths(self.inputs) if runs not in path.parents}
        remote = self.online or is_remote(self.inputs)
        if self.stores_checkpoints:
            mounts |= {folder: (folder, "") for folder in _checkpoints(self.environment)}
            remote = remote or is_remote(self.environment.get(checkpoints.ENVIRONMENT))
        if "tracking_uri" in self.inputs:
            tracking_uri = self.inputs["tracking_uri"] or self.environment.get("MLFLOW_TRACKING_URI", "")
            remote = remote or is_remote(tracking_uri)
            if home := database_folder(tracking_uri):
                mounts[home] = (home, "")
        return [
            # The host's network, so that servers on this machine have the same address.
            f"--network={'host' if remote else 'none'}",
            *(f"--{kind}={self.memory_bytes}" for kind in ("memory", "memory-swap") if self.memory_bytes),
            *(
                f"--mount=type=bind,source={source},target={target},{mode}".rstrip(",")
                for target, (source, mode) in mounts.items()
            ),
            *(f"--env={name}" for name in self.environment),
        ]

    @property
    def killed(self) -> str:
        """The message for a step that got SIGKILL."""
        limit = f"{self.memory_bytes / 2**30:.2f} GiB" if self.memory_bytes else "that of this machine"
        return f"MemoryError: the step was killed; most likely it needs more memory than its limit, {limit}"


def prepare(images_file: Path) -> Containers:
    """Return the containers for the images in a file of `make images`.

    Raises:
        ValueError: No engine answers, or an image is missing.
    """
    if not shutil.which("docker") or subprocess.run(["docker", "version"], capture_output=True).returncode:  # noqa: S607
        raise ValueError(
            "no Docker engine answers; start one, or let scripts/docker-engine.sh install and start it"
        )
    ids = {name: str(image["id"]) for name, image in images.read(images_file).items()}
    for name, image_id in ids.items():
        if subprocess.run(["docker", "image", "inspect", image_id], capture_output=True).returncode:  # noqa: S603, S607
            raise ValueError(f"the image {name} of {images_file} is not on this engine; run: make images")
    return Containers(ids)


def inputs(component: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return all inputs of a step: the given ones, else the component's defaults."""
    parameters = component.input_definitions.parameters
    defaults = {name: json_format.MessageToDict(parameters[name].default_value) for name in parameters}
    return {**defaults, **arguments}


def memory_limit_bytes(executor: Any) -> int:
    """Return the memory limit of a step in bytes; 0 for none."""
    return int(executor.container.resources.memory_limit * 1e9)


def database_folder(tracking_uri: str) -> Path | None:
    """Return the folder of an MLflow registry in an SQLite file; None for a server's."""
    path = tracking_uri.removeprefix("sqlite:///")
    return None if path == tracking_uri else Path(path).absolute().parent


def is_remote(value: Any) -> bool:
    """Return whether a text, or one inside a list or dict, is a remote URI."""
    return any(_REMOTE.match(text) for text in _texts(value))


def local_paths(value: Any) -> set[Path]:
    """Return the files and folders named by texts, as a path or file:// URI; the folder for a glob."""
    found = set()
    for text in _texts(value):
        path = text.removeprefix("file://")
        if not path or "://" in path or "\n" in path or len(path) > 4096:
            continue
        while glob.has_magic(path):
            path = os.path.dirname(path) or "."
        if os.path.exists(path) and os.path.abspath(path) != "/":
            found.add(Path(path).absolute())
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _texts(item)


def _checkpoints(environment: Mapping[str, str]) -> list[Path]:
    """Return the environment's folder of checkpoints, if it is local."""
    folder = environment.get(checkpoints.ENVIRONMENT, "")
    return [Path(folder).absolute()] if folder and not is_remote(folder) else []


def _share(folders: Sequence[Path], database: Path | None) -> None:
    """Make root the owner, and make it writable for the steps' group."""
    files = [file for folder in folders for file in (folder, *folder.rglob("*"))]
    if database:
        artifacts = database / "artifacts"
        files += [database, artifacts, *artifacts.rglob("*"), *database.glob("*.db*")]
    for file in files:
        if file.exists() and not file.is_symlink():
            os.chown(file, os.getuid(), os.getgid())
            file.chmod(file.stat().st_mode | (0o070 if file.is_dir() else 0o060))
