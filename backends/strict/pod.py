"""Run a command like a pod's container, as far as this machine allows."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends import resources
from backends.resources import Resources
from backends.strict.store import PLACES
from backends.strict.values import BackendError

ROOT = Path(__file__).parents[2]
# The user of the project's images; Kubernetes adds no other groups.
USER, GROUP = 65532, 0
# Writable paths of a step; Kubeflow mounts an empty folder at each.
_WRITABLE = ("/tmp", *PLACES.values(), "/.local", "/.cache", "/.config", "/kfp-launcher")  # noqa: S108
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc", "/sys")


def refuse_unschedulable(step: str, container: Mapping[str, Any], free: Resources) -> None:
    """Raise BackendError if a step's pod would never start because no node has enough resources.

    Args:
        step: The step's name.
        container: The step's container, as compiled.
        free: Free resources of the largest node, as limits.
    """
    wanted = resources.of(container)
    short = [
        *(["cpu"] if wanted.cpus_requested > free.cpus_requested else []),
        *(["memory"] if wanted.memory_requested > free.memory_requested else []),
    ]
    accelerator = container.get("resources", {}).get("accelerator", {})
    if accelerator.get("resourceCount") or accelerator.get("count"):
        short.append(accelerator.get("resourceType") or accelerator.get("type"))
    if short:
        words = (
            f"Unschedulable: 0/1 nodes are available: {', '.join(f'1 Insufficient {what}' for what in short)}"
        )
        asked = wanted.requests() if set(short) <= {"cpu", "memory"} else short[-1]
        raise BackendError(
            f"{step!r} asks for {asked} and the largest node has {free.requests()} free, so it would wait "
            f"for ever ({words.partition(' ')[2]}); lower its requests, or give a larger node with --node",
            f"{words}.",
        )


@dataclass
class Pod:
    """A pod: its private folders and its container's view.

    Attributes:
        folder: Parent of the private folders, temporary.
        variables: All environment variables of the container.
        volumes: Writable folders of this machine by the container's path.
    """

    folder: Path
    variables: Mapping[str, str]
    volumes: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Create the private folders."""
        self.folder.chmod(0o755)
        for path in _WRITABLE:
            self.host_path(path).mkdir(parents=True)
            self.host_path(path).chmod(0o777)

    def host_path(self, path: str) -> Path:
        """Return a container's writable path on this machine."""
        return self.folder / "volumes" / path.lstrip("/")

    def run(self, command: list[str], say: Callable[[str], None]) -> int:
        """Run a command, passing on each line of its output; return its exit code."""
        if isolation_problem():
            private = {"HOME": str(self.host_path("/tmp")), "TMPDIR": str(self.host_path("/tmp"))}  # noqa: S108
            return _run(command, {**self.variables, **private}, self.host_path("/tmp"), say)  # noqa: S108
        for path in [self.folder / "volumes", *(self.folder / "volumes").rglob("*")]:
            if os.geteuid() == 0:
                os.lchown(path, USER, GROUP)
        root = self.folder / "root"
        root.mkdir()
        writable = {path: str(self.host_path(path)) for path in _WRITABLE}
        writable |= {path: str(source) for path, source in self.volumes.items()}
        return _run(_isolated(root, writable, self.variables, command), {}, self.folder, say)

    def as_seen(self, text: str) -> str:
        """Return a step's text with private folders replaced by the container's paths."""
        return text.replace(f"{self.folder / 'volumes'}/", "/")


def isolated_paths() -> list[str]:
    """Return the paths of this machine in the container: its programs, and the project."""
    resolver = Path("/etc/resolv.conf").resolve().parent
    found: list[str] = []
    for path in sorted((*_SYSTEM, str(resolver), sys.base_prefix, sys.prefix, str(ROOT)), key=len):
        if os.path.lexists(path) and not any(
            path == other or path.startswith(f"{other}/") for other in found
        ):
            found.append(path)
    return found


@functools.cache
def isolation_problem() -> str:
    """Return why this machine can't run steps in their own root; empty if it can."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "tmp")
        temporary.mkdir()
        temporary.chmod(0o777)
        Path(folder, "root").mkdir()
        writable = {"/tmp": str(temporary)}  # noqa: S108
        lines: list[str] = []
        command = [sys.executable, "-c", "import os; assert os.getuid() != 0; open('/tmp/a', 'w')"]
        code = _run(
            _isolated(Path(folder, "root"), writable, {"PATH": os.defpath}, command),
            {},
            Path(folder),
            lines.append,
        )
    return (lines[-1].strip() if lines else f"exit code {code}") if code else ""


def _isolated(
    root: Path, writable: Mapping[str, str], variables: Mapping[str, str], command: list[str]
) -> list[str]:
    settings = {
        "root": str(root),
        "read_only": isolated_paths(),
        "writable": writable,
        "user": USER,
        "group": GROUP,
        "directory": "/tmp",  # noqa: S108
        "environment": dict(variables),
    }
    return [
        sys.executable,
        "-I",
        "-S",
        str(ROOT / "backends" / "strict" / "sandbox.py"),
        json.dumps(settings),
        *command,
    ]


def _run(
    command: list[str], variables: Mapping[str, str], directory: Path, say: Callable[[str], None]
) -> int:
    with subprocess.Popen(  # noqa: S603 the command is the pipeline's
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env=dict(variables),
        cwd=directory,
        start_new_session=True,
    ) as running:
        assert running.stdout
        try:
            for line in running.stdout:
                say(line)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            raise
    return 128 - running.returncode if running.returncode < 0 else running.returncode


def variables(image: str, pod: str, environment: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the environment of a step: variables of Argo, KFP, the project's images, and the given ones.

    Args:
        image: The image's reference.
        pod: The pod's name.
        environment: Variables of the step and of its secrets.
    """
    registry, _, name = image.rpartition("/")
    tag = name.partition("@")[0].partition(":")[2]
    image_version = {"FLOWPARTS_IMAGE_VERSION": tag} if tag else {}  # a digest doesn't tell it
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",  # noqa: S108
        "HOSTNAME": pod,
        "LC_CTYPE": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "_KFP_RUNTIME": "true",
        "FLOWPARTS_REGISTRY": registry,
        "FLOWPARTS_GIT_COMMIT": "unknown",
        "ARGO_CONTAINER_NAME": "main",
        "ARGO_INCLUDE_SCRIPT_OUTPUT": "false",
        "ARGO_NODE_ID": pod,
        "KFP_POD_NAME": pod,
        "KFP_POD_UID": "00000000-0000-0000-0000-000000000000",
        "METADATA_GRPC_SERVICE_HOST": "metadata-grpc-service.kubeflow.svc.cluster.local",
        "METADATA_GRPC_SERVICE_PORT": "8080",
        **image_version,
        **dict(environment),
    }


def remove(folder: Path) -> None:
    """Remove a step's files, whatever their modes."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
