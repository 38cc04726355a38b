from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, confusion_matrix, log_loss, roc_auc_score

from flowparts.evaluate import metrics
from flowparts.monitor import estimation
from flowparts.monitor.performance import Source

CLASSES = ["left", "stayed"]
START = datetime(2026, 3, 1)


def of(reference: float | None = None, classes: list[Any] = CLASSES, metric: str = "roc_auc") -> Source:
    return Source("classification", "state", classes, None, {} if reference is None else {metric: reference})


def answers(amount: np.ndarray, sharpness: float = 1.0, days: int = 1, seed: int = 0) -> pl.DataFrame:
    """Return predictions of a model and true states.

    The truth is stayed with the probability 1 / (1 + exp(-2 * amount)), so a sharpness of 1 is a calibrated
    model, and 3 one that is too sure of itself.
    """
    random = np.random.default_rng(seed)
    true = 1 / (1 + np.exp(-2 * amount))
    said = 1 / (1 + np.exp(-2 * sharpness * amount))
    return pl.DataFrame(
        {
            "time": [START + timedelta(days=days * number / len(amount)) for number in range(len(amount))],
            "prediction": np.where(said > 0.5, "stayed", "left"),
            "probability_left": 1 - said,
            "probability_stayed": said,
            "state": np.where(random.random(len(amount)) < true, "stayed", "left"),
        }
    )


def amounts(count: int, seed: int, mean: float = 0.0, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, count)


def test_uncertain_labels_are_measured_as_scikit_learn_measures_weighted_rows() -> None:
    rows = answers(amounts(500, 1))
    probability = metrics.probabilities(rows, CLASSES)
    found = metrics.scorer(rows, CLASSES)(probability)
    # Each row once as left and once as stayed, with the weights of these.
    truth = np.repeat([0, 1], 500)
    weights, said = probability.T.ravel(), np.tile(probability[:, 1], 2)
    given = np.tile(rows["prediction"] == "stayed", 2).astype(int)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(truth, said, sample_weight=weights))
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, given, sample_weight=weights))
    assert found["log_loss"] == pytest.approx(log_loss(truth, said, sample_weight=weights))
    assert found["brier"] == pytest.approx(brier_score_loss(truth, said, sample_weight=weights))


def test_certain_labels_are_measured_as_by_score() -> None:
    rows = answers(amounts(500, 2))
    truth = np.eye(2)[metrics.encode(rows["state"], CLASSES)]
    expected = metrics.score("classification", rows["state"], rows, CLASSES)
    assert metrics.scorer(rows, CLASSES)(truth) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "sharpness"),
    [("roc_auc", 1.0), ("log_loss", 1.0), ("accuracy", 3.0), ("f1", 3.0), ("brier", 3.0)],
)
def test_under_covariate_shift_the_truth_lies_in_the_interval(metric: str, sharpness: float) -> None:
    reference = answers(amounts(5_000, 3, spread=1.5), sharpness, seed=1)
    days = 12
    # From day to day the rows come closer to the border between the classes.
    log = pl.concat(
        [answers(amounts(400, 10 + day, spread=1.5 - day / 11), sharpness, seed=day) for day in range(days)]
    ).with_columns(
        time=pl.Series(
            [START + timedelta(days=number // 400, minutes=number % 400) for number in range(400 * days)]
        )
    )
    found = estimation.estimate(log.drop("state"), of(), metric, reference, log, "time")
    assert len(found.checks) == days
    assert sum(check.inside for check in found.checks) >= 10
    first, last = found.checks[0], found.checks[-1]
    # The interval isn't so wide that it says nothing: the loss from the first to the last day is seen.
    assert first.estimate.low > last.estimate.high or first.estimate.high < last.estimate.low
    assert found.error is not None
    assert found.error < 0.03


def test_an_overconfident_model_is_not_believed() -> None:
    reference = answers(amounts(4_000, 4), sharpness=4.0)
    log = answers(amounts(2_000, 5), sharpness=4.0, seed=2)
    found = estimation.estimate(log.drop("state"), of(), "accuracy", reference, None, None)
    (window,) = found.windows
    measured = accuracy_score(log["state"], log["prediction"])
    believed = metrics.scorer(log, CLASSES)(metrics.probabilities(log, CLASSES))["accuracy"]
    assert window.name == "all"
    assert abs(window.metrics["accuracy"].value - measured) < 0.02
    assert abs(believed - measured) > 0.05
    assert found.calibration_error > 0.05
    truth = confusion_matrix(log["state"], log["prediction"], labels=CLASSES)
    assert np.array(found.confusion) == pytest.approx(truth, abs=60)
    assert np.sum(found.confusion) == pytest.approx(2_000)


def test_harder_rows_degrade_the_model_and_concept_drift_is_not_seen_until_labels_come() -> None:
    reference = answers(amounts(4_000, 6))
    auc = roc_auc_score(reference["state"] == "stayed", reference["probability_stayed"])
    harder = answers(amounts(1_000, 7, spread=0.4))
    found = estimation.estimate(harder, of(auc), "roc_auc", reference, None, None)
    assert found.degraded
    assert "worse than the reference" in found.reason
    # The same rows get other answers: nothing in the log shows it.
    other = answers(amounts(1_000, 8)).with_columns(
        state=pl.Series(np.random.default_rng(9).choice(CLASSES, 1_000))
    )
    blind = estimation.estimate(other.drop("state"), of(auc), "roc_auc", reference, None, None)
    assert not blind.degraded
    assert blind.error is None
    checked = estimation.estimate(other.drop("state"), of(auc), "roc_auc", reference, other, None)
    assert not checked.checks[0].inside
    assert checked.error is not None
    assert checked.error > 0.25


def test_an_estimate_must_degrade_by_more_than_its_past_error() -> None:
    reference = answers(amounts(4_000, 6))
    auc = roc_auc_score(reference["state"] == "stayed", reference["probability_stayed"])
    past = answers(amounts(600, 11)).with_columns(
        state=pl.Series(np.random.default_rng(9).choice(CLASSES, 600))
    )
    later = answers(amounts(600, 12, spread=0.6)).with_columns(pl.col("time") + timedelta(days=3))
    log = pl.concat([past, later])
    assert estimation.estimate(log, of(auc), "roc_auc", reference, None, "time").degraded
    found = estimation.estimate(log, of(auc), "roc_auc", reference, past, "time")
    assert not found.degraded
    assert "the mean error of past estimates" in found.reason


def test_without_a_reference_the_older_half_of_the_labelled_windows_calibrates() -> None:
    log = answers(amounts(3_000, 13), sharpness=3.0, days=10)
    labelled = log.filter(pl.col("time") < START + timedelta(days=6))
    found = estimation.estimate(log.drop("state"), of(), "brier", None, labelled, "time")
    assert found.reference_rows == 900
    assert [check.name for check in found.checks] == [f"2026-03-0{day}T00:00" for day in (4, 5, 6)]
    assert sum(check.inside for check in found.checks) >= 2
    assert len(found.windows) == 10


def test_three_classes_are_calibrated_one_against_the_rest() -> None:
    random = np.random.default_rng(14)
    scores = random.normal(0, 1.5, (6_000, 3))
    true = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    said = np.exp(2 * scores) / np.exp(2 * scores).sum(axis=1, keepdims=True)
    classes = [1, 2, 3]
    rows = pl.DataFrame({f"probability_{k}": said[:, k - 1] for k in classes}).with_columns(
        prediction=pl.Series(said.argmax(axis=1) + 1),
        state=pl.Series((true.cumsum(axis=1) <= random.random((6_000, 1))).sum(axis=1) + 1),
    )
    reference, log = rows.head(4_000), rows.tail(2_000)
    found = estimation.estimate(log, of(classes=classes), "accuracy", reference, log, None)
    (check,) = found.checks
    assert check.inside
    assert np.shape(found.confusion) == (3, 3)
    for name in ("roc_auc", "log_loss"):
        (check,) = estimation.estimate(log, of(classes=classes), name, reference, log, None).checks
        assert check.inside


def test_windows_of_few_rows_have_no_estimate() -> None:
    reference = answers(amounts(1_000, 15))
    found = estimation.estimate(answers(amounts(40, 16)), of(0.9), "roc_auc", reference, None, "time")
    assert found.newest is None
    assert found.reason == "no window has 50 predictions; the largest has 40"
    assert not found.degraded
