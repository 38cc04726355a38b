"""Choose among candidate models by their validation metrics, without loading their weights."""

import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from flowparts import reports
from flowparts.evaluate.directions import HIGHER_IS_BETTER, chosen, higher_is_better

# Costs of a candidate: key in its metadata to column title.
_COSTS = {"megabytes": "MB", "milliseconds": "ms for 1,000 rows", "seconds": "training s"}
_INTERVAL = "95 % interval"
VALIDATION = "the validation table"


class Choice(NamedTuple):
    """Candidates in order, the winner first.

    Attributes:
        metric: The metric that they were ranked by.
        order: Positions in the list of candidates, best first.
        scores: The metric of each, in the same order.
    """

    metric: str
    order: list[int]
    scores: list[float]

    def score_of(self, position: int) -> float:
        """Return the metric of the candidate at a position in the list of candidates."""
        return self.scores[self.order.index(position)]


def rank(candidates: Sequence[Mapping[str, Any]], metric: str | None = None) -> Choice:
    """Rank candidates by a validation metric; equal scores by size, estimator name and parameters.

    Measured times don't count: the choice must not depend on how busy the machine is.

    Args:
        candidates: The metadata of each model (`models.metadata`).
        metric: The metric; None takes the task's primary one (roc_auc or rmse).

    Raises:
        ValueError: There are no candidates, they predict different labels, the metric is unknown or doesn't
            fit the task, or a candidate lacks it.
    """
    if not candidates:
        raise ValueError("there are no candidates to select from; train at least one model")
    for key in ("task", "label"):
        values = sorted({str(candidate[key]) for candidate in candidates})
        if len(values) > 1:
            raise ValueError(
                f"candidates must share one {key}, but these have {', '.join(values)}; "
                "select among models of the same preprocessor"
            )
    task = str(candidates[0]["task"])
    metric = chosen(metric, task)
    scores = [_validation_score(candidate, metric) for candidate in candidates]
    sign = -1 if higher_is_better(metric) else 1
    keys = [(sign * value, _size(each), *_name(each)) for value, each in zip(scores, candidates, strict=True)]
    order = sorted(range(len(candidates)), key=keys.__getitem__)
    return Choice(metric, order, [scores[index] for index in order])


def ranking(
    candidates: Sequence[Mapping[str, Any]], choice: Choice, before: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return each candidate's estimator, parameters, megabytes (if known), metric and score, best first.

    Args:
        candidates: As `rank` takes them.
        choice: What `rank` returned for them.
        before: The ranking of an earlier round, whose winner is among the candidates; the others follow.
    """
    ranked: list[dict[str, Any]] = [
        {
            "estimator": candidates[index]["estimator"],
            "parameters": deepcopy(candidates[index]["parameters"]),
            **{key: candidates[index][key] for key in ("megabytes",) if key in candidates[index]},
            "metric": choice.metric,
            "score": score,
        }
        for index, score in zip(choice.order, choice.scores, strict=True)
    ]
    others = [dict(entry) for entry in before[1:] if entry["metric"] == choice.metric]
    sign = -1 if higher_is_better(choice.metric) else 1
    return sorted([*ranked, *others], key=lambda entry: sign * float(entry["score"]))


def selection_report(
    candidates: Sequence[Mapping[str, Any]],
    choice: Choice,
    left_out: Sequence[Mapping[str, Any]] = (),
    *,
    rows: str = VALIDATION,
    notes: Sequence[str] = (),
    untried: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """Return an HTML page: the winner, a bar for each candidate, their metrics, costs and parameters.

    Args:
        candidates: As for `rank`; if measured, with the `seconds` of training, the `milliseconds` of
            predicting 1,000 rows, and the `interval` of the metric (95 % bootstrap interval over the rows).
        choice: What `rank` returned for them.
        left_out: `estimator`, `parameters` and `reason` of each candidate that couldn't be trained.
        rows: Which rows the candidates were scored on, in words.
        notes: Further remarks.
        untried: Estimators that weren't tried, each with the reason.
        warnings: What was found in the rows before the training.
    """
    ranked = [candidates[index] for index in choice.order]
    winner, task, label = ranked[0], str(ranked[0]["task"]), str(ranked[0]["label"])
    return reports.page(
        "Model selection",
        reports.facts(
            {"chosen": winner["estimator"], choice.metric: choice.scores[0], "candidates": len(candidates)}
        ),
        reports.callout(_verdict(ranked, choice, rows), "good"),
        *map(reports.callout, notes),
        *warned(warnings),
        *not_trained(left_out),
        *leaderboard(candidates, choice, rows),
        *_untried(untried or {}),
        subtitle=f"{task} of {label}: candidates compared on {rows}",
    )


def leaderboard(
    candidates: Sequence[Mapping[str, Any]], choice: Choice, rows: str = VALIDATION
) -> list[reports.Block]:
    """Return the parts of a page that compare candidates; they are as for `selection_report`."""
    ranked = [candidates[index] for index in choice.order]
    direction = "higher" if higher_is_better(choice.metric) else "lower"
    names = [f"{place}. {candidate['estimator']}" for place, candidate in enumerate(ranked, start=1)]
    intervals = {
        name: each["interval"] for name, each in zip(names, ranked, strict=True) if each.get("interval")
    }
    cells = [
        {
            "place": f"{place} (chosen)" if place == 1 else str(place),
            "estimator": candidate["estimator"],
            **candidate["validation"],
            _INTERVAL: " to ".join(map(reports.format_number, candidate.get("interval") or ())),
            **{title: candidate.get(name, "") for name, title in _COSTS.items()},
            "weight": candidate.get("weight", ""),
            "parameters": _parameters(candidate),
        }
        for place, candidate in enumerate(ranked, start=1)
    ]
    metrics = _metrics(str(ranked[0]["task"]), ranked)
    columns = ["place", "estimator", *sorted(metrics, key=lambda name: name != choice.metric)]
    columns[3:3] = [_INTERVAL] if intervals else []
    columns += [title for name, title in _COSTS.items() if any(name in each for each in ranked)]
    columns += ["weight"] if any("weight" in each for each in ranked) else []
    columns.append("parameters")
    return [
        reports.section(
            f"Leaderboard by {choice.metric} on {rows} ({direction} is better)",
            reports.bars(dict(zip(names, choice.scores, strict=True)), intervals, label=choice.metric),
        ),
        reports.section(
            "All metrics",
            reports.table([{column: row.get(column, "") for column in columns} for row in cells]),
        ),
    ]


def not_trained(left_out: Sequence[Mapping[str, Any]]) -> list[reports.Block]:
    """Return the parts of a page that name candidates that couldn't be trained, with the reasons."""
    return [
        reports.callout(f"{each['estimator']} is left out: {each['reason']}.", "bad") for each in left_out
    ]


def warned(warnings: Sequence[str]) -> list[reports.Block]:
    """Return the parts of a page that say what was found in the rows before the training."""
    return [reports.callout(f"Before training: {text}.", "bad") for text in warnings]


def training_report(candidate: Mapping[str, Any]) -> str:
    """Return an HTML page of one trained estimator: its validation metrics, costs and parameters.

    Args:
        candidate: As `rank` takes it, with the `seconds` of training; it may lack metrics.
    """
    metrics = {name: candidate["validation"][name] for name in _metrics(candidate["task"], [candidate])}
    costs = {title: candidate[name] for name, title in _COSTS.items() if name in candidate}
    parameters = [
        {"parameter": name, "value": json.dumps(value)} for name, value in candidate["parameters"].items()
    ]
    return reports.page(
        "Training of an estimator",
        reports.facts({"estimator": candidate["estimator"], **costs}),
        reports.section("Validation metrics", reports.table([metrics])),
        *([reports.section("Parameters", reports.table(parameters))] if parameters else []),
        subtitle=f"{candidate['task']} of {candidate['label']}, scored on the validation table",
    )


def _metrics(task: str, candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the metrics of a task that at least one candidate has."""
    known = HIGHER_IS_BETTER[task]
    return [name for name in known if any(name in candidate["validation"] for candidate in candidates)]


def _validation_score(candidate: Mapping[str, Any], metric: str) -> float:
    validation = candidate.get("validation") or {}
    value = validation.get(metric)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(
            f"candidate {candidate['estimator']} has no validation metric {metric!r}; "
            f"it has: {', '.join(validation) or 'none'}"
        )
    return float(value)


def _size(candidate: Mapping[str, Any]) -> float:
    return float(candidate.get("megabytes", math.inf))


def _name(candidate: Mapping[str, Any]) -> tuple[str, str]:
    return str(candidate["estimator"]), json.dumps(candidate.get("parameters"), sort_keys=True, default=str)


def _parameters(candidate: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted((candidate.get("parameters") or {}).items()))


def _untried(untried: Mapping[str, str]) -> list[reports.Block]:
    rows = [{"estimator": name, "why": reason} for name, reason in untried.items()]
    return [reports.section("Not tried", reports.table(rows))] if rows else []


def _verdict(ranked: Sequence[Mapping[str, Any]], choice: Choice, rows: str) -> str:
    name, best = ranked[0]["estimator"], reports.format_number(choice.scores[0])
    text = f"{name} has the best {choice.metric} on {rows}, {best}"
    if len(ranked) == 1:
        return f"{text}; it was the only candidate."
    other = ranked[1]["estimator"]
    lead = (choice.scores[0] - choice.scores[1]) * (1 if higher_is_better(choice.metric) else -1)
    if lead < 0:
        # A model made of the others comes first whatever its score, which calibration may lower.
        behind = reports.format_number(-lead)
        return (
            f"The {choice.metric} of {name} on {rows} is {best}, {behind} behind that of {other}, the best "
            "single one."
        )
    if lead == 0:
        if "weight" in ranked[1] and "weight" not in ranked[0]:  # made of the others
            return f"{text}, equal to {other}."
        rule = "the smaller one" if _size(ranked[0]) != _size(ranked[1]) else "the first by name"
        return f"{text}, equal to {other}; {rule} was taken."
    return f"{text}, {reports.format_number(lead)} ahead of {other}."
