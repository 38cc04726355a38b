from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from flowparts import tables
from flowparts.components.prepare.fit_preprocessor import fit_preprocessor
from flowparts.prepare import preprocess

TRAIN = pl.DataFrame(
    {
        "id": range(60),
        "size": [1.0, 2.0, None] * 20,
        "kind": ["x", "y"] * 30,
        "price": range(60),
        "w": [1.0] * 60,
    }
)


def run(table: Callable[..., Any], artifact: Callable[..., Any], **options: Any) -> dict[str, Any]:
    made = {
        "preprocessor": artifact("preprocessor", dsl.Artifact),
        "train_features": artifact("train_features", dsl.Dataset),
        "validation_features": artifact("validation_features", dsl.Dataset),
    }
    fit_preprocessor.python_func(
        table(TRAIN, "train"),
        table(TRAIN.tail(7), "validation"),
        **made,
        **{"label": "price", "exclude_columns": ["id"], "weight_column": "w", **options},
        task="regression",
    )
    return made


def test_the_preprocessor_and_both_tables_are_written(
    table: Callable[..., Any], artifact: Callable[..., Any]
) -> None:
    made = run(table, artifact)
    train = tables.scan(made["train_features"].path).collect()
    validation = tables.scan(made["validation_features"].path).collect()
    assert (
        train.columns == validation.columns == ["size", "kind_x", "kind_y", "size_is_missing", "price", "w"]
    )
    assert (train.height, validation.height) == (60, 7)
    assert set(train.dtypes[:3]) == {pl.Float32}
    assert train["price"].to_list() == list(range(60))
    assert made["train_features"].metadata["rows"] == 60
    loaded = preprocess.load(made["preprocessor"].path)
    assert loaded.features == {"size": "number", "kind": "string"}
    assert made["preprocessor"].metadata == {
        "label": "price",
        "task": "regression",
        "features": 2,
        "training_fingerprint": tables.fingerprint(TRAIN),
    }


def test_a_bad_option_leaves_nothing_behind(table: Callable[..., Any], artifact: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="label column 'cost' is not in the table; columns are: id, size"):
        run(table, artifact, label="cost")
    left = [name for name in ("preprocessor", "train_features", "validation_features")
            if Path(artifact(name).path).exists()]  # fmt: skip
    assert left == []
