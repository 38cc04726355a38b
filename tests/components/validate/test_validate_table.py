import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from flowparts.components.validate.validate_table import validate_table
from flowparts.tables import schema as schemas

GOOD = pl.DataFrame({"age": [31, 42, 58], "plan": ["basic", "pro", "pro"]})
BAD = GOOD.with_columns(age=pl.Series([31, 430, None]))
REVIEWED = {"version": 1, "columns": [{"name": "age", "type": "integer", "minimum": 0, "maximum": 120}]}
AGES = pl.DataFrame({"age": [31, 42]})
RULES = schemas.Schema(
    [
        schemas.Column("age", "integer", minimum=0, maximum=120),
        schemas.Column("plan", "string", categories=["basic", "pro"]),
    ]
)


@pytest.fixture
def check(
    validate: Callable[..., tuple[Any, dict[str, Any]]], artifact: Callable[..., Any]
) -> Callable[..., tuple[Any, dsl.Artifact, dsl.HTML]]:
    """Validate a frame against the rules; return what the component returned and its outputs."""

    def run(frame: pl.DataFrame, **options: bool) -> tuple[Any, dsl.Artifact, dsl.HTML]:
        schema = artifact("schema")
        schemas.write(RULES, schema.path)
        returned, made = validate(frame, schema=schema, **options)
        return returned, made["anomalies"], made["validation_report"]

    return run


@pytest.fixture
def validate(
    table: Callable[..., dsl.Dataset], artifact: Callable[..., Any]
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Run the component on a frame; return what it returned and its outputs."""

    def run(frame: pl.DataFrame, **options: Any) -> tuple[Any, dict[str, Any]]:
        made = {
            "table_schema": artifact("table_schema"),
            "anomalies": artifact("anomalies"),
            "validation_report": artifact("validation_report", dsl.HTML),
        }
        return validate_table.python_func(table=table(frame), **made, **options), made

    return run


def test_a_valid_table_passes_with_a_page_without_warnings(
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


def test_failure_names_the_anomalies_after_the_outputs_are_whole(
    check: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"violates its schema, 2 anomalies: column 'age': null.*such as 430"
    ):
        check(BAD)
    written = {file.name for file in (tmp_path / "artifacts").iterdir()}
    assert written == {"table", "schema", "table_schema", "anomalies", "validation_report"}
    assert len(json.loads((tmp_path / "artifacts/anomalies").read_text(encoding="utf-8"))) == 2
    assert (tmp_path / "artifacts/validation_report").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_an_empty_table_is_refused_and_leaves_nothing_behind(
    check: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="the table has no rows"):
        check(GOOD.clear())
    assert {file.name for file in (tmp_path / "artifacts").iterdir()} == {"table", "schema"}


@pytest.mark.parametrize("schema_uri", [None, ""])
def test_infers_the_schema_when_none_is_given(
    schema_uri: str | None, validate: Callable[..., Any], open_page: Callable[[Path], Any]
) -> None:
    returned, made = validate(AGES, schema_uri=schema_uri)
    assert returned == (True, 0)
    content = json.loads(Path(made["table_schema"].path).read_text(encoding="utf-8"))
    assert content["columns"] == [
        {"name": "age", "type": "integer", "nullable": False, "minimum": 31, "maximum": 42}
    ]
    assert made["table_schema"].metadata == {"columns": 1, "source": "inferred"}
    assert json.loads(Path(made["anomalies"].path).read_text(encoding="utf-8")) == []
    page = open_page(Path(made["validation_report"].path))
    assert page.find_elements("css selector", ".callout.good") == []
    assert "No schema was given" in page.find_element("css selector", ".callout.note").text


def test_a_later_table_is_validated_against_the_inferred_schema(validate: Callable[..., Any]) -> None:
    _, made = validate(AGES)
    with pytest.raises(ValueError, match="column 'age': maximum, expected at most 42"):
        validate(AGES * 10, schema=made["table_schema"])


@pytest.mark.parametrize("as_uri", [False, True], ids=["path", "uri"])
def test_takes_a_reviewed_schema_by_its_address(
    as_uri: bool, tmp_path: Path, validate: Callable[..., Any]
) -> None:
    file = tmp_path / "reviewed.json"
    file.write_text(json.dumps(REVIEWED))
    source = file.as_uri() if as_uri else str(file)
    returned, made = validate(AGES, schema_uri=source)
    assert returned == (True, 0)
    column = json.loads(Path(made["table_schema"].path).read_text(encoding="utf-8"))["columns"][0]
    assert column == {"name": "age", "type": "integer", "nullable": False, "minimum": 0, "maximum": 120}
    assert made["table_schema"].metadata["source"] == source


def test_a_broken_reviewed_schema_leaves_nothing_behind(tmp_path: Path, validate: Callable[..., Any]) -> None:
    file = tmp_path / "reviewed.json"
    file.write_text(json.dumps({"version": 1, "columns": [{"name": "age", "type": "int"}]}))
    with pytest.raises(ValueError, match="column 'age' of the schema has type 'int'; did you mean 'integer'"):
        validate(AGES, schema_uri=str(file))
    assert {file.name for file in (tmp_path / "artifacts").iterdir()} == {"table"}


def test_without_a_schema_an_empty_table_is_refused(validate: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="the table has no rows"):
        validate(AGES.clear())
