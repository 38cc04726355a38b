from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import datasets

from flowparts.validate import leakage

ROWS = 1_000


def table(**more: Any) -> pl.DataFrame:
    """Give two honest features of a number, "amount", and of a class, "late", beside what is added."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=ROWS), rng.normal(size=ROWS)
    amount = np.exp(a + b + rng.normal(size=ROWS))
    rows = pl.DataFrame({"a": a, "b": b, "amount": amount, "late": np.where(amount > 2, "yes", "no")})
    return rows.with_columns(**more)


def found(rows: pl.DataFrame, label: str) -> list[str]:
    task = "regression" if rows[label].dtype.is_float() else "classification"
    return leakage.warnings(rows.lazy(), [name for name in rows.columns if name != label], label, task)


def test_honest_columns_are_not_warned_of() -> None:
    assert found(table().drop("late"), "amount") == []
    assert found(table().drop("amount"), "late") == []


@pytest.mark.parametrize("name", ["breast_cancer", "iris", "wine"])
def test_good_features_of_real_data_are_not_warned_of(name: str) -> None:
    data = getattr(datasets, f"load_{name}")()
    rows = pl.DataFrame(data.data, schema=[f"x{place}" for place in range(data.data.shape[1])])
    assert found(rows.with_columns(y=pl.Series(data.target)), "y") == []


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(pl.col("amount").log(), id="another scale"),
        pytest.param(pl.col("amount").rank().cast(pl.Int64), id="a place in the label's order"),
        pytest.param(-pl.col("amount").round(1), id="rounded and negative"),
    ],
)
def test_a_copy_of_a_number_is_warned_of(copy: pl.Expr) -> None:
    (warning,) = found(table(copy=copy).drop("late"), "amount")
    assert warning.startswith("column 'copy' alone predicts 'amount' (r2 0.99")
    assert warning.endswith("add it to exclude_columns")


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(pl.when(pl.col("late") == "yes").then(1).otherwise(None), id="missing where not"),
        pytest.param(pl.col("late").replace({"yes": "arrived late"}), id="text"),
        pytest.param(pl.col("amount"), id="what it is made of"),
        pytest.param(pl.col("late").rank("ordinal"), id="an identifier in the order of the label"),
    ],
)
def test_a_copy_of_a_class_is_warned_of(copy: pl.Expr) -> None:
    warnings = found(table(copy=copy).drop("amount"), "late")
    assert [warning.partition(" (")[0] for warning in warnings] == ["column 'copy' alone predicts 'late'"]


@pytest.mark.parametrize("whole", ["sum", "product"])
def test_the_parts_of_a_number_are_warned_of(whole: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.lognormal(size=(2, ROWS))
    rows = table(x=pl.Series(x), y=pl.Series(y), amount=pl.Series(x + y if whole == "sum" else x * y))
    (warning,) = found(rows.drop("late"), "amount")
    assert "'amount' can be computed from 'x', 'y'" in warning or "from 'y', 'x'" in warning


def test_identifiers_are_warned_of() -> None:
    rng = np.random.default_rng(2)
    number = pl.Series(rng.permutation(ROWS))
    rows = table(
        number=number, text="customer " + number.cast(pl.String), measured=pl.Series(rng.normal(size=ROWS))
    )
    warnings = found(rows.drop("amount"), "late")
    assert [warning.split("'")[1] for warning in warnings] == ["number"]
    assert "looks like an identifier (all of 1,000 values differ)" in warnings[0]


def test_few_rows_of_a_class_and_strange_columns_prove_nothing() -> None:
    rows = table(
        late=pl.when(pl.int_range(pl.len()) < 3).then(pl.lit("yes")).otherwise(pl.lit("no")),
        number=pl.int_range(pl.len()) // 2,
        empty=pl.lit(None, dtype=pl.Float64),
    )
    assert found(rows.drop("amount"), "late") == []
    assert found(table(copy=pl.col("late")).drop("amount").head(40), "late") == []
