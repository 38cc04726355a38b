"""Calibrate probabilities, and choose the threshold of a decision, on rows that no estimator was trained on.

Both are learned from predictions for held-out rows, such as those of a cross-validation, and are applied to
the estimator that is then trained on all rows, as in scikit-learn's `CalibratedClassifierCV(ensemble=False)`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowparts.models.adjusted import FLOOR, CalibratedProbabilities, DecisionThreshold
from flowparts.util import names

NONE, TEMPERATURE, PLATT, ISOTONIC = "none", "temperature", "platt", "isotonic"
METHODS = (TEMPERATURE, PLATT, ISOTONIC)
# These keep the order of rows, and so the ROC AUC of two classes; isotonic regression makes many rows equal.
INCREASING = (TEMPERATURE, PLATT)
# Minimum rows of the rarer class for isotonic regression: with fewer it overfits.
ISOTONIC_ROWS = 1_000
# Minimum distance of its knots in log-odds: steeper steps would magnify the rounding of 32-bit floats.
_KNOTS_APART = 0.1
_SLOPES = (0.05, 20.0)
_PARTS = 5

_METRICS = ("balanced_accuracy", "f1", "mcc")
_COSTS = ("false_positive_cost", "false_negative_cost")
_LEAST = ("min_recall", "min_precision")

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Calibration:
    """How probabilities are calibrated.

    Attributes:
        method: "none", "temperature", "platt" or "isotonic".
        parameters: Those of `CalibratedProbabilities`; empty for "none".
        log_losses: Of each method, on rows that it wasn't fitted on.
        probabilities: The calibrated probabilities of the held-out rows, each fitted on the others.
    """

    method: str
    parameters: dict[str, Any]
    log_losses: dict[str, float]
    probabilities: Floats

    def apply(self, estimator: Any) -> Any:
        """Return a fitted classifier with its probabilities calibrated."""
        return CalibratedProbabilities(estimator, **self.parameters) if self.parameters else estimator


def calibrate(
    probabilities: Floats,
    truth: Codes,
    parts: Codes | None = None,
    weights: Floats | None = None,
    allowed: Sequence[str] = METHODS,
) -> Calibration:
    """Choose among no calibration, temperature, Platt's and isotonic by the log loss on rows left out.

    Temperature scaling (Guo et al. 2017, https://arxiv.org/abs/1706.04599) and Platt's method (1999) are
    fitted on the log-probabilities. Platt's and isotonic are for two classes, isotonic for at least 1,000
    rows of each. A method is chosen only if it lowers the log loss by more than a standard error, so the
    result is never worse on these rows.

    Args:
        probabilities: Of held-out rows: rows, classes.
        truth: Place of each row's class.
        parts: Number of the part of each row; a method is fitted on all parts but one. Without it, or with a
            single part, the rows are dealt out to five parts.
        weights: Sample weights, at least two of them more than 0; equal if not given.
        allowed: The methods to choose from.
    """
    weights = np.ones(len(truth)) if weights is None else weights
    if parts is None or parts.min() == parts.max():
        # Deals out the rows of each class, and those with a weight, evenly.
        parts = np.argsort(np.lexsort((truth, weights > 0)), kind="stable") % _PARTS
    found = {NONE: probabilities}
    possible = _methods(truth, probabilities.shape[1])
    methods = {name: fit for name, fit in possible.items() if name in allowed}
    for method, fit in methods.items():
        calibrated = probabilities.copy()
        for part in np.unique(parts):
            held_out = parts == part
            others = ~held_out
            parameters = fit(probabilities[others], truth[others], weights[others])
            fitted = CalibratedProbabilities(None, **parameters)
            calibrated[held_out] = fitted.calibrated(probabilities[held_out])
        found[method] = calibrated
    losses = {method: _log_losses(each, truth) for method, each in found.items()}
    means = {method: float(np.average(each, weights=weights)) for method, each in losses.items()}
    best = min(means, key=means.__getitem__)
    gains = losses[NONE] - losses[best]
    gain = np.average(gains, weights=weights)
    # The standard error of a weighted mean; with equal weights, the standard deviation over sqrt(rows).
    if gain <= np.sqrt((weights**2 * (gains - gain) ** 2).sum()) / weights.sum():
        best = NONE
    parameters = {} if best == NONE else methods[best](probabilities, truth, weights)
    return Calibration(best, parameters, means, found[best])


def _log_losses(probabilities: Floats, truth: Codes) -> Floats:
    smallest = np.finfo(np.float64).eps
    found: Floats = -np.log(probabilities[np.arange(len(truth)), truth].clip(smallest, 1 - smallest))
    return found


def _methods(truth: Codes, classes: int) -> dict[str, Callable[[Floats, Codes, Floats], dict[str, Any]]]:
    """Return the methods that there are enough rows for, the simplest first."""
    if classes > 2:
        return {TEMPERATURE: _temperature}
    enough = np.bincount(truth, minlength=2).min() >= ISOTONIC_ROWS
    return {TEMPERATURE: _temperature, PLATT: _platt, **({ISOTONIC: _isotonic} if enough else {})}


def _temperature(probabilities: Floats, truth: Codes, weights: Floats) -> dict[str, Any]:
    from scipy.optimize import minimize_scalar

    logs, rows = np.log(probabilities + FLOOR), np.arange(len(truth))

    def loss(log_slope: float) -> float:
        scaled = math.exp(log_slope) * logs
        highest = scaled.max(axis=1)
        totals = highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
        return float(np.average(totals - scaled[rows, truth], weights=weights))

    found = minimize_scalar(loss, bounds=tuple(map(math.log, _SLOPES)), method="bounded")
    return {"slope": math.exp(float(found.x))}


def _platt(probabilities: Floats, truth: Codes, weights: Floats) -> dict[str, Any]:
    from scipy.optimize import minimize
    from scipy.special import expit

    odds, positive, shares = _log_odds(probabilities), truth == 1, weights / weights.sum()

    def loss(point: Floats) -> tuple[float, Floats]:
        scores = point[0] * odds + point[1]
        errors = expit(scores) - positive
        value = shares @ (np.logaddexp(0.0, scores) - positive * scores)
        return float(value), np.array([shares @ (errors * odds), shares @ errors])

    found = minimize(loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=[_SLOPES, (-20.0, 20.0)])
    return {"slope": float(found.x[0]), "intercepts": [0.0, float(found.x[1])]}


def _isotonic(probabilities: Floats, truth: Codes, weights: Floats) -> dict[str, Any]:
    from sklearn.isotonic import IsotonicRegression

    odds, least = _log_odds(probabilities), 1 / (len(truth) + 2)
    steps = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    steps.fit(odds, truth, sample_weight=weights)
    low, high = float(odds.min()), float(odds.max())
    count = max(2, int((high - low) / _KNOTS_APART))
    places = np.linspace(low, max(high, low + _KNOTS_APART), count)
    return {"knots": [places.tolist(), steps.predict(places).tolist()]}


def _log_odds(probabilities: Floats) -> Floats:
    logs = np.log(probabilities + FLOOR)
    difference: Floats = logs[:, 1] - logs[:, 0]
    return difference


@dataclass(frozen=True)
class Threshold:
    """The probability of the positive class from which it is predicted.

    Attributes:
        value: The probability.
        positive: Place of the positive class among the labels.
        rule: The rule that it was chosen by, in words.
        before: The metrics of the rule with a threshold of 0.5.
        after: The same metrics with this threshold.
    """

    value: float
    positive: int
    rule: str
    before: dict[str, float]
    after: dict[str, float]

    def apply(self, estimator: Any) -> Any:
        """Return a fitted classifier that predicts by the threshold."""
        return DecisionThreshold(estimator, self.value, self.positive)


def check_threshold(rule: Mapping[str, Any], task: str) -> None:
    """Raise ValueError unless a threshold can be chosen by a rule.

    Args:
        rule: As `choose_threshold` takes it.
        task: "classification" or "regression".
    """
    ways = (
        "give {'metric': 'f1'}, {'false_positive_cost': 1, 'false_negative_cost': 5}, {'min_recall': 0.9} or "
        "{'min_precision': 0.9}"
    )
    if task != "classification":
        raise ValueError(f"threshold {dict(rule)!r} is for classification; the task is {task}")
    for key in rule:
        if key not in ("metric", *_COSTS, *_LEAST):
            raise ValueError(f"threshold has the unknown key {key!r}; {ways}")
    if set(rule) not in ({"metric"}, set(_COSTS), *({name} for name in _LEAST)):
        raise ValueError(f"threshold {dict(rule)!r} doesn't say what to choose by; {ways}")
    if (metric := rule.get("metric", _METRICS[0])) not in _METRICS:
        raise ValueError(names.unknown("threshold metric", metric, _METRICS))
    for key, value in rule.items():
        if key == "metric":
            continue
        number = not isinstance(value, bool) and isinstance(value, int | float)
        if key in _COSTS and not (number and 0 < value < math.inf):
            raise ValueError(f"{key} of threshold must be a number more than 0, not {value!r}")
        if key in _LEAST and not (number and 0 < value <= 1):
            raise ValueError(f"{key} of threshold must be a number more than 0 and at most 1, not {value!r}")


def choose_threshold(
    probability: Floats,
    is_positive: npt.NDArray[np.bool_],
    rule: Mapping[str, Any],
    positive: int,
    weights: Floats | None = None,
) -> Threshold:
    """Choose the threshold that is best for held-out rows; of equally good ones, the one nearest 0.5.

    Args:
        probability: Of the positive class, for held-out rows.
        is_positive: Whether the row is of that class; some that count must be, and some not.
        rule: `metric` (f1 of the positive class, balanced_accuracy or mcc); or `false_positive_cost` and
            `false_negative_cost`, whose mean is minimized; or `min_recall`, for the highest precision with at
            least that recall; or `min_precision`, for the highest recall with at least that precision.
        positive: Place of the positive class among the labels.
        weights: Sample weights; equal if not given.

    Raises:
        ValueError: No threshold reaches the precision.
    """
    weights = np.ones(len(probability)) if weights is None else weights
    order = np.argsort(-probability, kind="stable")
    falling = probability[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    # From no row to all rows positive; halfway between two probabilities, so rounding changes no prediction.
    distinct = falling[ends]
    highest = max((1.0 + distinct[0]) / 2, distinct[0] + 1e-6)
    edges = np.concatenate([[highest], (distinct[:-1] + distinct[1:]) / 2, [distinct[-1] / 2]])
    hits, alarms = (
        np.concatenate([[0.0], np.cumsum((weights * side)[order])[ends]])
        for side in (is_positive, ~is_positive)
    )
    positives, negatives = float(hits[-1]), float(alarms[-1])
    value, words = _criterion(rule, hits, alarms, positives, negatives)
    if not np.isfinite(value).any():
        raise ValueError(
            f"no threshold has a precision of {rule['min_precision']:g} on the held-out rows; the highest is "
            f"{float(_precision(hits, alarms).max()):.3g}"
        )
    best = np.flatnonzero(value == value.max())
    chosen = int(best[np.argmin(np.abs(edges[best] - 0.5))])
    half = int(np.searchsorted(-distinct, -0.5, side="right"))

    def described(place: int) -> dict[str, float]:
        recall, precision = hits[place] / positives, float(_precision(hits, alarms)[place])
        found = {"precision": precision, "recall": float(recall)}
        if "metric" in rule:
            return {str(rule["metric"]): float(value[place]), **found}
        return {"mean cost": -float(value[place]), **found} if set(rule) == set(_COSTS) else found

    return Threshold(float(edges[chosen]), positive, words, described(half), described(chosen))


def _precision(hits: Floats, alarms: Floats) -> Floats:
    found: Floats = np.divide(hits, hits + alarms, out=np.zeros_like(hits), where=hits + alarms > 0)
    return found


def _criterion(
    rule: Mapping[str, Any], hits: Floats, alarms: Floats, positives: float, negatives: float
) -> tuple[Floats, str]:
    """Return the value to maximize for each threshold, and the rule in words."""
    misses, rejected = positives - hits, negatives - alarms
    precision, recall = _precision(hits, alarms), hits / positives
    if least := rule.get("min_recall"):
        return np.where(recall >= least, precision, -np.inf), f"highest precision with recall {least:g}"
    if least := rule.get("min_precision"):
        return np.where(precision >= least, recall, -np.inf), f"highest recall with precision {least:g}"
    if "metric" not in rule:
        cost, miss = (float(rule[name]) for name in _COSTS)
        total = -(cost * alarms + miss * misses) / (positives + negatives)
        return total, f"lowest cost: {cost:g} for a false positive, {miss:g} for a false negative"
    if rule["metric"] == "f1":
        return 2 * hits / (2 * hits + alarms + misses), "highest f1 of the positive class"
    if rule["metric"] == "balanced_accuracy":
        return (recall + rejected / negatives) / 2, "highest balanced_accuracy"
    spread = np.sqrt((hits + alarms) * (rejected + misses) * positives * negatives)
    correlation = (hits * rejected - alarms * misses) / np.where(spread > 0, spread, 1.0)
    return correlation, "highest mcc"
