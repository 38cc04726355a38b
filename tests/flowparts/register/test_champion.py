import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flowparts import models, tables
from flowparts.models import seen
from flowparts.prepare import preprocess
from flowparts.register import champion

MakeModel = Callable[..., Path]


@pytest.fixture
def fitted(tmp_path: Path) -> MakeModel:
    """Make a model directory: `fitted(estimator, rows, "label", "regression")`."""

    def make(estimator: Any, rows: pl.DataFrame, label: str, task: str = "classification") -> Path:
        path = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        preprocessor, features = preprocess.fit(rows.lazy(), label=label, task=task)
        estimator.fit(features.drop(label).to_numpy(), features[label].to_numpy())
        models.save(
            path,
            estimator,
            preprocessor=preprocessor,
            task=task,
            label=label,
            classes=preprocessor.classes,
            metadata={
                "estimator": type(estimator).__name__,
                "parameters": {},
                "training_fingerprint": preprocessor.training_fingerprint,
                "git_commit": "unknown",
                "validation": {},
            },
        )
        return path

    return make


def bundled(name: str, label: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give half of scikit-learn's own data for training, half for testing."""
    import sklearn.datasets

    data = getattr(sklearn.datasets, f"load_{name}")()
    columns = {f"x{index}": data.data[:, index] for index in range(data.data.shape[1])}
    rows = pl.DataFrame({**columns, label: data.target}).sample(fraction=1.0, shuffle=True, seed=3)
    half = rows.height // 2
    return rows.head(half), rows.tail(rows.height - half)


def numbers(**changed: Any) -> dict[str, Any]:
    """Give a comparison that promotes, but for what is changed."""
    return {
        "metric": "roc_auc",
        "higher_is_better": True,
        "challenger": {"metrics": {"roc_auc": {"score": 0.9}}},
        "champion": {"metrics": {"roc_auc": {"score": 0.8}}},
        "champion_problem": "",
        "improvement": {"value": 0.1, "low": 0.05, "high": 0.15, "probability_better": 0.99},
        "margin": 0.0,
        "floor": None,
        "confidence": 0.95,
        "servable": True,
        "comparable": True,
        "replace_champion": False,
        "baseline": {"answer": "no", "score": 0.5, "value": 0.4, "probability_better": 1.0},
    } | changed


def gain(value: float, probability_better: float) -> dict[str, float]:
    return {"value": value, "low": -1.0, "high": 1.0, "probability_better": probability_better}


@pytest.mark.parametrize(
    ("changed", "promote", "reason"),
    [
        pytest.param({}, True, "promoted: roc_auc 0.9, champion 0.8, better in 99.0% of the", id="better"),
        pytest.param({"servable": False}, False, "failed the serving check", id="not servable"),
        pytest.param({"improvement": gain(0.0, 0.0)}, False, "no improvement", id="the same"),
        pytest.param({"improvement": gain(-0.1, 0.0)}, False, "no improvement", id="worse"),
        pytest.param({"margin": 0.1}, True, "promoted", id="exactly the margin"),
        pytest.param({"margin": 0.11}, False, "less than the margin 0.11", id="under the margin"),
        pytest.param({"improvement": gain(0.1, 0.95)}, True, "promoted", id="exactly the confidence"),
        pytest.param({"improvement": gain(0.1, 0.94)}, False, "may be chance", id="chance"),
        pytest.param({"improvement": gain(0.1, 0.94), "confidence": 0.9}, True, "promoted", id="less sure"),
        pytest.param({"floor": 0.99}, True, "promoted", id="floor is for a first model"),
        pytest.param({"baseline": None}, False, "roc_auc 0.9, champion 0.8, but", id="constant"),
        pytest.param(
            {"comparable": False, "champion_problem": "its label: 'a'"},
            False,
            "champion stays: it cannot be compared (its label: a); give the new model another model_name",
            id="not comparable",
        ),
        pytest.param(
            {"comparable": False, "champion_problem": "x", "improvement": None, "replace_champion": True},
            True,
            "promoted: no usable champion (x), roc_auc 0.9, better than always",
            id="replaced on demand",
        ),
    ],
)
def test_decision_against_a_champion(changed: dict[str, Any], promote: bool, reason: str) -> None:
    decided, why = champion.decide(numbers(**changed))
    assert decided is promote
    assert reason in why


@pytest.mark.parametrize(
    ("changed", "promote", "reason"),
    [
        pytest.param({}, True, "0.9, better than always predicting no (0.5)", id="no floor"),
        pytest.param(
            {"baseline": {"answer": "no", "score": 0.5, "value": 0.4, "probability_better": 0.94}},
            False,
            "first model, roc_auc 0.9 is no better than always predicting no (0.5): better in 94.0%",
            id="may be no better than a constant",
        ),
        pytest.param(
            {"baseline": {"answer": 2.5, "score": 0.5, "value": 0.0, "probability_better": 1.0}},
            False,
            "no better than always predicting 2.5",
            id="as good as a constant",
        ),
        pytest.param(
            {"baseline": {"answer": "no", "score": 0.5, "value": 0.4, "probability_better": 0.95}},
            True,
            "better than always predicting no (0.5)",
            id="exactly the confidence",
        ),
        pytest.param({"baseline": None}, False, "too few rows", id="undecided"),
        pytest.param({"baseline": None, "floor": 0.5}, True, "meets the floor", id="a floor instead"),
        pytest.param({"floor": 0.9}, True, "meets the floor 0.9", id="exactly the floor"),
        pytest.param({"floor": 0.91}, False, "not promoted: first model, roc_auc 0.9 misses", id="under it"),
        pytest.param({"floor": 0.8, "higher_is_better": False}, False, "misses the floor", id="error above"),
        pytest.param({"floor": 1.0, "higher_is_better": False}, True, "meets the floor", id="error below"),
        pytest.param({"floor": 0.9, "higher_is_better": False}, True, "meets", id="error exactly the floor"),
        pytest.param({"servable": False}, False, "failed the serving check", id="not servable"),
        pytest.param(
            {"champion_problem": "column 'größe' isn't\u2026", "floor": 0.95},
            False,
            "not promoted: no usable champion (column gr??e isnt?), roc_auc 0.9 misses the floor 0.95",
            id="broken champion",
        ),
    ],
)
def test_decision_without_a_champion(changed: dict[str, Any], promote: bool, reason: str) -> None:
    decided, why = champion.decide(numbers(champion=None, improvement=None) | changed)
    assert decided is promote
    assert why.startswith("promoted: " if promote else "not promoted: ")
    assert reason in why


def test_a_good_classifier_replaces_a_bad_one_but_not_vice_versa(fitted: MakeModel) -> None:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    train, test = bundled("breast_cancer", "malignant")
    good = fitted(LogisticRegression(max_iter=1000), train, "malignant")
    bad = fitted(DummyClassifier(), train, "malignant")
    up = champion.compare(good, bad, test.lazy())
    assert up["promote"]
    assert up["champion"]["metrics"]["roc_auc"]["score"] == 0.5
    assert up["improvement"]["low"] > 0.4
    down = champion.compare(bad, good, test.lazy())
    assert not down["promote"]
    assert down["reason"].startswith("champion stays: no improvement, roc_auc 0.5, champion 0.98")
    assert down["improvement"]["value"] == pytest.approx(-up["improvement"]["value"])


def test_a_lower_error_is_an_improvement(fitted: MakeModel) -> None:
    from sklearn.dummy import DummyRegressor
    from sklearn.linear_model import Ridge
    from sklearn.metrics import root_mean_squared_error

    train, test = bundled("diabetes", "progression")
    good = fitted(Ridge(), train, "progression", "regression")
    bad = fitted(DummyRegressor(), train, "progression", "regression")
    found = champion.compare(good, bad, test.lazy())
    assert found["promote"]
    scores = [found[side]["metrics"]["rmse"]["score"] for side in ("challenger", "champion")]
    expected = [
        root_mean_squared_error(test["progression"], models.load(path).predict(test)["prediction"])
        for path in (good, bad)
    ]
    assert scores == pytest.approx(expected)
    assert found["improvement"]["value"] == pytest.approx(expected[1] - expected[0])
    assert not champion.compare(bad, good, test.lazy())["promote"]


def test_the_same_model_again_is_no_improvement(fitted: MakeModel) -> None:
    from sklearn.ensemble import RandomForestClassifier

    train, test = bundled("wine", "cultivar")
    model = fitted(RandomForestClassifier(20, random_state=0), train, "cultivar")
    found = champion.compare(model, model, test.lazy(), metric="log_loss")
    assert found["improvement"] == {"value": 0.0, "low": 0.0, "high": 0.0, "probability_better": 0.0}
    assert (found["promote"], "no improvement" in found["reason"]) == (False, True)


def test_a_small_difference_on_few_rows_may_be_chance(fitted: MakeModel) -> None:
    from sklearn.linear_model import LogisticRegression

    train, test = bundled("breast_cancer", "malignant")
    first = fitted(LogisticRegression(C=0.01, max_iter=1000), train, "malignant")
    second = fitted(LogisticRegression(C=0.02, max_iter=1000), train, "malignant")
    found = champion.compare(second, first, test.head(60).lazy(), metric="accuracy")
    back = champion.compare(first, second, test.head(60).lazy(), metric="accuracy")
    assert not found["promote"]
    assert not back["promote"]


def test_equal_seeds_give_equal_comparisons_that_json_holds(fitted: MakeModel) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    train, test = bundled("iris", "species")
    models_ = [
        fitted(LogisticRegression(), train, "species"),
        fitted(DecisionTreeClassifier(), train, "species"),
    ]
    first, second = (champion.compare(*models_, test.lazy(), seed=5, samples=50) for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)


@pytest.mark.parametrize("broken", ["task", "label", "classes", "column", "weights"])
def test_a_champion_that_cannot_score_the_table_stays_unless_its_files_are_damaged(
    broken: str, fitted: MakeModel
) -> None:
    from sklearn.linear_model import LogisticRegression, Ridge

    train, test = bundled("iris", "species")
    new = fitted(LogisticRegression(), train, "species")
    if broken == "task":
        old = fitted(Ridge(), train, "species", "regression")
    elif broken == "label":
        other = train.rename({"species": "genus"})
        old = fitted(LogisticRegression(), other, "genus")
    elif broken == "classes":
        old = fitted(LogisticRegression(), train.filter(pl.col("species") < 2), "species")
    elif broken == "column":
        old = fitted(LogisticRegression(), train.rename({"x3": "petal width"}), "species")
    else:
        old = fitted(LogisticRegression(), train, "species")
        (old / "model.skops").write_bytes(b"\x00" * 100)
    told = {
        "task": "its task: regression; the challenger's: classification",
        "label": "its label: genus; the challenger's: species",
        "classes": "its classes: [0, 1]; the challenger's: [0, 1, 2]",
        "column": "feature column 'petal width' is not in the table",
        "weights": "skops",
    }[broken]
    found = champion.compare(new, old, test.lazy(), floor=0.9)
    assert found["champion"] is None
    assert told in found["champion_problem"]
    assert "'" not in found["reason"]
    assert found["promote"] is (broken == "weights")
    if broken != "weights":
        assert found["reason"].startswith("champion stays: it cannot be compared (")
    replaced = champion.compare(new, old, test.lazy(), floor=0.9, replace_champion=True)
    assert replaced["promote"]
    assert replaced["reason"].startswith("promoted: no usable champion (")
    assert not champion.compare(new, old, test.lazy(), floor=1.0, replace_champion=True)["promote"]


def test_a_model_that_has_learned_nothing_is_not_promoted(fitted: MakeModel) -> None:
    from sklearn.linear_model import LinearRegression, LogisticRegression

    rng = np.random.default_rng(0)
    noise = pl.DataFrame({"x": rng.normal(size=400), "y": rng.choice(["no", "yes"], 400)})
    numbers = noise.with_columns(pl.Series("y", rng.normal(size=400)))
    for rows, estimator, task, told in [
        (noise, LogisticRegression(), "classification", "is no better than always predicting"),
        (numbers, LinearRegression(), "regression", "is no better than always predicting"),
    ]:
        model = fitted(estimator, rows.head(200), "y", task)
        found = champion.compare(model, None, rows.tail(200).lazy())
        assert not found["promote"]
        assert told in found["reason"]
        assert found["baseline"]["low"] < 0
        assert champion.compare(model, None, rows.tail(200).lazy(), floor=0.1)["floor"] == 0.1


def remembering(fitted: MakeModel, tmp_path: Path, train: pl.DataFrame) -> Path:
    """Train a forest that has its rows by heart and says which they are."""
    from sklearn.ensemble import RandomForestClassifier

    model = fitted(RandomForestClassifier(20, random_state=0), train, "y")
    part = tmp_path / f"part of {model.name}"
    tables.write(train, part)
    seen.record(model, [part])
    return model


def noisy(rows: int) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    x = rng.normal(size=rows)
    return pl.DataFrame({"x": x, "y": np.where(x + 2 * rng.normal(size=rows) > 0, "yes", "no")})


def test_a_champion_is_compared_on_the_rows_that_it_has_not_seen(fitted: MakeModel, tmp_path: Path) -> None:
    rows = noisy(900)
    old, new = (remembering(fitted, tmp_path, some) for some in (rows.head(500), rows.tail(300)))
    found = champion.compare(new, old, rows.slice(400, 200).lazy())
    assert (found["rows"], found["seen_rows"]) == (100, 100)
    alone = champion.compare(new, old, rows.slice(500, 100).lazy())
    assert found["champion"] == alone["champion"]
    assert found["champion"]["metrics"]["accuracy"]["score"] < 0.8  # it has 100 % of the others by heart
    few = champion.compare(new, old, rows.slice(400, 129).lazy())
    assert (few["promote"], few["champion"]) == (False, None)
    assert "cannot be compared (only 29 of 129 test rows were not seen by it" in few["reason"]
    (old / seen.FILE).unlink()
    unknown = champion.compare(new, old, rows.slice(400, 200).lazy())
    assert (unknown["rows"], unknown["seen_rows"]) == (200, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -0.1}, r"margin is -0\.1; it must be 0 or more"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"floor": float("inf")}, "floor is inf; it must be a finite number"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"samples": 3}, "bootstrap_samples is 3"),
        ({"metric": "roc"}, r"metric 'roc' is unknown; did you mean 'roc_auc'\?"),
    ],
)
def test_wrong_rules_are_reported_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        champion.compare("/no/model", None, pl.LazyFrame(), **options)


def test_a_table_or_metric_that_does_not_fit_the_challenger_is_reported(fitted: MakeModel) -> None:
    from sklearn.linear_model import LogisticRegression

    train, test = bundled("breast_cancer", "malignant")
    model = fitted(LogisticRegression(max_iter=1000), train, "malignant")
    with pytest.raises(ValueError, match="metric 'rmse' does not fit classification"):
        champion.compare(model, None, test.lazy(), metric="rmse")
    with pytest.raises(ValueError, match="label column 'malignant' is not in the table"):
        champion.compare(model, None, test.drop("malignant").lazy())
    with pytest.raises(ValueError, match="the test table has no rows"):
        champion.compare(model, None, test.clear().lazy())
    with pytest.raises(ValueError, match="metric 'roc_auc' is not defined on these"):
        champion.compare(model, None, test.filter(pl.col("malignant") == 1).lazy())
