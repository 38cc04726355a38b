"""Classifiers that wrap a fitted one, with calibrated probabilities or a decision threshold."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

Array = npt.NDArray[Any]

# Added to each probability before taking its logarithm: keeps it finite and its 32-bit error small, without
# making distinct probabilities equal.
FLOOR = 1e-5


class _Adjusted(ClassifierMixin, BaseEstimator):
    """A classifier that wraps a fitted one as `estimator` and learns nothing itself."""

    estimator: Any

    def fit(self, matrix: Array, labels: Array) -> Self:  # noqa: ARG002
        """Do nothing; the adjustment is given."""
        return self

    @property
    def classes_(self) -> Array:
        """The labels, in the order of the probabilities."""
        classes: Array = self.estimator.classes_
        return classes

    def __sklearn_is_fitted__(self) -> bool:
        return True


class CalibratedProbabilities(_Adjusted):
    """A classifier with the calibrated probabilities of another one.

    They are softmax(slope * log p + intercepts) of the probabilities p. With `knots`, which need two classes,
    the second class' probability is interpolated between them instead.

    Args:
        estimator: A fitted classifier with probabilities; it is held, not copied.
        slope: Factor of the logarithms: the inverse temperature.
        intercepts: Added to the logarithms, one per class; default: zeros.
        knots: Ascending log-odds of the second class and its calibrated probabilities, two lists of equal
            length.
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
        """Return calibrated probabilities for those of the classifier: rows, classes."""
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
    """A binary classifier that predicts the positive class from a given probability on, not from 0.5.

    Args:
        estimator: A fitted classifier with probabilities; it is held, not copied.
        threshold: Minimum probability of the positive class to predict it.
        positive: Index of the positive class among the labels, 0 or 1.
    """

    def __init__(self, estimator: Any, threshold: float = 0.5, positive: int = 1):
        self.estimator = estimator
        self.threshold = threshold
        self.positive = positive

    def predict(self, matrix: Array) -> Array:
        """Return the positive label if it is probable enough, else the other one."""
        predicted: Array = np.asarray(self.classes_)[self.decide(self.predict_proba(matrix))]
        return predicted

    def predict_proba(self, matrix: Array) -> Array:
        """Return the probabilities of the classifier: rows, classes."""
        return np.asarray(self.estimator.predict_proba(matrix), dtype=float)

    def decide(self, probabilities: Array) -> Array:
        """Return the index of the predicted label for each row of probabilities."""
        decided = probabilities[:, self.positive] >= self.threshold
        return np.where(decided, self.positive, 1 - self.positive)


# The wrappers of a fitted classifier.
ADJUSTED = (CalibratedProbabilities, DecisionThreshold)
