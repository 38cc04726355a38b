"""Metrics of predictions: point values, bootstrap intervals, paired comparison and curves.

Every metric supports weighted rows, so a bootstrap resample is a vector of how often each row was drawn:
nothing is copied or sorted again, and 500 resamples of 10,000 rows take less than a second. All returned
numbers are finite. Undefined metrics are left out: roc_auc, average_precision and mcc if the truth has a
single class, r2 if it has a single value, mape if it has a zero.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flowparts.evaluate.directions import PRIMARY as PRIMARY
from flowparts.evaluate.directions import higher_is_better as higher_is_better
from flowparts.evaluate.directions import require_fitting
from flowparts.util.names import listed

TASKS = tuple(PRIMARY)
MAX_CURVE_POINTS = 200
# The sum of squares of many such numbers still fits a float64.
_LARGEST = 1e150

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Difference(NamedTuple):
    """The result of a paired bootstrap of a challenger and a champion.

    Attributes:
        challenger: The challenger's score on all rows.
        champion: The champion's score on all rows.
        improvement: By how much the challenger is better; above 0 means better, whatever the metric's
            direction.
        low: Lower end of the improvement's percentile interval.
        high: Upper end of the improvement's percentile interval.
        probability_better: Fraction of the resamples in which the challenger is strictly better.
    """

    challenger: float
    champion: float
    improvement: float
    low: float
    high: float
    probability_better: float


class Curve(NamedTuple):
    """A curve reduced to fewer points; rows count as positive from each of the `thresholds` on."""

    x: list[float]
    y: list[float]
    thresholds: list[float]


class Calibration(NamedTuple):
    """Predicted against observed frequency, for non-empty bins of equal width of the probability.

    Attributes:
        predicted: Mean predicted probability of each bin.
        observed: Fraction of positives in each bin.
        rows: Rows in each bin.
        error: Expected calibration error: mean |predicted - observed| weighted by rows (Naeini et al. 2015,
            https://doi.org/10.1609/aaai.v29i1.9602).
    """

    predicted: list[float]
    observed: list[float]
    rows: list[int]
    error: float


def score(
    task: str,
    truth: pl.Series,
    predictions: pl.DataFrame,
    classes: Sequence[Any] | None,
    positive: Any = None,
) -> dict[str, float]:
    """Measure predictions against the truth.

    Classifiers: accuracy, balanced_accuracy (mean recall of the classes in the truth), precision, recall and
    f1 (unweighted means over the classes that occur, for two classes too), mcc (0 if the model predicts a
    single class), roc_auc and average_precision (two classes: of the positive one; more: unweighted mean of
    one class against the rest, over the classes in the truth), log_loss (natural logarithm), brier (two
    classes: squared error of the probability, 0 to 1; more: summed over the classes, 0 to 2). Regressors:
    rmse, mae and median_absolute_error in the label's unit, r2, mape (as a fraction). All as scikit-learn
    defines them.

    Args:
        task: "classification" or "regression".
        truth: The labels; no nulls.
        predictions: Result of `models.Model.predict`, in the order of `truth`.
        classes: The model's classes in the order of the probability columns; None for regression.
        positive: The positive one of two classes; default: the later one.

    Raises:
        ValueError: The task is unknown, there are no rows, labels are missing or unknown to the model, or
            predictions aren't finite.
    """
    return _score(task, _rows(task, truth, predictions, classes, positive), len(truth))


def scorer(
    predictions: pl.DataFrame, classes: Sequence[Any], positive: Any = None
) -> Callable[[Floats], dict[str, float]]:
    """Return a function that measures predictions as `score` does, against uncertain labels.

    The function takes an array (rows, classes) with the weight of each row as each class. Probabilities give
    the metrics of the expected confusion matrix and ranking; ones and zeros, those of certain labels.

    Args:
        predictions: Result of `models.Model.predict` of a classifier.
        classes: The model's classes in the order of the probability columns.
        positive: As for `score`.
    """
    probability, size = probabilities(predictions, classes), len(classes)
    # Each row is repeated for each class that it may have.
    truth = np.repeat(np.arange(size), len(probability))
    cells = truth * size + np.tile(encode(predictions["prediction"], classes, "prediction"), size)
    rows = _Classified(truth, cells, np.tile(probability, (size, 1)), positive_index(classes, positive))

    def measured(weights: Floats) -> dict[str, float]:
        flat: Any = weights.T.ravel()
        return _finite(
            {name: _measure("classification", name, rows, flat) for name in _METRICS["classification"]}
        )

    return measured


def measured(
    task: str, metric: str, truth: Any, classes: int = 0, positive: int = 1
) -> Callable[[Floats], float]:
    """Return a function that measures many predictions of the same rows by one metric.

    The function takes an array of probabilities (rows, classes), where the most probable class is the
    predicted one, or of numbers (rows). It returns NaN or infinity if the metric is undefined.

    Args:
        task: "classification" or "regression".
        metric: A metric of `score`.
        truth: The index of each row's class, or its number; an array.
        classes: Number of classes.
        positive: Index of the positive one of two classes.
    """
    once = np.ones(len(truth), dtype=np.int64)

    def measure(predicted: Floats) -> float:
        if task == "regression":
            return _measure(task, metric, _Regressed(truth, predicted), once)
        cells = truth * classes + predicted.argmax(axis=1)
        return _measure(task, metric, _Classified(truth, cells, predicted, positive), once)

    return measure


def bootstrap_intervals(
    task: str,
    truth: pl.Series,
    predictions: pl.DataFrame,
    classes: Sequence[Any] | None,
    samples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
    positive: Any = None,
    only: Collection[str] = (),
) -> dict[str, tuple[float, float]]:
    """Return the percentile bootstrap interval (low, high) of each metric that `score` returns.

    Rows are drawn with replacement from all rows, not per class: class frequencies vary as they would in
    another test table. If a rare class is missing from a resample, the metrics that it leaves undefined skip
    that resample; a metric defined in less than half of them gets no interval. Source: Efron & Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        task: "classification" or "regression".
        truth: The labels; no nulls.
        predictions: Result of `models.Model.predict`.
        classes: The model's classes; None for a regressor.
        samples: Number of resamples, at least 20.
        confidence: Confidence level of the interval, such as 0.95.
        seed: Seed of the resampling.
        positive: As for `score`.
        only: The metrics to resample; empty for all.
    """
    check_bootstrap(samples, confidence)
    rows = _rows(task, truth, predictions, classes, positive)
    names = [name for name in _score(task, rows, len(truth)) if not only or name in only]
    drawn: dict[str, list[float]] = {name: [] for name in names}
    for weights in _resamples(len(truth), samples, seed):
        for name in names:
            drawn[name].append(_measure(task, name, rows, weights))
    intervals = {name: _interval(np.array(values), confidence) for name, values in drawn.items()}
    return {name: interval for name, interval in intervals.items() if interval is not None}


def paired_bootstrap(
    metric: str,
    task: str,
    truth: pl.Series,
    challenger: pl.DataFrame,
    champion: pl.DataFrame,
    classes: Sequence[Any] | None,
    samples: int = 500,
    seed: int = 0,
    confidence: float = 0.95,
    positive: Any = None,
) -> Difference:
    """Compare two models' predictions of the same rows; both are scored on the same resampled rows.

    Rows are drawn as in `bootstrap_intervals`.

    Args:
        metric: A metric of `score`.
        task: "classification" or "regression".
        truth: The labels; no nulls.
        challenger: Predictions of the new model.
        champion: Predictions of the current model.
        classes: The classes of both models; None for a regressor.
        samples: Number of resamples, at least 20.
        seed: Seed of the resampling.
        confidence: Confidence level of the improvement's interval.
        positive: As for `score`.

    Raises:
        ValueError: The metric is unknown, doesn't fit the task, or is undefined on these rows.
    """
    check_bootstrap(samples, confidence)
    sign = 1.0 if higher_is_better(metric) else -1.0
    new, old = (_rows(task, truth, answers, classes, positive) for answers in (challenger, champion))
    require_fitting(metric, task)
    once = np.ones(len(truth), dtype=np.int64)
    scores = {"challenger": _measure(task, metric, new, once), "champion": _measure(task, metric, old, once)}
    values = _finite(scores)
    gains = [
        sign * (_measure(task, metric, new, weights) - _measure(task, metric, old, weights))
        for weights in _resamples(len(truth), samples, seed)
    ]
    drawn = np.array(gains)
    interval = _interval(drawn, confidence)
    if len(values) < 2 or interval is None:
        defined = ", ".join(_score(task, new, len(truth)))
        raise ValueError(
            f"metric {metric!r} is not defined on this table of {len(truth)} rows "
            f"(its label may have a single value); metrics that are: {defined}"
        )
    return Difference(
        challenger=values["challenger"],
        champion=values["champion"],
        improvement=sign * (values["challenger"] - values["champion"]),
        low=interval[0],
        high=interval[1],
        probability_better=float((drawn[np.isfinite(drawn)] > 0).mean()),
    )


def against_constant(
    metric: str,
    task: str,
    truth: pl.Series,
    predictions: pl.DataFrame,
    classes: Sequence[Any] | None,
    samples: int = 500,
    seed: int = 0,
    confidence: float = 0.95,
    positive: Any = None,
) -> tuple[Any, Difference | None]:
    """Compare predictions with a constant prediction, as `paired_bootstrap` compares two models.

    The constant is the most frequent class of these rows, with the class frequencies as probabilities, or
    their mean. It is computed on the test rows, so it is slightly better than a model could know.

    Args:
        metric: A metric of `score`.
        task: "classification" or "regression".
        truth: The labels; no nulls.
        predictions: The model's predictions.
        classes: The model's classes; None for a regressor.
        samples: Number of resamples, at least 20.
        seed: Seed of the resampling.
        confidence: Confidence level of the improvement's interval.
        positive: As for `score`.

    Returns:
        The constant, and by how much the model is better; None if the metric is undefined on these rows.
    """
    if classes is None:
        answer: Any = float(floats(truth).mean())
        constant = pl.DataFrame({"prediction": pl.repeat(answer, len(truth), eager=True)})
    else:
        frequencies = np.bincount(encode(truth, classes), minlength=len(classes)) / len(truth)
        answer = classes[int(frequencies.argmax())]
        names = [name for name in predictions.columns if name.startswith("probability_")]
        predicted = pl.Series("prediction", [answer], dtype=predictions["prediction"].dtype)
        probable = [pl.Series(name, [frequency]) for name, frequency in zip(names, frequencies, strict=True)]
        one = pl.DataFrame([predicted, *probable])
        constant = one.select(pl.all().repeat_by(len(truth)).explode())
    require_fitting(metric, task)
    given = (metric, task, truth, predictions, constant, classes)
    options: dict[str, Any] = {"samples": samples, "seed": seed, "confidence": confidence}
    try:
        return answer, paired_bootstrap(*given, **options, positive=positive)
    except ValueError:  # the metric is undefined on these rows
        return answer, None


def check_bootstrap(samples: int, confidence: float = 0.95) -> None:
    """Raise ValueError unless the bootstrap's options are valid."""
    if samples < 20:
        raise ValueError(f"bootstrap_samples is {samples}; an interval needs at least 20, and 500 is usual")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be at least 0.5 and below 1, such as 0.95")


def encode(values: pl.Series, classes: Sequence[Any], what: str = "label") -> NDArray[np.intp]:
    """Return the position of each value in `classes`.

    1, 1.0 and True are the same class; "1" is another.

    Raises:
        ValueError: Values are missing or not among the classes.
    """
    # Under a plain name, because Polars takes some column names for patterns.
    name, values = values.name, values.alias("values")
    if values.dtype.is_nested():
        raise ValueError(f"{what} {name!r} holds {values.dtype} values; a class is text or a number")
    if values.dtype.is_float():
        values = values.fill_nan(None)
    if missing := values.null_count():
        raise ValueError(f"{what} {name!r} is missing in {missing} of {len(values)} rows; drop or fill them")
    if isinstance(values.dtype, pl.Categorical | pl.Enum):
        values = values.cast(pl.String)
    position = {value: index for index, value in enumerate(classes)}
    distinct = values.unique(maintain_order=True)
    known = [position.get(value) for value in distinct]
    if None in known:
        strange = [value for value, index in zip(distinct, known, strict=True) if index is None]
        raise ValueError(
            f"{what} {name!r} holds {listed(map(repr, strange))}, which the model doesn't know; "
            f"its classes are: {listed(map(repr, classes))}"
        )
    codes = values.replace_strict(distinct, pl.Series(known, dtype=pl.Int64), return_dtype=pl.Int64)
    return codes.to_numpy().astype(np.intp)


def probabilities(predictions: pl.DataFrame, classes: Sequence[Any]) -> Floats:
    """Return the probability columns of a model's predictions as an array (rows, classes).

    Raises:
        ValueError: Their number is not the number of classes, or a probability is not between 0 and 1.
    """
    names = [name for name in predictions.columns if name.startswith("probability_")]
    if len(names) != len(classes):
        raise ValueError(
            f"predictions hold {len(names)} probability columns for {len(classes)} classes "
            f"({listed(map(repr, classes))}); each class needs one"
        )
    matrix = np.column_stack([floats(predictions[name], "probability") for name in names])
    if matrix.size and (matrix.min() < -1e-6 or matrix.max() > 1 + 1e-6):
        raise ValueError(
            f"the model gives probabilities from {matrix.min():g} to {matrix.max():g}; "
            "they must lie between 0 and 1"
        )
    return matrix.clip(0.0, 1.0)


def confusion_matrix(truth: pl.Series, predicted: pl.Series, classes: Sequence[Any]) -> Counts:
    """Count rows by true class (first axis) and predicted class (second axis), in the order of `classes`."""
    size = len(classes)
    cells = encode(truth, classes) * size + encode(predicted, classes, "prediction")
    return np.bincount(cells, minlength=size * size).reshape(size, size).astype(np.int64)


def roc_curve(positive: NDArray[np.bool_], probability: Floats, points: int = MAX_CURVE_POINTS) -> Curve:
    """Return false positive rate (x) against true positive rate (y), from (0, 0) to (1, 1).

    The first point, with no row counted as positive, has threshold 1 (scikit-learn: infinity).

    Raises:
        ValueError: Positives or negatives are missing.
    """
    true, false = _both_classes(positive, probability)
    ranking = _Ranking.of(positive, probability)
    x = np.concatenate([[0.0], ranking.false_positives(np.ones_like(ranking.order)) / false])
    y = np.concatenate([[0.0], ranking.true_positives(np.ones_like(ranking.order)) / true])
    return _thin(x, y, np.concatenate([[1.0], ranking.thresholds]), points)


def pr_curve(positive: NDArray[np.bool_], probability: Floats, points: int = MAX_CURVE_POINTS) -> Curve:
    """Return recall (x) against precision (y), from recall 0, with precision 1 there as in scikit-learn.

    Raises:
        ValueError: Positives or negatives are missing.
    """
    true, _ = _both_classes(positive, probability)
    ranking = _Ranking.of(positive, probability)
    hits = ranking.true_positives(np.ones_like(ranking.order))
    precision = hits / (ranking.ends + 1)
    x, y = np.concatenate([[0.0], hits / true]), np.concatenate([[1.0], precision])
    # Beyond full recall the curve only falls; scikit-learn stops there too.
    stop = int(np.argmax(x >= 1.0)) + 1
    return _thin(x[:stop], y[:stop], np.concatenate([[1.0], ranking.thresholds])[:stop], points)


def calibration(positive: NDArray[np.bool_], probability: Floats, bins: int = 10) -> Calibration:
    """Compare predicted probability with observed frequency in equal-width bins; needs at least one row."""
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    rows = np.bincount(index, minlength=bins)
    filled = rows > 0
    predicted = np.bincount(index, weights=probability, minlength=bins)[filled] / rows[filled]
    observed = np.bincount(index, weights=positive, minlength=bins)[filled] / rows[filled]
    error = float(np.abs(predicted - observed) @ rows[filled] / len(probability))
    return Calibration(predicted.tolist(), observed.tolist(), rows[filled].tolist(), error)


def calibration_noise(
    probability: Floats, confidence: float = 0.95, samples: int = 500, seed: int = 0
) -> float:
    """Return the calibration error that chance alone exceeds in a fraction 1 - confidence of test tables.

    Outcomes are drawn from the probabilities, as if these were exact. Source: consistency resampling, Bröcker
    & Smith 2007, https://doi.org/10.1175/WAF993.1.
    """
    draw = np.random.default_rng(seed)
    errors = [
        calibration(draw.random(len(probability)) < probability, probability).error for _ in range(samples)
    ]
    return float(np.quantile(errors, confidence))


@dataclass(frozen=True)
class _Ranking:
    """Rows sorted by descending probability of one class, with ties grouped."""

    order: NDArray[np.intp]  # row numbers
    ends: NDArray[np.intp]  # last place of each group of ties in `order`
    positive: NDArray[np.bool_]  # in `order`
    thresholds: Floats  # the probability of each group of ties

    @classmethod
    def of(cls, positive: NDArray[np.bool_], probability: Floats) -> "_Ranking":
        order = np.argsort(-probability, kind="stable")
        falling = probability[order]
        ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
        return cls(order, ends, positive[order], falling[ends])

    def true_positives(self, weights: Counts) -> Counts:
        """Return the weight of positives at or above each threshold."""
        return np.asarray(np.cumsum(weights[self.order] * self.positive)[self.ends])

    def false_positives(self, weights: Counts) -> Counts:
        """Return the weight of negatives at or above each threshold."""
        return np.asarray(np.cumsum(weights[self.order] * ~self.positive)[self.ends])


@dataclass(frozen=True)
class _Classified:
    """Classified rows, prepared once for any number of weightings."""

    truth: NDArray[np.intp]
    cells: NDArray[np.intp]  # truth * classes + prediction
    probability: Floats  # (rows, classes)
    positive: int  # of two classes

    @property
    def size(self) -> int:
        return int(self.probability.shape[1])

    @cached_property
    def rankings(self) -> list[_Ranking]:
        """Return the ranking of the positive class, or of each class if there are more than two."""
        wanted = [self.positive] if self.size == 2 else range(self.size)
        return [_Ranking.of(self.truth == index, self.probability[:, index]) for index in wanted]

    @cached_property
    def log_losses(self) -> Floats:
        """Return each row's loss; 0 counts as the smallest float above 0, as in scikit-learn."""
        likelihood = self.probability[np.arange(len(self.truth)), self.truth]
        smallest = np.finfo(np.float64).eps
        return np.asarray(-np.log(likelihood.clip(smallest, 1 - smallest)))

    @cached_property
    def brier_losses(self) -> Floats:
        squares = ((self.probability - np.eye(self.size)[self.truth]) ** 2).sum(axis=1)
        return np.asarray(squares / 2 if self.size == 2 else squares)

    def confusion(self, weights: Counts) -> Floats:
        counts = np.bincount(self.cells, weights=weights, minlength=self.size**2)
        return counts.astype(np.float64).reshape(self.size, self.size)


@dataclass(frozen=True)
class _Regressed:
    """Predicted numbers, prepared once for any number of weightings."""

    truth: Floats
    predicted: Floats

    @cached_property
    def errors(self) -> Floats:
        return np.abs(self.truth - self.predicted)

    @cached_property
    def squares(self) -> Floats:
        return self.errors**2

    @cached_property
    def relative(self) -> Floats:
        """Return each row's error as a fraction of the truth; NaN in all rows if any truth is 0."""
        if (self.truth == 0).any():
            return np.full(len(self.truth), np.nan)
        return self.errors / np.abs(self.truth)

    @cached_property
    def rising(self) -> NDArray[np.intp]:
        return np.argsort(self.errors, kind="stable")


def _rows(
    task: str,
    truth: pl.Series,
    predictions: pl.DataFrame,
    classes: Sequence[Any] | None,
    positive: Any = None,
) -> _Classified | _Regressed:
    if task not in TASKS:
        raise ValueError(f"task {task!r} is unknown; tasks are: {', '.join(TASKS)}")
    if len(truth) == 0:
        raise ValueError("there are no rows to score")
    if len(truth) != predictions.height:
        raise ValueError(f"there are {len(truth)} labels but {predictions.height} predictions")
    if task == "regression":
        return _Regressed(floats(truth, "label"), floats(predictions["prediction"], "prediction"))
    if not classes:
        raise ValueError("classification needs the model's classes, and there are none")
    codes = encode(truth, classes)
    cells = codes * len(classes) + encode(predictions["prediction"], classes, "prediction")
    return _Classified(codes, cells, probabilities(predictions, classes), positive_index(classes, positive))


def positive_index(classes: Sequence[Any], positive: Any) -> int:
    """Return the index of the positive of two classes; by default the later one."""
    return classes.index(positive) if positive in classes else 1


def _score(task: str, rows: _Classified | _Regressed, count: int) -> dict[str, float]:
    once = np.ones(count, dtype=np.int64)
    return _finite({name: _measure(task, name, rows, once) for name in _METRICS[task]})


def _measure(task: str, metric: str, rows: _Classified | _Regressed, weights: Counts) -> float:
    """Return the metric of rows weighted by whole numbers; NaN or infinity if it is undefined."""
    with np.errstate(all="ignore"):
        return _METRICS[task][metric](rows, weights)


def floats(values: pl.Series, what: str = "label") -> Floats:
    """Return numbers as float64.

    Raises:
        ValueError: The values aren't numbers, or some are missing, infinite or beyond 1e150.
    """
    if not (values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null)):
        raise ValueError(f"{what} {values.name!r} holds {values.dtype} values; numbers are needed here")
    numbers = values.cast(pl.Float64).to_numpy()
    if bad := int((~np.isfinite(numbers)).sum()):
        raise ValueError(f"{what} {values.name!r} is missing or infinite in {bad} of {len(values)} rows")
    if (largest := np.abs(numbers).max(initial=0.0)) > _LARGEST:
        raise ValueError(
            f"{what} {values.name!r} holds {largest:g}; beyond {_LARGEST:g} errors can't be squared"
        )
    return numbers


def _resamples(rows: int, samples: int, seed: int) -> Iterator[Counts]:
    draw = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.bincount(draw.integers(0, rows, rows), minlength=rows)


def _interval(drawn: Floats, confidence: float) -> tuple[float, float] | None:
    defined = drawn[np.isfinite(drawn)]
    if 2 * len(defined) < len(drawn):
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def _both_classes(positive: NDArray[np.bool_], probability: Floats) -> tuple[int, int]:
    true = int(positive.sum())
    if true == 0 or true == len(probability):
        raise ValueError(
            f"a curve needs positives and negatives; {true} of {len(probability)} rows are positive"
        )
    return true, len(probability) - true


def _thin(x: Floats, y: Floats, thresholds: Floats, points: int) -> Curve:
    """Keep at most `points` points, evenly spaced along the curve, including both ends."""
    if len(x) > points:
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        keep = np.unique(np.searchsorted(length, np.linspace(0.0, length[-1], points)))
        keep[-1] = len(x) - 1
        x, y, thresholds = x[keep], y[keep], thresholds[keep]
    return Curve(x.tolist(), y.tolist(), thresholds.clip(0.0, 1.0).tolist())


def _accuracy(rows: _Classified, weights: Counts) -> float:
    matrix = rows.confusion(weights)
    return float(np.trace(matrix) / matrix.sum())


def _balanced_accuracy(rows: _Classified, weights: Counts) -> float:
    matrix = rows.confusion(weights)
    true = matrix.sum(axis=1)
    return float((np.diag(matrix)[true > 0] / true[true > 0]).mean())


def _macro(matrix: Floats, denominators: Floats, factor: float = 1.0) -> float:
    """Average factor * hits / denominator over the classes in truth or prediction; 0 / 0 counts as 0."""
    hits = np.diag(matrix)
    ratios = np.divide(factor * hits, denominators, out=np.zeros_like(hits), where=denominators > 0)
    return float(ratios[(matrix.sum(axis=0) + matrix.sum(axis=1)) > 0].mean())


def _precision(rows: _Classified, weights: Counts) -> float:
    matrix = rows.confusion(weights)
    return _macro(matrix, matrix.sum(axis=0))


def _recall(rows: _Classified, weights: Counts) -> float:
    matrix = rows.confusion(weights)
    return _macro(matrix, matrix.sum(axis=1))


def _f1(rows: _Classified, weights: Counts) -> float:
    matrix = rows.confusion(weights)
    return _macro(matrix, matrix.sum(axis=0) + matrix.sum(axis=1), factor=2.0)


def _mcc(rows: _Classified, weights: Counts) -> float:
    """Matthews correlation for any number of classes: Gorodkin 2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006."""
    matrix = rows.confusion(weights)
    total, true, given = matrix.sum(), matrix.sum(axis=1), matrix.sum(axis=0)
    true_spread, given_spread = total**2 - true @ true, total**2 - given @ given
    if true_spread == 0:
        return float("nan")
    if given_spread == 0:
        return 0.0
    return float((np.trace(matrix) * total - true @ given) / np.sqrt(true_spread * given_spread))


def _roc_auc(rows: _Classified, weights: Counts) -> float:
    areas = []
    for ranking in rows.rankings:
        true = np.concatenate([[0], ranking.true_positives(weights)])
        false = np.concatenate([[0], ranking.false_positives(weights)])
        if true[-1] and false[-1]:
            areas.append(np.diff(false) @ (true[1:] + true[:-1]) / (2.0 * true[-1] * false[-1]))
    return float(np.mean(areas)) if areas else float("nan")


def _average_precision(rows: _Classified, weights: Counts) -> float:
    averages = []
    for ranking in rows.rankings:
        true, false = ranking.true_positives(weights), ranking.false_positives(weights)
        if true[-1] and false[-1]:
            precision = true / np.maximum(true + false, 1)
            averages.append(np.diff(true, prepend=0) @ precision / true[-1])
    return float(np.mean(averages)) if averages else float("nan")


def _log_loss(rows: _Classified, weights: Counts) -> float:
    return float(weights @ rows.log_losses / weights.sum())


def _brier(rows: _Classified, weights: Counts) -> float:
    return float(weights @ rows.brier_losses / weights.sum())


def _rmse(rows: _Regressed, weights: Counts) -> float:
    return float(np.sqrt(weights @ rows.squares / weights.sum()))


def _mae(rows: _Regressed, weights: Counts) -> float:
    return float(weights @ rows.errors / weights.sum())


def _r2(rows: _Regressed, weights: Counts) -> float:
    drawn = rows.truth[weights > 0]
    if drawn.min() == drawn.max():
        return float("nan")
    mean = weights @ rows.truth / weights.sum()
    spread = weights @ (rows.truth - mean) ** 2
    return float(1 - weights @ rows.squares / spread) if spread > 0 else float("nan")


def _mape(rows: _Regressed, weights: Counts) -> float:
    return float(weights @ rows.relative / weights.sum())


def _median_absolute_error(rows: _Regressed, weights: Counts) -> float:
    below = np.cumsum(weights[rows.rising])
    total = below[-1]
    middle = np.searchsorted(below, [(total - 1) // 2, total // 2], side="right")
    return float(rows.errors[rows.rising][middle].mean())


_METRICS: dict[str, dict[str, Callable[[Any, Counts], float]]] = {
    "classification": {
        "accuracy": _accuracy,
        "balanced_accuracy": _balanced_accuracy,
        "precision": _precision,
        "recall": _recall,
        "f1": _f1,
        "roc_auc": _roc_auc,
        "average_precision": _average_precision,
        "log_loss": _log_loss,
        "brier": _brier,
        "mcc": _mcc,
    },
    "regression": {
        "rmse": _rmse,
        "mae": _mae,
        "r2": _r2,
        "mape": _mape,
        "median_absolute_error": _median_absolute_error,
    },
}
