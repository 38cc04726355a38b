from pathlib import Path

import pytest

from tools import readme


def test_catalogue_in_the_readme_is_current() -> None:
    assert readme.is_current(), "run `make readme`"


def test_a_changed_description_makes_the_catalogue_outdated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = readme.README.read_text(encoding="utf-8")
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    readme.README.write_text(text.replace("Split the rows of a table", "Divide a table"), encoding="utf-8")
    assert not readme.is_current()
    readme.write()
    assert readme.README.read_text(encoding="utf-8") == text


def test_the_readme_is_short() -> None:
    assert len(readme.README.read_text(encoding="utf-8").splitlines()) <= 150
