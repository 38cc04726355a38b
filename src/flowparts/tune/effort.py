"""Train the best model of a table by a stated effort, which chooses estimators and parameters.

Members are weighted by their predictions for the validation rows, on small tables by cross-validation.
`standard` and `thorough` first search for parameters; the best configurations join an ensemble of more
members. The model is trained on training and validation rows together.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import reports, tables
from flowparts.prepare import preprocess
from flowparts.prepare.folds import Fold
from flowparts.tables import casts
from flowparts.train import calibration, ensemble, ensemble_report, portfolio, selection, trainers
from flowparts.train.ensemble import Ensemble, Member
from flowparts.train.held_out import HeldOut
from flowparts.train.problem import Compared, Problem
from flowparts.tune import objective, tuning
from flowparts.tune.objective import Trial
from flowparts.tune.study import Budget

# With fewer training and validation rows together, members are cross-validated.
SMALL_ROWS = 5_000
# Each fold costs a training of every member; trained on two thirds of the rows, members rank the same.
FOLDS, FOLDS_OF_SEARCH = 3, 5
# On large tables, each member with a weight is trained again on all rows, so `quick` takes few.
FEW_PICKS = 5
# With fewer rows, the best of many trials is mostly chance, so there are this many for each estimator.
FEW_ROWS, FEW_TRIALS = 1_000, 3
# Boosting stops after this many rounds without a lower validation loss.
PATIENCE = 30
# On large tables they take long and have no weight beside boosted trees.
_FORESTS = ("RandomForest", "ExtraTrees")
# Members of `quick` on small tables: fewer, with a high learning rate, since each is trained in every fold.
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
    "The best score was chosen among several on the same rows, so it is slightly optimistic; evaluate the "
    "model on a test table."
)
_REFITTED = (
    "The model was then trained on training and validation rows together, boosted trees for as many rounds "
    "as early stopping kept. Scores, seconds and sizes were measured before that."
)

Complete = Callable[[Path, pl.DataFrame | None], None]


@dataclass(frozen=True)
class Search:
    """What an effort adds to `quick`.

    Attributes:
        estimators: Those whose parameters are searched, each in its shipped space.
        budget: Number of trials, and as a cap the seconds after which no trial begins.
        cross_validated_rows: Tables of fewer rows are cross-validated.
    """

    estimators: tuple[str, ...]
    budget: Budget
    cross_validated_rows: int

    def budget_for(self, rows: "_Rows") -> Budget:
        """Return the budget, on few rows that of a short search."""
        if rows.validation is not None or tables.row_count(rows.table) >= FEW_ROWS:
            return self.budget
        return replace(self.budget, trials=min(self.budget.trials, FEW_TRIALS * len(self.estimators)))


# Usually the number of trials ends a search, so the result doesn't depend on the machine.
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
    problem: Problem,
    *,
    effort: str,
    described: Mapping[str, Any] | None = None,
    complete: Complete,
) -> tuple[str, str]:
    """Train the best model and write its directory; return what `trainers.train` does.

    Args:
        table: Raw rows to learn from.
        validation: Raw rows to choose by, or to cross-validate with the others.
        path: The model directory to make.
        problem: What is learned, and the metric to choose by.
        effort: One of `trainers.EFFORTS`.
        described: `tables.description` of the training table, for how it was split.
        complete: Given the model directory before it appears, writes what else belongs in it. It is also
            given the predictions for rows held out of the training, in the columns of `Model.predict`.

    Raises:
        ValueError: An option is unknown, out of range or contradicts another, which is found before any row
            is read, or a table's content makes training impossible.
    """
    trainers.check("sklearn", effort)
    if problem.options.early_stopping_rounds:
        raise ValueError(
            "early_stopping_rounds is for candidates; without them, boosting always stops early: leave it out"
        )
    problem = replace(problem, options=replace(problem.options, early_stopping_rounds=PATIENCE))
    ensemble.check(problem, (), None, 0.0, validated=True)
    search = SEARCHES.get(effort)
    rows = _Rows.of(table, validation, problem, search, described or {})
    with ExitStack() as stack:
        halving = search is not None
        compared = stack.enter_context(
            rows.problem.compared(rows.table, rows.validation, rows.parts, halving=halving)
        )
        notes, known = list(rows.notes), list[Member]()
        if search:
            settings = tuning.Settings(
                **vars(rows.problem),
                space={name: {} for name in search.estimators},
                budget=search.budget_for(rows),
            )
            # Kept until the model is written, so that a step killed before that doesn't search again.
            journal = stack.enter_context(
                tuning.remembered(None, path, tuning.identity(rows.table, rows.validation, settings))
            )
            trials = tuning.search(compared, settings, journal, keep=portfolio.PER_ESTIMATOR)
            found = portfolio.members_of_trials(tuning.trial_table(trials, compared.metric).lazy())
            known = _known(trials, HeldOut.of(compared))
            members = [*_portfolio(rows, search), *found]
            notes.append(_searched(trials, search))
        elif rows.validation is None:
            members = [*SMALL_MEMBERS, *([LESS_REGULARIZED] if problem.task == "classification" else [])]
        else:
            members = _portfolio(rows, None)
        several = rows.validation is None or search is not None
        made = ensemble.fit(
            compared,
            members,
            calibrate=_methods(compared),
            picks=ensemble.PICKS if several else FEW_PICKS,
            known=known,
        )
        untried = _untried(made, effort, rows)
        return _saved(made, path, effort, notes, untried, tables.fingerprint(table), complete)


def _portfolio(rows: "_Rows", search: Search | None) -> list[dict[str, Any]]:
    """Return the default members: on large tables without forests, unless the search tries forests, too."""
    has_forests = rows.validation is None or (search and set(_FORESTS) & set(search.estimators))
    return [each for each in portfolio.PORTFOLIO if has_forests or each["estimator"] not in _FORESTS]


def _known(trials: Sequence[Trial], held_out: HeldOut) -> list[Member]:
    """Return the best trials as members, which needn't be trained again."""
    return [
        ensemble.member(
            {
                "estimator": trial.trained[0].facts["estimator"],
                "parameters": trial.configuration.parameters,
            },
            trial.trained,
            trial.rounds[-len(trial.trained) :],
            held_out,
        )
        for trial in trials
        if trial.trained
    ]


def _methods(compared: Compared) -> Sequence[str]:
    """Return how probabilities may be calibrated: without changing the ROC AUC that members are chosen by."""
    held_out = HeldOut.of(compared)
    can_be = held_out.classes is not None and len(held_out.found_classes()) > 1
    return calibration.INCREASING if can_be else ()


@dataclass(frozen=True)
class _Rows:
    """The rows that members are trained and compared on.

    Attributes:
        table: Rows to learn from.
        validation: Rows to compare on; None to cross-validate.
        problem: What is learned, with the folds of a cross-validation.
        parts: These folds.
        notes: Remarks for the page.
    """

    table: pl.LazyFrame
    validation: pl.LazyFrame | None
    problem: Problem
    parts: Sequence[Fold] | None = None
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        table: pl.LazyFrame,
        validation: pl.LazyFrame,
        problem: Problem,
        search: Search | None,
        described: Mapping[str, Any],
    ) -> "_Rows":
        """Choose cross-validation or the validation table, by the number and order of the rows."""
        held_out = cls(table, validation, problem)
        limit = search.cross_validated_rows if search else SMALL_ROWS
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
        folds = FOLDS_OF_SEARCH if search else FOLDS
        crossed = replace(problem, folds=folds).split_as(described, validated=False)
        try:
            parts = crossed.assigned(together)
        except ValueError as error:
            return replace(held_out, notes=[f"Not cross-validated: {error}."])
        note = f"Training and validation rows together were cross-validated in {folds} folds."
        return cls(together, None, crossed, parts, [note])


def _searched(trials: Sequence[Trial], search: Search) -> str:
    counts = [f"{sum(trial.state == state for trial in trials)} {state}" for state in objective.STATES]
    return (
        f"A search of {len(trials)} trials ({', '.join(counts)}) over {', '.join(search.estimators)}; the "
        "two best configurations of each are among those below."
    )


def _saved(
    made: Ensemble,
    path: str | Path,
    effort: str,
    notes: Sequence[str],
    untried: Mapping[str, str],
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
        notes=[*notes, *_calibrated(made), _HONEST, _REFITTED],
        untried=untried,
        warnings=made.facts["warnings"],
    )
    return page, choice.metric


def _calibrated(made: Ensemble) -> list[str]:
    found = made.calibration
    if found is None or found.method == calibration.NONE:
        return []
    before, after = (found.log_losses[name] for name in (calibration.NONE, found.method))
    return [
        f"The probabilities are calibrated ({found.method}): the log loss on held-out rows falls from "
        f"{reports.format_number(before)} to {reports.format_number(after)}."
    ]


def _untried(made: Ensemble, effort: str, rows: "_Rows") -> dict[str, str]:
    """Return the estimators that only greater efforts try on these rows, with the least of these efforts."""
    tried = {each.name for each in made.members} | {each["estimator"] for each in made.left_out}
    reasons = {
        name: f"effort {harder!r} tries it"
        for harder, search in reversed(SEARCHES.items())
        for name in (*(each["estimator"] for each in _portfolio(rows, search)), *search.estimators)
        if harder != effort and not any(found.startswith(name) for found in tried) and name != "Linear"
    }
    return {**reasons, "neural networks": "trainer 'keras' trains one"}
