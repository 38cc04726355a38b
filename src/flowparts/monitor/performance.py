"""Performance of a served model on predictions whose labels have arrived, by window and slice."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import polars as pl

from flowparts import models, tables
from flowparts.evaluate import directions, evaluation, metrics
from flowparts.monitor import changes, labels, windows
from flowparts.monitor.measurements import Measurement

_RESAMPLES = 200


@dataclass(frozen=True)
class Source:
    """What a model predicts, and how well it did on its validation rows.

    Attributes:
        task: "classification" or "regression".
        label: Column of the true values.
        classes: The model's classes; None for a regression.
        positive: Which of two classes is the positive one.
        reference: The metrics on the validation rows.
    """

    task: str
    label: str
    classes: list[Any] | None
    positive: Any
    reference: Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """The metric on some rows.

    Attributes:
        name: The start of a window in ISO 8601 (UTC), or the value of a slice column.
        rows: Rows with a label.
        score: The metric; None if the rows are too few, or the metric is undefined on them.
        low: Lower end of its bootstrap interval.
        high: Upper end.
    """

    name: str
    rows: int
    score: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Performance:
    """Result of `measure`.

    Attributes:
        metric: The metric.
        confidence: Confidence of each interval.
        predictions: Predictions in the log, without the repeated ones.
        repeated: Rows of the log that repeat a prediction.
        early_labels: Labels that are older than their predictions; see `labels.Joined`.
        overall: All rows that have a label.
        windows: The metric in each window, in the order of time.
        slices: By column, the metric for each of its values, the worst first.
        changes: Names of the windows in which a new level begins.
        since_change: All rows since the last change.
        reference: The metric on the validation rows, to compare with; None if unknown.
        degraded: Whether the newest window or all rows since the last change are worse than the reference.
        reason: Reason for the verdict, in a sentence.
    """

    metric: str
    confidence: float
    predictions: int
    repeated: int
    early_labels: int
    overall: Measured
    windows: Sequence[Measured]
    slices: Mapping[str, Sequence[Measured]]
    changes: Sequence[str]
    since_change: Measured
    reference: float | None
    degraded: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def source(model: str | Path) -> Source:
    """Read from a model directory what the model predicts."""
    described = models.metadata(model)
    reference = {
        name: float(value)
        for name, value in described.get("validation", {}).items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    return Source(
        described["task"],
        described["label"],
        described["classes"],
        described.get("positive_class"),
        reference,
    )


def measure(
    joined: labels.Joined,
    of: Source,
    metric: str,
    time_column: str | None,
    window_hours: float,
    slice_columns: Sequence[str] = (),
    minimum_rows: int = 50,
    tolerance: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> Performance:
    """Measure labelled predictions, overall, in windows of time and by slice.

    A model counts as degraded if the interval of the newest window, or of all rows since the last change of
    level, lies on the worse side of the reference by more than the tolerance. These are two looks, so each
    interval has the confidence 1 - (1 - confidence) / 2 (Bonferroni).

    Args:
        joined: Predictions with labels, as `labels.join` returns them.
        of: What the model predicts.
        metric: The metric.
        time_column: Column of timestamps, in UTC; None for a single window.
        window_hours: Length of a window; windows start at multiples of it since 1970.
        slice_columns: Columns to measure by.
        minimum_rows: Labelled rows that a window or slice needs to be measured.
        tolerance: How much worse than the reference is accepted, in the metric's unit.
        confidence: Confidence of the verdict.
        seed: Seed of the resampling.

    Raises:
        ValueError: An option can't be right, or there are too many windows.
    """
    directions.require_fitting(metric, of.task)
    metrics.check_bootstrap(_RESAMPLES, confidence)
    windows.require_length(window_hours)
    check_tolerance(tolerance)
    tables.require_columns(joined.rows, slice_columns, "slice column")
    confidence = 1 - (1 - confidence) / 2
    scorer = _Scorer(of, metric, minimum_rows, confidence, seed)
    parts = windows.parts(joined.rows, time_column, window_hours)
    rows = pl.concat(parts.values())
    measured = [scorer.measured(name, part) for name, part in parts.items()]
    known = [number for number, window in enumerate(measured) if window.score is not None]
    scores = [measured[number].score or 0.0 for number in known]
    errors = [_error(measured[number], confidence) for number in known]
    places = [known[place] for place in changes.find(scores, errors)]
    since = pl.concat(list(parts.values())[places[-1] if places else 0 :])
    slices = {
        name: _worst_first(
            [
                scorer.measured(value, rows.filter(pl.Series(mask)))
                for value, mask in evaluation.groups(rows[name])
            ],
            metric,
        )
        for name in slice_columns
    }
    found = Performance(
        metric,
        confidence,
        joined.predictions,
        joined.repeated,
        joined.early_labels,
        scorer.measured("all", rows),
        measured,
        slices,
        [measured[place].name for place in places],
        scorer.measured("since the last change", since),
        of.reference.get(metric),
        False,
        "",
    )
    degraded, reason = _verdict(found, tolerance)
    return replace(found, degraded=degraded, reason=reason)


def check_tolerance(tolerance: float) -> None:
    """Raise ValueError unless a tolerance is finite and at least 0."""
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance is {tolerance:g}; it must be a number of at least 0")


def measurements(found: Performance) -> list[Measurement]:
    """Return the measurements for publish_metrics: of the newest window, all rows, and each slice."""
    of = {"metric": found.metric}
    results = [
        Measurement("flowparts_performance_labelled_ratio", found.overall.rows / found.predictions, {},
                    "Fraction of the logged predictions whose label has arrived"),
        Measurement("flowparts_performance_degraded", float(found.degraded), of,
                    "Whether the model is worse than its reference"),
    ]  # fmt: skip
    parts = [("overall", found.overall)]
    parts += [("newest window", window) for window in found.windows[-1:]]
    for part, measured in parts:
        if measured.score is not None:
            text = "The metric on predictions whose labels have arrived"
            results.append(Measurement("flowparts_performance", measured.score, {**of, "rows": part}, text))
    for column, values in found.slices.items():
        for each in values:
            if each.score is not None:
                labels = {**of, "column": column, "value": each.name}
                results.append(
                    Measurement("flowparts_performance_slice", each.score, labels, "The metric on a slice")
                )
    return results


@dataclass(frozen=True)
class _Scorer:
    of: Source
    metric: str
    minimum_rows: int
    confidence: float
    seed: int

    def measured(self, name: str, rows: pl.DataFrame) -> Measured:
        """Measure some rows; there is no score if they are too few or the metric is undefined on them."""
        if len(rows) < self.minimum_rows:
            return Measured(name, len(rows))
        of, truth = self.of, rows[self.of.label]
        score = metrics.score(of.task, truth, rows, of.classes, of.positive).get(self.metric)
        if score is None:
            return Measured(name, len(rows))
        intervals = metrics.bootstrap_intervals(
            of.task,
            truth,
            rows,
            of.classes,
            _RESAMPLES,
            self.confidence,
            self.seed,
            of.positive,
            [self.metric],
        )
        low, high = intervals.get(self.metric, (None, None))
        return Measured(name, len(rows), score, low, high)


def _error(window: Measured, confidence: float) -> float:
    """Return the standard error of a window's score, from the width of its interval."""
    if window.low is None or window.high is None:
        return 0.0
    return (window.high - window.low) / (2 * NormalDist().inv_cdf((1 + confidence) / 2))


def _worst_first(found: list[Measured], metric: str) -> list[Measured]:
    sign = 1 if directions.higher_is_better(metric) else -1
    return sorted(found, key=lambda each: (each.score is None, sign * (each.score or 0.0)))


def _verdict(found: Performance, tolerance: float) -> tuple[bool, str]:
    if found.overall.score is None:
        return False, (
            f"{found.metric} can't be measured on the {found.overall.rows:,} predictions that have a label"
        )
    if found.reference is None:
        return False, f"there is no reference to compare {found.metric} {found.overall.score:.4g} with"
    higher = directions.higher_is_better(found.metric)
    bound = found.reference - tolerance if higher else found.reference + tolerance
    newest = next((window for window in reversed(found.windows) if window.score is not None), None)
    level = "since the last change" if found.changes else "on all rows"
    for what, part in ((level, found.since_change), ("in the newest window", newest)):
        if part is None or part.score is None or part.low is None or part.high is None:
            continue
        if part.high < bound if higher else part.low > bound:
            return True, (
                f"{found.metric} {what} is {part.score:.4g} ({part.low:.4g} to {part.high:.4g}, "
                f"{part.rows:,} rows), worse than the reference {found.reference:.4g}"
                + (f" by more than {tolerance:g}" if tolerance else "")
            )
    part = found.since_change if found.since_change.score is not None else found.overall
    return False, f"{found.metric} is {part.score:.4g}, not worse than the reference {found.reference:.4g}"
