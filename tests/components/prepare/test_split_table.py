from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from components.prepare.split_table import split_table
from flowparts import tables

ROWS = pl.DataFrame({"id": range(1000), "label": ["a", "b", "b", "b"] * 250})


def outputs(artifact: Callable[..., Any]) -> dict[str, dsl.Dataset]:
    return {name: artifact(name, dsl.Dataset) for name in ("train", "validation", "test")}


def test_three_tables_hold_every_row_once(table: Callable[..., Any], artifact: Callable[..., Any]) -> None:
    made = outputs(artifact)
    counts = split_table.python_func(table(ROWS), **made, key=["id"], seed=4)
    written = [tables.scan(part.path).collect() for part in made.values()]
    assert counts == tuple(frame.height for frame in written)
    assert sorted(pl.concat(written)["id"]) == list(range(1000))
    assert [part.metadata["rows"] for part in made.values()] == list(counts)
    assert tables.description(made["test"].path)["columns"] == ["id", "label"]


def test_a_stratified_split_keeps_the_shares(table: Callable[..., Any], artifact: Callable[..., Any]) -> None:
    made = outputs(artifact)
    assert split_table.python_func(table(ROWS), **made, stratify_by="label") == (700, 150, 150)
    train = tables.scan(made["train"].path).collect()
    assert train["label"].value_counts().sort("label")["count"].to_list() == [175, 525]


def test_bad_options_are_refused_before_anything_is_read_or_written(artifact: Callable[..., Any]) -> None:
    made = outputs(artifact)
    missing = dsl.Dataset(uri="/no/such/table")
    with pytest.raises(ValueError, match="must add up to 1"):
        split_table.python_func(missing, **made, train_fraction=0.5)
    with pytest.raises(ValueError, match="no table at"):
        split_table.python_func(missing, **made)
    assert not any(Path(part.path).exists() for part in made.values())


def test_an_empty_part_is_refused_before_anything_is_written(
    table: Callable[..., Any], artifact: Callable[..., Any]
) -> None:
    made = outputs(artifact)
    with pytest.raises(ValueError, match="would be empty"):
        split_table.python_func(table(ROWS.head(1)), **made)
    assert not any(Path(part.path).exists() for part in made.values())
