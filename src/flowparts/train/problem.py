"""What is learned from which columns, and which rows estimators are compared on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import polars as pl

from flowparts.prepare import folds
from flowparts.train import stages, trainers
from flowparts.train.candidates import Options
from flowparts.train.stages import Stage

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
        exclude_columns: Columns to exclude from the features.
    """

    label: str
    task: str
    options: Options
    metric: str | None = None
    folds: int = 0
    group_by: str | None = None
    time_column: str | None = None
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
            folds.check_options(self.folds or FOLDS, self.group_by, self.time_column)

    def split_as(self, described: Mapping[str, Any]) -> Self:
        """Return the problem with folds in time if its table was split in time and nothing else is asked for.

        At random, folds would learn from rows that are later than those that they are scored on.

        Args:
            described: `tables.description` of the training table.
        """
        if self.group_by or self.time_column or not described.get("time_column"):
            return self
        return replace(self, time_column=described["time_column"])

    def divide(
        self, table: pl.LazyFrame, validation: pl.LazyFrame | None, kept_together: Sequence[str] = ()
    ) -> list[Stage]:
        """Return the stages that estimators are trained and scored in.

        Args:
            table: Raw rows to learn from.
            validation: Raw rows to score on; None to cross-validate.
            kept_together: Columns that the split of the table kept together; the folds do too.

        Raises:
            ValueError: A table's content makes training impossible.
        """
        what = {**self.columns, "options": self.options}
        if validation is not None:
            return stages.on_validation(table, validation, **what)
        parts = folds.assign(
            table,
            self.folds or FOLDS,
            group_by=self.group_by,
            time_column=self.time_column,
            kept_together=kept_together,
            seed=self.options.seed,
            **self.columns,
        )
        return stages.on_folds(table, parts, **what)
