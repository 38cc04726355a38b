import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from components.validate.infer_schema import infer_schema

REVIEWED = {"version": 1, "columns": [{"name": "age", "type": "integer", "minimum": 0, "maximum": 120}]}


@pytest.mark.parametrize("schema_uri", [None, ""])
def test_describes_the_table(
    schema_uri: str | None, table: Callable[..., dsl.Dataset], artifact: Callable[..., Any]
) -> None:
    schema = artifact("schema")
    infer_schema.python_func(
        table=table(pl.DataFrame({"age": [31, 42]})), schema=schema, schema_uri=schema_uri
    )
    content = json.loads(Path(schema.path).read_text(encoding="utf-8"))
    assert content["columns"] == [
        {"name": "age", "type": "integer", "nullable": False, "minimum": 31, "maximum": 42}
    ]
    assert schema.metadata == {"columns": 1, "source": "inferred"}


@pytest.mark.parametrize("as_uri", [False, True], ids=["path", "uri"])
def test_takes_a_reviewed_schema_instead(
    as_uri: bool, tmp_path: Path, table: Callable[..., dsl.Dataset], artifact: Callable[..., Any]
) -> None:
    file = tmp_path / "reviewed.json"
    file.write_text(json.dumps(REVIEWED))
    source = file.as_uri() if as_uri else str(file)
    schema = artifact("schema")
    infer_schema.python_func(table=table(pl.DataFrame({"age": [31]})), schema=schema, schema_uri=source)
    column = json.loads(Path(schema.path).read_text(encoding="utf-8"))["columns"][0]
    assert column == {"name": "age", "type": "integer", "nullable": False, "minimum": 0, "maximum": 120}
    assert schema.metadata["source"] == source


def test_a_broken_reviewed_schema_leaves_nothing_behind(
    tmp_path: Path, table: Callable[..., dsl.Dataset], artifact: Callable[..., Any]
) -> None:
    file = tmp_path / "reviewed.json"
    file.write_text(json.dumps({"version": 1, "columns": [{"name": "age", "type": "int"}]}))
    schema = artifact("schema")
    with pytest.raises(ValueError, match="column 'age' of the schema has type 'int'; did you mean 'integer'"):
        infer_schema.python_func(
            table=table(pl.DataFrame({"age": [31]})), schema=schema, schema_uri=str(file)
        )
    assert not Path(schema.path).exists()


def test_an_empty_table_is_refused(table: Callable[..., dsl.Dataset], artifact: Callable[..., Any]) -> None:
    empty = table(pl.DataFrame({"x": []}, schema={"x": pl.Int64}))
    with pytest.raises(ValueError, match="the table has no rows"):
        infer_schema.python_func(table=empty, schema=artifact("schema"))
