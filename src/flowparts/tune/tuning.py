"""Search for the best estimator and parameters for a table, and train the model with them."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.train import candidates, estimators, trainers
from flowparts.train.candidates import Trained
from flowparts.train.networks import checkpoints
from flowparts.train.problem import FOLDS, Compared, Problem
from flowparts.tune import objective, space, study, study_report
from flowparts.tune.journal import Journal
from flowparts.tune.objective import Objective, Trial
from flowparts.tune.space import Space
from flowparts.tune.study import Budget
from flowparts.util.errors import UnreachableError


@dataclass(frozen=True, kw_only=True)
class Settings(Problem):
    """What a study searches, and how.

    Attributes:
        space: The search space, as for `space.check`.
        budget: Limits of the study.
    """

    space: Mapping[str, Any] | None
    budget: Budget

    @cached_property
    def spaces(self) -> list[Space]:
        """The spaces of the estimators."""
        return space.check(self.space, self.task)

    def check(self, validated: bool) -> None:
        """Check everything that needs no data, like `Problem.check`.

        Raises:
            ValueError: An option is unknown, out of range or contradicts another.
        """
        self.budget.check()
        super().check(validated)
        for each in self.spaces:  # that each estimator takes the options
            options = self.options if each.stops_early else replace(self.options, early_stopping_rounds=None)
            first = {found.name: found.extremes()[0] for found in each.dimensions if not found.when}
            entry = {"estimator": each.estimator, "parameters": {**each.fixed, **first}}
            candidates.build([entry], self.task, options)


@dataclass(frozen=True)
class Tuned:
    """The result of a study.

    Attributes:
        metric: The metric that was optimized.
        best: The best trial.
        trials: All finished trials.
        parameters: The model's parameters; after a cross-validation, with the mean rounds of early stopping.
        page: HTML page about the study.
    """

    metric: str
    best: Trial
    trials: list[Trial]
    parameters: dict[str, Any]
    page: str

    def table(self) -> pl.DataFrame:
        """Return the table of the trials."""
        return trial_table(self.trials, self.metric)


def trial_table(trials: Sequence[Trial], metric: str) -> pl.DataFrame:
    """Return a table with a row for each trial; parameters are JSON."""
    return pl.DataFrame(
        [
            {
                "trial": trial.number,
                "estimator": trial.configuration.estimator,
                "state": trial.state,
                "metric": metric,
                "score": trial.score,
                "stages": len(trial.values),
                "parameters": json.dumps(trial.configuration.parameters, sort_keys=True),
                "reason": trial.reason,
            }
            for trial in trials
        ],
        schema={
            "trial": pl.Int64,
            "estimator": pl.String,
            "state": pl.String,
            "metric": pl.String,
            "score": pl.Float64,
            "stages": pl.Int64,
            "parameters": pl.String,
            "reason": pl.String,
        },
    )


@contextlib.contextmanager
def remembered(place: str | None, model: str | Path, study: Mapping[str, object]) -> Iterator[Journal]:
    """Yield the journal of a study; it is removed when the block succeeds, or fails because of the inputs.

    Args:
        place: A path or URI of the folder for it; if not given, as `checkpoints.place` says.
        model: The model directory to make.
        study: Data and options that identify the journal.
    """
    folder = checkpoints.place(place, model, 1)
    assert folder
    journal = Journal(folder, study)
    try:
        yield journal
    except UnreachableError:
        raise
    except ValueError:
        # The same inputs fail the same way.
        journal.clear()
        raise
    journal.clear()


def identity(table: pl.LazyFrame, validation: pl.LazyFrame | None, settings: Settings) -> dict[str, object]:
    """Return what identifies a study: data and options, without the limits of its budget."""
    return {
        "tables": [tables.fingerprint(each) for each in (table, validation) if each is not None],
        "space": space.as_text(settings.spaces),
        "options": repr(settings.options),
        "metric": settings.metric,
        "folds": [
            settings.folds or FOLDS,
            settings.group_by,
            settings.time_column,
            list(settings.kept_together),
        ],
        "parallel": settings.budget.parallel,
        **settings.columns,
    }


def tune(
    table: pl.LazyFrame,
    validation: pl.LazyFrame | None,
    path: str | Path,
    settings: Settings,
    journal: Journal,
    complete: Callable[[Path], None] | None = None,
) -> Tuned:
    """Search within the budget, train the model with the best parameters, and write it.

    With a validation table, every trial is trained on the training table and scored on the other, and so is
    the model. Without one, trials are cross-validated, and the model is trained on all rows, for as many
    rounds as early stopping kept on average; its validation metrics are the means of the folds.

    Args:
        table: Raw rows to learn from.
        validation: Raw rows to score trials on; None to cross-validate.
        path: The model directory to make.
        settings: What is searched, and how; checked.
        journal: Where finished trials are stored.
        complete: As for `models.save`.

    Raises:
        ValueError: A table's content makes training impossible, or no trial succeeded.
    """
    with settings.compared(table, validation, halving=True) as rows:
        trials = search(rows, settings, journal)
        return finish(rows, trials, path, settings, complete)


def judge(rows: Compared, settings: Settings) -> Objective:
    """Return what every trial of a study is judged by, wherever it runs."""
    is_crossed = rows.validation is None
    positive = rows.facts["positive_class"]
    return Objective(settings.task, rows.metric, settings.options, rows.stages, is_crossed, positive)


def search(rows: Compared, settings: Settings, journal: Journal, keep: int = 0) -> list[Trial]:
    """Run the trials of a study, as `study.run` does."""
    judged = judge(rows, settings)
    return study.run(judged, settings.spaces, settings.budget, journal, settings.options.seed, keep)


def finish(
    rows: Compared,
    trials: list[Trial],
    path: str | Path,
    settings: Settings,
    complete: Callable[[Path], None] | None,
) -> Tuned:
    """Train the model of the best of the finished trials, and write it.

    Args:
        rows: What the trials were compared on.
        trials: The finished trials, of which one at least is complete.
        path: The model directory to make.
        settings: What was searched, and how.
        complete: As for `models.save`.
    """
    judged = judge(rows, settings)
    best = study.best(trials, judged.maximizes)
    trained, learned, examples = _final(judged, best, rows.table, settings)
    counts = {state: sum(trial.state == state for trial in trials) for state in objective.STATES}
    stored = {**trained.facts, "trials": len(trials), **{f"trials_{name}": n for name, n in counts.items()}}
    if judged.folds:
        stored["validation_folds"] = settings.folds or FOLDS
    finished = trainers.annotated(rows.facts, complete)
    replace(trained, facts=stored).save(path, learned, examples, finished)
    page = study_report.page(
        judged,
        settings.spaces,
        trials,
        best,
        settings.options.seed,
        settings.label,
        rows.facts["warnings"],
    )
    return Tuned(judged.metric, best, trials, stored["parameters"], page)


def _final(judged: Objective, best: Trial, table: pl.LazyFrame, settings: Settings) -> Any:
    """Train the model of the best trial; return it with the preprocessing and the features."""
    if not judged.folds:
        last = judged.stages[-1]
        trained = candidates.train(
            judged.candidate(best.configuration), last.learned, last.train, last.validation
        )
        return trained, last.learned, last.train
    learned, rows = candidates.learn(
        table, settings.label, settings.task, settings.exclude_columns, settings.options
    )
    configuration = replace(
        best.configuration,
        parameters=estimators.with_rounds(best.configuration.parameters, best.rounds),
        stops_early=False,
    )
    trained = candidates.train(judged.candidate(configuration), learned, rows, rows)
    found: Trained = replace(trained, facts={**trained.facts, "validation": best.metrics})
    return found, learned, rows
