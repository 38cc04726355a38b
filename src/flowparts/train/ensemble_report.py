"""The page about an ensemble: leaderboard, calibration and decision threshold."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flowparts import reports
from flowparts.evaluate import directions, metrics
from flowparts.train import selection
from flowparts.train.calibration import NONE
from flowparts.train.ensemble import Ensemble
from flowparts.train.held_out import Floats, HeldOut


def page(made: Ensemble) -> str:
    """Return an HTML page about an ensemble."""
    held_out, metric, facts = made.held_out, made.held_out.metric, made.trained.facts
    compared, choice = ranked(made)
    used = sum(1 for each in made.members if each.weight)
    shown = {"members": used, metric: facts["validation"][metric]}
    if made.calibration:
        shown["calibration"] = made.calibration.method
    if made.threshold:
        shown["threshold"] = made.threshold.value
    return reports.page(
        "Ensemble",
        reports.facts(shown),
        reports.callout(_verdict(made, used), "good"),
        *selection.warned(made.facts["warnings"]),
        *selection.not_trained(made.left_out),
        reports.callout(
            f"Weights, calibration and threshold were chosen on the {len(held_out.labels):,} rows that are "
            "scored here, so the ensemble's scores are slightly optimistic; evaluate it on a test table."
        ),
        *selection.leaderboard(compared, choice, scored_on(made)),
        *_calibration(made),
        *_threshold(made),
        subtitle=f"{held_out.task} of {facts['label']}: weighted by {metric}",
    )


def scored_on(made: Ensemble) -> str:
    """Return which rows members were compared on, in words."""
    return selection.VALIDATION if len(set(made.held_out.parts)) == 1 else "rows held out of each fold"


def ranked(made: Ensemble) -> tuple[list[dict[str, Any]], selection.Choice]:
    """Return members and, if it is more than one of them as it is, the ensemble, for `selection`."""
    task, label = made.held_out.task, made.trained.facts["label"]
    found: list[dict[str, Any]] = [
        {
            "estimator": each.name,
            "task": task,
            "label": label,
            "parameters": each.entry["parameters"],
            "validation": each.metrics,
            "interval": each.interval,
            "megabytes": each.megabytes,
            "milliseconds": each.milliseconds,
            "seconds": each.seconds,
            "weight": each.weight,
        }
        for each in made.members
    ]
    choice = selection.rank(found, made.held_out.metric)
    used = [each for each in made.members if each.weight]
    is_calibrated = made.calibration is not None and made.calibration.method != NONE
    if len(used) == 1 and not is_calibrated and not made.threshold:
        # Of equally good members, the chosen one comes first.
        first = made.members.index(used[0])
        order = [first, *(place for place in choice.order if place != first)]
        return found, choice._replace(order=order, scores=[choice.score_of(place) for place in order])
    whole = {
        **{name: made.trained.facts[name] for name in ("task", "label", "parameters", "validation")},
        "estimator": f"Ensemble of {len(used)}" if len(used) > 1 else "Final model",
        "interval": made.held_out.interval(made.predicted, made.threshold),
        "megabytes": made.trained.facts["megabytes"],
        "milliseconds": made.trained.milliseconds,
        "seconds": sum(each.seconds for each in used),
    }
    score = whole["validation"][choice.metric]
    return [whole, *found], selection.Choice(
        choice.metric, [0, *(place + 1 for place in choice.order)], [score, *choice.scores]
    )


def _verdict(made: Ensemble, used: int) -> str:
    metric, best = made.held_out.metric, made.members[0]
    score, single = made.trained.facts["validation"][metric], best.metrics[metric]
    text = f"{metric} is {reports.format_number(score)}"
    if used == 1:
        return f"{text}: no weighted mean is better than {best.name} alone."
    gain = score - single if directions.higher_is_better(metric) else single - score
    word = "better" if gain >= 0 else "worse"
    return (
        f"{text} with {used} members, {reports.format_number(abs(gain))} {word} than {best.name}, the best "
        "single one."
    )


def _calibration(made: Ensemble) -> list[reports.Block]:
    found = made.calibration
    if found is None:
        return []
    held_out = made.held_out
    before, after = _reliability(held_out, made.mean), _reliability(held_out, found.probabilities)
    if found.method == NONE:
        sides = {"as predicted": before}
        text = (
            "The probabilities are left as they are: no method clearly lowers the log loss on rows left out. "
            f"The expected calibration error is {before.error:.2%}."
        )
    else:
        sides = {"before": before, "after": after}
        text = (
            f"The probabilities are calibrated ({found.method}): the log loss on rows left out falls. The "
            f"expected calibration error is {before.error:.2%} before and {after.error:.2%} after."
        )
    losses = [
        {"method": name, "log loss": loss, "": "chosen" if name == found.method else ""}
        for name, loss in found.log_losses.items()
    ]
    series = {name: (each.predicted, each.observed) for name, each in sides.items()}
    bins = [
        {"": name, "predicted": predicted, "observed": observed, "rows": rows}
        for name, each in sides.items()
        for predicted, observed, rows in zip(each.predicted, each.observed, each.rows, strict=True)
    ]
    return [
        reports.section(
            "Can its probabilities be trusted? (on the diagonal: yes)",
            reports.callout(text),
            reports.grid(
                reports.lines(series, "predicted probability", "observed share", diagonal=True),
                reports.table(
                    losses, caption="Each method fitted on some of the held-out rows, scored on the rest"
                ),
            ),
            reports.table(bins, caption="Ten bins of equal width; those without rows are left out"),
        )
    ]


def _reliability(held_out: HeldOut, probabilities: Floats) -> metrics.Calibration:
    """Compare probability and frequency of the positive one of two classes, or of the predicted class."""
    if probabilities.shape[1] == 2:
        place = held_out.positive_index
        return metrics.calibration(held_out.truth == place, probabilities[:, place])
    answers = probabilities.argmax(axis=1)
    return metrics.calibration(answers == held_out.truth, probabilities[np.arange(len(answers)), answers])


def _threshold(made: Ensemble) -> list[reports.Block]:
    found = made.threshold
    if found is None:
        return []
    positive = (made.held_out.classes or [])[found.positive]
    text = (
        f"The prediction is {positive!r} from a probability of {found.value:.4g} on: {found.rule} on the "
        "held-out rows."
    )
    rows: list[Mapping[str, Any]] = [
        {"threshold": 0.5, **found.before},
        {"threshold": found.value, **found.after},
    ]
    return [reports.section("How it decides", reports.callout(text), reports.table(rows))]
