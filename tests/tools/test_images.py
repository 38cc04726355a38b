import json
import os
import platform
import re
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from flowparts import __version__
from tools import images

DIGEST = "sha256:" + "0a" * 32


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    parents = {"zoo": "", "ant": "bee", "bee": "zoo"}
    for name, parent in parents.items():
        (tmp_path / name).mkdir()
        included = f"-r ../{parent}/requirements.in\n" if parent else ""
        (tmp_path / name / "requirements.in").write_text(f"{included}numpy\n")
    monkeypatch.setattr(images, "CONTAINERS", tmp_path)
    return tmp_path


def test_images_are_found_by_their_folders_parents_first(folders: Path) -> None:
    assert {name: image.parent for name, image in images.find().items()} == {
        "zoo": "",
        "bee": "zoo",
        "ant": "bee",
    }
    assert list(images.find()) == ["zoo", "bee", "ant"]


def test_an_image_brings_all_that_it_is_built_from(folders: Path) -> None:
    assert [image.name for image in images.chosen(["bee"])] == ["flowparts-zoo", "flowparts-bee"]
    assert len(images.chosen([])) == 3
    with pytest.raises(ValueError, match="unknown image 'bea'; did you mean 'bee'"):
        images.chosen(["bea"])


def test_a_second_list_of_packages_is_a_second_image_which_is_built_when_it_is_named(folders: Path) -> None:
    (folders / "bee" / "requirements-gpu.in").write_text("")
    image = images.find()["bee-gpu"]
    assert (image.name, image.parent, image.variant) == ("flowparts-bee-gpu", "zoo", "gpu")
    assert image.lock == folders / "bee" / "requirements-gpu.txt"
    assert [found.key for found in images.chosen([])] == ["zoo", "bee", "ant"]
    assert [found.key for found in images.chosen(["bee-gpu"])] == ["zoo", "bee-gpu"]


def test_names_what_a_list_asks_for(tmp_path: Path) -> None:
    asked = tmp_path / "requirements.in"
    asked.write_text("-r ../base/requirements.in\n# why\nfsspec[http]\nScikit_Learn>=1.9\n")
    assert images.requested(asked) == {"fsspec", "scikit-learn"}


def client(folder: Path, status: int) -> Path:
    """Make a Docker client that does or doesn't know BuildKit."""
    folder.mkdir()
    file = folder / "docker"
    file.write_text(f'#!/bin/sh\n[ "$DOCKER_BUILDKIT $*" = "1 build --help" ] && exit {status}\nexit 2\n')
    file.chmod(0o755)
    return file


def test_builds_with_the_first_client_on_the_path_that_knows_buildkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without, knowing = client(tmp_path / "a", 1), client(tmp_path / "b", 0)
    monkeypatch.setenv("PATH", f"{tmp_path / 'nowhere'}:{without.parent}:{knowing.parent}")
    assert images._builder() == str(knowing)
    monkeypatch.setenv("PATH", str(without.parent))
    with pytest.raises(ValueError, match="no Docker client here builds with BuildKit; install its plugin"):
        images._builder()


@pytest.mark.parametrize(
    "changed", ["containers/base/requirements.txt", "src/flowparts/step.py", "components/prepare/split.py"]
)
def test_the_tag_depends_on_the_content(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("containers/base/requirements.txt", "src/flowparts/step.py", "components/prepare/split.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("a")
    for constant, folder in (("CONTAINERS", "containers"), ("CODE", "src"), ("COMPONENTS", "components")):
        monkeypatch.setattr(images, constant, tmp_path / folder)
    version = images.version.__wrapped__
    before = version()
    assert re.fullmatch(rf"{re.escape(__version__)}-[0-9a-f]{{12}}", before)
    (tmp_path / "components" / "__pycache__").mkdir()
    (tmp_path / "components" / "__pycache__" / "split.pyc").write_text("b")
    assert version() == before
    (tmp_path / changed).write_text("b")
    assert version() != before


def test_a_parent_without_a_folder_is_refused(folders: Path) -> None:
    (folders / "cat").mkdir()
    (folders / "cat" / "requirements.in").write_text("-r ../dog/requirements.in\n")
    with pytest.raises(ValueError, match="cat is built from 'dog'"):
        images.find()


def test_reads_back_what_a_build_wrote(tmp_path: Path) -> None:
    file = tmp_path / "images.json"
    described = {"flowparts-base": {"image": "a/flowparts-base:1", "id": DIGEST, "digest": None}}
    file.write_text(json.dumps(described))
    assert images.read(file) == described
    with pytest.raises(ValueError, match=r"cannot read the images in .*; make images writes it"):
        images.read(tmp_path / "missing.json")


@pytest.fixture
def engine(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a Docker client on the PATH that knows the images of a folder, a JSON file for each."""
    held = tmp_path / "engine"
    held.mkdir()
    file = tmp_path / "bin" / "docker"
    file.parent.mkdir()
    file.write_text(
        "#!/bin/sh\nPATH=/usr/bin:/bin\n"
        '[ "$1" = push ] && exec touch "$0-pushed"\n'
        f'exec cat "{held}/$(echo "$3" | tr /: __)" 2>/dev/null\n'
    )
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(file.parent))
    monkeypatch.setitem(images._BUILDKIT, "PATH", str(file.parent))
    return held


def hold(engine: Path, reference: str, number: int, base: str = images.BASE_IMAGE) -> str:
    """Let an engine have an image; return its ID."""
    described = {
        "Id": f"sha256:{number:064x}",
        "RepoDigests": [],
        "Config": {"Labels": {"org.opencontainers.image.base.name": base}},
    }
    for name in (reference, described["Id"]):
        (engine / str(name).replace("/", "_").replace(":", "_")).write_text(json.dumps([described]))
    return str(described["Id"])


def test_earlier_images_stay_in_the_record_while_the_engine_has_them(engine: Path, tmp_path: Path) -> None:
    first = hold(engine, "r/flowparts-zoo:1", 1)
    second = hold(engine, "r/flowparts-bee:1", 2)
    assert set(images.push(["bee"], "r", "1", tmp_path)) == {"flowparts-zoo", "flowparts-bee"}
    third = hold(engine, "r/flowparts-zoo:2", 3)
    images.push(["zoo"], "r", "2", tmp_path)
    assert {name: image["id"] for name, image in images.read(tmp_path / "images.json").items()} == {
        "flowparts-zoo": third,
        "flowparts-bee": second,
    }
    (engine / second.replace(":", "_")).unlink()
    hold(engine, "r/flowparts-zoo:1", 1)
    images.push(["zoo"], "r", "1", tmp_path)
    assert {name: image["id"] for name, image in images.read(tmp_path / "images.json").items()} == {
        "flowparts-zoo": first
    }


def test_only_the_image_that_was_tested_is_pushed(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def pushed() -> int:
        named = ["--registry", "r", "--version", "1", "--out", str(tmp_path)]
        return images.main(["push", "zoo", *named])

    tested = hold(engine, "r/flowparts-zoo:1", 1)
    described = {"flowparts-zoo": {"image": "r/flowparts-zoo:1", "id": tested, "digest": None}}
    (tmp_path / "images.json").write_text(json.dumps(described))
    other = hold(engine, "r/flowparts-zoo:1", 2)
    assert pushed() == 1
    assert f"r/flowparts-zoo:1 is {other} here, not {tested} as " in capsys.readouterr().err
    assert not (tmp_path / "bin" / "docker-pushed").exists()
    hold(engine, "r/flowparts-zoo:1", 1)
    assert pushed() == 0
    assert (tmp_path / "bin" / "docker-pushed").exists()


def test_images_start_from_one_digest() -> None:
    assert re.fullmatch(r"python:3\.11-slim@sha256:[0-9a-f]{64}", images.BASE_IMAGE)
    dockerfiles = [*images.CONTAINERS.rglob("*Dockerfile")]
    assert len(dockerfiles) == 2
    for file in dockerfiles:
        started = re.findall(r"^FROM (\S+)", file.read_text("utf-8"), re.MULTILINE)
        assert set(started) <= {"${BASE_IMAGE}", "${PARENT_IMAGE}", "${ENVIRONMENT}", "environment"}
        # Debian's packages come by the script that knows of which moment.
        assert "apt-get" not in file.read_text("utf-8")


@pytest.mark.parametrize("told", [DIGEST, "not found"])
def test_pins_what_the_tag_names_today(
    told: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").write_text(
        f'#!/bin/sh\n[ "$1 $2 $3 $4" = "buildx imagetools inspect python:3.11-slim" ] && echo {told}\n'
    )
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(images, "_PINNED", tmp_path / "base-image")
    assert images.main(["pin"]) == (0 if told == DIGEST else 1)
    if told == DIGEST:
        assert (tmp_path / "base-image").read_text() == f"python:3.11-slim@{DIGEST}\n"
    assert (tmp_path / "base-image").exists() is (told == DIGEST)


def test_a_bill_names_debians_packages_and_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Stands for the engine: runs the command here.
    (tmp_path / "docker").write_text('#!/bin/sh\nwhile [ "$1" != -c ]; do shift; done\nexec sh -c "$2"\n')
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    parts = {part["name"]: part for part in images._of_system("any")}
    assert parts["python"]["version"] == platform.python_version()
    listed = subprocess.run(["dpkg-query", "--show", "libc6"], capture_output=True, text=True)
    version = listed.stdout.split()[1]
    assert parts["libc6"]["version"] == version
    assert parts["libc6"]["purl"].startswith(f"pkg:deb/debian/libc6@{quote(version)}?arch=")
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [*parts.values()]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None


SOURCES = """Types: deb
# http://snapshot.example/archive/debian/20260101T000000Z
URIs: http://deb.example/debian
Suites: trixie trixie-updates

Types: deb
# http://snapshot.example/archive/debian-security/20260101T000000Z
URIs: http://deb.example/debian-security
Suites: trixie-security

Types: deb
URIs: http://own.example/debian
"""


def test_debian_packages_are_those_of_the_base_images_moment(tmp_path: Path) -> None:
    mount = ["unshare", "--mount", "sh", "-ec"]
    if subprocess.run([*mount, f"mount --bind {tmp_path} /etc/apt"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own: unshare --mount, as root")
    listed = tmp_path / "apt" / "sources.list.d"
    listed.mkdir(parents=True)
    (listed / "debian.sources").write_text(SOURCES)
    client = tmp_path / "apt-get"
    client.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    client.chmod(0o755)
    script = images.ROOT / "containers" / "packages.sh"
    inside = f"mount --bind {tmp_path}/apt /etc/apt; PATH={tmp_path}:$PATH exec {script} libgomp1 haproxy"
    subprocess.run([*mount, inside], check=True)
    found = re.findall("^URIs: (.*)$", (listed / "debian.sources").read_text(), re.MULTILINE)
    moment = "20260101T000000Z"
    assert found == [
        f"http://snapshot.example/archive/debian/{moment}",
        f"http://snapshot.example/archive/debian-security/{moment}",
        "http://own.example/debian",
    ]
    update, install = (tmp_path / "asked").read_text().splitlines()
    assert update.startswith("update ")
    assert install.endswith("--no-install-recommends libgomp1 haproxy")


def test_a_stand_in_image_can_never_be_pushed_elsewhere(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def pushed(registry: str, *options: str) -> int:
        hold(engine, f"{registry}/flowparts-zoo:1", 1, f"{images.OFFLINE_BASE}:0a1b")
        arguments = ["push", "zoo", "--registry", registry, "--version", "1", "--out", str(tmp_path)]
        return images.main([*arguments, *options])

    assert pushed("localhost:5000") == 1
    assert "push it to a registry on this machine with --allow-stand-in" in capsys.readouterr().err
    for outside in ("registry.example/team", "10.0.0.1:5000", "localhost.example", "127.0.0.1.example/a"):
        assert pushed(outside, "--allow-stand-in") == 1
        assert f"such as localhost:5000, not {outside}" in capsys.readouterr().err
    assert not (tmp_path / "bin" / "docker-pushed").exists()
    for loopback in ("localhost:5000", "127.0.0.1:5000/team", "[::1]:5000"):
        assert pushed(loopback, "--allow-stand-in") == 0
    assert (tmp_path / "bin" / "docker-pushed").exists()
