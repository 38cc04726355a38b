"""A real model for the components that evaluate, compare and select."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl


@pytest.fixture
def trained(tmp_path: Path, save_model: Callable[..., dict[str, Any]]) -> Callable[..., dsl.Model]:
    """Train a scikit-learn estimator and save it: `trained(rows, "label", LogisticRegression(), ...)`."""

    def make(
        rows: pl.DataFrame,
        label: str,
        estimator: Any,
        task: str = "classification",
        name: str = "model",
        **told: Any,
    ) -> dsl.Model:
        artifact = dsl.Model(name=name, uri=str(tmp_path / "artifacts" / name))
        artifact.metadata.update(save_model(artifact.path, rows, label, estimator, task, **told))
        return artifact

    return make


@pytest.fixture
def sklearn_rows() -> Callable[[str, str], tuple[pl.DataFrame, pl.DataFrame]]:
    """Give two thirds and one third of scikit-learn's own data: `sklearn_rows("wine", "class")`."""

    def make(name: str, label: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        import sklearn.datasets

        data = getattr(sklearn.datasets, f"load_{name}")()
        columns = {str(feature): data.data[:, index] for index, feature in enumerate(data.feature_names)}
        rows = pl.DataFrame({**columns, label: data.target}).sample(fraction=1.0, shuffle=True, seed=1)
        cut = 2 * rows.height // 3
        return rows.head(cut), rows.tail(rows.height - cut)

    return make
