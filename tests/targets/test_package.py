import json
from pathlib import Path

import pytest
from kfp import dsl, kubernetes

from components.predict.export_table import export_table
from components.prepare.split_table import split_table
from targets import package

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
    file.write_text(json.dumps({"flowparts-base": {"id": DIGEST, "digest": None}}))
    with pytest.raises(ValueError, match=r"flowparts-base in .* was never pushed, so it has no digest"):
        package.image_references("registry.example", "1", file)


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
