from pathlib import Path

import pytest

from flowparts import models
from flowparts.util import errors, outputs, sources


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  it broke \nhere"), "it broke"),
        (KeyError(), "KeyError"),
        (OSError("x" * 400), "x" * 297 + "..."),
    ],
)
def test_the_first_line_of_an_error_is_short_and_never_empty(error: Exception, line: str) -> None:
    assert errors.first_line(error) == line


def test_a_password_is_masked_before_the_line_is_cut() -> None:
    address = f"s3://user:{'p' * 300}@host/table"
    assert errors.first_line(OSError(f"can't open {address}")) == "can't open s3://***@host/table"


def test_missing_files_are_distinguished_from_damaged_ones(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingError):
        outputs.read_json(tmp_path / "none.json", "the schema")
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON") as damaged:
        outputs.read_json(tmp_path / "half.json", "the schema")
    assert not isinstance(damaged.value, errors.MissingError)
    with pytest.raises(errors.MissingError):
        models.load(tmp_path)
    with pytest.raises(errors.MissingError):
        sources.fetch(f"{tmp_path}/*.csv", tmp_path)
