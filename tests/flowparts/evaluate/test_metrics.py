import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.stats
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from flowparts.evaluate import metrics
from flowparts.evaluate.directions import HIGHER_IS_BETTER

NAMES = {2: [False, True], 3: ["a", "b", "c"], 5: [1, 2, 5, 7, 9]}


def classified(size: int, rows: int = 400, seed: int = 0) -> tuple[pl.Series, pl.DataFrame, list[Any]]:
    """Make labels and predictions that are right more often than not; probabilities are coarse, with ties."""
    random = np.random.default_rng(seed)
    classes = NAMES[size]
    codes = random.integers(0, size, rows)
    raw = random.random((rows, size)) + 0.6 * np.eye(size)[codes]
    probability = np.round(raw / raw.sum(axis=1, keepdims=True), 2)
    probability[:, -1] = 1 - probability[:, :-1].sum(axis=1)
    guesses = probability.argmax(axis=1)
    columns = {"prediction": [classes[index] for index in guesses]}
    columns |= {f"probability_{name}": probability[:, index] for index, name in enumerate(classes)}
    return pl.Series("label", [classes[index] for index in codes]), pl.DataFrame(columns), classes


def regressed(rows: int = 400, seed: int = 0) -> tuple[pl.Series, pl.DataFrame]:
    random = np.random.default_rng(seed)
    truth = random.normal(50, 10, rows)
    return pl.Series("label", truth), pl.DataFrame({"prediction": truth + random.normal(0, 4, rows)})


def sklearn_classification(
    truth: pl.Series, predictions: pl.DataFrame, classes: list[Any]
) -> dict[str, float]:
    true, guess = np.array(truth.to_list()), np.array(predictions["prediction"].to_list())
    probability = predictions.drop("prediction").to_numpy()
    onehot = np.array([[value == name for name in classes] for value in truth.to_list()]).astype(int)
    binary = len(classes) == 2
    ranked, single = (onehot[:, 1], probability[:, 1]) if binary else (onehot, probability)
    return {
        "accuracy": reference.accuracy_score(true, guess),
        "balanced_accuracy": reference.balanced_accuracy_score(true, guess),
        "precision": reference.precision_score(true, guess, average="macro", zero_division=0),
        "recall": reference.recall_score(true, guess, average="macro", zero_division=0),
        "f1": reference.f1_score(true, guess, average="macro", zero_division=0),
        "roc_auc": reference.roc_auc_score(ranked, single, average="macro"),
        "average_precision": reference.average_precision_score(ranked, single, average="macro"),
        "log_loss": reference.log_loss(true, probability, labels=classes),
        "brier": reference.brier_score_loss(
            ranked[:] if binary else true, single, **({} if binary else {"labels": classes})
        ),
        "mcc": reference.matthews_corrcoef(true, guess),
    }


@pytest.mark.parametrize("size", NAMES)
def test_classification_metrics_equal_scikit_learn(size: int) -> None:
    truth, predictions, classes = classified(size)
    ours = metrics.score("classification", truth, predictions, classes)
    assert ours == pytest.approx(sklearn_classification(truth, predictions, classes), rel=1e-9)


def test_regression_metrics_equal_scikit_learn() -> None:
    truth, predictions = regressed()
    guess = predictions["prediction"]
    assert metrics.score("regression", truth, predictions, None) == pytest.approx(
        {
            "rmse": reference.root_mean_squared_error(truth, guess),
            "mae": reference.mean_absolute_error(truth, guess),
            "r2": reference.r2_score(truth, guess),
            "mape": reference.mean_absolute_percentage_error(truth, guess),
            "median_absolute_error": reference.median_absolute_error(truth, guess),
        }
    )


@pytest.mark.parametrize("size", NAMES)
def test_every_classification_metric_of_a_resample_equals_that_of_the_repeated_rows(size: int) -> None:
    truth, predictions, classes = classified(size, rows=120)
    rows = metrics._rows("classification", truth, predictions, classes)
    for weights in metrics._resamples(120, 5, seed=3):
        drawn = np.repeat(np.arange(120), weights)
        repeated = metrics.score("classification", truth[drawn], predictions[drawn], classes)
        for name, value in repeated.items():
            assert metrics._measure("classification", name, rows, weights) == pytest.approx(value), name


def test_every_regression_metric_of_a_resample_equals_that_of_the_repeated_rows() -> None:
    truth, predictions = regressed(rows=121)
    rows = metrics._rows("regression", truth, predictions, None)
    for weights in metrics._resamples(121, 5, seed=3):
        drawn = np.repeat(np.arange(121), weights)
        repeated = metrics.score("regression", truth[drawn], predictions[drawn], None)
        for name, value in repeated.items():
            assert metrics._measure("regression", name, rows, weights) == pytest.approx(value), name


def test_an_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    truth, predictions = regressed(rows=300)
    errors = np.abs((truth - predictions["prediction"]).to_numpy())
    theirs = scipy.stats.bootstrap(
        (errors,), np.mean, n_resamples=3000, method="percentile", random_state=np.random.default_rng(1)
    ).confidence_interval
    ours = metrics.bootstrap_intervals("regression", truth, predictions, None, samples=3000)["mae"]
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)


def test_the_interval_of_accuracy_agrees_with_the_normal_approximation() -> None:
    truth, predictions, classes = classified(2, rows=2000)
    accuracy = metrics.score("classification", truth, predictions, classes)["accuracy"]
    spread = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 2000)
    ours = metrics.bootstrap_intervals("classification", truth, predictions, classes, samples=2000)[
        "accuracy"
    ]
    assert ours == pytest.approx((accuracy - spread, accuracy + spread), abs=0.1 * spread)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    truth, predictions, classes = classified(3)

    def intervals(seed: int) -> dict[str, tuple[float, float]]:
        return metrics.bootstrap_intervals(
            "classification", truth, predictions, classes, samples=50, seed=seed
        )

    assert intervals(1) == intervals(1)
    assert intervals(1) != intervals(2)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        pytest.param([0, 1, 1, 0], [0, 1], id="integers"),
        pytest.param([0.0, 1.0, 1.0, 0.0], [0, 1], id="floats for integer classes"),
        pytest.param([False, True, True, False], [False, True], id="booleans"),
        pytest.param([False, True, True, False], [0, 1], id="booleans for integer classes"),
        pytest.param(["no", "yes", "yes", "no"], ["no", "yes"], id="strings"),
        pytest.param(
            pl.Series(["no", "yes", "yes", "no"], dtype=pl.Categorical), ["no", "yes"], id="categories"
        ),
    ],
)
def test_labels_of_every_type_are_scored(values: Any, classes: list[Any]) -> None:
    truth = pl.Series("label", values)
    predictions = pl.DataFrame(
        {
            "prediction": [classes[0], classes[1], classes[0], classes[0]],
            "probability_0": [0.9, 0.2, 0.6, 0.7],
            "probability_1": [0.1, 0.8, 0.4, 0.3],
        }
    )
    found = metrics.score("classification", truth, predictions, classes)
    assert (found["accuracy"], found["roc_auc"]) == (0.75, 1.0)


def test_metrics_that_need_two_classes_are_left_out_where_the_truth_holds_one() -> None:
    truth, predictions, classes = classified(2)
    found = metrics.score("classification", truth.filter(truth), predictions.filter(truth), classes)
    assert found.keys() == {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "log_loss", "brier"}


def test_a_class_that_the_test_rows_lack_does_not_count_in_the_means() -> None:
    truth, predictions, classes = classified(3)
    kept = truth != "c"
    truth, predictions = truth.filter(kept), predictions.filter(kept)
    found = metrics.score("classification", truth, predictions, classes)
    areas = [
        reference.roc_auc_score((truth == name).to_numpy(), predictions[f"probability_{name}"])
        for name in "ab"
    ]
    assert found["roc_auc"] == pytest.approx(np.mean(areas))


def test_regression_metrics_that_are_undefined_are_left_out() -> None:
    constant = pl.Series("label", [0.0, 0.0, 0.0])
    found = metrics.score("regression", constant, pl.DataFrame({"prediction": [1.0, 2.0, 3.0]}), None)
    assert found.keys() == {"rmse", "mae", "median_absolute_error"}


def test_a_class_that_resamples_miss_still_gives_finite_intervals() -> None:
    truth = pl.Series("label", [1] + [0] * 29)
    probability = np.linspace(0.9, 0.1, 30)
    predictions = pl.DataFrame(
        {
            "prediction": (probability > 0.5).astype(int),
            "probability_0": 1 - probability,
            "probability_1": probability,
        }
    )
    intervals = metrics.bootstrap_intervals("classification", truth, predictions, [0, 1], samples=200)
    assert intervals["roc_auc"] == (1.0, 1.0)
    assert np.isfinite(np.array(list(intervals.values()))).all()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(0, 1), st.floats(0, 1)),
        min_size=1,
        max_size=30,
    )
)
def test_whatever_the_predictions_every_classification_number_is_finite(rows: list[Any]) -> None:
    truth = pl.Series("label", [row[0] for row in rows])
    first = np.array([row[2] for row in rows])
    second = (1 - first) * np.array([row[3] for row in rows])
    predictions = pl.DataFrame(
        {
            "prediction": [row[1] for row in rows],
            "probability_0": first,
            "probability_1": second,
            "probability_2": np.clip(1 - first - second, 0, 1),
        }
    )
    found = metrics.score("classification", truth, predictions, [0, 1, 2])
    intervals = metrics.bootstrap_intervals("classification", truth, predictions, [0, 1, 2], samples=20)
    assert np.isfinite(list(found.values())).all()
    assert np.isfinite(np.array(list(intervals.values()))).all()
    assert intervals.keys() <= found.keys()
    positive = truth.to_numpy() == 1
    if 0 < positive.sum() < len(rows):
        for curve in (metrics.roc_curve(positive, second), metrics.pr_curve(positive, second)):
            assert np.isfinite(np.array(curve)).all()
            assert np.array(curve).min() >= 0
            assert np.array(curve).max() <= 1
    calibration = metrics.calibration(positive, second)
    assert sum(calibration.rows) == len(rows)
    assert 0 <= calibration.error <= 1


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(-1e150, 1e150), st.floats(-1e150, 1e150)),
        min_size=1,
        max_size=30,
    )
)
def test_whatever_the_predictions_every_regression_number_is_finite(rows: list[tuple[float, float]]) -> None:
    truth = pl.Series("label", [row[0] for row in rows])
    predictions = pl.DataFrame({"prediction": [row[1] for row in rows]})
    found = metrics.score("regression", truth, predictions, None)
    intervals = metrics.bootstrap_intervals("regression", truth, predictions, None, samples=20)
    assert {"rmse", "mae", "median_absolute_error"} <= found.keys()
    assert np.isfinite(list(found.values())).all()
    assert np.isfinite(np.array(list(intervals.values()))).all()


def test_a_challenger_that_is_better_wins_in_nearly_every_resample() -> None:
    truth, champion = regressed(rows=500)
    halved = pl.DataFrame({"prediction": (champion["prediction"] + truth) / 2})
    result = metrics.paired_bootstrap("rmse", "regression", truth, halved, champion, None, samples=200)
    assert result.challenger == pytest.approx(result.champion / 2)
    assert result.improvement == pytest.approx(result.champion / 2)
    assert result.low > 0
    assert result.probability_better == 1.0


def test_improvement_points_the_same_way_for_losses_and_for_scores() -> None:
    truth, good, classes = classified(2)
    poor = pl.DataFrame(
        {"prediction": [True] * 400, "probability_False": [0.5] * 400, "probability_True": [0.5] * 400}
    )
    for metric in metrics._METRICS["classification"]:
        if metric == "recall":
            continue
        won = metrics.paired_bootstrap(metric, "classification", truth, good, poor, classes, samples=40)
        lost = metrics.paired_bootstrap(metric, "classification", truth, poor, good, classes, samples=40)
        assert won.improvement > 0 > lost.improvement, metric
        assert won.improvement == pytest.approx(-lost.improvement)
        assert (won.probability_better, lost.probability_better) == (1.0, 0.0)


def test_a_model_compared_with_itself_is_not_better() -> None:
    truth, predictions, classes = classified(3)
    result = metrics.paired_bootstrap(
        "roc_auc", "classification", truth, predictions, predictions, classes, samples=40
    )
    assert (result.improvement, result.low, result.high, result.probability_better) == (0, 0, 0, 0)


def test_the_paired_interval_agrees_with_the_paired_t_interval() -> None:
    truth, champion = regressed(rows=500)
    random = np.random.default_rng(5)
    challenger = champion.with_columns(pl.col("prediction") + pl.Series(random.normal(0, 1, 500)))
    result = metrics.paired_bootstrap("mae", "regression", truth, challenger, champion, None, samples=2000)
    gains = (champion["prediction"] - truth).abs() - (challenger["prediction"] - truth).abs()
    t = scipy.stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((t.low, t.high), abs=0.08 * (t.high - t.low))


def test_the_roc_curve_equals_scikit_learns_with_a_finite_first_threshold() -> None:
    truth, predictions, _ = classified(2)
    positive, probability = truth.to_numpy(), predictions["probability_True"].to_numpy()
    x, y, thresholds = reference.roc_curve(positive, probability, drop_intermediate=False)
    curve = metrics.roc_curve(positive, probability)
    assert curve.x == pytest.approx(x.tolist())
    assert curve.y == pytest.approx(y.tolist())
    assert curve.thresholds == pytest.approx([1.0, *thresholds[1:].tolist()])


def test_the_precision_recall_curve_equals_scikit_learns() -> None:
    truth, predictions, _ = classified(2)
    positive, probability = truth.to_numpy(), predictions["probability_True"].to_numpy()
    precision, recall, thresholds = reference.precision_recall_curve(positive, probability)
    curve = metrics.pr_curve(positive, probability)
    full = int(np.flatnonzero(recall >= 1)[-1])
    assert curve.x == pytest.approx(recall[full:][::-1].tolist())
    assert curve.y == pytest.approx(precision[full:][::-1].tolist())
    assert curve.thresholds == pytest.approx([1.0, *thresholds[full:][::-1].tolist()])


@pytest.mark.parametrize("curve_of", [metrics.roc_curve, metrics.pr_curve])
def test_a_thinned_curve_keeps_its_ends_and_its_area(curve_of: Callable[..., metrics.Curve]) -> None:
    random = np.random.default_rng(2)
    positive = random.random(20_000) < 0.3
    probability = random.beta(2, 2, 20_000) * 0.6 + positive * 0.3
    full, thin = curve_of(positive, probability, points=10**9), curve_of(positive, probability, points=100)
    assert len(thin.x) <= 100 < len(full.x)
    assert (thin.x[0], thin.y[0]) == (full.x[0], full.y[0])
    assert (thin.x[-1], thin.y[-1]) == (full.x[-1], full.y[-1])
    assert np.trapezoid(thin.y, thin.x) == pytest.approx(np.trapezoid(full.y, full.x), abs=0.002)


def test_calibration_equals_scikit_learns_curve() -> None:
    from sklearn.calibration import calibration_curve

    truth, predictions, _ = classified(2)
    positive, probability = truth.to_numpy(), predictions["probability_True"].to_numpy() * 0.98 + 0.0051
    observed, predicted = calibration_curve(positive, probability, n_bins=10)
    found = metrics.calibration(positive, probability)
    assert found.observed == pytest.approx(observed.tolist())
    assert found.predicted == pytest.approx(predicted.tolist())


def test_calibration_noise_holds_exact_probabilities_and_not_wrong_ones() -> None:
    random = np.random.default_rng(4)
    probability = random.random(1000)
    limit = metrics.calibration_noise(probability)
    exact = [metrics.calibration(random.random(1000) < probability, probability).error for _ in range(1000)]
    assert np.mean(np.array(exact) <= limit) == pytest.approx(0.95, abs=0.02)
    assert metrics.calibration(random.random(1000) < probability**2, probability).error > limit


def test_the_confusion_matrix_has_the_truth_in_its_rows() -> None:
    truth, predictions, classes = classified(3)
    ours = metrics.confusion_matrix(truth, predictions["prediction"], classes)
    assert (
        ours.tolist() == reference.confusion_matrix(truth, predictions["prediction"], labels=classes).tolist()
    )


@pytest.mark.parametrize("task", metrics.TASKS)
def test_the_primary_metric_of_each_task_is_one_of_its_metrics(task: str) -> None:
    assert metrics.PRIMARY[task] in metrics._METRICS[task]


def test_every_metric_has_a_direction() -> None:
    assert {task: set(names) for task, names in metrics._METRICS.items()} == {
        task: set(names) for task, names in HIGHER_IS_BETTER.items()
    }


def test_losses_are_better_when_lower() -> None:
    assert [metrics.higher_is_better(name) for name in ("roc_auc", "r2", "log_loss", "rmse")] == [1, 1, 0, 0]


def test_an_unknown_metric_is_refused_with_the_near_match() -> None:
    with pytest.raises(
        ValueError, match=r"metric 'roc_acu' is unknown; did you mean 'roc_auc'\? metrics are:"
    ):
        metrics.higher_is_better("roc_acu")


TWO = pl.DataFrame({"prediction": [0, 1], "probability_0": [0.9, 0.1], "probability_1": [0.1, 0.9]})


@pytest.mark.parametrize(
    ("task", "truth", "predictions", "classes", "message"),
    [
        pytest.param("ranking", [0, 1], TWO, [0, 1], "task 'ranking' is unknown", id="unknown task"),
        pytest.param("classification", [], TWO.head(0), [0, 1], "no rows to score", id="no rows"),
        pytest.param("classification", [0], TWO, [0, 1], "1 labels but 2 predictions", id="lengths differ"),
        pytest.param(
            "classification", [0, None], TWO, [0, 1], "'label' is missing in 1 of 2 rows", id="null"
        ),
        pytest.param(
            "classification",
            [0, 7],
            TWO,
            [0, 1],
            "label 'label' holds 7, which the model doesn't know; its classes are: 0, 1",
            id="unknown class",
        ),
        pytest.param("classification", ["0", "1"], TWO, [0, 1], "holds '0', '1', which the", id="other type"),
        pytest.param("classification", [[0], [1]], TWO, [0, 1], "holds List", id="lists"),
        pytest.param("classification", [0, 1], TWO, None, "needs the model's classes", id="no classes"),
        pytest.param(
            "classification", [0, 1], TWO, [0, 1, 2], "2 probability columns for 3", id="column missing"
        ),
        pytest.param(
            "classification",
            [0, 1],
            TWO.with_columns(probability_0=pl.lit(None, dtype=pl.Float64)),
            [0, 1],
            "probability 'probability_0' is missing or infinite in 2 of 2 rows",
            id="null probability",
        ),
        pytest.param(
            "classification",
            [0, 1],
            TWO.with_columns(pl.col("probability_0") * 2),
            [0, 1],
            "must lie between 0 and 1",
            id="not a probability",
        ),
        pytest.param("regression", ["a", "b"], TWO, None, "holds String values", id="text for regression"),
        pytest.param(
            "regression", [1.0, 1e200], TWO, None, "beyond 1e\\+150 errors can't be squared", id="huge"
        ),
        pytest.param("regression", [1.0, math.nan], TWO, None, "missing or infinite in 1 of 2", id="NaN"),
    ],
)
def test_bad_input_gives_a_one_line_error(
    task: str, truth: list[Any], predictions: pl.DataFrame, classes: list[Any] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.score(task, pl.Series("label", truth), predictions, classes)


def test_a_metric_of_the_other_task_is_refused() -> None:
    truth, predictions, classes = classified(2)
    with pytest.raises(ValueError, match="metric 'rmse' does not fit classification"):
        metrics.paired_bootstrap("rmse", "classification", truth, predictions, predictions, classes)


def test_comparing_on_rows_where_the_metric_is_undefined_is_refused() -> None:
    truth, predictions, classes = classified(2)
    one, given = truth.filter(truth), predictions.filter(truth)
    with pytest.raises(
        ValueError, match=r"metric 'roc_auc' is not defined on this table.*metrics that are: acc"
    ):
        metrics.paired_bootstrap("roc_auc", "classification", one, given, given, classes)


@pytest.mark.parametrize(
    ("samples", "confidence", "message"),
    [(5, 0.95, "bootstrap_samples is 5"), (100, 1.0, "confidence is 1.0"), (100, 95, "confidence is 95")],
)
def test_bootstrap_options_that_make_no_sense_are_refused(
    samples: int, confidence: float, message: str
) -> None:
    truth, predictions = regressed()
    with pytest.raises(ValueError, match=message):
        metrics.bootstrap_intervals("regression", truth, predictions, None, samples, confidence)


@pytest.mark.parametrize("curve_of", [metrics.roc_curve, metrics.pr_curve])
def test_a_curve_of_one_class_is_refused(curve_of: Callable[..., metrics.Curve]) -> None:
    with pytest.raises(ValueError, match="3 of 3 rows are positive"):
        curve_of(np.array([True] * 3), np.array([0.1, 0.2, 0.3]))


def test_average_precision_is_that_of_the_class_named_positive() -> None:
    truth, predictions, classes = classified(2)
    true = ~truth.to_numpy()
    expected = reference.average_precision_score(true, predictions["probability_False"].to_numpy())
    given = ("classification", truth, predictions, classes)
    found = metrics.score(*given, positive=False)
    assert found["average_precision"] == pytest.approx(expected)
    assert metrics.score(*given)["average_precision"] != pytest.approx(expected, abs=1e-3)
    alike = {name: value for name, value in found.items() if name != "average_precision"}
    assert alike == pytest.approx({name: metrics.score(*given)[name] for name in alike})
    low, high = metrics.bootstrap_intervals(*given, samples=50, positive=False)["average_precision"]
    assert low < expected < high
    _, gain = metrics.against_constant("average_precision", *given, samples=50, positive=False)
    assert gain is not None
    assert gain.challenger == pytest.approx(expected)
    assert gain.champion == pytest.approx(true.mean())
