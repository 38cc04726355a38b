import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as sklearn_metrics

from flowparts import models
from flowparts.evaluate import evaluation_report, metrics
from flowparts.models import engines
from flowparts.train import candidates, ensemble, ensemble_report, portfolio
from flowparts.train.candidates import Options
from flowparts.train.held_out import HeldOut
from flowparts.train.problem import Problem

ENTRIES: list[Any] = [
    "Linear",
    {"estimator": "LGBM", "parameters": {"n_estimators": 60, "learning_rate": 0.2}},
    {"estimator": "XGB", "parameters": {"n_estimators": 30, "max_depth": 3}},
    {"estimator": "RandomForest", "parameters": {"n_estimators": 10, "max_depth": 4}},
]


def table(rows: int = 400, classes: int = 2, seed: int = 0) -> pl.DataFrame:
    """Return rows with numbers, text and missing values, and a label that many models learn in part."""
    draw = np.random.default_rng(seed)
    first, second, third = draw.normal(size=(3, rows))
    kind = draw.choice(["a", "b", "c"], rows)
    value = first + np.where(second > 0, 1.5, -0.5) * (kind == "a") + 0.5 * third + draw.normal(0, 0.7, rows)
    edges = np.quantile(value, np.arange(1, classes) / classes)
    return pl.DataFrame(
        {
            "first": first,
            "second": pl.Series(second).set(pl.Series(draw.random(rows) < 0.1), None),
            "third": third,
            "kind": kind,
            "value": value,
            "label": [f"c{place}" for place in np.searchsorted(edges, value)],
            "group": np.arange(rows) // 10,
        }
    )


def problem(label: str = "label", **options: Any) -> Problem:
    other = "value" if label == "label" else "label"
    task = "classification" if label == "label" else "regression"
    return Problem(
        label=label,
        task=task,
        exclude_columns=[other, "group"],
        **{"options": Options(early_stopping_rounds=10), "folds": 3, **options},
    )


def fit(
    rows: pl.LazyFrame, validation: pl.LazyFrame | None, what: Problem, entries: list[Any], **options: Any
) -> ensemble.Ensemble:
    with what.compared(rows, validation) as compared:
        return ensemble.fit(compared, entries, **options)


def test_greedy_weights_are_as_good_as_the_best_of_all_multisets_on_tiny_cases() -> None:
    truth = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    for seed in range(6):
        draw = np.random.default_rng(seed)
        predicted = [truth + draw.normal(0, 1, 6) for _ in range(3)]
        measure = metrics.measured("regression", "rmse", truth)
        weights = ensemble.select(predicted, lambda found, measure=measure: -measure(found), 6)
        found = measure(np.average(predicted, axis=0, weights=weights))
        means = [
            np.mean([predicted[place] for place in picks], axis=0)
            for size in range(1, 7)
            for picks in itertools.combinations_with_replacement(range(3), size)
        ]
        best = min(map(measure, means))
        assert sum(weights) == pytest.approx(1)
        assert found <= min(map(measure, predicted))
        assert found == pytest.approx(best, rel=0.1)


def test_each_pick_is_the_best_addition_to_those_before() -> None:
    draw = np.random.default_rng(3)
    truth = draw.integers(0, 2, 40)
    members = [np.column_stack([1 - second, second]) for second in draw.random((4, 40))]

    def auc(found: Any) -> float:
        return float(sklearn_metrics.roc_auc_score(truth, found[:, 1]))

    picks: list[int] = []
    best: tuple[float, list[int]] = (-1.0, [])
    for _ in range(7):
        scores = [auc(np.mean([members[each] for each in [*picks, new]], axis=0)) for new in range(4)]
        picks.append(int(np.argmax(scores)))
        best = max(best, (max(scores), list(picks)), key=lambda each: each[0])
    expected = np.bincount(best[1], minlength=4) / len(best[1])
    measure = metrics.measured("classification", "roc_auc", truth, 2)
    assert ensemble.select(members, measure, 7) == pytest.approx(expected)


def test_a_metric_that_is_undefined_everywhere_gives_the_first_member_all_weight() -> None:
    assert ensemble.select([np.zeros(3), np.ones(3)], lambda _: float("nan")) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "metric"),
    [("classification", metric) for metric in ("roc_auc", "average_precision", "log_loss", "f1", "brier")]
    + [("regression", metric) for metric in ("rmse", "mae", "r2", "median_absolute_error")],
)
def test_the_metric_of_arrays_is_that_of_tables(name: str, metric: str) -> None:
    draw = np.random.default_rng(0)
    if name == "regression":
        truth, predicted = draw.normal(size=(2, 50))
        expected = metrics.score(name, pl.Series(truth), pl.DataFrame({"prediction": predicted}), None)
        assert metrics.measured(name, metric, truth)(predicted) == pytest.approx(expected[metric])
        return
    codes, probabilities = draw.integers(0, 3, 50), draw.dirichlet([1, 1, 1], 50)
    classes = ["a", "b", "c"]
    answers = pl.DataFrame(
        {
            "prediction": [classes[place] for place in probabilities.argmax(axis=1)],
            **{f"probability_{each}": probabilities[:, at] for at, each in enumerate(classes)},
        }
    )
    labels = pl.Series([classes[code] for code in codes])
    expected = metrics.score(name, labels, answers, classes)
    assert metrics.measured(name, metric, codes, 3)(probabilities) == pytest.approx(expected[metric])


@pytest.mark.parametrize(
    ("label", "classes", "metric", "threshold"),
    [
        ("label", 2, "log_loss", {"false_positive_cost": 1, "false_negative_cost": 4}),
        ("label", 3, "log_loss", None),
        ("value", 2, "mae", None),
    ],
    ids=["two classes", "three classes", "a number"],
)
def test_the_ensemble_is_one_model_that_is_served_from_one_graph(
    label: str, classes: int, metric: str, threshold: dict[str, Any] | None, tmp_path: Path
) -> None:
    rows = table(classes=classes)
    made = fit(rows.lazy(), None, problem(label, metric=metric), ENTRIES, threshold=threshold)
    used = [each for each in made.members if each.weight]
    assert len(used) > 1
    assert sum(each.weight for each in used) == pytest.approx(1)
    scores = [each.metrics[metric] for each in made.members]
    assert scores == sorted(scores)
    mean = sum(each.weight * each.predicted for each in used)
    assert made.mean == pytest.approx(mean)
    card = made.save(tmp_path / "model")
    assert card["validation"][metric] <= scores[0] * (1.02 if threshold else 1.0)
    assert card["training_rows"] == rows.height
    assert [each["weight"] for each in card["members"]] == [each.weight for each in used]
    loaded = models.load(tmp_path / "model")
    offline = loaded.predict(rows)
    served = engines.load(tmp_path / "model")
    assert served.name == "onnxruntime", served.reason
    online = served.predict_columns({name: rows[name].to_list() for name in loaded.features})
    assert list(online) == offline.columns
    for name in offline.columns:
        if offline[name].dtype == pl.String:
            assert online[name].tolist() == offline[name].to_list()
        else:
            assert online[name] == pytest.approx(offline[name].to_numpy(), rel=1e-5, abs=1e-5)
    if threshold:
        assert made.threshold
        assert card["threshold"] == made.threshold.value < 0.5
        positive = offline["probability_c1"] >= card["threshold"]
        assert offline["prediction"].to_list() == ["c1" if each else "c0" for each in positive]


def test_members_are_trained_again_on_all_rows_for_the_mean_of_the_rounds(tmp_path: Path) -> None:
    rows, held = table(), table(150, seed=1)
    entry = {"estimator": "LGBM", "parameters": {"n_estimators": 300, "learning_rate": 0.3}}
    folds = fit(rows.lazy(), None, problem(metric="log_loss"), [entry])
    kept = [each["n_estimators"] for each in folds.members[0].rounds]
    assert len(kept) == 3
    assert max(kept) < 300
    assert folds.save(tmp_path / "folds")["members"][0]["parameters"]["n_estimators"] == -(-sum(kept) // 3)
    validated = fit(rows.lazy(), held.lazy(), problem(folds=0), [entry])
    card = validated.save(tmp_path / "validated")
    assert card["training_rows"] == 550
    assert card["parameters"]["n_estimators"] == validated.members[0].rounds[0]["n_estimators"]
    assert len(validated.held_out.labels) == 150
    assert "validation_folds" not in card


def test_rounds_under_another_name_are_replaced_too() -> None:
    entry = {"estimator": "LGBM", "parameters": {"num_iterations": 300, "learning_rate": 0.3}}
    made = fit(table().lazy(), None, problem(metric="log_loss"), [entry], calibrate=())
    mean = -(-sum(each["n_estimators"] for each in made.members[0].rounds) // 3)
    assert made.trained.estimator.n_iter_ == mean < 300
    assert made.trained.facts["members"][0]["parameters"] == {"learning_rate": 0.3, "n_estimators": mean}


def test_weights_count_in_the_calibration() -> None:
    # Most rows of one class were left out, and the others stand for them.
    rows = table(900)
    rows = rows.filter((pl.col("label") == "c1") | (pl.int_range(900) % 5 == 0))
    rows = rows.with_columns(weight=pl.when(pl.col("label") == "c1").then(1.0).otherwise(5.0))
    made = fit(rows.lazy(), None, problem(options=Options(weight_column="weight")), ["Linear"])
    held_out = made.held_out
    share = np.average(held_out.truth == 1, weights=held_out.weights)
    assert share < 0.6 < (held_out.truth == 1).mean()
    assert np.average(made.predicted[:, 1], weights=held_out.weights) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("options", [{}, {"calibrate": (), "threshold": {"min_recall": 0.9}}], ids=str)
def test_nothing_is_learned_from_held_out_rows_of_one_class(options: dict[str, Any]) -> None:
    rows = table()
    one = rows.filter(pl.col("label") == "c1").lazy()
    with pytest.raises(ValueError, match="the held-out rows have a single class of 'label', 'c1', so"):
        fit(rows.lazy(), one, problem(metric="log_loss", folds=0), ["Linear"], **options)


def test_one_member_alone_is_the_best_on_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "_MOST_ROWS", 5)
    truth = np.zeros(100)
    held_out = HeldOut("regression", "rmse", pl.Series(truth), None, None, np.zeros(100, dtype=np.intp))
    # All but perfect, and so it seems to be on a few rows.
    outlier = np.where(np.arange(100) == 1, 50.0, 0.0)
    members = [
        ensemble.Member(name, {}, [], predicted, held_out.measure(predicted), None, 0.0, 0.0, 0.0)
        for name, predicted in (("outlier", outlier), ("close", truth + 0.5))
    ]
    found = ensemble.weighted(members, held_out, 1)
    assert [(each.name, each.weight) for each in found] == [("close", 1.0), ("outlier", 0.0)]


def test_a_member_that_cant_be_trained_is_left_out_with_the_reason() -> None:
    entries = ["Linear", {"estimator": "KNeighbors", "parameters": {"n_neighbors": 900}}, "RidgeClassifier"]
    made = fit(table().lazy(), None, problem(), entries)
    assert [each.name for each in made.members] == ["LogisticRegression"]
    assert [each["estimator"] for each in made.left_out] == ["KNeighborsClassifier", "RidgeClassifier"]
    assert "it has no probabilities" in made.left_out[1]["reason"]
    with pytest.raises(
        ValueError, match=r"no member can be trained on these rows: KNeighborsClassifier \(2 times\): "
    ) as e:
        fit(table().lazy(), None, problem(), [entries[1], entries[1]])
    assert str(e.value).count("Expected n_neighbors") == 1


def test_time_and_picks_are_limited() -> None:
    made = fit(table().lazy(), None, problem(), ENTRIES[:2], max_seconds=1e-9, picks=1)
    assert [each.name for each in made.members] == ["LogisticRegression"]
    assert made.left_out[0]["reason"] == "max_seconds=1e-09 had passed before its turn"
    single = fit(table().lazy(), None, problem("value"), ENTRIES[:2], picks=1)
    assert [each.weight for each in single.members] == [1.0, 0.0]


def test_groups_stay_in_one_fold_and_folds_follow_time() -> None:
    rows = table()
    draw = np.random.default_rng(0)
    # A group's number is known only from other rows of the group.
    rows = rows.select("label", "group", value=draw.normal(size=40)[rows["group"]])
    rows = rows.with_columns(first=pl.col("group") * 7 % 41 + pl.Series(draw.normal(0, 0.05, 400)))
    nearest = [{"estimator": "KNeighbors", "parameters": {"n_neighbors": 1}}]
    options = {"options": Options(), "metric": "rmse"}
    apart = fit(rows.lazy(), None, problem("value", group_by="group", **options), nearest)
    mixed = fit(rows.lazy(), None, problem("value", **options), nearest)
    assert mixed.members[0].metrics["rmse"] < 0.3 < apart.members[0].metrics["rmse"]
    in_time = problem("value", **options).split_as({"time_column": "group"}, False)
    later = fit(rows.lazy(), None, in_time, ["Linear"])
    assert len(later.held_out.labels) == 300
    by_group = problem("value", group_by="group", **options)
    assert by_group.split_as({"time_column": "first"}, False) == by_group
    assert problem().split_as({"time_column": "first"}, validated=True) == problem()


def test_the_best_configurations_of_each_estimator_of_a_search_become_members() -> None:
    found = [("LGBM", 0.7, 31), ("LGBM", 0.9, 8), ("LGBM", 0.8, 16), ("LGBM", 0.9, 8), ("Linear", 0.6, 0)]
    trials = pl.DataFrame(
        {
            "estimator": [name for name, *_ in found],
            "metric": ["roc_auc"] * len(found),
            "score": [score for _, score, _ in found],
            "parameters": [json.dumps({"num_leaves": leaves} if leaves else {}) for *_, leaves in found],
        }
    )
    members = portfolio.members_of_trials(trials.lazy())
    assert members == [
        {"estimator": "LGBM", "parameters": {"num_leaves": 8}},
        {"estimator": "LGBM", "parameters": {"num_leaves": 16}},
        {"estimator": "Linear", "parameters": {}},
    ]
    lowest = portfolio.members_of_trials(trials.lazy().with_columns(metric=pl.lit("log_loss")))
    assert lowest[0]["estimator"] == "Linear"
    with pytest.raises(ValueError, match="column of trials 'metric' is not in the table"):
        portfolio.members_of_trials(trials.lazy().drop("metric"))
    with pytest.raises(ValueError, match="none of the trials was completed"):
        portfolio.members_of_trials(trials.lazy().with_columns(score=pl.lit(None, pl.Float64)))


@pytest.mark.parametrize(
    ("classes", "options", "sentence"),
    [
        (2, {"entries": ["Forrest"]}, "estimator 'Forrest' is unknown"),
        (2, {"max_seconds": -1.0}, "max_seconds must be a number of at least 0, not -1"),
        (2, {"threshold": {"metric": "auc"}}, "unknown threshold metric 'auc'"),
    ],
)
def test_a_bad_option_is_found_without_data(classes: int, options: dict[str, Any], sentence: str) -> None:
    given = {"entries": [], "threshold": None, "max_seconds": 0.0, "validated": False, **options}
    with pytest.raises(ValueError, match=sentence):
        ensemble.check(problem(), **given)


def test_a_threshold_takes_two_classes_and_rows_enough_for_the_folds() -> None:
    with pytest.raises(ValueError, match="decides between two classes, and label 'label' has 3"):
        fit(table(classes=3).lazy(), None, problem(), ["Linear"], threshold={"metric": "f1"})
    with pytest.raises(ValueError, match="has 2 rows, fewer than the 3 folds"):
        fit(pl.concat([table().head(1), table().tail(1)]).lazy(), None, problem(), ["Linear"])


def test_the_portfolio_can_be_built_for_both_tasks() -> None:
    for task in ("classification", "regression"):
        assert len(candidates.build(portfolio.PORTFOLIO, task, Options())) == len(portfolio.PORTFOLIO)


def test_the_pages_say_how_it_is_calibrated_and_decides() -> None:
    made = fit(table().lazy(), None, problem(), ["Linear"], threshold={"metric": "f1"})
    assert made.calibration
    assert made.threshold
    left = replace(made, calibration=replace(made.calibration, method="none", probabilities=made.mean))
    bent = replace(made, calibration=replace(made.calibration, method="platt"))
    assert "no method clearly lowers the log loss" in ensemble_report.page(left)
    assert "calibrated (platt): the log loss on rows left out falls" in ensemble_report.page(bent)
    assert "no weighted mean is better than LogisticRegression alone" in ensemble_report.page(made)
    found = replace(made, facts={**made.facts, "warnings": ["column 'a' is suspicious"]})
    assert "Before training: column &#39;a&#39; is suspicious." in ensemble_report.page(found)
    (said,) = evaluation_report.training_callouts({**made.trained.facts, "metric_reason": ""})
    words = f"The prediction is &#39;c1&#39; from a probability of {made.threshold.value:.4g} on"
    assert words in str(said)
