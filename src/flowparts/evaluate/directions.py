"""The metrics of each task and their direction; without NumPy, so that every image can use them."""

import sys

from flowparts.util.names import hint

PRIMARY = {"classification": "roc_auc", "regression": "rmse"}

HIGHER_IS_BETTER = {
    "classification": {
        "accuracy": True,
        "balanced_accuracy": True,
        "precision": True,
        "recall": True,
        "f1": True,
        "roc_auc": True,
        "average_precision": True,
        "log_loss": False,
        "brier": False,
        "mcc": True,
    },
    "regression": {
        "rmse": False,
        "mae": False,
        "r2": True,
        "mape": False,
        "median_absolute_error": False,
    },
}


def higher_is_better(metric: str) -> bool:
    """Return whether higher values of a metric are better.

    Raises:
        ValueError: There is no such metric.
    """
    known = {name: higher for names in HIGHER_IS_BETTER.values() for name, higher in names.items()}
    if metric not in known:
        raise ValueError(
            f"metric {metric!r} is unknown; {hint(metric, known)}metrics are: {', '.join(known)}"
        )
    return known[metric]


def require_fitting(metric: str, task: str) -> None:
    """Raise ValueError unless the metric exists and measures this task."""
    higher_is_better(metric)
    if metric not in HIGHER_IS_BETTER[task]:
        fitting = ", ".join(HIGHER_IS_BETTER[task])
        raise ValueError(f"metric {metric!r} does not fit {task}; its metrics are: {fitting}")


def chosen(metric: str | None, task: str) -> str:
    """Return the metric, or the task's primary one if none is given.

    Raises:
        ValueError: There is no such metric, or it doesn't measure this task.
    """
    metric = metric or PRIMARY[task]
    require_fitting(metric, task)
    return metric


def worst(metric: str) -> float:
    """Return the value of an undefined metric: 0, or the largest float for an error."""
    return 0.0 if higher_is_better(metric) else sys.float_info.max
