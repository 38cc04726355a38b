"""HTML reports: how good a model is, where it errs and whether its probabilities are calibrated."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowparts import reports
from flowparts.evaluate import metrics
from flowparts.evaluate.evaluation import MAX_CLASSES, MIN_SLICE_ROWS, SLICE_METRIC, Evaluation, curves
from flowparts.models.mlmodel import Card
from flowparts.util.names import listed

# The lines of more classes can't be distinguished.
_MAX_LINES = 8
_MAX_POINTS = 2000
# Below this many rows a percentile bootstrap is known to give intervals that are too narrow.
_FEW_ROWS = 30
# A calibration error too small to matter, even if many rows make it significant.
_CLOSE = 0.02
# The same for rare classes, as a fraction of their rate.
_CLOSE_FRACTION = 0.2
# If chance alone can reach this fraction of the rarer class' rate, the rows don't suffice.
_MAX_NOISE = 0.5
_SURE = 0.95
_MEANING = {
    "accuracy": "fraction of correct predictions",
    "balanced_accuracy": "mean of the classes' recall",
    "precision": "fraction of the predictions of a class that are correct, mean of the classes",
    "recall": "fraction of a class that is found, mean of the classes",
    "f1": "harmonic mean of precision and recall, mean of the classes",
    "roc_auc": "chance that a row of the class is ranked above another row; 0.5 is guessing",
    "average_precision": "area under the precision-recall curve",
    "log_loss": "penalty for probability on the wrong class; 0 is perfect",
    "brier": "squared error of the probabilities; 0 is perfect",
    "mcc": "correlation of predictions and truth; 0 is guessing",
    "rmse": "root of the mean squared error, in the label's unit; large errors count more",
    "mae": "mean error, in the label's unit",
    "r2": "fraction of the label's variance that is explained; 0 is no better than the mean",
    "mape": "mean error as a fraction of the actual value",
    "median_absolute_error": "half of the errors are smaller, in the label's unit",
}
_SLICE_COLUMNS = {
    "classification": ("accuracy", "f1", "roc_auc", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}


def page(evaluation: Evaluation, metric: str) -> str:
    """Return the HTML page of an evaluation, by the metric that the model was selected by."""
    render = regression_page if evaluation.model["classes"] is None else classification_page
    return render(evaluation, metric)


def classification_page(evaluation: Evaluation, metric: str = "roc_auc") -> str:
    """Return the HTML page of a classifier's evaluation."""
    found = curves(evaluation)
    label, rows = evaluation.truth.name, len(evaluation.truth)
    names = dict.fromkeys([metric, "roc_auc", "accuracy", "f1", "log_loss"])
    return reports.page(
        f"How well is {label!r} predicted?",
        reports.facts(_with_intervals(evaluation, names)),
        _constant_callout(evaluation, metric),
        _accuracy_callout(evaluation),
        *_missed_callout(evaluation),
        *training_callouts(evaluation.model),
        *_few_rows_callout(rows),
        *_undefined_callout(evaluation),
        _confusion_callout(evaluation),
        *_slice_callout(evaluation),
        _trust_callout(evaluation),
        _metrics_section(evaluation),
        _mistakes_section(evaluation, found),
        _ranking_section(found, len(evaluation.classes)),
        _trust_section(evaluation, found),
        _slices_section(evaluation),
        subtitle=_subtitle(evaluation, f"{rows:,} test rows, {len(evaluation.classes)} classes"),
    )


def regression_page(evaluation: Evaluation, metric: str = "rmse") -> str:
    """Return the HTML page of a regressor's evaluation."""
    label, rows = evaluation.truth.name, len(evaluation.truth)
    actual = metrics.floats(evaluation.truth)
    predicted = metrics.floats(evaluation.predictions["prediction"])
    deciles = _deciles(actual, predicted)
    return reports.page(
        f"How well is {label!r} predicted?",
        reports.facts(_with_intervals(evaluation, dict.fromkeys([metric, "mae", "rmse", "r2"]))),
        _constant_callout(evaluation, metric),
        _error_callout(evaluation, actual),
        *training_callouts(evaluation.model),
        *_few_rows_callout(rows),
        *_bias_callout(actual, predicted),
        *_decile_callout(deciles),
        *_slice_callout(evaluation),
        _metrics_section(evaluation),
        _fit_section(actual, predicted),
        _errors_section(evaluation, deciles),
        _slices_section(evaluation),
        subtitle=_subtitle(evaluation, f"{rows:,} test rows"),
    )


def training_callouts(model: Card) -> list[reports.Block]:
    """Describe the training: doubtful columns, candidates left out, the split, and the metric's choice."""
    blocks = [reports.callout(f"Before training: {text}.", "bad") for text in model.get("warnings") or []]
    for each in model.get("left_out") or []:
        blocks.append(reports.callout(f"Candidate {each['estimator']} is left out: {each['reason']}.", "bad"))
    if left_out := model.get("rows_left_out"):
        blocks.append(reports.callout(f"Left out before the split: {'; '.join(left_out)}."))
    if warning := model.get("split_warning"):
        blocks.append(reports.callout(f"The split: {warning}.", "bad"))
    if split := model.get("split"):
        blocks.append(reports.callout(f"The rows were split {split}."))
    if rule := model.get("threshold_rule"):
        blocks.append(
            reports.callout(
                f"The prediction is {model['positive_class']!r} from a probability of "
                f"{model['threshold']:.4g} on, not 0.5: chosen for the {rule} on held-out rows."
            )
        )
    if reason := model.get("metric_reason"):
        blocks.append(reports.callout(reason))
    return blocks


def _subtitle(evaluation: Evaluation, rows: str) -> str:
    return f"{evaluation.model['estimator']} on {rows}; all intervals hold 95 % of bootstrap resamples"


def _with_intervals(evaluation: Evaluation, names: Iterable[str]) -> dict[str, object]:
    return {
        name: f"{_number(evaluation.metrics[name])}{_interval(evaluation.intervals.get(name))}"
        for name in names
        if name in evaluation.metrics
    }


def _constant_callout(evaluation: Evaluation, metric: str) -> reports.Block:
    """Describe whether the model beats a constant prediction by more than chance."""
    task, classes = evaluation.model["task"], evaluation.model["classes"]
    answer, gain = metrics.against_constant(
        metric,
        task,
        evaluation.truth,
        evaluation.predictions,
        classes,
        samples=200,
        positive=evaluation.model.get("positive_class"),
    )
    if gain is None:
        return reports.callout(
            f"{metric} is undefined on these rows, so the model can't be judged by it.", "bad"
        )
    shown = _number(answer) if isinstance(answer, float) else repr(answer)
    text = (
        f"{metric} {_number(gain.challenger)}{_interval(evaluation.intervals.get(metric))}; always "
        f"predicting {shown} has {_number(gain.champion)}. "
    )
    if gain.improvement > 0 and gain.probability_better >= _SURE:
        return reports.callout(f"{text}The model is better than that by more than chance.", "good")
    return reports.callout(f"{text}The model isn't better than that by more than chance.", "bad")


def _missed_callout(evaluation: Evaluation) -> list[reports.Block]:
    """Name the classes that the model never predicts correctly."""
    classes = evaluation.classes
    matrix = metrics.confusion_matrix(evaluation.truth, evaluation.predictions["prediction"], classes)
    missed = [
        f"{str(name)!r} ({rows:,} rows)"
        for name, rows, hits in zip(classes, matrix.sum(axis=1), np.diag(matrix), strict=True)
        if rows and not hits
    ]
    if not missed:
        return []
    return [reports.callout(f"The model finds no row of class {listed(missed)}.", "bad")]


def _accuracy_callout(evaluation: Evaluation) -> reports.Block:
    accuracy = evaluation.metrics["accuracy"]
    low, high = evaluation.intervals["accuracy"]
    rows = np.bincount(metrics.encode(evaluation.truth, evaluation.classes))
    most, baseline = str(evaluation.classes[int(rows.argmax())]), float(rows.max() / rows.sum())
    found = (
        f"{_percent(accuracy)} of the predictions are correct (interval {_percent(low)} to {_percent(high)})."
    )
    if accuracy == 1:
        # Without a single wrong prediction the bootstrap interval has no width: use the rule of three.
        count = len(evaluation.truth)
        unseen = _percent(min(1.0, 3 / count))
        found = f"All {count:,} predictions are correct; up to {unseen} wrong ones could go unnoticed."
    text = f"{found} Always answering {most!r} would be right in {_percent(baseline)}."
    # Not a verdict, which is above: a useful model may find few rows of a rare class.
    return reports.callout(text, "good" if low > baseline else "note")


def _few_rows_callout(rows: int) -> list[reports.Block]:
    if rows >= _FEW_ROWS:
        return []
    return [
        reports.callout(
            f"Test rows: {rows}. With so few rows, metrics are uncertain and the intervals too narrow.", "bad"
        )
    ]


def _undefined_callout(evaluation: Evaluation) -> list[reports.Block]:
    if "roc_auc" in evaluation.metrics:
        return []
    text = (
        "The test rows have only one class, so roc_auc, average_precision and mcc are undefined and left out."
    )
    return [reports.callout(text, "bad")]


def _confusion_callout(evaluation: Evaluation) -> reports.Block:
    classes = evaluation.classes
    matrix = metrics.confusion_matrix(evaluation.truth, evaluation.predictions["prediction"], classes)
    mistakes = matrix - np.diag(np.diag(matrix))
    if not mistakes.any():
        return reports.callout("No test row was taken for another class.", "good")
    true, guess = np.unravel_index(int(np.argmax(mistakes)), mistakes.shape)
    count, of = int(mistakes[true, guess]), int(matrix[true].sum())
    return reports.callout(
        f"The most frequent mistake: {str(classes[true])!r} taken for {str(classes[guess])!r}, "
        f"{count:,} of {of:,} rows of that class ({_percent(count / of)})."
    )


def _slice_callout(evaluation: Evaluation) -> list[reports.Block]:
    worst = evaluation.worst
    if worst is None:
        return []
    metric = SLICE_METRIC[evaluation.model["task"]]
    each, (low, high) = worst.slice, worst.interval
    judged = (
        "That is worse than on all rows by more than chance."
        if worst.worse
        else "Chance alone could make the worst slice look like this."
    )
    text = (
        f"The worst slice: {each.column} = {each.value}, {each.rows:,} rows, {metric} "
        f"{_number(each.metrics[metric])} (interval {_number(low)} to {_number(high)}) against "
        f"{_number(evaluation.metrics[metric])} on all rows. {judged} "
        f"(Slices of {MIN_SLICE_ROWS} rows or more compared: {worst.compared}.)"
    )
    return [reports.callout(text, "bad" if worst.worse else "note")]


def _confidence(evaluation: Evaluation) -> tuple[NDArray[np.bool_], metrics.Floats]:
    """Return whether each prediction is correct, and its probability."""
    guess = metrics.encode(evaluation.predictions["prediction"], evaluation.classes, "prediction")
    probability = metrics.probabilities(evaluation.predictions, evaluation.classes)
    right = guess == metrics.encode(evaluation.truth, evaluation.classes)
    return right, probability[np.arange(len(guess)), guess]


def _trusted(evaluation: Evaluation) -> tuple[NDArray[np.bool_], metrics.Floats]:
    """Return the outcomes and their probabilities: of the rarer of two classes, else of the predicted class.

    By the predicted class, a model that always predicts the more frequent of two classes would look
    calibrated.
    """
    if len(evaluation.classes) != 2:
        return _confidence(evaluation)
    codes = metrics.encode(evaluation.truth, evaluation.classes)
    rarer = int(2 * codes.sum() <= len(codes))
    return codes == rarer, metrics.probabilities(evaluation.predictions, evaluation.classes)[:, rarer]


def _trust_callout(evaluation: Evaluation) -> reports.Block:
    happened, probability = _trusted(evaluation)
    error = metrics.calibration(happened, probability).error
    chance = metrics.calibration_noise(probability, samples=200)
    rate, mean = float(happened.mean()), float(probability.mean())
    close, noise = _CLOSE, 1.0
    if len(evaluation.classes) == 2:
        # For a rare class, an error as large as its rate isn't small, however few percentage points it is.
        close, noise = min(_CLOSE, _CLOSE_FRACTION * rate), _MAX_NOISE * rate
    points = f"{100 * error:.1f} percentage points on average (chance alone: up to {100 * chance:.1f})"
    if error > max(chance, close):
        return reports.callout(
            "Its probabilities can't be taken at their word: they differ from what happens by "
            f"{points}. They are too {'high' if mean > rate else 'low'}: {_percent(mean)} on average, where "
            f"{_percent(rate)} are right.",
            "bad",
        )
    if chance > noise:
        return reports.callout(
            "These rows can't tell whether its probabilities can be trusted: they differ from what happens "
            f"by {points}, and the rarer class is only {_percent(rate)} of the rows."
        )
    return reports.callout(
        f"Its probabilities can be trusted: they differ from what happens by {points}.", "good"
    )


def _metrics_section(evaluation: Evaluation) -> reports.Block:
    rows = [
        {
            "metric": name,
            "value": value,
            "low": evaluation.intervals.get(name, (None, None))[0],
            "high": evaluation.intervals.get(name, (None, None))[1],
            "better": "higher" if metrics.higher_is_better(name) else "lower",
            "what it says": _MEANING[name],
        }
        for name, value in evaluation.metrics.items()
    ]
    return reports.section("How good is it?", reports.table(rows))


def _mistakes_section(evaluation: Evaluation, found: Mapping[str, Any]) -> reports.Block:
    classes = evaluation.classes
    matrix = metrics.confusion_matrix(evaluation.truth, evaluation.predictions["prediction"], classes)
    hits, true, given = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    by_class = [
        {
            "class": name,
            "rows": int(true[index]),
            "recall": float(hits[index] / true[index]) if true[index] else None,
            "precision": float(hits[index] / given[index]) if given[index] else None,
        }
        for index, name in enumerate(map(str, classes))
        if name in found["classes"]
    ]
    blocks = [
        reports.grid(
            reports.heatmap(
                found["confusion_matrix"], found["classes"], found["classes"], "actual", "predicted"
            ),
            reports.table(
                by_class,
                "Recall: fraction of the class that is found. Precision: fraction of its predictions that "
                "are correct.",
            ),
        )
    ]
    if len(classes) > MAX_CLASSES:
        blocks.insert(
            0, reports.callout(f"Shown are the {MAX_CLASSES} most frequent of {len(classes)} classes.")
        )
    caption = (
        "The most confident mistakes: wrong predictions with the highest probability. Rows count from 0."
    )
    if evaluation.pictures:
        captions = [
            f"{example['actual']} taken for {example['predicted']} ({_percent(example['probability'])})"
            for example in evaluation.examples
        ]
        blocks.append(reports.pictures(list(zip(evaluation.pictures, captions, strict=True))))
    if evaluation.examples:
        blocks.append(reports.table(evaluation.examples, caption))
    return reports.section("Where does it err?", *blocks)


def _drawn(found: Mapping[str, Any], curve: str) -> tuple[list[str], list[reports.Block]]:
    """Return the most frequent classes that have a curve, in their order, and a note about the others."""
    rows = dict(zip(found["classes"], map(sum, found["confusion_matrix"]), strict=True))
    names = sorted(found[curve], key=lambda name: -rows[name])[:_MAX_LINES]
    if len(names) == len(found[curve]):
        return list(found[curve]), []
    said = f"Shown are the {len(names)} most frequent of {len(found[curve])} classes with a curve."
    return [name for name in found[curve] if name in names], [reports.callout(said)]


def _ranking_section(found: Mapping[str, Any], classes: int) -> reports.Block:
    names, said = _drawn(found, "roc")
    roc = {n: (found["roc"][n]["false_positive_rate"], found["roc"][n]["true_positive_rate"]) for n in names}
    pr = {
        n: (found["precision_recall"][n]["recall"], found["precision_recall"][n]["precision"]) for n in names
    }
    if not names:
        return reports.section(
            "How well does it rank?", reports.callout("One class only: there is no curve.")
        )
    what = f"class {names[0]!r}" if classes == 2 else "each class against the rest"
    return reports.section(
        f"How well does it rank? ({what})",
        *said,
        reports.grid(
            reports.lines(roc, "false positive rate", "true positive rate (ROC)", diagonal=True),
            reports.lines(pr, "recall", "precision"),
        ),
    )


def _trust_section(evaluation: Evaluation, found: Mapping[str, Any]) -> reports.Block:
    names, said = _drawn(found, "calibration")
    series = {n: (found["calibration"][n]["predicted"], found["calibration"][n]["observed"]) for n in names}
    _, sure = _confidence(evaluation)
    counts, edges = np.histogram(sure, bins=20, range=(0.0, 1.0))
    return reports.section(
        "Can its probabilities be trusted? (on the diagonal: yes)",
        *said,
        reports.grid(
            reports.lines(series, "predicted probability", "observed fraction", diagonal=True),
            reports.histogram(edges.tolist(), counts.tolist(), "probability of the predicted class (rows)"),
        ),
    )


def _slices_section(evaluation: Evaluation) -> reports.Block:
    if not evaluation.slices:
        return reports.section(
            "Slices",
            reports.callout("No slice columns were given, so groups of rows aren't compared."),
        )
    shown = _SLICE_COLUMNS[evaluation.model["task"]]
    worst = evaluation.worst.slice if evaluation.worst else None
    rows = [
        {
            "column": each.column,
            "value": each.value,
            "rows": each.rows,
            **{name: each.metrics.get(name) for name in shown},
            "": "worst" if each == worst else "too few rows to judge" if each.rows < MIN_SLICE_ROWS else "",
        }
        for each in evaluation.slices
    ]
    rows.insert(
        0,
        {
            "column": "(all)",
            "value": "",
            "rows": len(evaluation.truth),
            **{name: evaluation.metrics.get(name) for name in shown},
            "": "",
        },
    )
    return reports.section("Slices: for whom is it worse?", reports.table(rows))


def _error_callout(evaluation: Evaluation, actual: metrics.Floats) -> reports.Block:
    mae = evaluation.metrics["mae"]
    low, high = evaluation.intervals["mae"]
    baseline = float(np.abs(actual - actual.mean()).mean())
    text = (
        f"Predictions are off by {_number(mae)} on average (interval {_number(low)} to {_number(high)}). "
        f"Always predicting the mean, {_number(float(actual.mean()))}, would be off by {_number(baseline)}."
    )
    return reports.callout(text, "good" if high < baseline else "bad")


def _bias_callout(actual: metrics.Floats, predicted: metrics.Floats) -> list[reports.Block]:
    errors = predicted - actual
    if len(errors) < _FEW_ROWS:
        return []
    mean, margin = float(errors.mean()), 1.96 * float(errors.std(ddof=1)) / len(errors) ** 0.5
    if abs(mean) <= margin:
        return [reports.callout("Predictions aren't biased beyond chance.", "good")]
    side = "high" if mean > 0 else "low"
    text = f"Predictions are too {side} by {_number(abs(mean))} on average, more than chance."
    return [reports.callout(text, "bad")]


def _deciles(actual: metrics.Floats, predicted: metrics.Floats) -> list[dict[str, Any]]:
    """Measure errors by decile of the actual value; equal deciles make fewer groups."""
    edges = np.unique(np.quantile(actual, np.linspace(0, 1, 11)))
    edges = edges if len(edges) > 1 else np.array([edges[0], edges[0]])
    place = np.clip(np.searchsorted(edges, actual, side="left") - 1, 0, len(edges) - 2)
    found: list[dict[str, Any]] = []
    for index, (low, high) in enumerate(pairwise(edges)):
        inside = place == index
        if not inside.any():
            continue
        errors = (predicted - actual)[inside]
        found.append(
            {
                # Numbered, because close edges may look the same.
                "actual": f"{len(found) + 1}: {_number(low)} to {_number(high)}",
                "rows": int(inside.sum()),
                "mean error": float(np.abs(errors).mean()),
                "bias": float(errors.mean()),
            }
        )
    return found


def _decile_callout(deciles: Sequence[Mapping[str, Any]]) -> list[reports.Block]:
    if len(deciles) < 2:
        return []
    worst = max(deciles, key=lambda each: float(each["mean error"]))
    shift = worst["bias"]
    text = (
        f"It errs most where the actual value is in decile {worst['actual']} ({worst['rows']:,} rows): "
        f"off by {_number(worst['mean error'])} on average, on balance too {'high' if shift > 0 else 'low'} "
        f"by {_number(abs(shift))}."
    )
    return [reports.callout(text)]


def _fit_section(actual: metrics.Floats, predicted: metrics.Floats) -> reports.Block:
    shown = _spread_sample(actual)
    errors = predicted - actual
    counts, edges = np.histogram(errors, bins=30)
    return reports.section(
        "Predicted against actual",
        reports.grid(
            reports.scatter(
                actual[shown].tolist(), predicted[shown].tolist(), "actual", "predicted", diagonal=True
            ),
            reports.scatter(
                predicted[shown].tolist(), errors[shown].tolist(), "predicted", "predicted - actual"
            ),
            reports.histogram(edges.tolist(), counts.tolist(), "predicted - actual (rows)"),
        ),
    )


def _errors_section(evaluation: Evaluation, deciles: Sequence[Mapping[str, Any]]) -> reports.Block:
    return reports.section(
        "Where does it err?",
        reports.grid(
            reports.bars(
                {each["actual"]: each["mean error"] for each in deciles}, label="mean error by actual value"
            ),
            reports.table(deciles, "Rows by decile of the actual value; bias: mean of predicted - actual"),
        ),
        reports.table(
            evaluation.examples, "The largest errors. Rows count from 0; error is predicted - actual."
        ),
    )


def _spread_sample(values: metrics.Floats) -> NDArray[np.intp]:
    """Choose at most _MAX_POINTS rows, evenly over the sorted values and including both ends."""
    order = np.argsort(values, kind="stable")
    if len(order) <= _MAX_POINTS:
        return order
    return order[np.linspace(0, len(order) - 1, _MAX_POINTS).astype(np.intp)]


def _interval(ends: tuple[float, float] | None) -> str:
    return f" ({_number(ends[0])} to {_number(ends[1])})" if ends else ""


def _number(value: float) -> str:
    return reports.format_number(float(f"{value:.3g}"))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
