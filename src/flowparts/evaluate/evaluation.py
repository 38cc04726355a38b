"""Evaluate a model on a test table: scored rows, metrics with intervals, and slices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flowparts import tables
from flowparts.evaluate import directions, metrics
from flowparts.models import mlmodel
from flowparts.util.metadata import plain

if TYPE_CHECKING:
    from kfp.dsl import ClassificationMetrics

    from flowparts import models

# The metrics that rank slices: defined for every slice, even with a single class.
SLICE_METRIC = {"classification": "accuracy", "regression": "rmse"}
# Smaller slices are shown but never reported as the worst: their metrics are mostly noise.
MIN_SLICE_ROWS = 20
# Above these numbers of distinct values, numbers are cut into quartiles and the rarer texts are combined.
MAX_NUMBERS = 10
MAX_TEXTS = 20
MAX_MONTHS = 24
MAX_CLASSES = 30
# User interfaces plot from the artifact's metadata, which must stay small.
_MAX_CLASSES_SHOWN = 10
_MAX_POINTS_SHOWN = 18
_MAX_NAME_CHARACTERS = 30
EXAMPLE_ROWS = 10
EXAMPLE_COLUMNS = 6

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Slice:
    """The rows with the same value of a column."""

    column: str
    value: str
    rows: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class WorstSlice:
    """The slice of at least MIN_SLICE_ROWS rows with the worst accuracy or rmse.

    Attributes:
        slice: The slice.
        interval: Bootstrap interval of its accuracy or rmse; wider than 95 % by the number of slices compared
            (Bonferroni), because the worst of many slices looks bad by chance alone.
        compared: Number of slices compared.
        worse: Whether the whole interval is worse than the value on all rows.
    """

    slice: Slice
    interval: tuple[float, float]
    compared: int
    worse: bool


@dataclass(frozen=True)
class Evaluation:
    """A model's results on a test table.

    Attributes:
        model: The model's metadata.
        truth: The labels.
        predictions: The model's predictions, one per row.
        metrics: Name to finite value; undefined metrics are left out.
        intervals: Name to 95 % bootstrap interval.
        slices: Each slice of each slice column.
        worst: The worst slice; None if no slice is large enough.
        examples: The most confident mistakes or the largest errors, the worst first: row number from 0,
            actual and predicted value, and a few columns to identify the row.
        pictures: The images of the examples, one for each; empty for tabular models.
    """

    model: mlmodel.Card
    truth: pl.Series
    predictions: pl.DataFrame
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    slices: list[Slice]
    worst: WorstSlice | None
    examples: list[dict[str, Any]]
    pictures: list[bytes]

    @property
    def classes(self) -> list[Any]:
        """The model's classes."""
        return list(self.model["classes"] or [])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: rows, each metric with its bounds `_low` and `_high`, and the slices."""
        found: dict[str, Any] = {"rows": len(self.truth), **self.metrics}
        for name, (low, high) in self.intervals.items():
            found |= {f"{name}_low": low, f"{name}_high": high}
        found["slices"] = [
            {"column": each.column, "value": each.value, "rows": each.rows, "metrics": each.metrics}
            for each in self.slices
        ]
        return found


def evaluate(
    model: "models.Model",
    test: pl.LazyFrame,
    slice_columns: Sequence[str] | None = None,
    samples: int = 500,
    seed: int = 0,
) -> Evaluation:
    """Score a test table and measure the predictions.

    Only labels, predictions and slice columns are held in memory.

    Args:
        model: The model.
        test: Raw rows with the model's features and its label column.
        slice_columns: Columns to slice by: texts and up to 10 distinct numbers by value (beyond 20 texts the
            rarer ones combined), more numbers by quartile, dates and timestamps by month, or by year if there
            are more than 24 months.
        samples: Bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: The label or a slice column is missing or unusable, there are no rows, or labels are
            missing or unknown to the model.
    """
    metrics.check_bootstrap(samples)
    columns = list(dict.fromkeys(slice_columns or []))
    tables.require_columns(test, [model.label], "label column")
    tables.require_columns(test, columns, "slice column")
    _check_slice_types(test, columns)
    tables.require_rows(test, "the test table")

    kept = tables.select(test, dict.fromkeys([model.label, *columns])).pipe(tables.collect)
    truth = kept[model.label]
    if model.classes is None:
        metrics.floats(truth, "label")
    else:
        metrics.encode(truth, model.classes)
    positive = model.metadata.get("positive_class")
    scored = _Scored(model.task, truth, model.predict(test), model.classes, positive)
    overall = scored.score()
    slices = [
        (Slice(name, value, int(mask.sum()), scored.part(mask).score()), mask)
        for name in columns
        for value, mask in groups(kept[name])
    ]
    examples = _examples(scored, test, [*columns, *_apart(test, model)])
    return Evaluation(
        model=model.metadata,
        truth=truth,
        predictions=scored.predictions,
        metrics=overall,
        intervals=scored.intervals(samples, 0.95, seed),
        slices=[each for each, _ in slices],
        worst=_worst(scored, overall, slices, samples, seed),
        examples=examples,
        pictures=_pictures(test, model, [example["row"] for example in examples]),
    )


def groups(column: pl.Series) -> list[tuple[str, Mask]]:
    """Split rows by a column's values, as `evaluate` says; missing values last.

    Returns:
        The display name and the rows of each group.
    """
    column, dtype = column.alias("value"), column.dtype
    if dtype.is_numeric() and column.drop_nulls().n_unique() > MAX_NUMBERS:
        found = _quartiles(column)
    elif dtype.is_numeric():
        found = _values(column, by_rows=False)
    elif dtype in (pl.Date, pl.Datetime):
        months = column.dt.strftime("%Y-%m")
        few = months.drop_nulls().n_unique() <= MAX_MONTHS
        found = _values(months if few else column.dt.strftime("%Y"), by_rows=False)
    else:
        found = _values(column.cast(pl.String), by_rows=True)
    missing = column.is_null().to_numpy()
    return [*found, ("(missing)", missing)] if missing.any() else found


def curves(evaluation: Evaluation) -> dict[str, Any]:
    """Return a classifier's confusion matrix and curves as JSON.

    Returns:
        "classes" (as text, the 30 most frequent where there are more), "confusion_matrix" (rows: true class,
        columns: predicted class, of these classes), and by class "roc", "precision_recall" and "calibration":
        for the positive of two classes, or one against the rest for more classes. A class that no row or
        every row has gets only a calibration.
    """
    classes = evaluation.classes
    codes = metrics.encode(evaluation.truth, classes)
    rows = np.bincount(codes, minlength=len(classes))
    shown = sorted(np.argsort(-rows, kind="stable")[:MAX_CLASSES].tolist())
    matrix = metrics.confusion_matrix(evaluation.truth, evaluation.predictions["prediction"], classes)
    probability = metrics.probabilities(evaluation.predictions, classes)
    found: dict[str, Any] = {
        "classes": [str(classes[index]) for index in shown],
        "confusion_matrix": matrix[np.ix_(shown, shown)].tolist(),
        "roc": {},
        "precision_recall": {},
        "calibration": {},
    }
    positive = metrics.positive_index(classes, evaluation.model.get("positive_class"))
    for index in [positive] if len(classes) == 2 else shown:
        name, is_class = str(classes[index]), codes == index
        found["calibration"][name] = metrics.calibration(is_class, probability[:, index])._asdict()
        if not 0 < rows[index] < len(codes):
            continue
        roc = metrics.roc_curve(is_class, probability[:, index], points=100)
        pr = metrics.pr_curve(is_class, probability[:, index], points=100)
        found["roc"][name] = {
            "false_positive_rate": roc.x,
            "true_positive_rate": roc.y,
            "threshold": roc.thresholds,
        }
        found["precision_recall"][name] = {"recall": pr.x, "precision": pr.y, "threshold": pr.thresholds}
    return found


def log_curves(artifact: "ClassificationMetrics", found: Mapping[str, Any]) -> None:
    """Log the confusion matrix and, for two classes, the ROC curve for user interfaces.

    Both are reduced: to the 10 most frequent classes, and to 18 points of the curve.

    Args:
        artifact: The output artifact.
        found: What `curves` returned.
    """
    matrix = np.array(found["confusion_matrix"])
    order = np.argsort(-matrix.sum(axis=1), kind="stable")[:_MAX_CLASSES_SHOWN]
    shown = sorted(order.tolist())
    names = [plain(found["classes"][index])[:_MAX_NAME_CHARACTERS] for index in shown]
    artifact.log_confusion_matrix(names, matrix[np.ix_(shown, shown)].tolist())
    if len(found["classes"]) > 2:
        return
    for roc in found["roc"].values():
        points = len(roc["threshold"])
        places = np.unique(np.linspace(0, points - 1, _MAX_POINTS_SHOWN).round().astype(int))
        thinned = [
            [round(roc[name][place], 4) for place in places]
            for name in ("false_positive_rate", "true_positive_rate", "threshold")
        ]
        artifact.log_roc_curve(*thinned)


def score(evaluation: Evaluation, metric: str) -> float:
    """Return a metric; if it is undefined, 0, or the largest float for an error."""
    return evaluation.metrics.get(metric, directions.worst(metric))


@dataclass(frozen=True)
class _Scored:
    task: str
    truth: pl.Series
    predictions: pl.DataFrame
    classes: list[Any] | None
    positive: Any

    def part(self, mask: Mask) -> "_Scored":
        rows = pl.Series(mask)
        return replace(self, truth=self.truth.filter(rows), predictions=self.predictions.filter(rows))

    def score(self) -> dict[str, float]:
        return metrics.score(self.task, self.truth, self.predictions, self.classes, self.positive)

    def intervals(self, samples: int, confidence: float, seed: int) -> dict[str, tuple[float, float]]:
        return metrics.bootstrap_intervals(
            self.task,
            self.truth,
            self.predictions,
            self.classes,
            samples,
            confidence,
            seed,
            self.positive,
        )


def _check_slice_types(test: pl.LazyFrame, columns: Sequence[str]) -> None:
    schema = test.collect_schema()
    for name in columns:
        dtype = schema[name]
        if dtype.is_nested() or dtype in (pl.Binary, pl.Time, pl.Duration, pl.Object):
            raise ValueError(
                f"slice column {name!r} holds {dtype} values; "
                "a slice column holds text, numbers, booleans, dates or timestamps"
            )


def _values(column: pl.Series, by_rows: bool) -> list[tuple[str, Mask]]:
    """Group by value, the most frequent or the lowest first; beyond MAX_TEXTS values, combine the rest."""
    counts = column.drop_nulls().value_counts(name="rows")
    order = counts.sort("rows", "value", descending=[True, False]) if by_rows else counts.sort("value")
    values = order["value"].to_list()
    found = [(_text(value), _mask(column == value)) for value in values[:MAX_TEXTS]]
    if rest := len(values) - len(found):
        found.append((f"({rest} other values)", _mask(~column.is_in(values[:MAX_TEXTS]))))
    return found


def _quartiles(column: pl.Series) -> list[tuple[str, Mask]]:
    """Group numbers by their quartiles; equal quartiles make fewer groups."""
    numbers = column.cast(pl.Float64)
    quantiles = [numbers.quantile(fraction, "lower") for fraction in (0.25, 0.5, 0.75)]
    cuts = sorted({cut for cut in quantiles if cut is not None and cut != numbers.max()})
    edges = [-np.inf, *cuts, np.inf]
    names = [f"up to {_text(cuts[0])}"] if cuts else ["all"]
    names += [f"{_text(low)} to {_text(high)}" for low, high in pairwise(cuts)]
    names += [f"above {_text(cuts[-1])}"] if cuts else []
    inside = [_mask((numbers > low) & (numbers <= high)) for low, high in pairwise(edges)]
    return list(zip(names, inside, strict=True))


def _mask(rows: pl.Series) -> Mask:
    return rows.fill_null(value=False).to_numpy()


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _worst(
    scored: _Scored,
    overall: dict[str, float],
    slices: Sequence[tuple[Slice, Mask]],
    samples: int,
    seed: int,
) -> WorstSlice | None:
    metric = SLICE_METRIC[scored.task]
    large = [(each, mask) for each, mask in slices if MIN_SLICE_ROWS <= each.rows < len(scored.truth)]
    large = [(each, mask) for each, mask in large if metric in each.metrics]
    if not large or metric not in overall:
        return None
    higher = metrics.higher_is_better(metric)
    worst, mask = min(large, key=lambda pair: pair[0].metrics[metric] * (1 if higher else -1))
    low, high = scored.part(mask).intervals(samples, 1 - 0.05 / len(large), seed)[metric]
    worse = high < overall[metric] if higher else low > overall[metric]
    return WorstSlice(worst, (low, high), len(large), worse)


def _apart(test: pl.LazyFrame, model: "models.Model") -> list[str]:
    """Return the table's columns, those that aren't features first: identifiers identify rows best."""
    names = [name for name, dtype in test.collect_schema().items() if dtype != pl.Binary]
    return [name for name in names if name not in model.features] + [
        name for name in model.features if name in names
    ]


def _examples(scored: _Scored, test: pl.LazyFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    predicted = scored.predictions["prediction"]
    if scored.classes is None:
        error = predicted - scored.truth.cast(pl.Float64)
        measured, size, wrong = {"error": error}, error.abs(), error != 0
    else:
        guess = metrics.encode(predicted, scored.classes, "prediction")
        sure = pl.Series(metrics.probabilities(scored.predictions, scored.classes)[range(len(guess)), guess])
        measured, size = {"probability": sure}, sure
        wrong = pl.Series(guess != metrics.encode(scored.truth, scored.classes))
    rows = pl.DataFrame({"row": pl.int_range(len(wrong), eager=True), "size": size}).filter(wrong)
    chosen = rows.sort("size", "row", descending=[True, False])["row"].head(EXAMPLE_ROWS).to_list()
    if not chosen:
        return []
    names = [name for name in dict.fromkeys(columns) if name != scored.truth.name][:EXAMPLE_COLUMNS]
    known = pl.concat([tables.select(test, names).slice(row, 1) for row in chosen]).pipe(tables.collect)
    own = ("row", "actual", "predicted", *measured)
    # A column of the table may have the name of a measure.
    shown = [f"column {name}" if name in own else name for name in known.columns]
    return [
        {"row": row, "actual": scored.truth[row], "predicted": predicted[row]}
        | {name: values[row] for name, values in measured.items()}
        | dict(zip(shown, columns, strict=True))
        for row, columns in zip(chosen, known.iter_rows(), strict=True)
    ]


def _pictures(test: pl.LazyFrame, model: "models.Model", rows: Sequence[int]) -> list[bytes]:
    names = [name for name, kind in model.types.items() if kind == "image"]
    if not names or not rows:
        return []
    column = tables.select(test, names[:1])
    found = pl.concat([column.slice(row, 1) for row in rows]).pipe(tables.collect)
    return found.to_series().to_list()
