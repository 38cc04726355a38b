"""Limit the size and training time of scikit-learn's forests on large tables.

Their trees grow until every leaf is pure, so on noisy labels size and time grow with the rows: 200 trees on
230,000 rows have 14 million nodes, take minutes to train and gigabytes to load, and predict worse than
smaller ones.
"""

import math
from collections.abc import Mapping
from typing import Any

# Of the trees in memory; loading them takes three times as much.
MAX_BYTES = 256_000_000
# Values sorted to find the splits of one level of all trees: trees * rows of each * features tried. These
# take about a minute of one processor.
MAX_VALUES = 120_000_000

_NODE_BYTES, _CLASS_BYTES = 64, 8
_MIN_ROWS = 5_000
# As in Breiman's random forests for regression; scikit-learn's default is all features.
_FEWER_FEATURES = 1 / 3


def bounds(estimator: Any, given: Mapping[str, Any], rows: int, columns: int, classes: int) -> dict[str, Any]:
    """Return parameters that keep a forest within `MAX_BYTES` and `MAX_VALUES`.

    Args:
        estimator: An untrained estimator; only forests are limited.
        given: Parameters chosen by the user, which are left alone.
        rows: Number of training rows.
        columns: Number of features.
        classes: Number of classes; 1 for a regression.

    Returns:
        Values for max_leaf_nodes, max_samples and max_features; none for a forest within the limits.
    """
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )

    found: dict[str, Any] = {}
    trees = getattr(estimator, "n_estimators", 0)
    if isinstance(estimator, RandomForestClassifier | RandomForestRegressor) and estimator.bootstrap:
        tried = _features_tried(estimator.max_features, columns)
        if trees * rows * tried > MAX_VALUES and tried == columns > 1 and "max_features" not in given:
            found["max_features"] = _FEWER_FEATURES
            tried = _features_tried(_FEWER_FEATURES, columns)
        each = max(_MIN_ROWS, MAX_VALUES // (trees * tried))
        if each < rows and "max_samples" not in given:
            found["max_samples"] = rows = each
    elif not isinstance(estimator, ExtraTreesClassifier | ExtraTreesRegressor):
        return {}
    leaves = max(2, MAX_BYTES // (2 * trees * (_NODE_BYTES + _CLASS_BYTES * classes)))
    if leaves < rows and "max_leaf_nodes" not in given:
        found["max_leaf_nodes"] = leaves
    return found


def _features_tried(max_features: Any, columns: int) -> int:
    """Return the number of features tried for a split, as scikit-learn interprets the parameter."""
    if max_features is None:
        return columns
    if isinstance(max_features, str):
        return max(1, int(math.sqrt(columns) if max_features == "sqrt" else math.log2(columns)))
    return max(1, int(max_features * columns)) if isinstance(max_features, float) else int(max_features)
