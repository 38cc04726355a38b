"""What servers run predicts what the trained estimator does, or isn't made."""

import datetime
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowparts import models
from flowparts.models import agreement, engines, fitted_estimators, onnx_export, onnx_graph
from flowparts.prepare import preprocess
from flowparts.train import estimators

WORDS = ["It", "was", "größer", "than", "I", "thought", "日本", "5", "stars", "don't", "buy", "again"]
EPOCH = datetime.datetime(1970, 1, 1)


def table(rows: int, seed: int = 0) -> pl.DataFrame:
    """Mixed columns with missing values; labels that follow from them, for every task."""
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "amount": rng.normal(size=rows) * 1e3,
            "count": rng.integers(0, 50, rows),
            "active": rng.integers(0, 2, rows).astype(bool),
            "plan": rng.choice(["basic", "größer", "日本"], rows),
            "city": [f"city {number}" for number in rng.integers(0, 40, rows)],
            "since": [
                EPOCH + datetime.timedelta(minutes=int(number)) for number in rng.integers(0, 10**7, rows)
            ],
            "born": [
                datetime.date(1950, 1, 1) + datetime.timedelta(days=int(n))
                for n in rng.integers(0, 20000, rows)
            ],
            "said": [" ".join(rng.choice(WORDS, number)) for number in rng.integers(3, 12, rows)],
        }
    )
    missing = rng.random(rows) < 0.1
    score = (
        pl.col("amount") + 20 * pl.col("count") + pl.when(pl.col("plan") == "basic").then(500).otherwise(0)
    )
    return frame.with_columns(
        value=score,
        high=pl.when(score > 500).then(pl.lit("yes")).otherwise(pl.lit("no")),
        level=pl.when(score < 300)
        .then(pl.lit("a"))
        .when(score < 900)
        .then(pl.lit("b"))
        .otherwise(pl.lit("c")),
    ).with_columns(
        pl.when(pl.Series(missing)).then(None).otherwise(pl.col("amount", "plan", "said")).name.keep()
    )


FEATURES = ["amount", "count", "active", "plan", "city", "since", "born", "said"]
TASKS = {"high": "classification", "level": "classification", "value": "regression"}


def trained(rows: pl.DataFrame, label: str, estimator: str, **parameters: Any) -> tuple[Any, Any, Any]:
    task = TASKS[label]
    learned, features = preprocess.fit(rows.lazy().select(*FEATURES, label), label=label, task=task)
    data = estimators.examples(features.lazy(), learned)
    return estimators.fit(estimators.build(estimator, task, parameters), data, data), learned, data.matrix


def saved(path: Path, rows: pl.DataFrame, label: str, estimator: str, **parameters: Any) -> dict[str, Any]:
    fitted, learned, matrix = trained(rows, label, estimator, **parameters)
    return models.save(
        path,
        fitted,
        preprocessor=learned,
        task=TASKS[label],
        label=label,
        classes=learned.classes,
        metadata={},
        train_features=matrix,
    )


ESTIMATORS = [
    ("high", "Linear", {}),
    ("high", "HistGradientBoosting", {"max_iter": 20}),
    ("level", "RandomForest", {"n_estimators": 20}),
    ("level", "XGB", {"n_estimators": 20}),
    ("level", "LGBM", {"n_estimators": 20}),
    ("value", "Linear", {}),
    ("value", "HistGradientBoosting", {"max_iter": 20}),
    ("value", "XGB", {"n_estimators": 20}),
    ("value", "GradientBoosting", {"n_estimators": 20}),
]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "amount": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "count": st.none() | st.integers(-(2**40), 2**40),
    "active": st.none() | st.booleans(),
    "plan": st.none() | st.sampled_from(["basic", "größer", "日本", "", "unseen"]) | st.text(max_size=3),
    "city": st.none() | st.integers(0, 60).map("city {}".format),
    "since": st.none() | st.datetimes().map(datetime.datetime.isoformat),
    "born": st.none() | st.dates().map(datetime.date.isoformat),
    "said": st.none() | st.text() | st.lists(st.sampled_from([*WORDS, "", "!", "BUY"])).map(" ".join),
}


@pytest.fixture(scope="module", params=ESTIMATORS, ids=lambda case: f"{case[0]}-{case[1]}")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    label, estimator, parameters = request.param
    path = tmp_path_factory.mktemp("exported") / "model"
    saved(path, table(1_000), label, estimator, **parameters)
    return path


@pytest.fixture(scope="module")
def opened(model: Path) -> tuple[engines.Engine, models.Model, float]:
    original = models.load(model)
    return engines.load(model), original, agreement.scale(original.predict(table(1_000)), original.task)


@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=30))
def test_any_rows_are_scored_as_the_original_scores_them(
    opened: tuple[engines.Engine, models.Model, float], rows: list[dict[str, Any]]
) -> None:
    engine, original, unit = opened
    assert engine.name == "onnxruntime"
    columns = {name: [row[name] for row in rows] for name in FEATURES}
    kinds = {"amount": pl.Float64(), "count": pl.Float64(), "active": pl.Boolean()}
    frame = pl.DataFrame(
        {name: pl.Series(columns[name], dtype=kinds.get(name, pl.String())) for name in FEATURES}
    )
    with np.errstate(all="ignore"):
        expected = original.predict(frame)
    online = pl.DataFrame(
        {name: values.tolist() for name, values in engine.predict_columns(columns).items()},
        schema=expected.schema,
    )
    differ = agreement.differences(expected, online, original.task, unit)
    if original.task == "regression":
        # Beyond what 64 bits hold, the original has no answer either.
        assert online["prediction"].is_finite().to_list() == expected["prediction"].is_finite().to_list()
        differ &= expected["prediction"].is_finite()
    assert not differ.any()


def test_the_comparison_is_recorded_with_the_model(model: Path) -> None:
    found = models.metadata(model)["onnx"]
    assert found["agrees"], found["reason"]
    assert found["rows"] > 1_000
    assert 0 <= found["largest_difference"] <= found["tolerance"] == agreement.TOLERANCE
    content = onnx_graph.read(model / "model.onnx", found["sha256"])
    assert len(content) > 100


def test_the_same_estimator_gives_the_same_bytes() -> None:
    (one, learned, matrix), (two, _, _) = (
        trained(table(300), "level", "LGBM", n_estimators=5) for _ in range(2)
    )
    assert (
        onnx_export.export(one, learned, matrix, learned.classes)[0]
        == onnx_export.export(two, learned, matrix, learned.classes)[0]
    )


def test_a_feature_at_the_32_bit_neighbour_of_a_threshold_goes_the_right_way() -> None:
    from sklearn.tree import DecisionTreeClassifier

    rows = pl.DataFrame({"x": [-1.0, 1.0] * 10, "y": ["a", "b"] * 10})
    learned, features = preprocess.fit(rows.lazy(), label="y", task="classification")
    matrix = features.drop("y").to_numpy()
    tree = DecisionTreeClassifier().fit(matrix, features["y"].to_numpy())
    # Just below the upper value; rounded to the nearest 32-bit number, as converters do, it is that value.
    tree.tree_.threshold[0] = np.nextafter(float(matrix.max()), 0)
    assert np.float32(tree.tree_.threshold[0]) == matrix.max()
    graph, parity = onnx_export.export(tree, learned, matrix, learned.classes)
    assert parity.agrees, parity.reason
    assert graph
    found = onnx_graph.Graph(graph, learned.classes).predict_matrix(matrix)
    assert found["prediction"].tolist() == ["a", "b"] * 10


def test_a_graph_with_other_predictions_is_dropped_and_the_model_is_served_natively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Round to the nearest instead of down, as converters do: some rows change sides.
    monkeypatch.setattr(onnx_export, "_rounded_down", lambda thresholds: thresholds + 0.05)
    stored = saved(tmp_path / "model", table(500), "high", "HistGradientBoosting", max_iter=10)
    assert not stored["onnx"]["agrees"]
    assert "rows otherwise, by up to" in stored["onnx"]["reason"]
    assert not (tmp_path / "model" / "model.onnx").exists()
    engine = engines.load(tmp_path / "model")
    assert (engine.name, engine.reason) == ("native", stored["onnx"]["reason"])
    row = {name: [value] for name, value in agreement.to_records(table(1))[0].items()}
    assert engine.predict_columns(row)["prediction"].tolist() == [
        models.load(tmp_path / "model").predict(table(1))["prediction"].item()
    ]


def test_ties_in_probability_give_the_estimators_class(tmp_path: Path) -> None:
    # modified_huber cuts probabilities off at 0 and 1, so that many tie; the decision function still tells.
    rows = table(600)
    saved(tmp_path / "model", rows, "level", "SGDClassifier", loss="modified_huber", random_state=0)
    offline = models.load(tmp_path / "model").predict(rows)
    names = [name for name in offline.columns if name.startswith("probability_")]
    ranked = np.sort(offline.select(names).to_numpy(), axis=1)
    assert (ranked[:, -1] == ranked[:, -2]).sum() > 10
    records = agreement.to_records(rows.select(FEATURES))
    columns = {name: [record[name] for record in records] for name in FEATURES}
    served = engines.load(tmp_path / "model").predict_columns(columns)
    assert served["prediction"].tolist() == offline["prediction"].to_list()


@pytest.mark.parametrize(
    ("probability", "usual", "agrees"),
    [(0.2, 3, True), (0.2, 4, False), (0.5, 3, False), (0.9, 4, True)],
    ids=["as in 64 bits", "a usual row", "as in neither", "as in 32 bits"],
)
def test_far_out_a_graph_may_answer_as_the_original_does_in_64_bits(
    probability: float, usual: int, agrees: bool
) -> None:
    def answers(*positive: float) -> pl.DataFrame:
        named = ["yes" if each > 0.5 else "no" for each in positive]
        negative = [1 - each for each in positive]
        return pl.DataFrame(
            {"prediction": named, "probability_no": negative, "probability_yes": list(positive)}
        )

    # The sum of the last row overflows in 32 bits.
    original, exact = answers(0.1, 0.6, 0.7, 0.9), answers(0.1, 0.6, 0.7, 0.2)
    graph = {
        name: column.to_numpy() for name, column in answers(0.1, 0.6, 0.7, probability).to_dict().items()
    }
    parity = onnx_export._compare(None, [original, exact], graph, usual, ["no", "yes"], 1.0, "float32", "")
    assert parity.agrees == agrees, parity.reason
    assert parity.rows == 4
    assert ("1 synthetic ones" in parity.reason) == (probability == 0.2 and agrees)


def test_the_example_is_no_synthetic_row(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, learned, matrix = trained(table(1_000), "value", "Linear")
    example = preprocess.matrix(learned.example, learned)
    predictions = fitted_estimators.predictions

    def otherwise(estimator: Any, rows: Any, classes: Any) -> pl.DataFrame:
        """Predict the example otherwise in 32 bits."""
        found = predictions(estimator, rows, classes)
        changed = (rows[:, None] == example).all(axis=2).any(axis=1) & (rows.dtype == np.float32)
        return found.with_columns(prediction=found["prediction"] + 1e6 * changed)

    monkeypatch.setattr(fitted_estimators, "predictions", otherwise)
    _, parity = onnx_export.export(fitted, learned, matrix[len(example) :], None)
    assert parity.reason.startswith(f"the ONNX graph predicts {len(example)} of"), parity.reason


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        ("KNeighbors", "loops over rows"),
        ("RidgeClassifier", "RidgeClassifier has no probabilities of its own"),
    ],
)
def test_an_estimator_that_cannot_be_exported_says_why(tmp_path: Path, estimator: str, reason: str) -> None:
    stored = saved(tmp_path / "model", table(200), "high", estimator)
    assert reason in stored["onnx"]["reason"]
    assert engines.load(tmp_path / "model").name == "native"


def test_a_damaged_graph_is_refused(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    content = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(content[:-20])
    with pytest.raises(ValueError, match=r"is damaged: it is not the file that was checked"):
        engines.load(copy)


def test_a_server_of_an_exported_model_imports_no_framework(model: Path) -> None:
    code = (
        "import sys, json\nfrom flowparts.models import engines\n"
        f"engine = engines.load({str(model)!r})\n"
        "row = {'amount': [1.0], 'count': [2], 'active': [True], 'plan': ['basic'], 'city': ['x'],"
        " 'since': ['2020-01-01'], 'born': [None], 'said': ['Buy it again']}\n"
        "engine.predict_columns(row)\n"
        "print(json.dumps([n for n in ('sklearn', 'pandas', 'polars', 'scipy') if n in sys.modules]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == []
