"""Rules that every image under containers/ keeps; no engine is needed to check them."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from backends import catalogue, package
from tools import images

ROOT = Path(__file__).parents[2]
IMAGES = images.find()
DEVELOPMENT = set(images.locked(ROOT / "requirements.txt"))

every_image = pytest.mark.parametrize("image", list(IMAGES.values()), ids=list(IMAGES))


def ancestors(image: images.Image) -> list[images.Image]:
    return [*ancestors(IMAGES[image.parent]), IMAGES[image.parent]] if image.parent else []


@every_image
def test_packages_are_locked_by_hash_and_name_no_place(image: images.Image) -> None:
    text = image.lock.read_text(encoding="utf-8")
    packages = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert packages
    assert all("--hash=sha256:" in part for part in packages)
    assert "://" not in text
    assert "--index" not in text


@every_image
def test_packages_are_those_that_the_tests_ran_with(image: images.Image) -> None:
    tested = {name for name, _ in DEVELOPMENT}
    packages = set(images.locked(image.lock))
    untested = {(name, version) for name, version in packages if name not in tested}
    assert packages - untested <= DEVELOPMENT
    assert not untested or image.variant, "only a variant, for other machines, may hold more"


@every_image
def test_holds_cuda_only_in_a_variant_for_it(image: images.Image) -> None:
    cuda = [name for name, _ in images.locked(image.lock) if re.match(r"nvidia|cuda|triton$|xgboost$", name)]
    assert not cuda or image.variant == "gpu"


@every_image
def test_excluded_packages_are_not_installed(image: images.Image) -> None:
    excludes = image.folder / "excludes.txt"
    left_out = images.requested(excludes) if excludes.exists() else set()
    assert not left_out & {name for name, _ in images.locked(image.lock)}


@every_image
def test_adds_only_what_its_parents_lack(image: images.Image) -> None:
    inherited = {name for parent in ancestors(image) for name, _ in images.locked(parent.lock)}
    assert not {name for name, _ in images.locked(image.lock)} & inherited


@every_image
def test_locks_every_package_it_asks_for(image: images.Image) -> None:
    held = {name for part in [*ancestors(image), image] for name, _ in images.locked(part.lock)}
    assert images.requested(image.asked) <= held


def test_images_are_built_without_running_as_root_and_without_fixed_places() -> None:
    text = (images.CONTAINERS / "environment.Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"https?://|:latest|ADD ", text)
    _, *stages = re.split(r"^FROM ", text, flags=re.MULTILINE)
    for stage in stages:
        assert re.findall(r"^USER (\S+)", stage, re.MULTILINE)[-1:] != ["0"]


def test_stages_of_an_images_own_belong_to_an_image() -> None:
    build, environment, *own = images.stages()
    assert (build, environment) == ("build", "environment")
    assert own
    assert set(own) <= {image.folder.name for image in IMAGES.values()}


def test_base_holds_what_running_a_component_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = (IMAGES["base"].folder / "requirements.in").read_text(encoding="utf-8")
    names = {Requirement(line).name for line in asked.splitlines() if not line.startswith("#")}
    needed = [*project["dependencies"], *project["optional-dependencies"]["base"]]
    assert names == {Requirement(line).name for line in needed}


def test_every_component_runs_in_an_image_that_has_a_folder_and_states_its_resources() -> None:
    for component in catalogue.components().values():
        spec = package.documents(package.compiled(component, lambda name: f"registry/{name}:1"))[0]
        for executor in spec["deploymentSpec"]["executors"].values():
            container = executor["container"]
            name = container["image"].removeprefix("registry/flowparts-").removesuffix(":1")
            assert name in IMAGES
            assert container["resources"]["cpuLimit"] >= 0.1
            assert container["resources"]["memoryLimit"] >= 0.25
