"""The page about an ensemble: its leaderboard, how its probabilities are calibrated, and how it decides."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flowparts import reports
from flowparts.evaluate import directions, metrics
from flowparts.train.calibration import NONE
from flowparts.train.ensemble import Ensemble, Floats, HeldOut, Member


def page(made: Ensemble) -> str:
    """Return an HTML page about an ensemble."""
    held_out, metric, facts = made.held_out, made.held_out.metric, made.trained.facts
    direction = "higher" if directions.higher_is_better(metric) else "lower"
    folds = facts.get("validation_folds")
    where = f"rows of {folds} folds, none trained on" if folds else "validation rows"
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
        *(
            reports.callout(f"{each['estimator']} is left out: {each['reason']}.", "bad")
            for each in made.left_out
        ),
        reports.callout(
            f"Weights, calibration and threshold were chosen on the {len(held_out.labels):,} rows that are "
            "scored here, so the ensemble's scores are a little too good; a test table shows how good it is."
        ),
        reports.section(
            f"Leaderboard ({metric} on {where}; {direction} is better)",
            reports.bars({name: score for name, score, _ in _scores(made)}, label=metric),
            reports.table(_leaderboard(made), caption="Seconds are of all trainings for the comparison."),
        ),
        *_calibration(made),
        *_threshold(made),
        reports.section("Parameters", reports.table(_parameters(made))),
        subtitle=f"{held_out.task} of {facts['label']}: weighted by {metric}",
    )


def _names(made: Ensemble) -> list[str]:
    return [f"{place}. {each.name}" for place, each in enumerate(made.members, start=1)]


def _scores(made: Ensemble) -> list[tuple[str, float, Member | None]]:
    """Return name, score and member of each line of the leaderboard, the ensemble first."""
    metric = made.held_out.metric
    members = zip(_names(made), made.members, strict=True)
    return [
        ("ensemble", made.trained.facts["validation"][metric], None),
        *((name, each.metrics[metric], each) for name, each in members),
    ]


def _leaderboard(made: Ensemble) -> list[dict[str, Any]]:
    metric, rows = made.held_out.metric, []
    for name, score, member in _scores(made):
        interval = member.interval if member else made.held_out.interval(made.predicted, made.threshold)
        seconds = member.seconds if member else sum(each.seconds for each in made.members)
        rows.append(
            {
                "model": name,
                "weight": member.weight if member else "",
                metric: score,
                "95 % interval": ""
                if interval is None
                else " to ".join(map(reports.format_number, interval)),
                "training s": round(seconds, 2),
                "ms for 1,000 rows": round(member.milliseconds if member else made.trained.milliseconds, 2),
                "MB": member.megabytes if member else made.trained.facts["megabytes"],
            }
        )
    return rows


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
    """Compare probability and frequency of the positive of two classes, or of the given answer."""
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


def _parameters(made: Ensemble) -> list[dict[str, Any]]:
    return [
        {
            "model": name,
            "parameters": ", ".join(
                f"{key}={value}" for key, value in sorted(member.final_entry()["parameters"].items())
            )
            or "defaults",
        }
        for name, member in zip(_names(made), made.members, strict=True)
    ]
