"""The metrics of the AutoML benchmarks, and how sure they are: bootstrap over the test rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 500
_SMALLEST = 1e-15
# Greater is better for this one only.
GREATER = "roc_auc"


@dataclass(frozen=True)
class Fold:
    """What a method predicted for the test rows of a fold.

    Attributes:
        truth: Class numbers, or the values of a regression.
        predicted: Probabilities, a column for each class, or numbers.
    """

    truth: Any
    predicted: Any


def score(fold: Fold, metric: str) -> float:
    """Return ROC AUC of the second class, log loss, or RMSE.

    Raises:
        ValueError: There isn't a finite prediction for each row.
    """
    if len(fold.predicted) != len(fold.truth):
        raise ValueError(f"{len(fold.predicted)} predictions for {len(fold.truth)} rows")
    if not np.isfinite(fold.predicted).all():
        raise ValueError("some predictions aren't finite")
    return _weighted(fold, metric)(np.ones(len(fold.truth)))


def resampled(folds: Sequence[Fold], metric: str) -> Any:
    """Return the mean over the folds of the metric, on rows drawn with replacement, `RESAMPLES` times.

    The same rows are drawn for each method, so the differences of two are paired.
    """
    found = np.zeros(RESAMPLES)
    for number, fold in enumerate(folds):
        random, rows, score_of = np.random.default_rng(number), len(fold.truth), _weighted(fold, metric)
        for at in range(RESAMPLES):
            counts = np.bincount(random.integers(0, rows, rows), minlength=rows)
            found[at] += score_of(counts) / len(folds)
    return found


def interval(values: Any) -> tuple[float, float]:
    """Return the 95 % interval of resampled values; a resample that lacks a class doesn't count."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def verdict(ours: Any, others: Any, metric: str) -> str:
    """Return "better", "worse" or "level": whether the 95 % interval of the difference lies beside 0."""
    low, high = interval(gain(ours, others, metric))
    return "better" if low > 0 else "worse" if high < 0 else "level"


def gain(ours: Any, others: Any, metric: str) -> Any:
    """Return how much better the first is than the second, in units of the metric."""
    return ours - others if metric == GREATER else others - ours


def _weighted(fold: Fold, metric: str) -> Callable[[Any], float]:
    if metric == "roc_auc":
        _, place = np.unique(fold.predicted[:, 1], return_inverse=True)

        def area(weights: Any) -> float:
            positive = np.bincount(place, weights * (fold.truth == 1))
            negative = np.bincount(place, weights * (fold.truth != 1))
            below = np.cumsum(negative) - negative / 2
            pairs = positive.sum() * negative.sum()
            return float((positive * below).sum() / pairs) if pairs else float("nan")

        return area
    if metric == "log_loss":
        shares = fold.predicted / fold.predicted.sum(axis=1, keepdims=True)
        each = -np.log(np.clip(shares[np.arange(len(fold.truth)), fold.truth], _SMALLEST, 1))
        return lambda weights: float(np.average(each, weights=weights))
    squares = (fold.predicted - fold.truth) ** 2
    return lambda weights: float(np.average(squares, weights=weights) ** 0.5)
