from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit

from flowparts.models import fitted_estimators, onnx_export
from flowparts.models.adjusted import FLOOR, CalibratedProbabilities, DecisionThreshold
from flowparts.models.onnx_graph import Graph
from flowparts.train import candidates, ensemble
from flowparts.train.candidates import Options, build, train
from flowparts.util import weights

KNOTS = [[-3.0, -1.0, 0.5, 2.0], [0.02, 0.1, 0.6, 0.9]]


def rows(labels: list[Any]) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(300, 3))
    places = np.clip(np.round(values[:, 0] + draw.normal(0, 0.5, 300)) + 1, 0, len(labels) - 1)
    return pl.DataFrame(values, schema=["a", "b", "c"]).with_columns(
        label=pl.Series([labels[int(place)] for place in places])
    )


def fitted(labels: list[Any], names: list[str]) -> tuple[Any, Any, Any]:
    """Return the mean of estimators, what made their features, and the features."""
    learned, examples = candidates.learn(rows(labels).lazy(), "label", "classification", (), Options())
    parameters: dict[str, Any] = {"LGBM": {"n_estimators": 5}, "XGB": {"n_estimators": 5}}
    members = [
        train(
            build([{"estimator": name, "parameters": parameters.get(name)}], "classification", Options())[0],
            learned,
            examples,
            examples,
        ).estimator
        for name in names
    ]
    shares = [place + 1.0 for place in range(len(members))]
    return ensemble.combine(members, shares, learned.classes), learned, examples.matrix


@pytest.mark.parametrize("labels", [["no", "yes"], [0, 1], [3, 7], [False, True], ["a", "b", "c"]], ids=str)
@pytest.mark.parametrize(
    "adjust",
    [
        lambda mean, _: mean,
        lambda mean, classes: CalibratedProbabilities(mean, 0.6, [0.1 * place for place in range(classes)]),
        lambda mean, classes: CalibratedProbabilities(mean, knots=KNOTS) if classes == 2 else mean,
        lambda mean, classes: DecisionThreshold(mean, 0.3, 0) if classes == 2 else mean,
        lambda mean, classes: (
            DecisionThreshold(CalibratedProbabilities(mean, 0.6), 0.7) if classes == 2 else mean
        ),
    ],
    ids=["mean", "slope", "knots", "threshold", "both"],
)
def test_the_graph_of_a_mean_predicts_as_it_does_whatever_the_labels_are(labels: Any, adjust: Any) -> None:
    mean, learned, matrix = fitted(labels, ["Linear", "LGBM", "XGB"])
    estimator = adjust(mean, len(labels))
    graph, parity = onnx_export.export(estimator, learned, matrix, learned.classes)
    assert graph, parity.reason
    offline = fitted_estimators.predictions(estimator, matrix, learned.classes)
    online = Graph(graph, learned.classes).predict_matrix(matrix)
    assert online["prediction"].tolist() == offline["prediction"].to_list()
    for name in offline.columns[1:]:
        assert online[name] == pytest.approx(offline[name].to_numpy(), abs=1e-5)


def test_adjusted_classifiers_are_stored_without_a_pickle(tmp_path: Any) -> None:
    mean, learned, matrix = fitted(["no", "yes"], ["Linear", "XGB"])
    estimator = DecisionThreshold(CalibratedProbabilities(mean, knots=KNOTS), 0.3)
    weights.dump(estimator, tmp_path / "model.skops")
    loaded = weights.load(tmp_path / "model.skops")
    expected = fitted_estimators.predictions(estimator, matrix, learned.classes)
    assert fitted_estimators.predictions(loaded, matrix, learned.classes).equals(expected)
    assert list(loaded.predict(matrix)) == expected["prediction"].to_list()
    assert fitted_estimators.framework(loaded) == "scikit-learn"
    assert {fitted_estimators.library(each) for each in fitted_estimators.members(loaded)} == {
        "sklearn",
        "xgboost",
    }


def test_a_slope_and_intercept_move_the_log_odds_and_knots_are_interpolated() -> None:
    second = np.array([0.05, 0.4, 0.9])
    probabilities = np.column_stack([1 - second, second])
    odds = np.log(second + FLOOR) - np.log(1 - second + FLOOR)
    moved = CalibratedProbabilities(None, 0.5, [0.0, -1.0]).calibrated(probabilities)
    assert moved[:, 1] == pytest.approx(expit(0.5 * odds - 1.0))
    bent = CalibratedProbabilities(None, knots=KNOTS).calibrated(probabilities)
    assert bent[:, 1] == pytest.approx(np.interp(logit(second), *KNOTS), abs=1e-4)
    for each in (moved, bent):
        assert each.sum(axis=1) == pytest.approx(np.ones(3))
