"""The components without this repository: in an environment that has kfp and nothing else of ours."""

import functools
import http.server
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import compile as compile_command
from backends import catalogue
from flowparts import __version__
from tools import images, wheel

DIGEST = f"sha256:{'0a' * 32}"


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a push of every image leaves behind."""
    file = tmp_path_factory.mktemp("digests") / "images.json"
    pushed = {
        image.name: {"image": f"registry.example/team/{image.name}:1.2.3", "id": DIGEST, "digest": DIGEST}
        for image in images.find().values()
    }
    file.write_text(json.dumps(pushed))
    return file


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has only kfp and what kfp needs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    uv, lock = Path(sys.executable).with_name("uv"), Path(__file__).parents[2] / "requirements.txt"
    install = [uv, "pip", "install", "--quiet", f"--python={folder}"]
    subprocess.run([*install, f"--constraint={_versions(lock, folder)}", "kfp"], check=True)
    return folder / "bin" / "python"


def _versions(lock: Path, folder: Path) -> Path:
    """The lock without its hashes, which uv takes of installed packages only."""
    constraints = folder / "constraints.txt"
    lines = [line.rstrip(" \\") for line in lock.read_text().splitlines() if "==" in line and line[0] != " "]
    constraints.write_text("\n".join(lines))
    return constraints


def run(python: Path, code: str, folder: Path) -> str:
    answer = subprocess.run([python, "-W", "ignore", "-c", code], cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


COMPOSE = """
import pathlib
from kfp import compiler, dsl
{imports}

@dsl.pipeline(name="mine")
def mine(source: str = "sample://iris"):
    table = ingest_table(source=source).outputs["table"]
    split_table(table=table, stratify_by="species")

compiler.Compiler().compile(mine, "mine.yaml")
print(pathlib.Path("mine.yaml").read_text())
"""


def test_the_wheel_gives_every_component_to_an_environment_with_only_kfp(
    python: Path, digests: Path, tmp_path: Path
) -> None:
    built = wheel.build("registry.example/team", "1.2.3", digests, tmp_path)
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "install", "--quiet", "--no-deps", f"--python={python}", built]
    subprocess.run(command, check=True)
    (file,) = (name for name in zipfile.ZipFile(built).namelist() if name.endswith("/METADATA"))
    told = zipfile.ZipFile(built).read(file).decode()
    assert f"\nVersion: {__version__}\n" in told
    assert "\nLicense-Expression: Apache-2.0\n" in told
    assert "\nLicense-File: LICENSE\n" in told
    names = {
        f"flowparts.components.{catalogue.stage(part)}.{name}:{name}"
        for name, part in catalogue.components().items()
    }
    loaded = f"import pkgutil\nfor name in {sorted(names)}: print(pkgutil.resolve_name(name).name)"
    assert len(run(python, loaded, tmp_path).split()) == len(names)

    imports = (
        "from flowparts.components.ingest.ingest_table import ingest_table\n"
        "from flowparts.components.prepare.split_table import split_table"
    )
    text = run(python, COMPOSE.format(imports=imports), tmp_path)
    assert text.count(f"image: registry.example/team/flowparts-base@{DIGEST}") == 2


@pytest.fixture(scope="module")
def released(digests: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of YAML files that a release holds."""
    out = tmp_path_factory.mktemp("released")
    pinned = ["--registry", "registry.example/team", "--digests", str(digests)]
    assert compile_command.main(["--backend", "kubeflow", "--out", str(out), *pinned]) == 0
    return out / "components"


@pytest.fixture
def url(released: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(released))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_released_files_load_from_disk_and_from_a_url_in_an_environment_with_only_kfp(
    python: Path, released: Path, url: str, tmp_path: Path
) -> None:
    imports = (
        "from kfp.components import load_component_from_file, load_component_from_url\n"
        f"ingest_table = load_component_from_file('{released}/ingest_table.yaml')\n"
        f"split_table = load_component_from_url('{url}/split_table.yaml')"
    )
    text = run(python, COMPOSE.format(imports=imports), tmp_path)
    assert text.count(f"image: registry.example/team/flowparts-base@{DIGEST}") == 2
    loaded = (
        "import pathlib\nfrom kfp.components import load_component_from_file as load\n"
        f"for file in pathlib.Path('{released}').glob('*.yaml'): print(load(str(file)).name)"
    )
    assert len(run(python, loaded, tmp_path).split()) == len(catalogue.components())
