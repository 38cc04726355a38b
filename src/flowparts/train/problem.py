"""What is learned from which columns, and which rows estimators are compared on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import polars as pl

from flowparts.prepare import preprocess
from flowparts.prepare.folds import Fold, assign, check_options
from flowparts.train import recurrence, stages, trainers
from flowparts.train.candidates import Options
from flowparts.train.stages import Stage
from flowparts.util import scratch

# Without a validation table.
FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is learned, and how estimators are compared.

    Attributes:
        label: Column to predict.
        task: "classification" or "regression".
        options: What all estimators have in common.
        metric: What is optimized; the task's primary metric if not given.
        folds: Number of folds if there is no validation table; 0 for `FOLDS`.
        group_by: Column whose equal values stay in one fold.
        time_column: Column that the folds follow one another by.
        kept_together: Columns whose equal values stay in one fold unless one of those two is given.
        exclude_columns: Columns to exclude from the features.
    """

    label: str
    task: str
    options: Options
    metric: str | None = None
    folds: int = 0
    group_by: str | None = None
    time_column: str | None = None
    kept_together: Sequence[str] = ()
    exclude_columns: Sequence[str] = ()

    @property
    def columns(self) -> dict[str, Any]:
        """Which columns are learned from, and what is predicted."""
        return {"label": self.label, "task": self.task, "exclude_columns": list(self.exclude_columns)}

    def check(self, validated: bool) -> None:
        """Check everything that needs no data.

        Args:
            validated: Whether there is a validation table.

        Raises:
            ValueError: An option is unknown, out of range or contradicts another.
        """
        if self.options.seed < 0:
            raise ValueError(f"seed must be at least 0, not {self.options.seed}")
        trainers.check_columns(**self.columns, metric=self.metric, options=self.options)
        of_folds = {"folds": self.folds, "group_by": self.group_by, "time_column": self.time_column}
        if validated and (named := [name for name, value in of_folds.items() if value]):
            raise ValueError(
                f"there is a validation table, but {' and '.join(named)} would divide the training rows for "
                "cross-validation; leave out one of the two"
            )
        if not validated:
            check_options(self.folds or FOLDS, self.group_by, self.time_column)

    def split_as(self, described: Mapping[str, Any], validated: bool) -> Self:
        """Return the problem with folds like the split that its table comes from.

        What the split kept together stays in one fold, and folds follow one another in time if the parts do:
        at random, they would learn from rows later than those that they are scored on. `group_by` and
        `time_column` come first.

        Args:
            described: `tables.description` of the training table.
            validated: Whether there is a validation table, and so no folds.
        """
        if validated or self.group_by or self.time_column:
            return self
        together = tuple(described.get("kept_together") or ())
        return replace(self, time_column=described.get("time_column") or None, kept_together=together)

    def assigned(self, table: pl.LazyFrame) -> list[Fold]:
        """Return the folds of a table.

        Raises:
            ValueError: It has too few rows, groups, times or rows of a class for them.
        """
        return assign(
            table,
            self.folds or FOLDS,
            group_by=self.group_by,
            time_column=self.time_column,
            kept_together=self.kept_together,
            seed=self.options.seed,
            **self.columns,
        )

    @contextmanager
    def compared(
        self,
        table: pl.LazyFrame,
        validation: pl.LazyFrame | None,
        parts: Sequence[Fold] | None = None,
        *,
        halving: bool = False,
    ) -> Iterator["Compared"]:
        """Examine the training rows, and make the features that estimators are compared on, in files.

        With validation rows, text columns whose values don't recur in them are left out.

        Args:
            table: Raw rows to learn from.
            validation: Raw rows to score on; None to cross-validate.
            parts: What `assigned` returned for the table, if that is known.
            halving: Whether the trials of a search are first trained on fractions of a large table's rows.

        Raises:
            ValueError: A table's content makes training impossible.
        """
        examined = preprocess.examine(
            table,
            self.label,
            self.task,
            self.exclude_columns,
            self.options.weight_column,
            free_text=True,
        )
        new = [] if validation is None else recurrence.not_recurring(table, validation, examined)
        problem = replace(self, exclude_columns=[*self.exclude_columns, *new])
        metric, facts = trainers.examined(table, problem.metric, problem.columns, problem.options, examined)
        facts["warnings"] = [*facts["warnings"], *recurrence.warnings(new)]
        what = {**problem.columns, "options": problem.options}
        # Not flowparts-features-, as earlier versions named theirs, without the locks that show their use.
        with scratch.folder("flowparts-compared-") as folder:
            if validation is not None:
                found = stages.on_validation(table, validation, folder, halving=halving, **what)
            else:
                found = stages.on_folds(table, parts or problem.assigned(table), folder, **what)
            yield Compared(problem, table, validation, metric, facts, found)


@dataclass(frozen=True)
class Compared:
    """Rows that estimators are compared on.

    Attributes:
        problem: What is learned from them, and from which columns.
        table: Raw rows to learn from.
        validation: Raw rows to score on; None if they are cross-validated.
        metric: What is optimized.
        facts: What `trainers.examined` found in the training rows.
        stages: Their features: folds, or fractions of the training rows, the last one all of them.
    """

    problem: Problem
    table: pl.LazyFrame
    validation: pl.LazyFrame | None
    metric: str
    facts: dict[str, Any]
    stages: Sequence[Stage]

    @property
    def held_out_stages(self) -> Sequence[Stage]:
        """The stages whose validation rows estimators are compared on: all folds, or the last stage."""
        return self.stages if self.validation is None else [self.stages[-1]]
