import json
from pathlib import Path

import pytest

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
