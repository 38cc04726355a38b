"""Warn of columns that leak the label or look like identifiers, before a model is trained.

A cheap check of each column separately, on at most 20,000 rows: half of them to learn from, half to predict.
It finds copies of the label on any monotone scale, identifiers sorted by the label, and labels computed from
a few numbers. It doesn't find leaks through several columns together.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flowparts import tables

_MAX_ROWS = 20_000
_MIN_ROWS = 50
_MAX_BINS = 200
# Enough that hardly any bin lacks rows to learn from.
_ROWS_OF_A_BIN = 10
_MIN_ROWS_OF_A_CLASS = 5
_MAX_NUMBERS = 200
_MAX_NAMED = 5
# Real features come close: the best one of breast_cancer has a ROC AUC of 0.97 alone.
_ALONE = {"roc_auc": 0.995, "r2": 0.99}
# A computed label leaves rounding errors only; a good fit of real data leaves a thousand times more.
_COMPUTED = 1e-6

_log = logging.getLogger("flowparts")

Floats = NDArray[np.float64]


def warnings(train: pl.LazyFrame, features: Iterable[str], label: str, task: str) -> list[str]:
    """Return a sentence for each suspicious column, and log each as a warning.

    Args:
        train: Raw training rows.
        features: Columns to check: numbers, booleans, times and text.
        label: The column to predict, without nulls.
        task: "classification" or "regression".
    """
    rows, features = tables.row_count(train), list(features)
    step = -(-rows // _MAX_ROWS)
    if rows < _MIN_ROWS or not features:
        return []
    sample = tables.select(train, [*features, label]).gather_every(step).pipe(tables.collect)
    targets, metric = _targets(sample[label], task)
    scores = {name: _score(sample[name].alias("value"), targets, metric) for name in features}
    alone = {name: score for name, score in scores.items() if score >= _ALONE[metric]}
    found = [
        f"column {name!r} alone predicts {label!r} ({metric} {score:.4f}); if it isn't known "
        "at prediction time, add it to exclude_columns"
        for name, score in alone.items()
    ]
    if task == "regression" and not alone and (parts := _parts(sample, features, label)):
        found.append(
            f"{label!r} can be computed from {', '.join(map(repr, parts))}; if they aren't known at "
            "prediction time, add them to exclude_columns"
        )
    found += [
        f"column {name!r} looks like an identifier (all of {sample.height:,} values differ) but is a "
        "feature; if it is an identifier, add it to exclude_columns"
        for name in features
        if name not in alone and _is_identifier(sample[name])
    ]
    for sentence in found:
        _log.warning("%s", sentence)
    return found


def _is_identifier(values: pl.Series) -> bool:
    return values.dtype.is_integer() and values.n_unique() == len(values)


def _targets(label: pl.Series, task: str) -> tuple[Floats, str]:
    """Return the targets as columns: the ranks of a number, or an indicator for each class."""
    if task == "regression":
        return np.asarray(label.cast(pl.Float64).rank().to_numpy(), float)[:, None], "r2"
    codes = label.alias("label").cast(pl.String).rank("dense").to_numpy()
    return np.column_stack([codes == code for code in np.unique(codes)]).astype(float), "roc_auc"


def _score(values: pl.Series, targets: Floats, metric: str) -> float:
    """Learn the mean target of each value, or bin of numbers, on even rows, and score it on odd rows."""
    bins = _binned(values)
    even, odd = np.arange(len(bins)) % 2 == 0, np.arange(len(bins)) % 2 == 1
    counts = np.bincount(bins[even], minlength=bins.max() + 1)
    scores = []
    for target in targets.T:
        mean = target[even].mean()
        sums = np.bincount(bins[even], weights=target[even], minlength=len(counts))
        learned = np.divide(sums, counts, out=np.full(len(sums), mean), where=counts > 0)
        predicted, truth = learned[bins[odd]], target[odd]
        if metric == "r2":
            spread = ((truth - truth.mean()) ** 2).sum()
            scores.append(1 - ((truth - predicted) ** 2).sum() / spread if spread else 0.0)
        elif min(_rarer(target[even]), _rarer(truth)) >= _MIN_ROWS_OF_A_CLASS:
            scores.append(_roc_auc(predicted, truth))
    return float(np.mean(scores)) if scores else 0.0


def _rarer(truth: Floats) -> float:
    return min(float(truth.sum()), len(truth) - float(truth.sum()))


def _roc_auc(predicted: Floats, truth: Floats) -> float:
    positive, negative = truth.sum(), len(truth) - truth.sum()
    ranks = pl.Series(predicted).rank().to_numpy()
    return float((ranks[truth == 1].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _binned(values: pl.Series) -> NDArray[np.int64]:
    """Encode the values as integers; many distinct numbers or times are put into bins of equal row count."""
    dtype, bins = values.dtype, min(_MAX_BINS, len(values) // _ROWS_OF_A_BIN)
    if (dtype.is_numeric() or dtype.is_temporal()) and values.n_unique() > bins:
        present = len(values) - values.null_count()
        values = (values.rank("min") * bins / (present + 1)).floor()
    return (values.rank("dense").fill_null(0)).cast(pl.Int64).to_numpy()


def _parts(sample: pl.DataFrame, features: Sequence[str], label: str) -> list[str]:
    """Return the columns whose weighted sum or product is the label, the largest part first."""
    numeric = [
        name
        for name in features
        if sample[name].dtype.is_numeric() and sample[name].null_count() == 0 and sample[name].n_unique() > 1
    ]
    truth = np.asarray(sample[label].cast(pl.Float64).to_numpy(), float)
    if not numeric or len(numeric) > _MAX_NUMBERS or len(truth) < 4 * (len(numeric) + 1):
        return []
    matrix = np.column_stack([sample[name].cast(pl.Float64).to_numpy() for name in numeric])
    parts = _combination(matrix, truth)
    above = (matrix > 0).all(axis=0)
    if not parts and above.any() and (truth > 0).all():
        places = np.flatnonzero(above)
        parts = [int(places[part]) for part in _combination(np.log(matrix[:, above]), np.log(truth))]
    return [numeric[part] for part in parts[:_MAX_NAMED]]


def _combination(matrix: Any, truth: Floats) -> list[int]:
    if not (np.isfinite(matrix).all() and np.isfinite(truth).all()):
        return []
    scale = matrix.std(axis=0)
    scaled = (matrix - matrix.mean(axis=0)) / np.where(scale > 0, scale, 1)
    centred = truth - truth.mean()
    weights = np.linalg.lstsq(scaled[::2], centred[::2], rcond=None)[0]
    off = centred[1::2] - scaled[1::2] @ weights
    spread = (centred[1::2] ** 2).sum()
    if not spread or (off**2).sum() > _COMPUTED * spread:
        return []
    order = np.argsort(-np.abs(weights), kind="stable")
    return [int(place) for place in order if abs(weights[place]) > 1e-3 * truth.std()]
