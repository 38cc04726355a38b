import json
import re
from pathlib import Path

import pytest
from kfp import dsl, kubernetes

from backends import package
from flowparts.components.predict.export_table import export_table
from flowparts.components.prepare.split_table import split_table

DIGEST = "sha256:" + "0a" * 32


def test_an_image_with_a_known_digest_is_pinned_by_it(tmp_path: Path) -> None:
    digests = tmp_path / "images.json"
    digests.write_text(json.dumps({"flowparts-base": {"id": DIGEST, "digest": DIGEST}}))
    reference = package.image_references("registry.example:5000/team", "1.0", digests)
    assert reference("flowparts-base") == f"registry.example:5000/team/flowparts-base@{DIGEST}"
    assert reference("flowparts-sklearn") == "registry.example:5000/team/flowparts-sklearn:1.0"


@pytest.mark.parametrize(
    ("registry", "version", "sentence"),
    [
        ("https://registry.example", "1", "^registry 'https://registry.example' is not"),
        ("registry.example/", "1", "^registry"),
        ("Registry.Example", "1", "^registry"),
        ("registry.example", "latest", "^version 'latest' is not a fixed image tag"),
        ("registry.example", "a b", "^version"),
    ],
)
def test_a_malformed_registry_or_version_is_refused(registry: str, version: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        package.image_references(registry, version)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"flowparts-base": "1.0"}', '{"flowparts-base": {"id": "1.0"}}', None]
)
def test_unusable_digests_are_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "images.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=r"images\.json"):
        package.image_references("registry.example", "1", file)


def test_an_image_that_was_never_pushed_has_no_digest_to_pin(tmp_path: Path) -> None:
    file = tmp_path / "images.json"
    described = {
        "flowparts-base": {"id": DIGEST, "digest": DIGEST},
        "flowparts-tensorflow": {"id": DIGEST, "digest": None},
    }
    file.write_text(json.dumps(described))
    reference = package.image_references("registry.example", "1", file)
    assert reference("flowparts-base") == f"registry.example/flowparts-base@{DIGEST}"
    with pytest.raises(ValueError, match=r"flowparts-tensorflow in .* was never pushed, so it has no digest"):
        reference("flowparts-tensorflow")


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        (["1", "2"], "don't have one tag but '1', '2'; build all of them at once"),
        ([], "don't have one tag but none"),
    ],
    ids=["different", "none"],
)
def test_pinned_images_say_their_version_if_they_have_one(
    tmp_path: Path, tags: list[str], sentence: str
) -> None:
    def described(tags: list[str]) -> Path:
        file = tmp_path / "images.json"
        parts = {f"flowparts-{tag}-{n}": {"image": f"r/x:{tag}", "id": DIGEST} for n, tag in enumerate(tags)}
        file.write_text(json.dumps(parts))
        return file

    assert package.images_version(None, described(["3", "3"])) == "3"
    assert package.images_version("4", described(["3"])) == "4"
    with pytest.raises(ValueError, match=sentence):
        package.images_version(None, described(tags))


@dsl.component(base_image="registry.example/mine:1", install_kfp_package=False)
def of_a_user(table: dsl.Input[dsl.Dataset]) -> None:
    """Do what only a user needs."""


@dsl.pipeline(name="halves")
def halves(source: str, destination: str) -> None:
    table = dsl.importer(artifact_uri=source, artifact_class=dsl.Dataset)
    parts = split_table(table=table.output)
    export_table(table=parts.outputs["train"], destination=destination)


@dsl.pipeline(name="quarters")
def quarters(source: str = "file:///a", destination: str = "b") -> None:
    halves(source=source, destination=destination)
    halves(source=destination, destination=source)


@dsl.pipeline(name="secrets")
def secrets(source: str = "file:///a", destination: str = "b") -> None:
    table = dsl.importer(artifact_uri=source, artifact_class=dsl.Dataset).output
    open_to_all = export_table(table=table, destination=destination)
    holder = export_table(table=table, destination=source)
    kubernetes.use_secret_as_env(holder, "storage", {"KEY": "KEY"})
    open_to_all.set_memory_limit("2G")


def test_nested_pipelines_are_written_once_however_often_they_are_used() -> None:
    (spec,) = package.documents(package.compiled(quarters, lambda name: name))
    assert sorted(spec["components"]) == [
        "comp-export-table",
        "comp-halves",
        "comp-importer",
        "comp-split-table",
    ]
    assert sorted(spec["deploymentSpec"]["executors"]) == [
        "exec-export-table",
        "exec-importer",
        "exec-split-table",
    ]
    tasks = spec["root"]["dag"]["tasks"]
    assert {task["componentRef"]["name"] for task in tasks.values()} == {"comp-halves"}
    sources = [task["inputs"]["parameters"]["source"]["componentInputParameter"] for task in tasks.values()]
    assert sorted(sources) == ["destination", "source"]


def test_code_is_in_the_image_and_ports_are_described_in_the_interfaces() -> None:
    @dsl.pipeline(name="mine")
    def mine(source: str = "file:///a") -> None:
        """Split a table.

        Args:
            source: Where it is.
        """
        table = dsl.importer(artifact_uri=source, artifact_class=dsl.Dataset)
        of_a_user(table=split_table(table=table.output).outputs["train"])

    (spec,) = package.documents(package.compiled(mine, lambda name: name, "1.2.3"))
    executors = spec["deploymentSpec"]["executors"]
    assert executors["exec-split-table"]["container"]["command"] == [
        *("python3", "-m", "flowparts.step", "split_table", "--version", "1.2.3"),
    ]
    assert executors["exec-split-table"]["container"]["args"] == ["--executor_input", "{{$}}"]
    assert "def of_a_user(" in executors["exec-of-a-user"]["container"]["command"][-1]
    assert spec["root"]["inputDefinitions"]["parameters"]["source"]["description"] == "Where it is."
    assert "description" not in json.dumps(spec["components"])
    (alone,) = package.documents(package.compiled(split_table, lambda name: name, "1.2.3"))
    assert "Rows to split." in json.dumps(alone["components"])


def test_the_source_is_embedded_in_the_yaml_on_request() -> None:
    (spec,) = package.documents(package.compiled(split_table, lambda name: name))
    command = spec["deploymentSpec"]["executors"]["exec-split-table"]["container"]["command"]
    assert "def split_table(" in command[-1]


def test_parts_that_differ_in_their_secrets_or_limits_stay_apart() -> None:
    spec, overlay = package.documents(package.compiled(secrets, lambda name: name))
    executors = spec["deploymentSpec"]["executors"]
    limits = {
        name: part["container"]["resources"]["memoryLimit"]
        for name, part in executors.items()
        if "container" in part
    }
    assert sorted(limits) == ["exec-export-table", "exec-export-table-2"]
    assert limits["exec-export-table"] == 2.0
    held = overlay["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert list(held) == ["exec-export-table-2"]


@dsl.component(base_image="registry.example/image:1", install_kfp_package=False)
def say(text: str, number: float = 0.5) -> None:
    print(text, number)


def test_a_default_with_line_breaks_stays_a_default() -> None:
    @dsl.pipeline(name="broken-lines")
    def broken_lines(text: str = "one\ncomponents:\n\n  two") -> None:
        """Say it."""
        say(text=text)

    text = package.compiled(broken_lines, str)
    assert re.match("# PIPELINE DEFINITION\n# Name: broken-lines\n# Description: Say it.\n# Inputs:\n", text)
    (spec,) = package.documents(text)
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert parameters["text"]["defaultValue"] == "one\ncomponents:\n\n  two"


def test_a_number_that_json_lacks_gives_a_one_line_error() -> None:
    @dsl.pipeline(name="no-number")
    def no_number(number: float = float("nan")) -> None:
        say(text="a", number=number)

    with pytest.raises(ValueError, match="no-number: no backend takes NaN or infinity"):
        package.compiled(no_number, str)
