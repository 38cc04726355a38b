"""Decide whether a new model replaces the champion: both score the same rows, and chance is ruled out."""

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from flowparts import models, tables
from flowparts.evaluate import directions
from flowparts.models import seen
from flowparts.register.comparison import Baseline, Comparison, Entry, Gain, Scored, Side
from flowparts.util.shortening import one_line

if TYPE_CHECKING:
    from flowparts.evaluate.metrics import Difference
    from flowparts.models import Model

# With fewer unseen rows, chance would decide.
MIN_UNSEEN_ROWS = 30


def check_rules(
    metric: str | None, margin: float, floor: float | None, confidence: float, samples: int
) -> None:
    """Raise ValueError unless the rules of a comparison are valid; see `compare`."""
    from flowparts.evaluate import metrics

    metrics.check_bootstrap(samples, confidence)
    if metric:
        directions.higher_is_better(metric)
    check_limits(margin, floor)


def check_limits(margin: float, floor: float | None) -> None:
    """Raise ValueError unless the margin and the floor of a comparison are valid."""
    if not (isfinite(margin) and margin >= 0):
        raise ValueError(f"margin is {margin}; it must be 0 or more, in units of the metric")
    if floor is not None and not isfinite(floor):
        raise ValueError(f"floor is {floor}; it must be a finite number, in units of the metric")


def compare(
    challenger: str | Path,
    champion: str | Path | None,
    test: pl.LazyFrame,
    *,
    metric: str | None = None,
    margin: float = 0.0,
    floor: float | None = None,
    confidence: float = 0.95,
    servable: bool = True,
    replace_champion: bool = False,
    samples: int = 500,
    seed: int = 0,
) -> Comparison:
    """Score both models on the same rows, which neither has seen, and decide by `decide`.

    A champion with damaged files counts as none. A champion of another task, label, classes or columns, or
    one that has seen nearly all rows, can't be compared. The result says why.

    Args:
        challenger: Directory of the new model.
        champion: Directory of the current champion, if there is one.
        test: Raw rows with the label.
        metric: A metric of `metrics.score`; default: the one that the challenger was selected by.
        margin: Minimum improvement, in units of the metric.
        floor: Threshold for a model without a champion to beat, in units of the metric: the minimum for a
            score like roc_auc, the maximum for an error like rmse. By default, every model must beat the
            constant prediction of the most frequent class or the mean.
        confidence: Fraction of the resamples in which the challenger must be better, and confidence level of
            the intervals.
        servable: Whether the challenger passed the serving check.
        replace_champion: Whether a champion that can't be compared is replaced.
        samples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: The challenger can't score the rows, or the metric is undefined on them.
    """
    from flowparts.evaluate.metrics import against_constant, paired_bootstrap

    check_rules(metric, margin, floor, confidence, samples)
    described = models.metadata(challenger)
    task = described["task"]
    metric = directions.chosen(metric or described.get("metric"), task)
    new = models.load(challenger)
    tables.require_columns(test, [new.label], "label column")
    tables.require_rows(test, "the test table")
    truth = tables.select(test, [new.label]).pipe(tables.collect)[new.label]
    new_predictions = new.predict(test)
    options: dict[str, Any] = {
        "samples": samples,
        "confidence": confidence,
        "seed": seed,
        "positive": described.get("positive_class"),
    }
    result: Comparison = {
        "task": task,
        "label": new.label,
        "rows": len(truth),
        "seen_rows": 0,
        "metric": metric,
        "higher_is_better": directions.higher_is_better(metric),
        "challenger": {"estimator": "", "metrics": {}},
        "champion": None,
        "champion_problem": "",
        "comparable": True,
        "improvement": None,
        "baseline": None,
        "margin": margin,
        "floor": floor,
        "confidence": confidence,
        "servable": servable,
        "replace_champion": replace_champion,
        "promote": False,
        "reason": "",
    }
    old = _opened(champion, result) if champion is not None else None
    if champion is not None and old is not None:
        try:
            _require_same_target(new, old)
            old_predictions = old.predict(test)
            kept = _unseen(challenger, champion, test, result)
            rest = (truth.filter(kept), new_predictions.filter(kept), old_predictions.filter(kept))
            difference = paired_bootstrap(metric, task, *rest, new.classes, **options)
        except ValueError as error:
            result |= {"champion_problem": _one_line(error), "comparable": False}
        else:
            truth, new_predictions, old_predictions = rest
            result["rows"] = len(truth)
            result["champion"] = _scored(old, truth, old_predictions, **options)
            result["improvement"] = _gain(difference)
    scored = _scored(new, truth, new_predictions, **options)
    if metric not in scored["metrics"]:
        raise ValueError(
            f"metric {metric!r} is not defined on these {len(truth)} rows; "
            f"defined are: {', '.join(scored['metrics'])}"
        )
    result["challenger"] = scored
    answer, gain = against_constant(metric, task, truth, new_predictions, new.classes, **options)
    if gain is not None:
        result["baseline"] = {"answer": answer, "score": gain.champion, **_gain(gain)}
    result["promote"], result["reason"] = decide(result)
    return result


def decide(comparison: Comparison) -> tuple[bool, str]:
    """Decide by the numbers of a comparison.

    A model is promoted if it is servable, improves on the champion by more than 0 and at least the margin,
    and is better in at least the fraction `confidence` of the resamples. Without a champion to compare with,
    its score must be at least as good as the floor. Without a floor, any model must beat a constant
    prediction in that fraction of the resamples. A champion that can't be compared stays, unless the
    comparison has `replace_champion`.

    Returns:
        Whether to promote, and the reason: one line of ASCII without quotes, as conditions of a pipeline
        require.
    """
    metric, value = comparison["metric"], score(comparison, "challenger")
    problem, stays = comparison["champion_problem"], "champion stays"
    if not comparison["servable"]:
        return False, "not promoted: the model failed the serving check"
    if not comparison["comparable"] and not comparison["replace_champion"]:
        return False, (
            f"{stays}: it cannot be compared ({_plain(problem)}); give the new model another model_name, "
            "or set replace_champion"
        )
    if comparison["improvement"] is None:
        first = f"no usable champion ({_plain(problem)})" if problem else "first model"
        floor = comparison["floor"]
        if floor is None:
            beats, why = _beats_constant(comparison)
            return beats, f"{'' if beats else 'not '}promoted: {first}, {why}"
        good = value >= floor if comparison["higher_is_better"] else value <= floor
        word = "meets" if good else "misses"
        return (
            good,
            f"{'' if good else 'not '}promoted: {first}, {metric} {value:.4g} {word} the floor {floor:.4g}",
        )
    gain, better = comparison["improvement"]["value"], comparison["improvement"]["probability_better"]
    scores = f"{metric} {value:.4g}, champion {score(comparison, 'champion'):.4g}"
    if gain <= 0:
        return False, f"{stays}: no improvement, {scores}"
    if gain < comparison["margin"]:
        return (
            False,
            f"{stays}: {scores}, better by {gain:.4g}, less than the margin {comparison['margin']:.4g}",
        )
    resamples = f"better in {better:.1%} of the resamples"
    if better < comparison["confidence"]:
        return False, f"{stays}: {scores}, may be chance: {resamples}, {comparison['confidence']:.4g} needed"
    beats, why = _beats_constant(comparison)
    if comparison["floor"] is None and not beats:
        return False, f"{stays}: {scores}, but {why}"
    return True, f"promoted: {scores}, {resamples}"


def _beats_constant(comparison: Comparison) -> tuple[bool, str]:
    """Return whether the challenger beats a constant prediction, and the numbers as text."""
    metric, entry = comparison["metric"], comparison["challenger"]["metrics"][comparison["metric"]]
    value = f"{metric} {entry['score']:.4g}"
    if "low" in entry:
        value += f" ({entry['low']:.4g} to {entry['high']:.4g})"
    baseline = comparison["baseline"]
    if baseline is None:
        return False, f"{value}: too few rows to compare it with a constant prediction"
    constant = f"always predicting {_plain(constant_answer(baseline))} ({baseline['score']:.4g})"
    if baseline["value"] > 0 and baseline["probability_better"] >= comparison["confidence"]:
        return True, f"{value}, better than {constant}"
    resamples = f"better in {baseline['probability_better']:.1%} of the resamples"
    return False, f"{value} is no better than {constant}: {resamples}, {comparison['confidence']:.4g} needed"


def constant_answer(baseline: Baseline) -> str:
    """Return the constant prediction that a model was compared with, as text."""
    answer = baseline["answer"]
    return f"{answer:.4g}" if isinstance(answer, float) else " ".join(str(answer).split())[:50]


def score(comparison: Comparison, side: Side) -> float:
    """Return the compared metric of the "challenger" or the "champion"."""
    scored = comparison[side]
    if scored is None:
        raise ValueError("there is no champion that was compared")
    return scored["metrics"][comparison["metric"]]["score"]


def scores(comparison: Comparison) -> dict[str, float]:
    """Return the compared metric of each model, and the improvement if there is a champion."""
    metric = comparison["metric"]
    found = {f"challenger_{metric}": score(comparison, "challenger")}
    if comparison["champion"] and comparison["improvement"]:
        found[f"champion_{metric}"] = score(comparison, "champion")
        found["improvement"] = comparison["improvement"]["value"]
    return found


def measured(comparison: Comparison) -> dict[str, float]:
    """Return all metrics of the challenger, with the interval's bounds as NAME_low and NAME_high."""
    found: dict[str, float] = {}
    for name, entry in comparison["challenger"]["metrics"].items():
        found[name] = entry["score"]
        if "low" in entry:
            found |= {f"{name}_low": entry["low"], f"{name}_high": entry["high"]}
    return found


def _scored(
    model: "Model", truth: pl.Series, predictions: pl.DataFrame, positive: Any, **options: Any
) -> Scored:
    from flowparts.evaluate import metrics

    given = (model.task, truth, predictions, model.classes)
    intervals = metrics.bootstrap_intervals(*given, **options, positive=positive)
    entries: dict[str, Entry] = {}
    for name, value in metrics.score(*given, positive).items():
        entries[name] = {"score": value}
        if name in intervals:
            entries[name]["low"], entries[name]["high"] = intervals[name]
    return {"estimator": model.metadata["estimator"], "metrics": entries}


def _opened(champion: str | Path, result: Comparison) -> "Model | None":
    try:
        return models.load(champion)
    except ValueError as error:  # damaged: judge the new model without it
        result["champion_problem"] = _one_line(error).replace(f"{champion}/", "")
        return None


def _unseen(
    challenger: str | Path, champion: str | Path, test: pl.LazyFrame, result: Comparison
) -> pl.Series:
    """Choose the test rows that neither model has seen, as far as is recorded; count the others.

    Raises:
        ValueError: The models have seen nearly all rows.
    """
    rows = tables.row_count(test)
    kept, known = pl.repeat(True, rows, dtype=pl.Boolean, eager=True), seen.unseen(champion, test)
    for unseen in (known, seen.unseen(challenger, test)):
        kept = kept if unseen is None else kept & unseen
    left = int(kept.sum())
    result["seen_rows"] = None if known is None else rows - left
    if left < min(MIN_UNSEEN_ROWS, rows):
        raise ValueError(
            f"only {left} of {rows} test rows were not seen by it or the new model in training, "
            f"{MIN_UNSEEN_ROWS} are needed"
        )
    return kept


def _gain(difference: "Difference") -> Gain:
    return {
        "value": difference.improvement,
        "low": difference.low,
        "high": difference.high,
        "probability_better": difference.probability_better,
    }


def _require_same_target(new: "Model", old: "Model") -> None:
    for what in ("task", "label", "classes"):
        mine, other = getattr(new, what), getattr(old, what)
        if mine != other:
            raise ValueError(f"its {what}: {other}; the challenger's: {mine}")


def _one_line(error: Exception) -> str:
    text = one_line(error, 300)
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _plain(text: str) -> str:
    # A condition on a string with a single quote silently skips both of its branches.
    return text.replace("'", "").replace('"', "").encode("ascii", "replace").decode()
