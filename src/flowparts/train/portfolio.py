"""Members of ensembles: the default ones, and the best configurations of a search."""

import json
from typing import Any

import polars as pl

from flowparts import tables
from flowparts.evaluate import directions

_BOOSTING = {"n_estimators": 2_000}
# Forests are kept small enough for one ONNX graph of all.
_FOREST = {"n_estimators": 100, "max_leaf_nodes": 1_000}
# Default members: boosted trees of three shapes, two forests, and a linear model.
PORTFOLIO: tuple[dict[str, Any], ...] = (
    {"estimator": "LGBM", "parameters": {**_BOOSTING, "learning_rate": 0.05}},
    {
        "estimator": "LGBM",
        "parameters": {
            **_BOOSTING,
            "learning_rate": 0.05,
            "num_leaves": 8,
            "min_child_samples": 5,
            "colsample_bytree": 0.8,
        },
    },
    {
        "estimator": "LGBM",
        "parameters": {
            **_BOOSTING,
            "learning_rate": 0.03,
            "num_leaves": 64,
            "colsample_bytree": 0.5,
            "subsample": 0.8,
            "subsample_freq": 1,
        },
    },
    {"estimator": "Linear", "parameters": {}},
    {"estimator": "RandomForest", "parameters": _FOREST},
    {"estimator": "ExtraTrees", "parameters": _FOREST},
)
# Configurations of each estimator of a search that become members.
PER_ESTIMATOR = 2


def members_of_trials(trials: pl.LazyFrame) -> list[dict[str, Any]]:
    """Return the best two configurations of each estimator of a search as members.

    Args:
        trials: The table of trials that `tune_model` writes.

    Raises:
        ValueError: The table isn't one of trials, or no trial was completed.
    """
    columns = ["estimator", "metric", "score", "parameters"]
    tables.require_columns(trials, columns, "column of trials")
    tables.require_rows(trials, "the table of trials")
    complete = tables.select(trials, columns).pipe(tables.collect).drop_nulls("score")
    if complete.is_empty():
        raise ValueError("none of the trials was completed, so there are no members to take from them")
    higher = directions.higher_is_better(complete["metric"][0])
    best = complete.sort("score", descending=higher, maintain_order=True)
    best = best.unique(["estimator", "parameters"], keep="first", maintain_order=True)
    best = best.group_by("estimator", maintain_order=True).head(PER_ESTIMATOR)
    return [
        {"estimator": name, "parameters": json.loads(parameters)}
        for name, parameters in best.select("estimator", "parameters").iter_rows()
    ]
