"""Encode labels for a network, and weight its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from flowparts import tables

CLASS_WEIGHTS = (None, "balanced")


@dataclass(frozen=True)
class LabelEncoding:
    """The encoding of labels: positions of classes, or values of zero mean and unit variance.

    Attributes:
        label: The label column.
        classes: Sorted label values of a classification; None for a regression.
        mean: Mean of a regression's training labels.
        scale: Their standard deviation; 1 if it is 0.
        class_weights: Weight of a row of each class.
        weight_column: The column of sample weights, if any.
    """

    label: str
    classes: list[Any] | None
    mean: float = 0.0
    scale: float = 1.0
    class_weights: list[float] | None = None
    weight_column: str | None = None

    def numbers(self, labels: pl.Series) -> Any:
        """Return int32 positions of the classes, or standardised float32 values."""
        if self.classes is None:
            return ((labels.cast(pl.Float64).to_numpy() - self.mean) / self.scale).astype(np.float32)
        if labels.dtype in (pl.Categorical, pl.Enum):
            labels = labels.cast(pl.String)
        positions = list(range(len(self.classes)))
        # Under a plain name, as what Polars does with a column alone takes some names for patterns.
        return labels.alias("label").replace_strict(self.classes, positions, return_dtype=pl.Int32).to_numpy()

    def weights(self, rows: pl.DataFrame) -> Any:
        """Return the float32 weight of each row."""
        weights = np.ones(rows.height, np.float32)
        if self.weight_column:
            weights = rows[self.weight_column].cast(pl.Float32).to_numpy()
        if self.class_weights:
            weights = weights * np.asarray(self.class_weights, np.float32)[self.numbers(rows[self.label])]
        return weights


def learn(
    train: pl.LazyFrame,
    label: str,
    classes: Sequence[Any] | None,
    class_weight: str | None,
    weight_column: str | None,
) -> LabelEncoding:
    """Learn the encoding of the label from the training table.

    Args:
        train: Rows with the label and the weights.
        label: The label column.
        classes: Its sorted values; None for a regression.
        class_weight: "balanced" to weigh each class by the inverse of its share.
        weight_column: The column of sample weights, if any.

    Raises:
        ValueError: `class_weight` is unknown, or given for a regression.
    """
    if class_weight not in CLASS_WEIGHTS:
        raise ValueError(f"class_weight must be 'balanced' or left out, not {class_weight!r}")
    if classes is None:
        if class_weight:
            raise ValueError("class_weight is for classifications; leave it out of a regression")
        value = tables.column(label).cast(pl.Float64)
        mean, deviation = (
            train.select(value.mean(), value.std(ddof=0).alias("std")).pipe(tables.collect).row(0)
        )
        return LabelEncoding(label, None, mean, deviation or 1.0, None, weight_column)
    found = LabelEncoding(label, list(classes), weight_column=weight_column)
    if class_weight is None:
        return found
    counted = train.group_by(tables.column(label)).agg(pl.len().alias("rows")).pipe(tables.collect)
    counts = np.bincount(found.numbers(counted[label]), counted["rows"].to_numpy(), len(classes))
    weights = counts.sum() / (len(classes) * counts)
    return LabelEncoding(label, list(classes), 0.0, 1.0, weights.tolist(), weight_column)
