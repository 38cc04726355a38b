import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from components.validate.validate_table import validate_table
from flowparts import schema as schemas

GOOD = pl.DataFrame({"age": [31, 42, 58], "plan": ["basic", "pro", "pro"]})
BAD = GOOD.with_columns(age=pl.Series([31, 430, None]))
RULES = schemas.Schema(
    [
        schemas.Column("age", "integer", minimum=0, maximum=120),
        schemas.Column("plan", "string", categories=["basic", "pro"]),
    ]
)


@pytest.fixture
def check(
    table: Callable[..., dsl.Dataset], artifact: Callable[..., Any]
) -> Callable[..., tuple[Any, dsl.Artifact, dsl.HTML]]:
    """Validate a frame against the rules; return what the component returned and its outputs."""

    def run(frame: pl.DataFrame, **options: bool) -> tuple[Any, dsl.Artifact, dsl.HTML]:
        schema, anomalies, report = (
            artifact("schema"),
            artifact("anomalies"),
            artifact("validation_report", dsl.HTML),
        )
        schemas.write(RULES, schema.path)
        outputs = {"anomalies": anomalies, "validation_report": report}
        returned = validate_table.python_func(table=table(frame), schema=schema, **outputs, **options)
        return returned, anomalies, report

    return run


def test_a_valid_table_passes_with_a_calm_page(
    check: Callable[..., Any], open_page: Callable[[Path], Any]
) -> None:
    returned, anomalies, report = check(GOOD)
    assert returned == (True, 0)
    assert json.loads(Path(anomalies.path).read_text(encoding="utf-8")) == []
    page = open_page(Path(report.path))
    assert (
        "Every row of the table satisfies the schema"
        in page.find_element("css selector", ".callout.good").text
    )


def test_anomalies_are_listed_and_left_to_the_caller_when_asked(
    check: Callable[..., Any], open_page: Callable[[Path], Any]
) -> None:
    returned, anomalies, report = check(BAD, fail_on_anomaly=False)
    assert returned == (False, 2)
    assert json.loads(Path(anomalies.path).read_text(encoding="utf-8")) == [
        {"column": "age", "rule": "null", "expected": "no missing value", "count": 1, "examples": []},
        {"column": "age", "rule": "maximum", "expected": "at most 120", "count": 1, "examples": [430]},
    ]
    assert "430" in open_page(Path(report.path)).find_element("tag name", "main").text


def test_failure_names_the_anomalies_after_both_outputs_are_whole(
    check: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"breaks its schema, 2 anomalies: column 'age': null.*such as 430"):
        check(BAD)
    written = {file.name for file in (tmp_path / "artifacts").iterdir()}
    assert written == {"table", "schema", "anomalies", "validation_report"}
    assert len(json.loads((tmp_path / "artifacts/anomalies").read_text(encoding="utf-8"))) == 2
    assert (tmp_path / "artifacts/validation_report").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_an_empty_table_is_refused_and_leaves_nothing_behind(
    check: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="the table has no rows"):
        check(GOOD.clear())
    assert {file.name for file in (tmp_path / "artifacts").iterdir()} == {"table", "schema"}
