"""Whether a new model takes the champion's place: both score the same rows, and chance is ruled out."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from flowparts import directions, models, tables

if TYPE_CHECKING:
    from flowparts.models import Model


def check_rules(
    metric: str | None, margin: float, floor: float | None, confidence: float, samples: int
) -> None:
    """Raise ValueError unless the rules of a comparison make sense; see `compare` for what they are."""
    from flowparts import metrics

    metrics.check_bootstrap(samples, confidence)
    if metric:
        directions.higher_is_better(metric)
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
    samples: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Score both models on the same rows and decide, by `decide`.

    A champion that can't score these rows (other task, label, classes or columns, damaged files) counts as
    none; the result says what is wrong with it.

    Args:
        challenger: Directory of the new model.
        champion: Directory of the current champion, if there is one.
        test: Raw rows with the label.
        metric: A metric of `metrics.score`; the task's primary metric if not given.
        margin: Least improvement, in units of the metric.
        floor: Worst score that a model without a champion to beat may have, in units of the metric: the
            lowest for a metric like roc_auc, the highest for an error like rmse.
        confidence: Share of the resamples in which the challenger must be better; also that of the intervals.
        servable: Whether the challenger passed the serving check.
        samples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        What JSON can hold: `task`, `label`, `rows`, `metric`, `higher_is_better`, `challenger` and `champion`
        (each `estimator` and `metrics`: name to `score`, `low`, `high`; no champion: null),
        `champion_problem`, `improvement` (`value`, `low`, `high`, `probability_better`, or null),
        the rules, `promote` and `reason`.

    Raises:
        ValueError: The challenger can't score the rows, or the metric is undefined on them.
    """
    from flowparts import metrics

    check_rules(metric, margin, floor, confidence, samples)
    task = models.metadata(challenger)["task"]
    metric = directions.chosen(metric, task)
    new = models.load(challenger)
    tables.require_columns(test, [new.label], "label column")
    tables.require_rows(test, "the test table")
    truth = tables.select(test, [new.label]).pipe(tables.collect)[new.label]
    new_predictions = new.predict(test)
    options: dict[str, Any] = {"samples": samples, "confidence": confidence, "seed": seed}
    result: dict[str, Any] = {
        "task": task,
        "label": new.label,
        "rows": len(truth),
        "metric": metric,
        "higher_is_better": directions.higher_is_better(metric),
        "challenger": _scored(new, truth, new_predictions, **options),
        "champion": None,
        "champion_problem": "",
        "improvement": None,
        "margin": margin,
        "floor": floor,
        "confidence": confidence,
        "servable": servable,
    }
    defined = result["challenger"]["metrics"]
    if metric not in defined:
        raise ValueError(
            f"metric {metric!r} is not defined on these {len(truth)} rows; defined are: {', '.join(defined)}"
        )
    if champion is not None:
        try:
            old = models.load(champion)
            _require_same_target(new, old)
            old_predictions = old.predict(test)
            result["champion"] = _scored(old, truth, old_predictions, **options)
        except ValueError as error:  # the old model is damaged or does not fit: the new one is to be judged
            result["champion_problem"] = _one_line(error).replace(f"{champion}/", "")
        else:
            difference = metrics.paired_bootstrap(
                metric, task, truth, new_predictions, old_predictions, new.classes, **options
            )
            result["improvement"] = {
                "value": difference.improvement,
                "low": difference.low,
                "high": difference.high,
                "probability_better": difference.probability_better,
            }
    result["promote"], result["reason"] = decide(result)
    return result


def decide(comparison: Mapping[str, Any]) -> tuple[bool, str]:
    """Decide on the numbers of a comparison.

    Promoted is a servable model that improves on the champion by more than nothing and at least the margin,
    and is better in at least the share `confidence` of the resamples. Without a champion to compare with,
    its score must be at least as good as the floor, if there is one.

    Returns:
        Whether to promote, and why: one line of plain ASCII without quotes, as conditions of a pipeline
        need it.
    """
    metric, value = comparison["metric"], score(comparison, "challenger")
    stays = "champion stays"
    if not comparison["servable"]:
        return False, "not promoted: the model failed the serving check"
    if comparison["improvement"] is None:
        problem = comparison["champion_problem"]
        first = f"no usable champion ({_plain(problem)})" if problem else "first model"
        floor = comparison["floor"]
        if floor is None:
            return True, f"promoted: {first}, {metric} {value:.4g}, no floor set"
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
    share = f"better in {better:.1%} of the resamples"
    if better < comparison["confidence"]:
        return False, f"{stays}: {scores}, may be chance: {share}, {comparison['confidence']:.4g} needed"
    return True, f"promoted: {scores}, {share}"


def score(comparison: Mapping[str, Any], side: str) -> float:
    """Return the compared metric of the "challenger" or the "champion"."""
    return float(comparison[side]["metrics"][comparison["metric"]]["score"])


def scores(comparison: Mapping[str, Any]) -> dict[str, float]:
    """Return the compared metric of each model there is, and the improvement if there is a champion."""
    metric = comparison["metric"]
    found = {f"challenger_{metric}": score(comparison, "challenger")}
    if comparison["champion"]:
        found[f"champion_{metric}"] = score(comparison, "champion")
        found["improvement"] = float(comparison["improvement"]["value"])
    return found


def measured(comparison: Mapping[str, Any]) -> dict[str, float]:
    """Return every metric of the challenger, with the ends of its interval as NAME_low and NAME_high."""
    return {
        name if part == "score" else f"{name}_{part}": value
        for name, entry in comparison["challenger"]["metrics"].items()
        for part, value in entry.items()
    }


def _scored(
    model: "Model", truth: pl.Series, predictions: pl.DataFrame, samples: int, confidence: float, seed: int
) -> dict[str, Any]:
    from flowparts import metrics

    given = (model.task, truth, predictions, model.classes)
    intervals = metrics.bootstrap_intervals(*given, samples=samples, confidence=confidence, seed=seed)
    entries = {name: {"score": value} for name, value in metrics.score(*given).items()}
    for name, (low, high) in intervals.items():
        entries[name] |= {"low": low, "high": high}
    return {"estimator": model.metadata["estimator"], "metrics": entries}


def _require_same_target(new: "Model", old: "Model") -> None:
    for what in ("task", "label", "classes"):
        mine, other = getattr(new, what), getattr(old, what)
        if mine != other:
            raise ValueError(f"its {what}: {other}; the challenger's: {mine}")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _plain(text: str) -> str:
    # A condition on a string that holds a single quote silently skips both of its branches.
    return text.replace("'", "").replace('"', "").encode("ascii", "replace").decode()
