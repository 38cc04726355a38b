import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import LogisticRegression

from flowparts.evaluate import metrics
from flowparts.models.adjusted import FLOOR, CalibratedProbabilities
from flowparts.train import calibration
from flowparts.train.calibration import calibrate, choose_threshold


def rows(count: int, slope: float, intercept: float, seed: int = 0) -> tuple[Any, Any]:
    """Return probabilities whose log-odds are those of the truth, bent by a slope and an intercept."""
    draw = np.random.default_rng(seed)
    odds = draw.normal(0, 1.5, count)
    truth = (draw.random(count) < expit(odds)).astype(int)
    second = expit((odds - intercept) / slope)
    return np.column_stack([1 - second, second]), truth


def test_platts_parameters_are_those_of_a_logistic_regression_on_the_log_odds() -> None:
    probabilities, truth = rows(2_000, 0.4, -0.8)
    found = calibration._platt(probabilities, truth, np.ones(2_000))
    odds = np.log(probabilities + FLOOR) @ [-1.0, 1.0]
    expected = LogisticRegression(C=np.inf).fit(odds[:, None], truth)
    assert found["slope"] == pytest.approx(expected.coef_[0, 0], abs=1e-3)
    assert found["intercepts"] == pytest.approx([0.0, expected.intercept_[0]], abs=1e-3)


def test_the_temperature_has_the_least_log_loss_of_a_grid() -> None:
    draw = np.random.default_rng(1)
    logs = draw.normal(0, 3, (1_500, 4))
    truth = np.array([draw.choice(4, p=np.exp(row / 3) / np.exp(row / 3).sum()) for row in logs])
    probabilities = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)

    def loss(slope: float) -> float:
        tempered = CalibratedProbabilities(None, slope).calibrated(probabilities)
        return float(sklearn_metrics.log_loss(truth, tempered))

    best = min(np.linspace(0.05, 2, 196), key=loss)
    found = calibration._temperature(probabilities, truth, np.ones(1_500))
    assert found["slope"] == pytest.approx(best, abs=0.01)
    assert calibrate(probabilities, truth).method == calibration.TEMPERATURE


def test_overconfident_probabilities_are_mended_and_good_ones_are_left_alone() -> None:
    bent, truth = rows(3_000, 0.4, 0.7)
    found = calibrate(bent, truth)
    assert found.method == calibration.PLATT
    before, after = (
        metrics.calibration(truth == 1, probabilities[:, 1]).error
        for probabilities in (bent, found.probabilities)
    )
    assert after < before / 3
    assert found.log_losses["platt"] == pytest.approx(sklearn_metrics.log_loss(truth, found.probabilities))
    good, truth = rows(3_000, 1.0, 0.0, seed=4)
    assert calibrate(good, truth).parameters == {}
    # Better by chance, and by less than chance explains.
    few, truth = rows(60, 0.8, 0.1, seed=0)
    unclear = calibrate(few, truth)
    assert min(unclear.log_losses, key=unclear.log_losses.__getitem__) != calibration.NONE == unclear.method


def test_isotonic_bends_what_no_slope_can_and_takes_many_rows_of_both_classes() -> None:
    draw = np.random.default_rng(5)
    second = draw.random(8_000)
    truth = (draw.random(8_000) < np.where(second < 0.5, 0.1, 0.8)).astype(int)
    probabilities = np.column_stack([1 - second, second])
    found = calibrate(probabilities, truth)
    assert found.method == calibration.ISOTONIC
    increasing = calibrate(probabilities, truth, allowed=calibration.INCREASING)
    assert list(increasing.log_losses) == ["none", "temperature", "platt"]
    assert increasing.method in calibration.INCREASING
    kept = CalibratedProbabilities(None, **increasing.parameters).calibrated(probabilities)[:, 1]
    assert (np.diff(kept[np.argsort(second)]) >= 0).all()
    assert len(np.unique(kept)) > 0.99 * len(second)
    at = CalibratedProbabilities(None, **found.parameters).calibrated(np.array([[0.8, 0.2], [0.2, 0.8]]))
    assert at[:, 1] == pytest.approx([0.1, 0.8], abs=0.05)
    few = calibrate(probabilities[:1_500], truth[:1_500])
    assert calibration.ISOTONIC not in few.log_losses


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=4, max_size=60),
    st.lists(st.integers(0, 3), min_size=60, max_size=60),
)
def test_any_rows_give_finite_probabilities_that_are_never_worse(
    found: list[tuple[float, bool]], parts: list[int]
) -> None:
    second = np.array([value for value, _ in found])
    truth = np.array([int(value) for _, value in found])
    probabilities = np.column_stack([1 - second, second])
    result = calibrate(probabilities, truth, np.array(parts[: len(truth)]))
    assert np.isfinite(result.probabilities).all()
    assert result.probabilities.sum(axis=1) == pytest.approx(np.ones(len(truth)))
    assert result.log_losses[result.method] <= result.log_losses["none"]


def test_each_part_is_calibrated_on_the_other_parts_only() -> None:
    probabilities, truth = rows(900, 0.4, 0.7)
    parts = np.arange(900) // 300
    first = calibrate(probabilities, truth, parts).probabilities[:300]
    truth[:300] = 1 - truth[:300]
    again = calibration._platt(probabilities[300:], truth[300:], np.ones(600))
    assert first == pytest.approx(CalibratedProbabilities(None, **again).calibrated(probabilities[:300]))


def test_a_row_of_weight_two_counts_as_two_rows() -> None:
    probabilities, truth = rows(1_000, 0.4, 0.7)
    weights = np.where(truth == 1, 1.0, 3.0)
    weights[::7] = 2.0
    again = np.repeat(np.arange(1_000), weights.astype(int))
    repeated, ones = (probabilities[again], truth[again]), np.ones(len(again))
    for fit in (calibration._temperature, calibration._platt, calibration._isotonic):
        fitted, expected = (
            CalibratedProbabilities(None, **parameters).calibrated(probabilities)
            for parameters in (fit(probabilities, truth, weights), fit(*repeated, ones))
        )
        assert fitted == pytest.approx(expected, abs=1e-3)
    found = calibrate(probabilities, truth, weights=weights)
    assert found.log_losses["none"] == pytest.approx(sklearn_metrics.log_loss(repeated[1], repeated[0]))
    mean = np.average(found.probabilities[:, 1], weights=weights)
    assert mean == pytest.approx(np.average(truth, weights=weights), abs=0.01)
    for rule in RULES:
        chosen = choose_threshold(probabilities[:, 1], truth == 1, rule, 1, weights)
        alike = choose_threshold(repeated[0][:, 1], repeated[1] == 1, rule, 1, None)
        assert chosen.value == pytest.approx(alike.value)
        assert chosen.after == pytest.approx(alike.after)


RULES: list[dict[str, Any]] = [
    {"metric": "f1"},
    {"metric": "balanced_accuracy"},
    {"metric": "mcc"},
    {"false_positive_cost": 1, "false_negative_cost": 5},
    {"min_recall": 0.8},
    {"min_precision": 0.6},
]


def worth(rule: dict[str, Any], truth: Any, predicted: Any) -> float:
    if "metric" in rule:
        names = {"mcc": "matthews_corrcoef"}
        name = names.get(rule["metric"], f"{rule['metric']}_score")
        return float(getattr(sklearn_metrics, name)(truth, predicted))
    if "false_positive_cost" in rule:
        return -float((predicted & ~truth).sum() + 5 * (~predicted & truth).sum())
    precision = sklearn_metrics.precision_score(truth, predicted, zero_division=0)
    recall = sklearn_metrics.recall_score(truth, predicted)
    if "min_recall" in rule:
        return float(precision) if recall >= 0.8 else -math.inf
    return float(recall) if precision >= 0.6 else -math.inf


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: next(iter(rule)) + str(rule.get("metric", "")))
@pytest.mark.parametrize("seed", range(4))
def test_no_other_threshold_is_better(rule: dict[str, Any], seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.random(60) < 0.3
    probability = np.round(np.clip(0.5 * truth + draw.normal(0.25, 0.25, 60), 0, 1), 2)
    found = choose_threshold(probability, truth, rule, 1)
    candidates = [0.0, *np.unique(probability), 1.1]
    best = max(worth(rule, truth, probability >= each) for each in candidates)
    assert worth(rule, truth, probability >= found.value) == pytest.approx(best)
    predicted = probability >= 0.5
    assert found.before["recall"] == pytest.approx(sklearn_metrics.recall_score(truth, predicted))
    assert found.before["precision"] == pytest.approx(sklearn_metrics.precision_score(truth, predicted))
    if "metric" in rule:
        assert found.before[rule["metric"]] == pytest.approx(worth(rule, truth, predicted))


def test_a_precision_that_no_threshold_reaches_is_reported_with_the_highest() -> None:
    truth = np.array([True, False] * 20)
    with pytest.raises(ValueError, match=r"no threshold has a precision of 0.9 .* the highest is 0.5"):
        choose_threshold(np.full(40, 0.3), truth, {"min_precision": 0.9}, 1)


@pytest.mark.parametrize(
    ("rule", "task", "sentence"),
    [
        ({"metric": "f1"}, "regression", "threshold {'metric': 'f1'} is for classification"),
        ({"metrik": "f1"}, "classification", "threshold has the unknown key 'metrik'; give {'metric': 'f1'}"),
        (
            {"metric": "f2"},
            "classification",
            "unknown threshold metric 'f2'; known: balanced_accuracy, f1, mcc",
        ),
        ({"false_positive_cost": 1}, "classification", "doesn't say what to choose by"),
        ({"metric": "f1", "min_recall": 0.9}, "classification", "doesn't say what to choose by"),
        (
            {"false_positive_cost": 0, "false_negative_cost": 1},
            "classification",
            "false_positive_cost of threshold must be a number more than 0, not 0",
        ),
        ({"min_recall": 1.5}, "classification", "must be a number more than 0 and at most 1, not 1.5"),
        ({"min_precision": True}, "classification", "at most 1, not True"),
    ],
)
def test_a_rule_that_chooses_nothing_is_refused(rule: dict[str, Any], task: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("{", "\\{")):
        calibration.check_threshold(rule, task)


def test_log_odds_are_those_of_the_probabilities() -> None:
    second = np.array([0.01, 0.5, 0.97])
    found = calibration._log_odds(np.column_stack([1 - second, second]))
    assert found == pytest.approx(logit(second), abs=2e-3)
