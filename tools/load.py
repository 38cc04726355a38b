"""Load the images of `make images` into a Kubernetes cluster on this machine, without a registry.

The cluster is that of kubectl's context (kind-NAME or k3d-NAME), else the one that this machine is a node of,
as set up by kubeadm: its containerd.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from flowparts.util.names import unknown
from tools import images

_CLUSTERS = ("kind-NAME", "k3d-NAME", "containerd")


def load(names: Sequence[str], into: str, file: Path) -> list[str]:
    """Load images into a cluster.

    Args:
        names: Folders under containers/; empty for every built image.
        into: kind-NAME or k3d-NAME, as in kubectl's contexts, or containerd; empty to detect it.
        file: The images.json of `make images`.

    Returns:
        The references of the images in the cluster.

    Raises:
        ValueError: An image isn't built, or there is no such cluster.
        subprocess.CalledProcessError: A program of the cluster failed, after printing why.
    """
    built = {name: str(image["image"]) for name, image in images.read(file).items()}
    wanted = [f"flowparts-{name}" for name in names] or list(built)
    for name in wanted:
        if name not in built:
            raise ValueError(f"{unknown('image', name, list(built))}; make images builds it")
    references = [built[name] for name in wanted]
    kind, _, cluster = (into or _found()).partition("-")
    if kind == "kind" and cluster:
        _run(["kind", "load", "docker-image", "--name", cluster, *references])
    elif kind == "k3d" and cluster:
        _run(["k3d", "image", "import", "--cluster", cluster, *references])
    elif kind == "containerd":
        save = [_program("docker"), "save", *references]
        with subprocess.Popen(save, stdout=subprocess.PIPE) as saved:  # noqa: S603
            _run(["ctr", "--namespace", "k8s.io", "images", "import", "-"], saved.stdout)
        if saved.returncode:
            raise subprocess.CalledProcessError(saved.returncode, save)
    else:
        raise ValueError(f"cluster {into!r} must be one of {', '.join(_CLUSTERS)}")
    return references


def _found() -> str:
    """Return the cluster on this machine."""
    context = ""
    if shutil.which("kubectl"):
        asked = ["kubectl", "config", "current-context"]
        context = subprocess.run(asked, capture_output=True, text=True).stdout.strip()  # noqa: S603
    if re.match(r"(kind|k3d)-.", context):
        return context
    if shutil.which("ctr"):
        asked = ["ctr", "namespaces", "list", "--quiet"]
        listed = subprocess.run(asked, capture_output=True, text=True)  # noqa: S603
        if "k8s.io" in listed.stdout.split():
            return "containerd"
    said = f"kubectl's context is {context!r}" if context else "kubectl has no context"
    raise ValueError(
        f"no cluster on this machine: {said}, and no containerd here belongs to Kubernetes. make kubeflow "
        "creates one; for a cluster elsewhere, push the images to a registry (make push)"
    )


def _program(name: str) -> str:
    path = shutil.which(name)
    if not path:
        raise ValueError(f"{name} is not on the PATH")
    return path


def _run(command: Sequence[str], standard_input: IO[bytes] | None = None) -> None:
    subprocess.run([_program(command[0]), *command[1:]], check=True, stdin=standard_input)  # noqa: S603


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.load", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="IMAGE", help="folders under containers/; default: all")
    parser.add_argument(
        "--into",
        default="",
        metavar="CLUSTER",
        help=f"one of {', '.join(_CLUSTERS)}; default: kubectl's context",
    )
    parser.add_argument(
        "--images",
        type=Path,
        default=Path("build/images.json"),
        metavar="FILE",
        help="what make images wrote (%(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        for reference in load(options.names, options.into, options.images):
            print(reference)  # noqa: T201
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {os.path.basename(error.cmd[0])} failed, as it says above", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
