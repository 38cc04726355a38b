"""What a server scores with: a saved model behind one small interface, whatever runs it.

A server has columns of plain values out of JSON, not tables, and asks for a few rows at a time; what an
engine spends on each call counts more than how fast it is on a million rows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from flowparts import models

_TYPES = {"integer": pl.Float64(), "number": pl.Float64(), "boolean": pl.Boolean()}


class Engine(Protocol):
    """A loaded model that answers servers; any thread may call it.

    Attributes:
        name: What runs the model, such as "native".
        features: Raw column name to type (integer, number, boolean, string, timestamp, date), in order.
        classes: Sorted label values of a classification; None for a regression.
        task: "classification" or "regression".
    """

    name: str
    features: dict[str, str]
    classes: list[Any] | None
    task: str

    def predict_columns(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Score rows that are given by column.

        Args:
            columns: Feature to its values, one for each row, as JSON has them: numbers, booleans, text, for
                timestamps and dates ISO 8601 text, and None where a value is missing.

        Returns:
            The columns of `models.Model.predict` as NumPy arrays.

        Raises:
            ValueError: A value isn't of its column's type.
        """
        ...


def load(model_dir: str | Path) -> Engine:
    """Open a model directory with the fastest engine that predicts as the model does.

    Raises:
        ValueError: There is no model, or it is damaged.
    """
    return Native(models.load(model_dir))


class Native:
    """The model in the framework that trained it."""

    name = "native"

    def __init__(self, model: models.Model) -> None:
        self._model = model
        self.features = model.types
        self.classes = model.classes
        self.task = model.task

    def predict_columns(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Score rows that are given by column; see `Engine`."""
        table = pl.DataFrame(
            [
                pl.Series(name, columns[name], dtype=_TYPES.get(kind, pl.String()), strict=False)
                for name, kind in self.features.items()
            ]
        )
        return {series.name: series.to_numpy() for series in self._model.predict(table).iter_columns()}
