"""Build, push and describe the images under containers/; a folder with a requirements.in is an image.

It is built from the image whose list of packages its own includes. A second list in the folder, such as
requirements-gpu.in, is a second image, such as tensorflow-gpu, which is built only if it is named.
"""

import argparse
import hashlib
import ipaddress
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flowparts import __version__
from flowparts.components import REGISTRY
from flowparts.util import lineage
from flowparts.util.names import unknown

ROOT = Path(__file__).parents[1]
CONTAINERS = ROOT / "containers"
CODE = ROOT / "src"
COMPONENTS = ROOT / "components"
# The only place with the Python image that all start from, pinned by digest.
_PINNED = CONTAINERS / "base-image"
BASE_IMAGE = _PINNED.read_text("utf-8").strip()
_BASE_NAME = BASE_IMAGE.partition("@")[0]
OFFLINE_BASE = "flowparts-offline-base"
_WATCH = ROOT / "docs" / "kubeflow" / "watch.Dockerfile"
_BUILDKIT = {**os.environ, "DOCKER_BUILDKIT": "1"}


@dataclass(frozen=True)
class Image:
    """A folder under containers/, and one of its lists of packages."""

    folder: Path
    parent: str  # key of the image that this one is built from; empty for none
    variant: str = ""  # such as "gpu"; empty for requirements.in

    @property
    def key(self) -> str:
        """The name that components use, such as "base" or "tensorflow-gpu"."""
        return f"{self.folder.name}{self._suffix}"

    @property
    def name(self) -> str:
        """The image's name without a registry, such as "flowparts-base"."""
        return f"flowparts-{self.key}"

    @property
    def asked(self) -> Path:
        """The list of its packages, including its parent's."""
        return self.folder / f"requirements{self._suffix}.in"

    @property
    def lock(self) -> Path:
        """The locked packages that the image adds to its parent's."""
        return self.asked.with_suffix(".txt")

    @property
    def _suffix(self) -> str:
        return f"-{self.variant}" if self.variant else ""


@cache
def version() -> str:
    """Return the tag of this tree's images: the package's version and a digest of the content.

    Kubeflow's cache identifies images only by name, so other content needs another tag.
    """
    digest = hashlib.sha256()
    for folder in (CONTAINERS, CODE, COMPONENTS):
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                name = file.relative_to(folder.parent)
                digest.update(f"{name}\0{file.stat().st_mode & 0o111}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return f"{__version__}-{digest.hexdigest()[:12]}"


def find() -> dict[str, Image]:
    """Return all images by key, parents first.

    Raises:
        ValueError: A list of packages includes that of an image which doesn't exist, or itself.
    """
    parents = {file.parent.name: _parent(file) for file in sorted(CONTAINERS.glob("*/requirements.in"))}
    found: dict[str, Image] = {}
    while waiting := [name for name in parents if name not in found]:
        ready = [name for name in waiting if not parents[name] or parents[name] in found]
        if not ready:
            raise ValueError(
                f"{waiting[0]} is built from {parents[waiting[0]]!r}, which has no folder or needs it"
            )
        for name in ready:
            others = sorted((CONTAINERS / name).glob("requirements-*.in"))
            for variant in ["", *(asked.stem.removeprefix("requirements-") for asked in others)]:
                image = Image(CONTAINERS / name, parents[name], variant)
                found[image.key] = image
    return found


def stages() -> list[str]:
    """Return the stages of the environments' Dockerfile, in order."""
    return re.findall(r"^FROM \S+ AS (\S+)$", _environment().read_text("utf-8"), re.MULTILINE)


def chosen(names: list[str]) -> list[Image]:
    """Return the images with these names and all their ancestors, parents first.

    Args:
        names: Their keys; empty for all images that aren't variants.

    Raises:
        ValueError: A name is unknown.
    """
    images = find()
    wanted: set[str] = set()
    for name in names or [key for key, image in images.items() if not image.variant]:
        if name not in images:
            raise ValueError(unknown("image", name, list(images)))
        while name:
            wanted.add(name)
            name = images[name].parent
    return [image for name, image in images.items() if name in wanted]


def build(
    names: list[str], registry: str, version: str, base_image: str, out: Path
) -> dict[str, dict[str, Any]]:
    """Build images, and write OUT/images.json and a bill of materials for each to OUT/sbom.

    Args:
        names: Folders under containers/; empty for all.
        registry: Prefix of the images' names.
        version: The tag.
        base_image: The Python image to start from.
        out: Output folder.

    Returns:
        The content of images.json: name to image (reference), id, and digest (None unless it was pushed).
    """
    images = chosen(names)
    base_image = _available(base_image)
    docker = _builder()
    facts = {
        "VERSION": version,
        "SOURCE": _source(),
        "GIT_COMMIT": lineage.git_commit(),
        "REGISTRY": registry,
    }

    own_stages = stages()

    def environment(image: Image, stage: str = "") -> list[str]:
        stage = stage or (image.folder.name if image.folder.name in own_stages else "environment")
        arguments = {"BASE_IMAGE": base_image, "IMAGE": image.folder.name, "VARIANT": image.variant}
        if image.parent:
            arguments["PARENT_IMAGE"] = f"{registry}/flowparts-{image.parent}:environment"
        return [*_build(docker, _environment(), arguments), f"--target={stage}"]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Installing packages doesn't depend on the parent, so these stages are built first, in parallel.
        print(f"installing the packages of {', '.join(image.key for image in images)}", flush=True)  # noqa: T201
        list(pool.map(lambda image: _aside(environment(image, "build")), images))
        for image in images:
            name = f"{registry}/{image.name}"
            _docker([*environment(image), f"--tag={name}:environment"])
            arguments = {"ENVIRONMENT": f"{name}:environment", "BASE_IMAGE": base_image, "TITLE": image.name}
            code = _build(docker, CONTAINERS / "code.Dockerfile", {**arguments, **facts}, ROOT)
            # The plain version is a tag for the latest build on this machine.
            _docker([*code, f"--tag={name}:{version}", f"--tag={name}:{__version__}"])
        described = _describe(images, registry, version, out)
        references = [f"{registry}/{image.name}:environment" for image in images]
        list(pool.map(_write_sbom, references, [out / "sbom" / image.name for image in images]))
    return described


def build_watch(registry: str, base_image: str) -> str:
    """Build the image that runs `submit.py watch` on a cluster, and return its reference."""
    reference = f"{registry}/flowparts-watch:{__version__}"
    arguments = {"BASE_IMAGE": _available(base_image)}
    _docker([*_build(_builder(), _WATCH, arguments, ROOT), f"--tag={reference}"])
    return reference


def push(
    names: list[str], registry: str, version: str, out: Path, allow_stand_in: bool = False
) -> dict[str, dict[str, Any]]:
    """Push built images and write them to OUT/images.json, with the registry's digests.

    Args:
        names: Folders under containers/; empty for all.
        registry: Prefix of the images' names.
        version: The tag.
        out: Output folder.
        allow_stand_in: Whether images built on the stand-in for the Python image may be pushed, to a registry
            on this machine's loopback addresses only.

    Raises:
        ValueError: An image was built on the stand-in for the Python image and may not be pushed, or it
            differs from OUT/images.json, which describes the tested image.
    """
    images = chosen(names)
    described = _earlier(out / "images.json")
    if allow_stand_in and not _on_loopback(registry):
        raise ValueError(
            f"--allow-stand-in is for a registry on this machine, such as localhost:5000, not {registry}"
        )
    for image in images:
        reference = f"{registry}/{image.name}:{version}"
        found = _inspect(reference)
        built = described.get(image.name)
        if built and built["image"] == reference and built["id"] != found["Id"]:
            raise ValueError(
                f"{reference} is {found['Id']} here, not {built['id']} as {out / 'images.json'} says; run "
                "make images, and test what it builds"
            )
        base = found["Config"]["Labels"].get("org.opencontainers.image.base.name")
        if str(base).startswith(OFFLINE_BASE) and not allow_stand_in:
            raise ValueError(
                f"{reference} was built on the stand-in for {_BASE_NAME}, which holds this machine's "
                f"certificate authorities; build it where {_BASE_NAME} can be pulled, or push it to a "
                "registry on this machine with --allow-stand-in"
            )
    for image in images:
        _docker(["docker", "push", f"{registry}/{image.name}:{version}"])
    return _describe(images, registry, version, out)


def pin() -> str:
    """Pin the Python image to its tag's current multi-platform digest, and return the reference."""
    asked = ["docker", "buildx", "imagetools", "inspect", _BASE_NAME, "--format", "{{.Manifest.Digest}}"]
    digest = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError(f"the registry gave no digest of {_BASE_NAME} but {digest!r}")
    reference = f"{_BASE_NAME}@{digest}"
    _PINNED.write_text(f"{reference}\n", encoding="utf-8")
    return reference


def lock() -> None:
    """Lock the packages that every image adds to its parent, at the versions of the development lock.

    An image's excludes.txt names unused dependencies; they are left out of it, and of the images built from
    it unless these ask for them.
    """
    taken: dict[str, list[str]] = {"": []}
    excluded: dict[str, set[str]] = {"": set()}
    for name, image in find().items():
        excludes = image.folder / "excludes.txt"
        excluded[name] = excluded[image.parent] | (requested(excludes) if excludes.exists() else set())
        excluded[name] -= requested(image.asked)
        inherited = taken[image.parent]
        command = [
            *("uv", "pip", "compile", "--quiet", "--no-config", "--generate-hashes", "--universal"),
            *("--python-version=3.11", "--constraint=requirements.txt", "--custom-compile-command=make lock"),
            *(f"--no-emit-package={package}" for package in inherited),
            "--excludes=/dev/stdin",
            str(image.asked.relative_to(ROOT)),
            f"--output-file={image.lock.relative_to(ROOT)}",
        ]
        uv = Path(sys.executable).parent / command[0]
        left_out = "\n".join(sorted(excluded[name]))
        subprocess.run([uv, *command[1:]], cwd=ROOT, check=True, input=left_out, text=True)  # noqa: S603
        taken[name] = [*inherited, *(package for package, _ in locked(image.lock))]


def locked(file: Path) -> list[tuple[str, str]]:
    """Return the packages of a lock with their versions, possibly one per Python version."""
    return re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", file.read_text("utf-8"), re.MULTILINE)


def requested(file: Path) -> set[str]:
    """Return the names of the packages in a list, without those of included lists."""
    lines = file.read_text("utf-8").splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if re.match(r"\w", line)}


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Read the images.json of `build` or `push`: name to image, id, digest.

    Raises:
        ValueError: The file can't be read or holds something else.
    """
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the images in {file}: {error}; make images writes it") from None
    digest = re.compile(r"sha256:[0-9a-f]{64}")
    if not isinstance(described, dict) or not all(
        isinstance(image, dict)
        and digest.fullmatch(str(image.get("id")))
        and (image.get("digest") is None or digest.fullmatch(str(image["digest"])))
        for image in described.values()
    ):
        raise ValueError(f"{file} must map each image's name to its id and digest, as make images writes it")
    return described


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.images", description=__doc__)
    parser.add_argument("command", choices=["build", "build-watch", "push", "lock", "pin"])
    parser.add_argument("names", nargs="*", metavar="IMAGE", help="folders under containers/; default: all")
    parser.add_argument("--registry", default=REGISTRY, help="prefix of the images' names (%(default)s)")
    parser.add_argument("--version", default=version(), help="the tag (%(default)s)")
    parser.add_argument(
        "--base-image", default=BASE_IMAGE, help="the Python image to start from (%(default)s)"
    )
    parser.add_argument(
        "--allow-stand-in",
        action="store_true",
        help=f"push images that were built where {_BASE_NAME} can't be pulled; only to a registry on this "
        "machine, such as localhost:5000",
    )
    parser.add_argument("--out", type=Path, default=Path("build"), metavar="DIR", help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "lock":
            lock()
            return 0
        if options.command == "pin":
            print(pin())  # noqa: T201
            return 0
        if options.command == "build-watch":
            print(build_watch(options.registry, options.base_image))  # noqa: T201
            return 0
        if options.command == "push":
            described = push(
                options.names, options.registry, options.version, options.out, options.allow_stand_in
            )
        else:
            described = build(
                options.names, options.registry, options.version, options.base_image, options.out
            )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    for image in described.values():
        print(image["image"], image["digest"] or image["id"])  # noqa: T201
    return 0


def _parent(asked: Path) -> str:
    named = re.search(r"^-r \.\./([a-z0-9-]+)/requirements\.in$", asked.read_text("utf-8"), re.MULTILINE)
    return named[1] if named else ""


def _environment() -> Path:
    return CONTAINERS / "environment.Dockerfile"


def _available(base_image: str) -> str:
    """Return the base image, or the stand-in for it if no registry can be reached."""
    if _there(base_image) or _pulled(base_image):
        return base_image
    if base_image != BASE_IMAGE:
        raise ValueError(f"{base_image} is neither here nor can it be pulled")
    script = CONTAINERS / "offline-base.sh"
    # Rebuilt when its script changes.
    stand_in = f"{OFFLINE_BASE}:{hashlib.sha256(script.read_bytes()).hexdigest()[:12]}"
    if not _there(stand_in):
        print(f"{_BASE_NAME} can't be pulled; making a stand-in from Debian packages", file=sys.stderr)  # noqa: T201
        subprocess.run([script, stand_in], check=True)  # noqa: S603
    return stand_in


def _pulled(image: str) -> bool:
    return subprocess.run(["docker", "pull", "--quiet", image], capture_output=True).returncode == 0  # noqa: S603, S607


def _source() -> str:
    asked = ["git", "remote", "get-url", "origin"]
    url = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT).stdout.strip()  # noqa: S603
    return url if re.match(r"https://[^@]+$", url) else ""


def _builder() -> str:
    """Return the first Docker client on the PATH that builds with BuildKit, for cache mounts."""
    for folder in os.get_exec_path():
        client = os.path.join(folder, "docker")
        if os.path.exists(client):
            asked = [client, "build", "--help"]
            if subprocess.run(asked, env=_BUILDKIT, capture_output=True).returncode == 0:  # noqa: S603
                return client
    raise ValueError(
        "no Docker client here builds with BuildKit; install its plugin buildx (in Debian: docker-buildx)"
    )


def _build(docker: str, dockerfile: Path, arguments: dict[str, str], context: Path = CONTAINERS) -> list[str]:
    given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    return [docker, "build", f"--file={dockerfile}", *given, str(context)]


def _docker(command: list[str]) -> None:
    subprocess.run(command, env=_BUILDKIT, check=True)  # noqa: S603


def _aside(command: list[str]) -> None:
    """Run a command in parallel to others, and show its output only if it fails."""
    done = subprocess.run(command, env=_BUILDKIT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603
    if done.returncode:
        sys.stderr.buffer.write(done.stdout)
    done.check_returncode()


def _on_loopback(registry: str) -> bool:
    """Return whether a registry has a loopback address."""
    host = re.sub(r":\d+$", "", registry.partition("/")[0])
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _earlier(file: Path) -> dict[str, dict[str, Any]]:
    """Return the images.json of an earlier call; empty if it can't be read."""
    try:
        return read(file)
    except ValueError:
        return {}


def _there(image: str) -> bool:
    """Return whether the engine has an image, by name or ID."""
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0  # noqa: S603, S607


def _inspect(image: str) -> dict[str, Any]:
    asked = ["docker", "image", "inspect", image]
    answer = subprocess.run(asked, capture_output=True, text=True)  # noqa: S603
    if answer.returncode:
        raise ValueError(f"there is no image {image}; make images builds it")
    described: dict[str, Any] = json.loads(answer.stdout)[0]
    return described


def _describe(images: list[Image], registry: str, version: str, out: Path) -> dict[str, dict[str, Any]]:
    """Write what the engine knows of the images to OUT/images.json, beside other entries, and return it."""
    described: dict[str, dict[str, Any]] = {}
    for image in images:
        reference = f"{registry}/{image.name}:{version}"
        found = _inspect(reference)
        # Only pushed images have a digest in the registry; the ID is this engine's.
        digests = [text.partition("@") for text in found["RepoDigests"] or []]
        digest = next((text[2] for text in digests if text[0] == f"{registry}/{image.name}"), None)
        described[image.name] = {"image": reference, "id": found["Id"], "digest": digest}
    out.mkdir(parents=True, exist_ok=True)
    file = out / "images.json"
    kept = {name: image for name, image in _earlier(file).items() if _there(image["id"])}
    file.write_text(json.dumps({**kept, **described}, indent=2) + "\n", encoding="utf-8")
    return described


def _write_sbom(environment: str, stem: Path) -> None:
    """Write a CycloneDX bill of an environment's packages to STEM.cdx.json, unless it exists.

    Python packages have their metadata; Debian packages and Python have name and version.
    """
    file, source = stem.with_suffix(".cdx.json"), stem.with_suffix(".id")
    image_id = _inspect(environment)["Id"]
    if file.exists() and source.exists() and source.read_text(encoding="utf-8") == image_id:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        tar = ["sh", "-c", "cd /opt/flowparts && tar -c lib/python3*/site-packages/*.dist-info"]
        listed = subprocess.run(["docker", "run", "--rm", image_id, *tar], check=True, capture_output=True)  # noqa: S603, S607
        subprocess.run(["tar", "-x", "-C", work], check=True, input=listed.stdout)  # noqa: S603, S607
        # cyclonedx-py asks an interpreter for its path; the image's interpreter can't run here.
        python = Path(work) / "python"
        paths = json.dumps([str(path) for path in Path(work).glob("lib/python3*/site-packages")])
        python.write_text(f"#!/bin/sh\necho '{paths}'\n", encoding="utf-8")
        python.chmod(0o755)
        tool = Path(sys.executable).parent / "cyclonedx-py"
        command = [str(tool), "environment", "--output-reproducible", "-o", str(file), str(python)]
        subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})  # noqa: S603
    bill = json.loads(file.read_text(encoding="utf-8"))
    bill["components"] += _of_system(image_id)
    file.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
    source.write_text(image_id, encoding="utf-8")


def _of_system(image_id: str) -> list[dict[str, str]]:
    """Return the components of an image outside of its environment: Debian packages and Python."""
    asked = (
        ". /etc/os-release; echo $ID $ID $VERSION_ID -; "
        'python3 -c \'import platform; print("python", "python", platform.python_version(), "-")\'; '
        "dpkg-query --show --showformat '${db:Status-Status} ${Package} ${Version} ${Architecture}\\n'"
    )
    run = ["docker", "run", "--rm", "--entrypoint=sh", image_id, "-c", asked]
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout  # noqa: S603
    (distribution, _, release, _), (_, python, version, _), *packages = map(str.split, printed.splitlines())
    purl = f"pkg:generic/{python}@{version}"
    components = [{"type": "platform", "name": python, "version": version, "purl": purl}]
    for status, name, number, architecture in packages:
        if status == "installed":
            where = f"arch={architecture}&distro={distribution}-{release}"
            purl = f"pkg:deb/{distribution}/{quote(name)}@{quote(number, safe='')}?{where}"
            components.append({"type": "library", "name": name, "version": number, "purl": purl})
    return [{**component, "bom-ref": component["purl"]} for component in components]


if __name__ == "__main__":
    sys.exit(main())
