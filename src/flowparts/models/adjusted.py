"""Classifiers made of a fitted one: with calibrated probabilities, or with a decision threshold."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

Array = npt.NDArray[Any]

# Added to each probability before its logarithm is taken: keeps it finite, and its error in 32 bits small,
# without making different probabilities equal.
FLOOR = 1e-5


class _Adjusted(ClassifierMixin, BaseEstimator):
    """A classifier that holds a fitted one as its `estimator`, and has nothing to learn itself."""

    estimator: Any

    def fit(self, matrix: Array, labels: Array) -> Self:  # noqa: ARG002
        """Learn nothing; the adjustment is given."""
        return self

    @property
    def classes_(self) -> Array:
        """The labels, in the order of the probabilities."""
        classes: Array = self.estimator.classes_
        return classes

    def __sklearn_is_fitted__(self) -> bool:
        return True


class CalibratedProbabilities(_Adjusted):
    """A classifier whose probabilities are those of another one, calibrated.

    They are softmax(slope * log p + intercepts) of the probabilities p. With `knots`, which are for two
    classes, the probability of the second one is interpolated between them instead.

    Args:
        estimator: A fitted classifier with probabilities; it is held, not copied.
        slope: Factor of the logarithms: the inverse temperature.
        intercepts: Added to the logarithms, one for each class; zeros if not given.
        knots: Log-odds of the second class, rising, and its calibrated probabilities; two equally long lists.
    """

    def __init__(
        self,
        estimator: Any,
        slope: float = 1.0,
        intercepts: Sequence[float] | None = None,
        knots: Sequence[Sequence[float]] | None = None,
    ):
        self.estimator = estimator
        self.slope = slope
        self.intercepts = intercepts
        self.knots = knots

    def predict(self, matrix: Array) -> Array:
        """Return the most probable label of each row."""
        predicted: Array = np.asarray(self.classes_)[self.predict_proba(matrix).argmax(axis=1)]
        return predicted

    def predict_proba(self, matrix: Array) -> Array:
        """Return the calibrated probabilities: rows, classes."""
        return self.calibrated(np.asarray(self.estimator.predict_proba(matrix), dtype=float))

    def calibrated(self, probabilities: Array) -> Array:
        """Return the calibrated form of probabilities of the classifier: rows, classes."""
        logs = np.log(probabilities + FLOOR)
        if self.knots is None:
            scaled = self.slope * logs + np.asarray(self.intercepts or 0.0)
            powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
            found: Array = powers / powers.sum(axis=1, keepdims=True)
            return found
        odds, values = self.knots
        second = np.interp(logs[:, 1] - logs[:, 0], odds, values)
        return np.column_stack([1 - second, second])


class DecisionThreshold(_Adjusted):
    """A classifier of two labels that answers one of them from a given probability on, not from 0.5.

    Args:
        estimator: A fitted classifier with probabilities; it is held, not copied.
        threshold: The least probability of the positive class with which it is the answer.
        positive: Place of the positive class among the labels, 0 or 1.
    """

    def __init__(self, estimator: Any, threshold: float = 0.5, positive: int = 1):
        self.estimator = estimator
        self.threshold = threshold
        self.positive = positive

    def predict(self, matrix: Array) -> Array:
        """Return the positive label where it is probable enough, else the other one."""
        predicted: Array = np.asarray(self.classes_)[self.decide(self.predict_proba(matrix))]
        return predicted

    def predict_proba(self, matrix: Array) -> Array:
        """Return the probabilities of the classifier: rows, classes."""
        return np.asarray(self.estimator.predict_proba(matrix), dtype=float)

    def decide(self, probabilities: Array) -> Array:
        """Return the place of the answer among the labels for each row of probabilities."""
        decided = probabilities[:, self.positive] >= self.threshold
        return np.where(decided, self.positive, 1 - self.positive)


# What holds one fitted classifier as its `estimator`.
ADJUSTED = (CalibratedProbabilities, DecisionThreshold)
