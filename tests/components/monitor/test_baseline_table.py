from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.baseline_table import baseline_table
from flowparts.components.monitor.detect_drift import detect_drift
from flowparts.tables import summary

ROWS = pl.DataFrame({"id": range(100), "age": [20 + number % 50 for number in range(100)]})


@dsl.pipeline
def example(source: str = "sample://diabetes"):
    table = ingest_table(source=source)
    kept = baseline_table(table=table.outputs["table"], exclude_columns=["target"])
    detect_drift(table=table.outputs["table"], baseline=kept.outputs["baseline"])


def test_a_table_becomes_a_small_file(
    table: Callable[..., dsl.Dataset], artifact: Callable[..., Any]
) -> None:
    baseline = artifact("baseline")
    baseline_table.python_func(table=table(ROWS), baseline=baseline, exclude_columns=["id"])
    found = summary.read(baseline.path)
    assert list(found.columns) == ["age"]
    assert found.columns["age"].buckets.counts.tolist() == [2] * 50
    assert baseline.metadata["rows"] == 100
    assert found.facts["features"] == ["age"]


@pytest.mark.parametrize(
    ("excluded", "sentence"),
    [
        (["no"], "excluded column 'no' is not in the table"),
        (["id", "age"], "exclude_columns names every column"),
    ],
)
def test_columns_that_cannot_be_left_out_give_a_one_line_error(
    excluded: list[str], sentence: str, table: Callable[..., dsl.Dataset], artifact: Callable[..., Any]
) -> None:
    baseline = artifact("baseline")
    with pytest.raises(ValueError, match=sentence):
        baseline_table.python_func(table=table(ROWS), baseline=baseline, exclude_columns=excluded)
    assert not Path(baseline.path).exists()
