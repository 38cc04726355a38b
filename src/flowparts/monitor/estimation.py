"""Estimate a served classifier's metrics before labels arrive.

Confidence-based estimation: if probabilities are calibrated, they say how often the predictions are right.
A row that is class k with probability p counts as p of a row of class k, which gives the expected confusion
matrix and from it every metric. This holds while only the distribution of the rows changes, within the range
of the reference. A new relation between rows and classes (concept drift) can't be seen without labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from flowparts import tables
from flowparts.evaluate import directions, metrics
from flowparts.monitor import windows
from flowparts.monitor.measurements import Measurement
from flowparts.monitor.performance import Source, check_tolerance

Floats = NDArray[np.float64]
_DRAWS = 200
# More rows don't improve the calibration, which is fitted again for each draw.
_MOST_REFERENCE_ROWS = 50_000
_FEWEST_OF_A_CLASS = 10


@dataclass(frozen=True)
class Estimate:
    """The expected value of a metric, and an interval for the measured one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Window:
    """The estimates for some rows.

    Attributes:
        name: The start of the window in ISO 8601 (UTC), or "all".
        rows: Number of its predictions.
        metrics: Estimate of each metric; empty where the rows are too few.
    """

    name: str
    rows: int
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Check:
    """An estimate compared with the metric measured on the labelled rows of a window.

    Attributes:
        name: The window.
        rows: Number of its labelled rows, without those that the calibration was fitted on.
        estimate: The estimate for these rows.
        measured: The metric with their labels.
    """

    name: str
    rows: int
    estimate: Estimate
    measured: float

    @property
    def inside(self) -> bool:
        """Whether the measured metric lies in the estimate's interval."""
        return self.estimate.low <= self.measured <= self.estimate.high


@dataclass(frozen=True)
class Estimation:
    """Result of `estimate`.

    Attributes:
        metric: The metric of the verdict.
        confidence: Nominal coverage of the intervals.
        classes: The model's classes as text.
        reference_rows: Number of labelled rows that the calibration was fitted on.
        calibration_error: Expected calibration error of the model's own probabilities on these rows, the
            mean over the classes.
        windows: The estimates by time.
        confusion: Expected confusion matrix of the newest window that has estimates; true class by row.
        checks: Past windows that have labels.
        error: Mean absolute difference of estimate and measured metric over the checks; None without any.
        reference: The score on the validation rows, to compare with; None if unknown.
        degraded: Whether the newest estimate is worse than the reference.
        reason: Reason for the verdict, in a sentence.
    """

    metric: str
    confidence: float
    classes: Sequence[str]
    reference_rows: int
    calibration_error: float
    windows: Sequence[Window]
    confusion: Sequence[Sequence[float]]
    checks: Sequence[Check]
    error: float | None
    reference: float | None
    degraded: bool
    reason: str

    @property
    def newest(self) -> Window | None:
        """The newest window in which the metric could be estimated."""
        return next((each for each in reversed(self.windows) if self.metric in each.metrics), None)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def require_classifier(of: Source) -> None:
    """Raise ValueError for a regression, whose predictions don't say how far off they may be."""
    if of.task != "classification":
        raise ValueError(
            "the model is a regression, whose predictions don't say how far off they may be, so its metrics "
            "can't be estimated without labels; use measure_performance once labels arrive"
        )


def predictions(log: pl.LazyFrame, time_column: str | None) -> pl.DataFrame:
    """Return the predictions of a log with their probabilities and times.

    Raises:
        ValueError: A column is missing, or the time column holds no timestamps.
    """
    tables.require_columns(log, ["prediction"], "column of the prediction log")
    if time_column:
        tables.require_times(log, time_column, "time column of the prediction log")
    wanted = ["prediction", *([time_column] if time_column else [])]
    wanted += [name for name in log.collect_schema().names() if name.startswith("probability_")]
    found = tables.collect(log.select(map(tables.column, wanted)))
    if found.is_empty():
        raise ValueError("the prediction log has no rows")
    return found


def labelled(reference: pl.LazyFrame, label: str) -> pl.DataFrame:
    """Return the predictions of the reference that have a label.

    Raises:
        ValueError: There are no rows, or a column is missing; the message says how to make such a table.
    """
    tables.require_rows(reference, "the reference")
    names = reference.collect_schema().names()
    if "prediction" not in names:
        raise ValueError(
            "the reference holds no predictions; score its rows with batch_predict, which keeps the label"
        )
    tables.require_columns(reference, [label], "label column of the reference")
    wanted = [label, *(name for name in names if name == "prediction" or name.startswith("probability_"))]
    return tables.collect(
        reference.select(map(tables.column, wanted)).filter(tables.column(label).is_not_null())
    )


def estimate(
    log: pl.DataFrame,
    of: Source,
    metric: str,
    reference: pl.DataFrame | None,
    labelled: pl.DataFrame | None,
    time_column: str | None,
    window_hours: float = 24.0,
    minimum_rows: int = 50,
    tolerance: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimation:
    """Estimate the metrics of a classifier's predictions, and check the estimates where labels are known.

    The calibration is isotonic regression, for more than two classes one class against the rest, normalised.
    An interval covers two uncertainties: calibrations are fitted on resamples of the reference, and labels
    are drawn from the calibrated probabilities. The model counts as degraded if the newest interval, widened
    by the mean error of past estimates, lies on the worse side of the reference score by more than the
    tolerance.
    Source of the calibration: Zadrozny & Elkan 2002, https://doi.org/10.1145/775047.775151.

    Args:
        log: Predictions with their probabilities.
        of: What the model predicts.
        metric: The metric of the verdict and the checks.
        reference: Labelled predictions to fit the calibration on; if None, the older half of the windows of
            `labelled` is used, and the newer half is checked.
        labelled: Predictions of the log whose labels have arrived; None for none.
        time_column: Column of timestamps, in UTC; None for a single window.
        window_hours: Length of a window.
        minimum_rows: Minimum rows of a window.
        tolerance: How much worse than the reference score is accepted, in the metric's unit.
        confidence: Nominal coverage of the intervals.
        seed: Seed of the draws.

    Raises:
        ValueError: The model is a regression, an option can't be right, neither reference nor labels are
            given, or a class has too few labelled rows.
    """
    require_classifier(of)
    directions.require_fitting(metric, of.task)
    metrics.check_bootstrap(_DRAWS, confidence)
    windows.require_length(window_hours)
    check_tolerance(tolerance)
    parts = windows.parts(log, time_column, window_hours)
    known = {} if labelled is None else windows.parts(labelled, time_column, window_hours)
    if reference is None:
        if not known:
            raise ValueError("give a reference of labelled predictions, or labels of past predictions")
        older = list(known)[: (len(known) + 1) // 2]
        reference = pl.concat([known.pop(name) for name in older])
    classes = of.classes or []
    calibration = _Calibration.of(reference, of.label, classes, seed)
    known = {name: rows for name, rows in known.items() if len(rows) >= minimum_rows}
    estimating = [rows for rows in parts.values() if len(rows) >= minimum_rows]
    estimates = _estimates([*estimating, *known.values()], of, calibration, confidence, seed)
    of_windows = iter(estimates[: len(estimating)])
    found = [
        Window(name, len(rows), next(of_windows) if len(rows) >= minimum_rows else {})
        for name, rows in parts.items()
    ]
    checks = []
    for (name, rows), expected in zip(known.items(), estimates[len(estimating) :], strict=True):
        measured = metrics.score(of.task, rows[of.label], rows, classes, of.positive)
        if metric in measured and metric in expected:
            checks.append(Check(name, len(rows), expected[metric], measured[metric]))
    off = [abs(check.measured - check.estimate.value) for check in checks]
    estimation = Estimation(
        metric,
        confidence,
        [str(each) for each in classes],
        calibration.rows,
        calibration.error,
        found,
        [],
        checks,
        float(np.mean(off)) if off else None,
        of.reference.get(metric),
        False,
        "",
    )
    newest = estimation.newest
    confusion = calibration.confusion(parts[newest.name]) if newest else []
    degraded, reason = _verdict(estimation, tolerance, minimum_rows)
    return replace(estimation, confusion=confusion, degraded=degraded, reason=reason)


def measurements(found: Estimation) -> list[Measurement]:
    """Return the measurements for publish_metrics: newest estimates, verdict and error of past estimates."""
    of = {"metric": found.metric}
    results = [
        Measurement("flowparts_estimate_degraded", float(found.degraded), of,
                    "Whether the estimated metric is worse than the reference"),
    ]  # fmt: skip
    if found.error is not None:
        text = "Mean absolute error of past estimates, by the labels that arrived"
        results.append(Measurement("flowparts_estimate_error", found.error, of, text))
    for name, each in found.newest.metrics.items() if found.newest else ():
        text = "The metric estimated without labels, in the newest window"
        results.append(Measurement("flowparts_estimated_performance", each.value, {"metric": name}, text))
    return results


@dataclass(frozen=True)
class _Calibration:
    probability: Floats  # (rows, classes) of the reference
    truth: NDArray[np.intp]
    classes: Sequence[Any]

    @classmethod
    def of(cls, reference: pl.DataFrame, label: str, classes: Sequence[Any], seed: int) -> "_Calibration":
        if len(reference) > _MOST_REFERENCE_ROWS:
            reference = reference.sample(_MOST_REFERENCE_ROWS, seed=seed)
        truth = metrics.encode(reference[label], classes)
        rows = np.bincount(truth, minlength=len(classes))
        if rows.min() < _FEWEST_OF_A_CLASS:
            raise ValueError(
                f"class {classes[int(rows.argmin())]!r} has {rows.min()} of the {len(truth):,} labelled rows "
                f"that the calibration is fitted on; it needs at least {_FEWEST_OF_A_CLASS} of each class"
            )
        return cls(metrics.probabilities(reference, classes), truth, classes)

    @property
    def rows(self) -> int:
        return len(self.truth)

    @property
    def error(self) -> float:
        columns = enumerate(self.probability.T)
        return float(np.mean([metrics.calibration(self.truth == k, each).error for k, each in columns]))

    def learned(self, weights: Floats) -> list[IsotonicRegression]:
        """Fit the calibration of the second of two classes, or of each class, with weighted rows."""
        chosen = weights > 0
        return [
            IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(
                self.probability[chosen, k], self.truth[chosen] == k, weights[chosen]
            )
            for k in self._learned_classes()
        ]

    def apply(self, learned: Sequence[IsotonicRegression], probability: Floats) -> Floats:
        """Return calibrated probabilities (rows, classes); each row sums to 1."""
        columns = zip(learned, self._learned_classes(), strict=True)
        found = np.column_stack([each.predict(probability[:, k]) for each, k in columns])
        if len(self.classes) == 2:
            return np.column_stack([1 - found, found])
        total = found.sum(axis=1, keepdims=True)
        # If every class is calibrated to 0, the model's own probabilities are kept.
        found = np.where(total > 0, found, probability)
        return np.asarray(found / found.sum(axis=1, keepdims=True))

    def confusion(self, rows: pl.DataFrame) -> list[list[float]]:
        """Return the expected confusion matrix of some predictions, true class by row."""
        calibrated = self.apply(self.learned(np.ones(self.rows)), metrics.probabilities(rows, self.classes))
        given = metrics.encode(rows["prediction"], self.classes, "prediction")
        return [
            [float(column[given == k].sum()) for k in range(len(self.classes))] for column in calibrated.T
        ]

    def _learned_classes(self) -> Sequence[int]:
        return [1] if len(self.classes) == 2 else range(len(self.classes))


def _estimates(
    parts: Sequence[pl.DataFrame], of: Source, calibration: _Calibration, confidence: float, seed: int
) -> list[dict[str, Estimate]]:
    classes = calibration.classes
    draw = np.random.default_rng(seed)
    probabilities = [metrics.probabilities(part, classes) for part in parts]
    scorers = [metrics.scorer(part, classes, of.positive) for part in parts]
    once = calibration.learned(np.ones(calibration.rows))
    expected = [
        score(calibration.apply(once, probability))
        for score, probability in zip(scorers, probabilities, strict=True)
    ]
    drawn: list[dict[str, list[float]]] = [{name: [] for name in each} for each in expected]
    for _ in range(_DRAWS):
        resample = draw.integers(0, calibration.rows, calibration.rows)
        learned = calibration.learned(np.bincount(resample, minlength=calibration.rows).astype(np.float64))
        for score, probability, values in zip(scorers, probabilities, drawn, strict=True):
            calibrated = calibration.apply(learned, probability)
            below = calibrated.cumsum(axis=1) <= draw.random((len(calibrated), 1))
            classed = np.minimum(below.sum(axis=1), len(classes) - 1)
            for name, value in score(np.eye(len(classes))[classed]).items():
                if name in values:
                    values[name].append(value)
    return [
        {
            name: _interval(value, values[name], confidence)
            for name, value in each.items()
            if 2 * len(values[name]) >= _DRAWS
        }
        for each, values in zip(expected, drawn, strict=True)
    ]


def _interval(value: float, drawn: Sequence[float], confidence: float) -> Estimate:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def _verdict(found: Estimation, tolerance: float, minimum_rows: int) -> tuple[bool, str]:
    newest = found.newest
    if newest is None:
        most = max(each.rows for each in found.windows)
        if most < minimum_rows:
            return False, f"no window has {minimum_rows} predictions; the largest has {most}"
        return False, f"{found.metric} can't be estimated, as the predictions leave it undefined"
    each = newest.metrics[found.metric]
    expected = (
        f"{found.metric} in the newest window is estimated at {each.value:.4g} ({each.low:.4g} to "
        f"{each.high:.4g}, {newest.rows:,} predictions)"
    )
    if found.reference is None:
        return False, f"{expected}; there is no reference to compare it with"
    margin = tolerance + (found.error or 0.0)
    higher = directions.higher_is_better(found.metric)
    worse = each.high + margin < found.reference if higher else each.low - margin > found.reference
    beyond = [f"the tolerance of {tolerance:g}"] if tolerance else []
    beyond += [f"the mean error of past estimates, {found.error:.2g}"] if found.error else []
    beyond_error = f" by more than {' and '.join(beyond)}" if beyond else ""
    if worse:
        return True, f"{expected}, worse than the reference {found.reference:.4g}{beyond_error}"
    return False, f"{expected}, not worse than the reference {found.reference:.4g}{beyond_error}"
