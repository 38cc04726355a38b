from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import recall_score

from flowparts.prepare import preprocess
from flowparts.train import estimators

C, R = "classification", "regression"


def table(
    rows: int = 400, positives: float = 0.5, labels: tuple[Any, Any] = ("no", "yes"), seed: int = 0
) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    positive = x[:, 0] + rng.normal(size=rows) > np.quantile(x[:, 0], 1 - positives)
    frame = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "w": rng.uniform(0.1, 5, rows)})
    return frame.with_columns(
        y=pl.Series([labels[int(p)] for p in positive]), t=frame["a"] * 3 + rng.normal(size=rows)
    )


def examples(frame: pl.DataFrame, task: str = C, weight_column: str | None = None) -> estimators.Examples:
    label, other = ("y", "t") if task == C else ("t", "y")
    preprocessor, features = preprocess.fit(
        frame.lazy(), label=label, task=task, exclude_columns=[other], weight_column="w"
    )
    return estimators.examples(features.lazy(), preprocessor, weight_column)


def trained(
    name: str,
    parameters: dict[str, Any] | None = None,
    task: str = C,
    frame: pl.DataFrame | None = None,
    weight_column: str | None = None,
    **options: Any,
) -> Any:
    train = examples(table() if frame is None else frame, task, weight_column)
    held = examples(table(seed=1) if frame is None else frame, task, weight_column)
    seed = options.pop("seed", 0)
    built = estimators.build(name, task, parameters, weighted=weight_column is not None, seed=seed, **options)
    return estimators.fit(built, train, held, **options)


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("RandomForestClassifier", C, "RandomForestClassifier"),
        ("RandomForest", R, "RandomForestRegressor"),
        ("HistGradientBoosting", C, "HistGradientBoostingClassifier"),
        ("XGB", R, "XGBRegressor"),
        ("LGBM", C, "LGBMClassifier"),
        ("Linear", C, "LogisticRegression"),
        ("Linear", R, "Ridge"),
        ("SVC", C, "SVC"),
    ],
)
def test_estimators_are_found_by_class_name_or_family(name: str, task: str, expected: str) -> None:
    assert estimators.resolve(name, task).__name__ == expected


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        (
            "RandomForrest",
            C,
            "estimator 'RandomForrest' is unknown for classification; did you mean 'RandomForest'?",
        ),
        ("logisticregression", C, "did you mean 'LogisticRegression'"),
        ("XGBoostClassifier", C, "did you mean 'XGBClassifier'"),
        (
            "RandomForestRegressor",
            C,
            "is a regressor, but the task is classification; use 'RandomForestClassifier'",
        ),
        ("SVC", R, "is a classifier, but the task is regression"),
        ("os.system", C, "is unknown for classification; give a class name"),
        ("", C, "is unknown"),
    ],
)
def test_an_unknown_estimator_gives_the_near_match(name: str, task: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        estimators.resolve(name, task)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("RandomForest", {"n_estimators": 50.0, "max_depth": None}, {"n_estimators": 50, "max_depth": None}),
        ("RandomForest", {"max_features": 1.0}, {"max_features": 1.0}),
        (
            "RandomForest",
            {"max_features": 3.0, "min_samples_leaf": 1.0},
            {"max_features": 3, "min_samples_leaf": 1},
        ),
        ("Linear", {"C": 10, "max_iter": 300.0}, {"C": 10, "max_iter": 300}),
        ("MLP", {"hidden_layer_sizes": [20.0, 10.0]}, {"hidden_layer_sizes": [20, 10]}),
        ("XGB", {"max_depth": 4.0, "learning_rate": 1.0}, {"max_depth": 4, "learning_rate": 1.0}),
        ("LGBM", {"num_leaves": 7.0, "learning_rate": 1}, {"num_leaves": 7, "learning_rate": 1}),
        ("LGBM", {"path_smooth": 0.5, "max_bin": 63.0}, {"path_smooth": 0.5, "max_bin": 63}),
        ("RandomForest", {"class_weight": {"no": 1.0, "yes": 2.0}}, {"class_weight": {"no": 1, "yes": 2}}),
    ],
)
def test_parameters_get_the_types_the_estimator_wants(
    name: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    checked = estimators.check_parameters(estimators.resolve(name, C), given, C)
    assert checked == expected
    assert {key: type(value) for key, value in checked.items()} == {k: type(v) for k, v in expected.items()}


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        (
            "RandomForest",
            {"n_estimator": 10},
            "has no parameter 'n_estimator'; did you mean 'n_estimators'? it has: ",
        ),
        ("XGB", {"max_dept": 3}, "'XGBClassifier' has no parameter 'max_dept'; did you mean 'max_depth'"),
        (
            "LGBM",
            {"num_leafs": 3},
            "'LGBMClassifier' has no parameter 'num_leafs'; did you mean 'num_leaves'",
        ),
        (
            "RandomForest",
            {"n_estimators": 0},
            r"'n_estimators' of RandomForestClassifier must be .*\[1, inf\).*, not 0",
        ),
        ("RandomForest", {"n_estimators": 1.5}, "must be an int in .*, not 1.5"),
        ("RandomForest", {"criterion": "ginny"}, "must be .*, not 'ginny'; did you mean 'gini'"),
        (
            "RandomForest",
            {"bootstrap": "true"},
            "'bootstrap' of RandomForestClassifier must be .*, not 'true'",
        ),
        ("RandomForest", {"max_depth": "deep"}, "must be .*, not 'deep'"),
        ("XGB", {"max_depth": 2.5}, "'max_depth' of XGBClassifier must be None or int, not 2.5"),
        ("XGB", {"n_estimators": "many"}, "must be None or int, not 'many'"),
        ("LGBM", {"num_leaves": True}, "'num_leaves' of LGBMClassifier must be int, not True"),
        ("Voting", {}, "'VotingClassifier' needs the parameter 'estimators': give the estimator names"),
        ("Bagging", {"estimator": "Forest"}, "estimator 'Forest' is unknown"),
        ("Voting", {"estimators": [3]}, "an estimator is given by its name or a dict"),
    ],
)
def test_a_wrong_parameter_gives_a_one_line_error(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        estimators.build(name, C, parameters)


@pytest.mark.parametrize(
    ("name", "task", "options", "message"),
    [
        (
            "RandomForest",
            C,
            {"early_stopping_rounds": 5},
            "can't stop early on the validation table; leave out",
        ),
        ("XGB", C, {"early_stopping_rounds": 0}, "early_stopping_rounds must be at least 1, not 0"),
        ("KNeighbors", C, {"weighted": True}, "can't take sample weights; leave out a weight column"),
        ("KNeighbors", C, {"class_weight": "balanced"}, "can't take sample weights; leave out class_weight"),
        ("Linear", R, {"class_weight": "balanced"}, "class_weight 'balanced' is for classification"),
        ("Linear", C, {"class_weight": "even"}, "class_weight must be 'balanced', not 'even'"),
    ],
)
def test_more_than_the_estimator_can_do_gives_a_one_line_error(
    name: str, task: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        estimators.build(name, task, **options)


def test_class_weight_given_twice_gives_a_one_line_error() -> None:
    with pytest.raises(ValueError, match="class_weight is given twice"):
        estimators.build("Linear", C, {"class_weight": "balanced"}, class_weight="balanced")


@pytest.mark.parametrize("name", ["RandomForest", "HistGradientBoosting", "XGB", "LGBM", "MLP"])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning")
def test_the_seed_decides(name: str) -> None:
    parameters = (
        {} if name == "MLP" else {"max_iter": 20} if name.startswith("Hist") else {"n_estimators": 20}
    )
    parameters |= {"subsample": 0.5} if name == "XGB" else {}
    parameters |= {"subsample": 0.5, "subsample_freq": 1} if name == "LGBM" else {}
    parameters |= {"max_features": 0.4} if name == "HistGradientBoosting" else {}
    matrix = examples(table()).matrix
    one, same, other = (trained(name, parameters, seed=seed).predict_proba(matrix) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_random_state_among_the_parameters_wins() -> None:
    assert estimators.build("RandomForest", C, {"random_state": 5.0}, seed=1).random_state == 5


@pytest.mark.parametrize("name", ["Linear", "XGB", "LGBM", "GaussianNB"])
def test_balanced_classes_find_more_of_the_rare_class(name: str) -> None:
    frame = table(positives=0.1)
    data = examples(frame)
    few = {"n_estimators": 5} if name in ("XGB", "LGBM") else {}
    recalls = []
    for weight in (None, "balanced"):
        predicted = trained(name, few, frame=frame, class_weight=weight).predict(data.matrix)
        recalls.append(recall_score(data.label, predicted, pos_label="yes"))
    assert recalls[1] > recalls[0]


@pytest.mark.parametrize(("name", "reference"), [("Linear", LogisticRegression()), ("RandomForest", None)])
def test_sample_weights_reach_the_estimator(name: str, reference: Any) -> None:
    reference = reference or RandomForestClassifier(random_state=0)
    data = examples(table(), weight_column="w")
    expected = reference.fit(data.matrix, data.label, sample_weight=table()["w"].to_numpy())
    found = trained(name, weight_column="w")
    np.testing.assert_allclose(found.predict_proba(data.matrix), expected.predict_proba(data.matrix))


def test_a_regression_equals_scikit_learns_own() -> None:
    data = examples(table(), R)
    for name, reference in (("Linear", Ridge()), ("RandomForest", RandomForestRegressor(random_state=0))):
        expected = reference.fit(data.matrix, data.label).predict(data.matrix)
        np.testing.assert_allclose(trained(name, task=R).predict(data.matrix), expected, rtol=1e-5)


@pytest.mark.parametrize("task", [C, R])
@pytest.mark.parametrize("weight_column", [None, "w"])
def test_early_stopping_stops_on_the_validation_table(task: str, weight_column: str | None) -> None:
    options: dict[str, Any] = {"task": task, "early_stopping_rounds": 3, "weight_column": weight_column}
    boosted = trained("XGB", {"n_estimators": 500}, **options)
    assert getattr(boosted, "estimator", boosted).best_iteration < 100
    assert trained("LGBM", {"n_estimators": 500}, **options).best_iteration_ < 100
    hist = trained("HistGradientBoosting", {"max_iter": 500}, **options)
    assert hist.n_iter_ < 100
    assert len(hist.validation_score_) == hist.n_iter_ + 1


@pytest.mark.parametrize("name", ["XGB", "LGBM", "HistGradientBoosting"])
def test_early_stopping_counts_the_same_whatever_the_labels_are_called(name: str) -> None:
    iterations = "max_iter" if name == "HistGradientBoosting" else "n_estimators"
    found = []
    for labels in (("no", "yes"), (3, 7)):
        data, held = examples(table(labels=labels)), examples(table(labels=labels, seed=1))
        built = estimators.build(name, C, {iterations: 500}, early_stopping_rounds=3)
        fitted = estimators.fit(built, data, held, early_stopping_rounds=3)
        found.append(fitted.predict_proba(held.matrix))
    np.testing.assert_array_equal(*found)


def test_early_stopping_scores_the_validation_table_and_no_part_of_the_training_table() -> None:
    train, held = examples(table()), examples(table(seed=1))
    found = trained("HistGradientBoosting", early_stopping_rounds=3)
    reference = HistGradientBoostingClassifier(early_stopping=True, n_iter_no_change=3, random_state=0)
    reference.fit(train.matrix, train.label, X_val=held.matrix, y_val=held.label)
    np.testing.assert_array_equal(found.predict_proba(held.matrix), reference.predict_proba(held.matrix))


@pytest.mark.parametrize("labels", [("no", "yes"), (False, True), (0, 1), (3, 7), (-1, 1)], ids=str)
@pytest.mark.parametrize("name", ["XGB", "LGBM", "HistGradientBoosting", "Linear"])
def test_labels_of_every_type_are_predicted(name: str, labels: tuple[Any, Any]) -> None:
    frame = table(labels=labels)
    found = trained(name, frame=frame)
    assert set(found.predict(examples(frame).matrix).tolist()) == set(labels)
    assert list(found.classes_) == sorted(labels)


def test_estimators_inside_estimators_are_given_by_name() -> None:
    voting = trained("Voting", {"estimators": ["Linear", {"name": "RandomForest", "n_estimators": 5.0}]})
    assert [type(member).__name__ for member in voting.estimators_] == [
        "LogisticRegression",
        "RandomForestClassifier",
    ]
    assert voting.estimators_[1].n_estimators == 5


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        (
            "MultinomialNB",
            {},
            "estimator 'MultinomialNB' can't be trained on this table: Negative values in data",
        ),
        ("XGB", {"learning_rate": -1.0}, "estimator 'XGBClassifier' can't be trained on this table: "),
        ("LGBM", {"num_leaves": 1}, "estimator 'LGBMClassifier' can't be trained on this table: "),
    ],
)
def test_an_error_of_a_library_becomes_a_one_line_error(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trained(name, parameters)


def test_a_weight_column_the_preprocessor_did_not_keep_gives_a_one_line_error() -> None:
    preprocessor, features = preprocess.fit(table().lazy(), label="y", task=C)
    with pytest.raises(ValueError, match="weight column 'w' was not given to fit_preprocessor"):
        estimators.examples(features.lazy(), preprocessor, "w")


def test_parameters_are_described_as_the_estimator_took_them() -> None:
    given = {"n_estimators": 5.0, "class_weight": {"no": 1.0}}
    built = estimators.build("RandomForest", C, given)
    assert estimators.described(built, given) == {"n_estimators": 5, "class_weight": {"no": 1.0}}


def test_a_class_of_a_single_row_is_named_and_does_not_stop_the_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    x = np.random.default_rng(0).normal(size=10_500)
    frame = pl.DataFrame({"x": x, "label": np.where(x > 0, "a", "b")}).with_row_index("row")
    rare = pl.when(pl.col("row") == 7).then(pl.lit("rare")).otherwise("label").alias("label")
    frame = frame.with_columns(rare).drop("row")
    assert preprocess.check_label(frame.lazy(), "label", "classification") == ["a", "b", "rare"]
    assert "label column 'label' has only one row each of 'rare' in the training table" in caplog.text
    rows = estimators.Examples(frame.select("x").to_numpy(), frame["label"], None)
    fitted = estimators.fit(estimators.build("HistGradientBoosting", C, {"max_iter": 5}), rows, rows)
    assert {*fitted.predict(np.array([[2.0], [-2.0]]))} == {"a", "b"}


def test_xgboost_takes_the_numbers_of_its_objectives() -> None:
    x = np.arange(300, dtype=np.float32).reshape(-1, 1)
    y = x[:, 0] + np.random.default_rng(0).exponential(50, 300)
    shares = []
    for alpha in (0.1, 0.9):
        parameters = {"objective": "reg:quantileerror", "quantile_alpha": alpha, "n_estimators": 50}
        fitted = estimators.build("XGB", "regression", parameters).fit(x, y)
        shares.append(float((y <= fitted.predict(x)).mean()))
    assert shares == pytest.approx([0.1, 0.9], abs=0.1)
    for value in ([0.1, 0.9], "0.5", True, float("nan")):
        with pytest.raises(ValueError, match="quantile_alpha of estimator 'XGBRegressor' must be one number"):
            estimators.build("XGB", "regression", {"quantile_alpha": value})
