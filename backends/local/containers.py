"""What differs when steps run in the images that a cluster would pull: user, mounts, network, memory.

A step gets no more than it needs: it isn't root, its root file system is read-only, it has a network only if
one of its inputs lies elsewhere, and it writes only to its own run (and the MLflow file, if it takes part in
the registry).
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

# For a caller who is root: the images' own user, in root's group.
_STEP_USER = 65532
_TMP = Path("/tmp")  # noqa: S108 where steps keep temporary files
_REMOTE = re.compile(r"(?!file:|sample:|sqlite:)[a-z][a-z0-9+.-]*://")


@dataclass(frozen=True)
class Containers:
    """The images of a run and who runs in them."""

    ids: Mapping[str, str]  # name such as "flowparts-base" to the id on this engine
    user: int = field(default_factory=lambda: os.getuid() or _STEP_USER)
    group: int = field(default_factory=os.getgid)

    def reference(self, name: str) -> str:
        """Return what a step's image is called in the compiled pipeline.

        Raises:
            ValueError: The image isn't among those built.
        """
        if name not in self.ids:
            raise ValueError(f"the image {name} is needed and not built; run: make images")
        return self.ids[name]

    @contextmanager
    def started(self, step: "Step") -> Iterator[list[str]]:
        """Give the docker command that a step's image and command are added to, and clean up after it."""
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
        """Let the steps write to a run, to MLflow's file and to the folder of checkpoints.

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
    """What a step works with, and so what it may see.

    Attributes:
        run: The run's folder, which the step may write; the other runs it may read, for cached results.
        inputs: Its inputs by name, artifacts as URIs.
        memory_bytes: Its memory limit; 0 for none.
        environment: Its environment.
        online: Whether it talks to a platform, whatever its inputs.
        stores_checkpoints: Whether it writes to the folder of checkpoints that its environment names.
    """

    run: Path
    inputs: Mapping[str, Any]
    memory_bytes: int
    environment: Mapping[str, str]
    online: bool = False
    stores_checkpoints: bool = False

    def options(self, scratch: Path) -> list[str]:
        """Return the options of `docker run` that differ between steps; /tmp is the scratch folder.

        Environment variables are named without their values: docker takes these from its own environment, so
        that they show nowhere.
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
            # The host's network, so that a server on this machine has the same address as outside.
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
        """The sentence for a step that got SIGKILL."""
        limit = f"{self.memory_bytes / 2**30:.2f} GiB" if self.memory_bytes else "that of this machine"
        return f"MemoryError: the step was killed; most likely it needs more memory than its limit, {limit}"


def prepare(images_file: Path) -> Containers:
    """Return the containers for the images that a file of `make images` names.

    Raises:
        ValueError: No engine answers, or an image isn't there.
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
    """Return all inputs of a step: what it was given, else the defaults in the component's specification."""
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
    """Return whether a text, or one inside a list or dict, is the URI of something that no file holds."""
    return any(_REMOTE.match(text) for text in _texts(value))


def local_paths(value: Any) -> set[Path]:
    """Return the files and folders that texts name, by path or file:// URI; the folder for a glob."""
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
    """Return the folder of checkpoints on this machine, if the environment names one."""
    folder = environment.get(checkpoints.ENVIRONMENT, "")
    return [Path(folder).absolute()] if folder and not is_remote(folder) else []


def _share(folders: Sequence[Path], database: Path | None) -> None:
    """Make root the owner, and let the steps write by their group."""
    files = [file for folder in folders for file in (folder, *folder.rglob("*"))]
    if database:
        artifacts = database / "artifacts"
        files += [database, artifacts, *artifacts.rglob("*"), *database.glob("*.db*")]
    for file in files:
        if file.exists() and not file.is_symlink():
            os.chown(file, os.getuid(), os.getgid())
            file.chmod(file.stat().st_mode | (0o070 if file.is_dir() else 0o060))
