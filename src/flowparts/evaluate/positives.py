"""Choose the positive one of two classes, and the metric by its frequency."""

from typing import Any

import polars as pl

from flowparts import tables
from flowparts.evaluate import directions

# Below this fraction of positives, ROC AUC looks good even if hardly any positive is found.
RARE = 0.05


def find(table: pl.LazyFrame, label: str) -> tuple[Any, float] | None:
    """Return the positive one of two classes and its fraction of the rows; None unless there are two.

    It is the class of average precision and the curves: the later one in sorted order, as in scikit-learn (1
    of 0 and 1, yes of no and yes), unless the earlier one is in fewer than 5 % of the rows (fraud of fraud
    and ok).

    Args:
        table: The training rows; of these, only the label is read.
        label: The label column.
    """
    values = table.select(tables.column(label).alias("class")).group_by("class").len().pipe(tables.collect)
    values = values.drop_nulls().sort("class")
    if values.height != 2:
        return None
    fractions = [count / values["len"].sum() for count in values["len"]]
    chosen = 0 if fractions[0] < RARE else 1
    return values["class"][chosen], fractions[chosen]


def training_facts(table: pl.LazyFrame, label: str, task: str, metric: str | None = None) -> dict[str, Any]:
    """Return the metadata about the metric that a model is judged by.

    Args:
        table: The training rows.
        label: The label column.
        task: "classification" or "regression".
        metric: The requested metric, if any.

    Returns:
        `metric`: the given one, the task's primary one, or average precision for fewer than 5 % positives;
        `metric_reason`: why it isn't the primary one, otherwise empty; and `positive_class`, None unless
        there are two classes.
    """
    found = find(table, label) if task == "classification" else None
    facts = {"metric": metric or directions.PRIMARY[task], "metric_reason": "", "positive_class": None}
    if found is None:
        return facts
    facts["positive_class"], fraction = found
    if not metric and fraction < RARE:
        facts["metric"] = "average_precision"
        facts["metric_reason"] = (
            f"The metric is average_precision because {fraction:.2%} of the training rows are positive "
            f"(class {found[0]!r}), less than {RARE:.0%}: roc_auc counts the many easy negatives and looks "
            "good even if most alarms are false. Guessing scores the fraction of positives."
        )
    return facts
