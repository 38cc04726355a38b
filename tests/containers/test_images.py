"""What every image under containers/ promises, found by walking."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from backends.local import containers as docker
from tools import images

ROOT = Path(__file__).parents[2]
IMAGES = {image.key: image for image in images.chosen([])}
# Megabytes, uncompressed, on the Debian stand-in for the Python image, which takes 119 of them.
# Polars and DuckDB take 230.
SIZES = {"base": 470, "sklearn": 890, "deploy": 710, "serving": 910, "tensorflow": 2100, "tune": 1130}
# Permissive licences, and those that ask to share changes of their own files only; as SPDX or PyPI name them.
ALLOWED = {
    *(
        "0BSD",
        "Apache-2.0",
        "Apache Software License",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSD License",
        "CC0-1.0",
    ),
    *(
        "CNRI-Python",
        "ISC",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "MIT License",
        "MPL-2.0",
        "PSF-2.0",
        "Python-2.0",
        "Zlib",
    ),
    "Mozilla Public License 2.0 (MPL 2.0)",
    "ZPL-2.1",
}
# Packages whose metadata name none, with that of their repository.
UNSTATED = {
    "google-cloud-aiplatform": "Apache-2.0",
    "google-cloud-bigquery": "Apache-2.0",
    "keras": "Apache-2.0",
    "kfp-pipeline-spec": "Apache-2.0",
    "namex": "Apache-2.0",
    "polars-hash": "MIT",
    "protobuf": "BSD-3-Clause",
    "skops": "MIT",
}
SBOM = ROOT / "build" / "sbom"

SELFCHECK = ("python", "-m", "flowparts.selfcheck")

every_image = pytest.mark.parametrize("image", list(IMAGES.values()), ids=list(IMAGES))


def run(image_id: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    docker_run = ["docker", "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", *options]
    return subprocess.run([*docker_run, image_id, *command], capture_output=True, text=True)


def inspect(image_id: str) -> dict[str, Any]:
    found = subprocess.run(["docker", "image", "inspect", image_id], capture_output=True, check=True)
    return json.loads(found.stdout)[0]


@pytest.fixture
def image_id(containers: docker.Containers, image: images.Image) -> str:
    return containers.reference(image.name)


@every_image
@pytest.mark.parametrize("user", ["65532:0", "1234567:0", "1000:1000"])
def test_selfcheck_passes_for_any_user_without_network_on_a_read_only_root(image_id: str, user: str) -> None:
    answer = run(image_id, *SELFCHECK, options=(f"--user={user}", "--cap-drop=ALL"))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    facts = dict(line.split(maxsplit=1) for line in answer.stdout.replace("user id", "user_id").splitlines())
    assert facts["user_id"] == user.partition(":")[0]
    assert {"kfp", "polars", "duckdb"} <= set(facts)


@every_image
def test_python_imports_from_no_folder_that_a_step_can_write(image_id: str) -> None:
    hidden = "/tmp/hidden.py /tmp/.local/lib/python3.11/site-packages/hidden.py"
    write = f"mkdir -p /tmp/.local/lib/python3.11/site-packages; for file in {hidden}; do echo >$file; done"
    command = (
        f"! touch written; {write}; python -m flowparts.selfcheck >/tmp/said && cd /tmp && ! python -m hidden"
    )
    answer = run(image_id, "sh", "-c", command)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "No module named hidden" in answer.stderr


@every_image
def test_selfcheck_names_what_is_missing(image_id: str) -> None:
    hidden = "--mount=type=tmpfs,destination=/opt/flowparts/lib/python3.11/site-packages/duckdb"
    answer = run(image_id, *SELFCHECK, options=(hidden,))
    assert answer.returncode == 1
    assert "error: duckdb can't be imported" in answer.stdout


@every_image
def test_runs_as_a_number_that_is_not_root(image_id: str) -> None:
    assert inspect(image_id)["Config"]["User"].partition(":")[0].isdigit()
    assert run(image_id, "id", "-u").stdout.strip() not in {"", "0"}


@every_image
def test_says_where_it_comes_from(image_id: str, image: images.Image) -> None:
    labels = inspect(image_id)["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == image.name
    assert labels["org.opencontainers.image.version"]
    assert labels["org.opencontainers.image.base.name"]
    commit = run(image_id, "sh", "-c", "echo $FLOWPARTS_GIT_COMMIT").stdout.strip()
    assert labels["org.opencontainers.image.revision"] == commit != ""
    told = run(image_id, "sh", "-c", "echo $FLOWPARTS_REGISTRY/$0:$FLOWPARTS_IMAGE_VERSION", image.name)
    assert told.stdout.strip() in inspect(image_id)["RepoTags"]


@every_image
@pytest.mark.parametrize("tool", ["pip", "pip3", "uv", "gcc", "cc", "g++", "ld", "strip", "git"])
def test_holds_no_tool_that_only_a_build_needs(image_id: str, tool: str) -> None:
    assert run(image_id, "sh", "-c", f"command -v {tool}").returncode != 0
    assert run(image_id, "python", "-m", "pip", "--version").returncode != 0


@every_image
def test_holds_no_cache_and_has_its_bytecode(image_id: str) -> None:
    found = run(image_id, "sh", "-c", "du -sm /var/cache /var/lib/apt/lists /root | cut -f1")
    assert all(int(size) <= 1 for size in found.stdout.split()), found.stdout
    compiled = run(image_id, "sh", "-c", "ls /opt/flowparts/code/flowparts/tables/__pycache__/schema.*.pyc")
    assert compiled.returncode == 0


@every_image
def test_is_no_larger_than_stated(image_id: str, image: images.Image) -> None:
    megabytes = inspect(image_id)["Size"] / 1e6
    assert megabytes <= SIZES[image.key]


@every_image
def test_shares_its_parents_layers(containers: docker.Containers, image: images.Image, image_id: str) -> None:
    if not image.parent:
        pytest.skip("built from the Python image")
    # The last layer of each is flowparts' code.
    parents = inspect(containers.reference(f"flowparts-{image.parent}"))["RootFS"]["Layers"][:-1]
    assert inspect(image_id)["RootFS"]["Layers"][: len(parents)] == parents


@every_image
def test_holds_the_flowparts_of_this_working_tree(image_id: str) -> None:
    for inside, here in (("flowparts", "src/flowparts"), ("flowparts/components", "components")):
        listing = "find . -name '*.py' -not -path './components/*' | LC_ALL=C sort | xargs cat | sha256sum"
        expected = subprocess.run(
            ["sh", "-c", f"cd {ROOT / here} && {listing}"], capture_output=True, text=True, check=True
        )
        found = run(image_id, "sh", "-c", f"cd /opt/flowparts/code/{inside} && {listing}").stdout
        assert found == expected.stdout, "the images are of older code; run: make images"


def bill(image: images.Image) -> dict[str, Any]:
    file = SBOM / f"{image.name}.cdx.json"
    if not file.exists():
        pytest.skip("make images writes it")
    return json.loads(file.read_text(encoding="utf-8"))


@every_image
def test_bill_of_materials_names_every_locked_package(image: images.Image) -> None:
    assert bill(image)["bomFormat"] == "CycloneDX"
    names = {canonicalize_name(part["name"]) for part in bill(image)["components"]}
    lines = re.findall(r"^[a-z0-9][^\\\n]*", image.lock.read_text(encoding="utf-8"), re.MULTILINE)
    requirements = [Requirement(line) for line in lines]
    assert {part.name for part in requirements if not part.marker or part.marker.evaluate()} <= names


@every_image
def test_bill_of_materials_names_debians_packages_and_python(image: images.Image, image_id: str) -> None:
    parts = {part["name"]: part for part in bill(image)["components"] if "pkg:pypi/" not in part["purl"]}
    listed = run(image_id, "dpkg-query", "--show", "--showformat", "${Package} ${Version}\n").stdout.split()
    installed = dict(zip(listed[::2], listed[1::2], strict=True))
    python = run(image_id, "python", "-c", "import platform; print(platform.python_version())").stdout.strip()
    assert {name: part["version"] for name, part in parts.items()} == {**installed, "python": python}
    assert parts["libgomp1"]["purl"].startswith(
        f"pkg:deb/debian/libgomp1@{quote(installed['libgomp1'], safe='')}?arch="
    )
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill(image))) is None


def is_allowed(expression: str) -> bool:
    """Tell whether one of the choices of an SPDX expression (A AND B OR C) asks for allowed licences only."""
    choices = expression.replace("(", "").replace(")", "").split(" OR ")
    return expression in ALLOWED or any(set(choice.split(" AND ")) <= ALLOWED for choice in choices)


@every_image
def test_every_package_has_a_licence_that_lets_anyone_use_and_pass_on_the_image(image: images.Image) -> None:
    refused = {}
    for part in bill(image)["components"]:
        # Debian's are the platform's, like the kernel.
        if not part["purl"].startswith("pkg:pypi/"):
            continue
        stated = [
            entry.get("expression") or entry["license"].get("id") or entry["license"].get("name", "")
            for entry in part.get("licenses", [])
        ]
        texts = [text.rpartition(" :: ")[2] for text in stated if text != "License :: OSI Approved"]
        if not all(is_allowed(text) for text in texts or [UNSTATED.get(part["name"], "")]):
            refused[part["name"]] = stated
    assert not refused


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("AGPL-3.0-only OR Apache-2.0", True),
        ("(MIT AND GPL-2.0-only) OR (BSD-3-Clause AND SSPL-1.0)", False),
        ("", False),
    ],
)
def test_a_licence_is_allowed_by_one_of_its_choices(expression: str, allowed: bool) -> None:
    assert is_allowed(expression) is allowed
