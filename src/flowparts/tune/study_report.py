"""The page about a study: history, parameter importances, and slices of the search space."""

import math
from collections.abc import Sequence

from flowparts import reports
from flowparts.train import selection
from flowparts.tune import objective, study, suggest
from flowparts.tune.objective import Objective, Trial
from flowparts.tune.space import Dimension, Space

_MOST_CAUSES = 5
_MOST_ROWS = 20
_MOST_SLICES = 12
# Maximum number of bars in a slice of a categorical parameter.
_MOST_CHOICES = 20


def page(
    judged: Objective,
    spaces: Sequence[Space],
    trials: Sequence[Trial],
    best: Trial,
    seed: int,
    label: str,
    warnings: Sequence[str] = (),
) -> str:
    """Return an HTML page about the trials of a study.

    Args:
        judged: The objective of the trials.
        spaces: The search spaces.
        trials: The finished trials.
        best: The best of them.
        seed: Seed of the importances.
        label: The label column.
        warnings: What was found in the rows before the search.
    """
    metric = judged.metric
    direction = "higher" if judged.maximizes else "lower"
    counts = {state: sum(trial.state == state for trial in trials) for state in objective.STATES}
    where = f"mean of {len(judged.stages)} folds" if judged.folds else "on the validation table"
    space = next(each for each in spaces if each.estimator == best.configuration.estimator)
    failed = study.causes(trials)
    blocks = [
        reports.facts(
            {"best": best.configuration.estimator, metric: best.score, "trials": len(trials), **counts}
        ),
        reports.callout(_verdict(trials, best, judged), "good"),
        *selection.warned(warnings),
        *(reports.callout(f"failed: {cause}", "bad") for cause in failed[:_MOST_CAUSES]),
        reports.callout(
            "This score was chosen among many trials on the same rows, so it is slightly optimistic; "
            "evaluate the model on a test table."
        ),
        reports.section(
            f"History ({metric}, {where}; {direction} is better)", _history(trials, judged.maximizes, metric)
        ),
        reports.section("Best score of each estimator", *_by_estimator(spaces, trials, judged)),
    ]
    explained = suggest.importances(space, trials, judged.maximizes, seed)
    if explained:
        blocks.append(
            reports.section(
                f"What mattered for {space.estimator}",
                reports.bars(explained, label="share of the variance of the score (fANOVA)"),
            )
        )
    slices = _slices(space, trials, metric)
    if slices:
        blocks.append(reports.section(f"Slices of {space.estimator}", reports.grid(*slices)))
    blocks.append(
        reports.section("Best parameters", reports.table(_parameters(best)), _best_trials(trials, judged))
    )
    return reports.page(
        "Hyperparameter search", *blocks, subtitle=f"{judged.task} of {label}: {metric} {where}"
    )


def _verdict(trials: Sequence[Trial], best: Trial, judged: Objective) -> str:
    name, score = best.configuration.estimator, best.score or 0.0
    text = f"{name} has the best {judged.metric}, {reports.format_number(score)}, in trial {best.number}"
    defaults = [
        trial for trial in trials if trial.configuration.estimator == name and not trial.configuration.chosen
    ]
    if not best.configuration.chosen:
        return f"{text}, with its default parameters; the search found no better ones."
    if not defaults or defaults[0].score is None:
        return f"{text}."
    gain = abs(score - defaults[0].score)
    return f"{text}, {reports.format_number(gain)} better than with its default parameters."


def _history(trials: Sequence[Trial], maximizes: bool, metric: str) -> reports.Block:
    best_so_far: list[float] = []
    for trial in trials:
        known = [*best_so_far[-1:], *([trial.score] if trial.score is not None else [])]
        best_so_far.append((max if maximizes else min)(known) if known else math.nan)
    numbers = [float(trial.number) for trial in trials]
    scored = [(number, trial.score) for number, trial in zip(numbers, trials, strict=True)]
    complete = [(number, score) for number, score in scored if score is not None]
    return reports.grid(
        reports.lines({"best so far": (numbers, best_so_far)}, "trial", metric),
        reports.scatter(
            [number for number, _ in complete], [score for _, score in complete], "complete trial", metric
        ),
    )


def _by_estimator(spaces: Sequence[Space], trials: Sequence[Trial], judged: Objective) -> list[reports.Block]:
    found = {}
    rows = []
    for space in spaces:
        own = [trial for trial in trials if trial.configuration.estimator == space.estimator]
        complete = [trial for trial in own if trial.score is not None]
        if complete:
            found[space.estimator] = study.best(complete, judged.maximizes).score or 0.0
        rows.append(
            {
                "estimator": space.estimator,
                judged.metric: found.get(space.estimator, ""),
                "trials": len(own),
                **{state: sum(trial.state == state for trial in own) for state in objective.STATES},
                "seconds": round(sum(trial.seconds for trial in own), 1),
            }
        )
    return [reports.bars(found, label=judged.metric), reports.table(rows)]


def _slices(space: Space, trials: Sequence[Trial], metric: str) -> list[reports.Block]:
    own = [
        trial
        for trial in trials
        if trial.configuration.estimator == space.estimator and trial.score is not None
    ]
    drawn = [_slice(dimension, own, metric) for dimension in space.dimensions[:_MOST_SLICES]]
    return [each for each in drawn if each is not None]


def _slice(dimension: Dimension, trials: Sequence[Trial], metric: str) -> reports.Block | None:
    points = [
        (trial.configuration.chosen[dimension.name], trial.score or 0.0)
        for trial in trials
        if dimension.name in trial.configuration.chosen
    ]
    if len(points) < 2:
        return None
    if dimension.kind == "categorical":
        of_choice: dict[str, list[float]] = {}
        for value, score in points:
            of_choice.setdefault(str(value), []).append(score)
        means = {name: sum(scores) / len(scores) for name, scores in sorted(of_choice.items())}
        return reports.bars(
            dict(list(means.items())[:_MOST_CHOICES]), label=f"mean {metric} by {dimension.name}"
        )
    values = [math.log10(value) if dimension.log else float(value) for value, _ in points]
    name = f"log10 of {dimension.name}" if dimension.log else dimension.name
    return reports.scatter(values, [score for _, score in points], name, metric)


def _parameters(best: Trial) -> list[dict[str, object]]:
    chosen = best.configuration.chosen
    return [
        {"parameter": name, "value": _shown(value), "": "chosen" if name in chosen else "given"}
        for name, value in sorted(best.configuration.parameters.items())
    ]


def _best_trials(trials: Sequence[Trial], judged: Objective) -> reports.Block:
    sign = -1 if judged.maximizes else 1
    complete = sorted(
        (trial for trial in trials if trial.score is not None), key=lambda trial: sign * (trial.score or 0.0)
    )
    return reports.table(
        [
            {
                "trial": trial.number,
                "estimator": trial.configuration.estimator,
                judged.metric: trial.score,
                "seconds": trial.seconds,
                "parameters": ", ".join(
                    f"{name}={_shown(value)}" for name, value in sorted(trial.configuration.chosen.items())
                )
                or "none chosen",
            }
            for trial in complete[:_MOST_ROWS]
        ],
        caption=f"The best {min(len(complete), _MOST_ROWS)} complete trials",
    )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
