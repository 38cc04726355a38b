from pathlib import Path

import pytest

from flowparts import selfcheck


def test_names_what_the_requirement_files_promise(tmp_path: Path) -> None:
    (tmp_path / "base.in").write_text("# why\nfsspec[http]\npolars\n")
    (tmp_path / "child.in").write_text("-r ../base/requirements.in\nscikit-learn\n")
    assert selfcheck.promised(tmp_path) == ["fsspec", "polars", "scikit-learn"]


@pytest.mark.parametrize(
    "name", ["polars-hash", "duckdb", "jinja2", "PyYAML", "backports.zstd", "google-cloud-aiplatform"]
)
def test_finds_the_modules_of_a_distribution(name: str) -> None:
    assert selfcheck.import_problem(name) == ""


def test_reports_missing_packages() -> None:
    assert "No package metadata was found for nowhere" in selfcheck.import_problem("nowhere")


def test_outside_an_image_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(selfcheck, "PROMISES", tmp_path / "promises")
    assert selfcheck.main() == 1
    assert "runs inside an image" in capsys.readouterr().out


def test_prints_versions_and_fails_on_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(selfcheck, "PROMISES", tmp_path)
    (tmp_path / "base.in").write_text("jinja2\n")
    assert selfcheck.main() == 0
    assert "jinja2" in capsys.readouterr().out
    (tmp_path / "base.in").write_text("jinja2\nnowhere\n")
    assert selfcheck.main() == 1
    assert "error: nowhere can't be imported" in capsys.readouterr().out
