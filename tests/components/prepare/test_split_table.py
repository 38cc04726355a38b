from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl

from flowparts import tables
from flowparts.components.prepare.split_table import split_table

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


def test_a_stratified_split_keeps_the_class_frequencies(
    table: Callable[..., Any], artifact: Callable[..., Any]
) -> None:
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


def numbers(rows: int = 600) -> pl.DataFrame:
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "id": range(rows),
            "a": random.normal(3, 1, rows),
            "b": random.normal(50, 9, rows),
            "town": random.choice(["Bad Tölz", "Köln"], rows),
            "label": random.choice(["x", "y"], rows),
        }
    )


@pytest.mark.parametrize("options", [{}, {"key": ["id"]}, {"time_column": "auto"}])
def test_near_copies_in_other_parts_are_counted_and_warned_of(
    options: dict[str, Any],
    table: Callable[..., Any],
    artifact: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = numbers()
    copies = rows.head(200).with_columns(
        pl.col("id") + 600,
        pl.col("a", "b").round_sig_figs(4),
        pl.col("town").str.to_uppercase().str.replace(" ", "   "),
    )
    made = outputs(artifact)
    excluded = {"exclude_columns": ["id"], "stratify_by": None if options.get("key") else "label"}
    split_table.python_func(table(pl.concat([rows, copies])), **made, **excluded, **options)
    train, *others = (tables.scan(part.path).collect() for part in made.values())
    originals = set(train["id"] % 600)
    leaked = sum(number % 600 in originals for part in others for number in part["id"])
    told = tables.description(made["test"].path)["split_warning"]
    outside = sum(map(len, others))
    assert told.startswith(f"at least {leaked} of the {outside} rows outside the training part equal a ")
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (pl.col("a") * 1.01, {}),
        (pl.col("a"), {"time_column": "id"}),
        (pl.col("a") * 1.00001, {"group_by": "id"}),
    ],
    ids=["further apart", "by time", "kept together"],
)
def test_other_rows_are_not_taken_for_near_copies(
    change: pl.Expr, options: dict[str, Any], table: Callable[..., Any], artifact: Callable[..., Any]
) -> None:
    rows = numbers()
    made = outputs(artifact)
    split_table.python_func(table(pl.concat([rows, rows.head(200).with_columns(change)])), **made, **options)
    assert tables.description(made["test"].path)["split_warning"] == ""


def test_a_rare_class_is_left_out_of_a_classification_only(
    table: Callable[..., Any], artifact: Callable[..., Any]
) -> None:
    rows = pl.DataFrame({"id": range(1000), "label": [*[0, 1] * 499, 1, 7]})
    counts = split_table.python_func(
        table(rows), **(made := outputs(artifact)), stratify_by="label", task="classification"
    )
    assert sum(counts) == 999
    for part in made.values():
        described = tables.description(part.path)
        assert described["rows_left_out"] == ["1 row of class 7 (fewer than min_class_rows=3)"]
        assert set(tables.scan(part.path).collect()["label"]) == {0, 1}
    for options in ({"task": "regression"}, {"task": "classification", "min_class_rows": 1}, {}):
        made = outputs(artifact)
        assert sum(split_table.python_func(table(rows), **made, stratify_by="label", **options)) == 1000
