from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from components.ingest.ingest_table import ingest_table
from flowparts import tables


@pytest.fixture
def ingest(artifact: Callable[..., Any]) -> Callable[..., tuple[Any, Any, Any]]:
    def run(**parameters: Any) -> tuple[Any, Any, Any]:
        table, rejected = artifact("table", dsl.Dataset), artifact("rejected", dsl.Dataset)
        counts = ingest_table.python_func(table=table, rejected=rejected, **parameters)
        return table, rejected, counts

    return run


def test_default_source_is_the_real_breast_cancer_data(ingest: Callable[..., Any]) -> None:
    table, rejected, counts = ingest(data_version="1995")
    assert counts == (569, 0)
    frame = tables.scan(table.path).collect()
    assert frame["target"].value_counts().sort("target").rows() == [("benign", 357), ("malignant", 212)]
    assert table.metadata["rows"] == 569
    assert table.metadata["columns"] == 31
    assert table.metadata["source"] == "sample://breast_cancer"
    assert table.metadata["data_version"] == "1995"
    assert table.metadata["fingerprint"] == tables.fingerprint(frame)
    assert tables.scan(rejected.path).collect().height == 0


def test_files_of_a_directory_become_one_typed_table(ingest: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "2.csv").write_text("when,amount\n2024-03-01T00:00:00Z,NA\n")
    (folder / "1.csv").write_text("when,amount\n2024-01-01 10:00,1.5\n")
    table, _, counts = ingest(source=str(folder), null_values=["NA"], file_format="csv")
    assert counts == (2, 0)
    assert tables.scan(table.path).collect_schema() == {"when": pl.Datetime("us"), "amount": pl.Float64()}


def test_bad_rows_are_counted_in_quarantine_and_fail_otherwise(
    ingest: Callable[..., Any], tmp_path: Path
) -> None:
    source = tmp_path / "data.csv"
    source.write_text("a,b\n1,x\n2\nthree,y\n")
    types = {"a": "integer"}
    table, rejected, counts = ingest(source=str(source), column_types=types, on_bad_rows="quarantine")
    assert counts == (1, 2)
    assert rejected.metadata["rows"] == 2
    assert tables.scan(rejected.path).collect()["line"].to_list() == [3, 4]
    with pytest.raises(ValueError, match=r"2 bad rows: .*data.csv line 3 has 1 field"):
        ingest(source=str(source), column_types=types)
    assert not Path(table.path).exists()
    assert not Path(rejected.path).exists()


def test_unknown_option_is_refused(ingest: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"on_bad_rows is 'ignore'; use one of: fail, quarantine, null"):
        ingest(on_bad_rows="ignore")
