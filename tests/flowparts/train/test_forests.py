import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression

from flowparts.train import forests

ROWS, COLUMNS = 229_142, 56


def sorted_values(estimator: Any, bounds: dict[str, Any], rows: int, columns: int) -> int:
    estimator.set_params(**bounds)
    each = estimator.max_samples or rows
    return estimator.n_estimators * each * forests._features_tried(estimator.max_features, columns)


@pytest.mark.parametrize("trees", [100, 200, 500])
@pytest.mark.parametrize(("cls", "classes"), [(RandomForestClassifier, 2), (RandomForestRegressor, 1)])
def test_many_rows_sort_no_more_values_than_a_minute_allows(cls: Any, classes: int, trees: int) -> None:
    estimator = cls(trees)
    bounds = forests.bounds(estimator, {"n_estimators": trees}, ROWS, COLUMNS, classes)
    assert sorted_values(estimator, bounds, ROWS, COLUMNS) <= forests.MAX_VALUES
    assert ("max_features" in bounds) == (cls is RandomForestRegressor)


@pytest.mark.parametrize(("cls", "classes"), [(RandomForestClassifier, 2), (RandomForestRegressor, 1)])
def test_few_rows_get_the_defaults_of_scikit_learn(cls: Any, classes: int) -> None:
    assert forests.bounds(cls(200), {}, 8_000, 20, classes) == {}


@pytest.mark.parametrize("cls", [RandomForestClassifier, ExtraTreesClassifier])
@pytest.mark.parametrize("classes", [2, 40])
def test_no_forest_takes_more_memory_than_its_bound(
    cls: Any, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forests, "MAX_BYTES", 1_000_000)
    rng = np.random.default_rng(0)
    matrix, label = rng.random((4_000, 5)), rng.integers(0, classes, 4_000)
    size = {}
    for name, bounds in (
        ("free", {}),
        ("bounded", forests.bounds(cls(10), {}, 4_000, 5, classes)),
    ):
        size[name] = len(pickle.dumps(cls(10, random_state=0, **bounds).fit(matrix, label)))
    assert size["free"] > 1_300_000
    assert 700_000 < size["bounded"] < 1_050_000


def test_values_given_by_the_user_are_kept() -> None:
    given = {"max_leaf_nodes": None, "max_samples": None, "max_features": 1.0}
    assert forests.bounds(RandomForestRegressor(200, **given), given, ROWS, COLUMNS, 1) == {}


def test_only_forests_are_bounded() -> None:
    assert forests.bounds(LogisticRegression(), {}, 10**9, COLUMNS, 2) == {}


def test_each_tree_draws_some_rows_however_many_trees_there_are() -> None:
    bounds = forests.bounds(RandomForestClassifier(100_000), {}, ROWS, COLUMNS, 2)
    assert bounds == {"max_samples": 5_000, "max_leaf_nodes": 16}


@pytest.mark.parametrize(
    ("max_features", "expected"), [("sqrt", 7), ("log2", 5), (None, 56), (0.5, 28), (3, 3), (1e-9, 1)]
)
def test_features_are_counted_as_scikit_learn_does(max_features: Any, expected: int) -> None:
    assert forests._features_tried(max_features, COLUMNS) == expected
    rng = np.random.default_rng(0)
    forest = RandomForestClassifier(1, max_features=max_features, max_depth=1)
    forest.fit(rng.random((50, COLUMNS)), rng.integers(0, 2, 50))
    assert forest.estimators_[0].max_features_ == expected
