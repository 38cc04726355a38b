"""Train the best model of a table without being told which estimators: by a stated effort.

`quick` takes the best of a few members by the validation rows. On small tables, where a validation table is
mostly chance, members are cross-validated and weighted instead. `standard` and `thorough` first search for
parameters, and the best ones join an ensemble of more members. The model is trained on training and
validation rows together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.prepare import folds, preprocess
from flowparts.tables import casts
from flowparts.train import ensemble, ensemble_report, selection, trainers
from flowparts.train.candidates import Options
from flowparts.train.ensemble import Ensemble
from flowparts.train.problem import Problem
from flowparts.tune import objective, study, tuning
from flowparts.tune.study import Budget

# With fewer rows for training and validation together, members are cross-validated.
SMALL_ROWS = 5_000
# Each fold is a training of every member, and with two thirds of the rows they differ as they do with more.
FOLDS, FOLDS_OF_SEARCH = 3, 5
# Rounds without a lower validation loss after which boosting stops.
PATIENCE = 30
_FORESTS = ("RandomForest", "ExtraTrees")
# Members of `quick` on small tables: each is trained once for each fold and once more, so they learn in large
# steps, and there are fewer.
_BOOSTING = {"n_estimators": 1_000, "learning_rate": 0.1}
SMALL_MEMBERS: tuple[dict[str, Any], ...] = (
    {"estimator": "LGBM", "parameters": _BOOSTING},
    {
        "estimator": "LGBM",
        "parameters": {**_BOOSTING, "num_leaves": 8, "min_child_samples": 5, "colsample_bytree": 0.8},
    },
    {"estimator": "Linear", "parameters": {}},
    {"estimator": "ExtraTrees", "parameters": {"n_estimators": 50, "max_leaf_nodes": 1_000}},
)
# scikit-learn's usual regularization is too strong for some tables: with this member too, the log loss of the
# benchmark's `vehicle` falls from 0.45 to 0.39.
LESS_REGULARIZED = {"estimator": "LogisticRegression", "parameters": {"C": 10, "max_iter": 1_000}}

_HONEST = (
    "The best score is that of the best of several on the rows that chose it, so it is a little too good; a "
    "test table shows how good the model is."
)
_REFITTED = (
    "The model was then trained on training and validation rows together, boosted trees for as many rounds "
    "as early stopping kept. Scores, seconds and sizes are those before."
)

Complete = Callable[[Path, pl.DataFrame | None], None]


@dataclass(frozen=True)
class Search:
    """What an effort adds to `quick`.

    Attributes:
        estimators: Whose parameters are searched, each in its shipped space.
        budget: Trials, and as a cap the seconds after which no further one begins.
        cross_validated_rows: Tables of fewer rows are cross-validated.
    """

    estimators: tuple[str, ...]
    budget: Budget
    cross_validated_rows: int


# The number of trials, which doesn't depend on the machine, is what usually ends a search.
SEARCHES = {
    "standard": Search(("Linear", "LGBM", "XGB"), Budget(trials=30, seconds=600), SMALL_ROWS),
    "thorough": Search(
        ("Linear", "RandomForest", "ExtraTrees", "HistGradientBoosting", "LGBM", "XGB"),
        Budget(trials=150, seconds=3_600),
        50_000,
    ),
}


def train(
    table: pl.LazyFrame,
    validation: pl.LazyFrame,
    path: str | Path,
    *,
    label: str,
    task: str,
    trainer: str,
    effort: str,
    entries: Sequence[Any] = (),
    network: Mapping[str, Any] | None = None,
    metric: str | None = None,
    exclude_columns: Sequence[str] = (),
    options: Options,
    described: Mapping[str, Any] | None = None,
    complete: Complete,
) -> tuple[str, str]:
    """Train the best model and write its directory; the results are those of `trainers.train`.

    Args:
        table: Raw rows to learn from.
        validation: Raw rows to choose by.
        path: The model directory to make.
        label: Column to predict.
        task: "classification" or "regression".
        trainer: One of `trainers.TRAINERS`.
        effort: One of `trainers.EFFORTS`; the default one has no effect on a network and on entries.
        entries: What sklearn tries instead.
        network: Options of the network.
        metric: The metric to choose by; the task's primary one if not given.
        exclude_columns: Columns to exclude from the features.
        options: What holds for every trainer.
        described: `tables.description` of the training table, for how it was split.
        complete: Given the model directory before it appears, writes what else belongs in it. If the model
            was trained on the validation rows too, it is also given what was predicted for rows that were
            held out of the training, in the columns of `Model.predict`.

    Raises:
        ValueError: An option is unknown, out of range or contradicts another, which is found before any row
            is read, or a table's content makes training impossible.
    """
    trainers.check(trainer, effort, bool(entries))
    what: dict[str, Any] = {"label": label, "task": task, "exclude_columns": exclude_columns}
    if trainer != "sklearn" or entries:
        return trainers.train(
            table,
            validation,
            path,
            **what,
            trainer=trainer,
            entries=entries,
            network=network,
            metric=metric,
            options=options,
            complete=lambda folder: complete(folder, None),
        )
    if options.early_stopping_rounds:
        raise ValueError(
            "early_stopping_rounds is for candidates; without them, boosting always stops early: leave it out"
        )
    problem = Problem(**what, metric=metric, options=replace(options, early_stopping_rounds=PATIENCE))
    ensemble.check(problem, (), None, 0.0, validated=True)
    crossed = replace(problem, folds=FOLDS_OF_SEARCH if effort in SEARCHES else FOLDS)
    rows = _Rows.of(table, validation, crossed, effort, described or {})
    problem = crossed if rows.validation is None else problem
    members = [*SMALL_MEMBERS, *([LESS_REGULARIZED] if task == "classification" else [])]
    search_notes: list[str] = []
    if effort in SEARCHES:
        found, search_notes = _searched(rows, path, problem, SEARCHES[effort])
        members = [*ensemble.PORTFOLIO, *found]
    elif rows.validation is not None:
        members = [each for each in ensemble.PORTFOLIO if each["estimator"] not in _FORESTS]
    several = rows.validation is None or effort in SEARCHES
    made = ensemble.fit(
        rows.table,
        rows.validation,
        problem,
        members,
        kept_together=rows.kept_together,
        calibrate=False,
        picks=ensemble.PICKS if several else 1,
    )
    return _saved(made, path, effort, [*rows.notes, *search_notes], rows.fingerprint, complete)


@dataclass(frozen=True)
class _Rows:
    """What members are trained and compared on.

    Attributes:
        table: Rows to learn from.
        validation: Rows to compare on; None to cross-validate.
        kept_together: Columns whose equal values are in one fold.
        fingerprint: Of the training table.
        notes: What to say about it.
    """

    table: pl.LazyFrame
    validation: pl.LazyFrame | None
    kept_together: Sequence[str]
    fingerprint: str
    notes: list[str]

    @classmethod
    def of(
        cls,
        table: pl.LazyFrame,
        validation: pl.LazyFrame,
        problem: Problem,
        effort: str,
        described: Mapping[str, Any],
    ) -> "_Rows":
        """Decide between a cross-validation and the validation table, by size and order of the rows."""
        kept_together = described.get("kept_together") or []
        fingerprint = tables.fingerprint(table)
        held_out = cls(table, validation, kept_together, fingerprint, [])
        limit = SEARCHES[effort].cross_validated_rows if effort in SEARCHES else SMALL_ROWS
        if described.get("time_column") or tables.row_count(table) + tables.row_count(validation) >= limit:
            return held_out
        learned = preprocess.examine(
            table,
            problem.label,
            problem.task,
            problem.exclude_columns,
            problem.options.weight_column,
            free_text=True,
        )
        preprocess.check_held_out(
            validation,
            learned.features,
            problem.label,
            problem.task,
            learned.classes,
            problem.options.weight_column,
            "the validation table",
        )
        together = casts.stacked(table, validation)
        try:
            folds.assign(
                together,
                problem.folds,
                kept_together=kept_together,
                seed=problem.options.seed,
                **problem.columns,
            )
        except ValueError as error:
            return replace(held_out, notes=[f"Not cross-validated: {error}."])
        note = f"Training and validation rows together were cross-validated in {problem.folds} folds."
        return cls(together, None, kept_together, fingerprint, [note])


def _searched(
    rows: _Rows, path: str | Path, problem: Problem, search: Search
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the best configurations that a search finds, and what to say of it."""
    settings = tuning.Settings(
        **vars(problem), space={name: {} for name in search.estimators}, budget=search.budget
    )
    settings.check(validated=rows.validation is not None)
    identity = tuning.identity(rows.table, rows.validation, settings)
    with tuning.remembered(None, path, identity) as journal:
        judged, _ = tuning.judge(rows.table, rows.validation, settings, rows.kept_together)
        trials = study.run(judged, settings.spaces, settings.budget, journal, settings.options.seed)
    counts = [f"{sum(trial.state == state for trial in trials)} {state}" for state in objective.STATES]
    found = ensemble.members_of_trials(tuning.trial_table(trials, judged.metric).lazy())
    note = (
        f"A search of {len(trials)} trials ({', '.join(counts)}) over {', '.join(search.estimators)}; the "
        "two best configurations of each are among those below."
    )
    return found, [note]


def _saved(
    made: Ensemble,
    path: str | Path,
    effort: str,
    notes: Sequence[str],
    fingerprint: str,
    complete: Complete,
) -> tuple[str, str]:
    """Write the model; return the leaderboard and the metric."""
    ranked, choice = ensemble_report.ranked(made)
    facts = {
        **made.trained.facts,
        "effort": effort,
        "training_fingerprint": fingerprint,
        "candidates": selection.ranking(ranked, choice),
        **({"left_out": made.left_out} if made.left_out else {}),
    }
    model = replace(made, trained=replace(made.trained, facts=facts))
    model.save(path, lambda folder: complete(folder, made.trained.predictions))
    page = selection.selection_report(
        ranked,
        choice,
        made.left_out,
        rows=ensemble_report.scored_on(made),
        notes=[*notes, _HONEST, _REFITTED],
        untried=_untried(made, effort),
    )
    return page, choice.metric


def _untried(made: Ensemble, effort: str) -> dict[str, str]:
    """Return what a greater effort would have tried, with the least that does."""
    tried = {each.name for each in made.members} | {each["estimator"] for each in made.left_out}
    portfolio = [str(each["estimator"]) for each in ensemble.PORTFOLIO]
    reasons = {
        name: f"effort {harder!r} tries it"
        for harder, search in reversed(SEARCHES.items())
        for name in (*portfolio, *search.estimators)
        if harder != effort and not any(found.startswith(name) for found in tried) and name != "Linear"
    }
    return {**reasons, "neural networks": "trainer 'keras' trains one"}
