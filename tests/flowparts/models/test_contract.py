import datetime
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal
from sklearn.utils import all_estimators

from flowparts import models
from flowparts.models import fitted_estimators
from flowparts.models.contract import PipelineModel
from flowparts.prepare import preprocess
from flowparts.tables.schema import Schema
from flowparts.train import estimators
from flowparts.util import weights

C, R = "classification", "regression"
METADATA: dict[str, Any] = {
    "estimator": "RandomForestClassifier",
    "parameters": {"max_depth": 3},
    "training_fingerprint": "0123456789abcdef",
    "git_commit": "unknown",
    "validation": {"roc_auc": 0.9},
}


def raw(rows: int = 120, labels: tuple[Any, ...] = ("no", "yes")) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=rows)
    start = datetime.datetime(2024, 1, 1)
    frame = pl.DataFrame(
        {
            "x": x,
            "visits": rng.integers(0, 9, rows),
            "member": rng.integers(0, 2, rows).astype(bool),
            "town": rng.choice(["Köln", "Paris"], rows),
            "at": [start + datetime.timedelta(minutes=int(m)) for m in rng.integers(0, 99_999, rows)],
            "born": [start.date() - datetime.timedelta(days=int(d)) for d in rng.integers(0, 9999, rows)],
        }
    ).with_columns(
        pl.when(pl.int_range(rows) % (5 + i) == 0).then(None).otherwise(pl.col(name)).alias(name)
        for i, name in enumerate(["x", "town", "at"])
    )
    order = np.digitize(x + rng.normal(0, 0.2, rows), [0, 1][: len(labels) - 1])
    return frame.with_columns(y=pl.Series([labels[i] for i in order]), amount=np.exp(x))


def build(
    path: Path,
    name: str = "RandomForest",
    frame: pl.DataFrame | None = None,
    task: str = C,
    **parameters: Any,
) -> pl.DataFrame:
    """Train and save a model; return its own predictions."""
    frame = raw() if frame is None else frame
    label, other = ("y", "amount") if task == C else ("amount", "y")
    learned, features = preprocess.fit(frame.lazy(), label=label, task=task, exclude_columns=[other])
    data = estimators.examples(features.lazy(), learned)
    fitted = estimators.fit(estimators.build(name, task, parameters), data, data)
    models.save(
        path, fitted, preprocessor=learned, task=task, label=label, classes=learned.classes, metadata=METADATA
    )
    return fitted_estimators.predictions(fitted, data.matrix, learned.classes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    build(path, n_estimators=20)
    return path


def test_raw_rows_are_predicted_as_the_estimator_does(tmp_path: Path) -> None:
    expected = build(tmp_path / "m", n_estimators=20)
    found = models.load(tmp_path / "m").predict(raw())
    assert_frame_equal(found, expected)
    assert found.schema == {
        "prediction": pl.String,
        "probability_no": pl.Float64,
        "probability_yes": pl.Float64,
    }
    np.testing.assert_allclose(found.select(pl.sum_horizontal("^probability_.*$")).to_series(), 1)


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        (("no", "yes"), pl.String),
        ((False, True), pl.Boolean),
        ((1, 5), pl.Int64),
        ((0.0, 1.0), pl.Float64),
        (("a", "b", "c"), pl.String),
        ((0, 1, 2), pl.Int64),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["RandomForest", "XGB", "LGBM"])
def test_predictions_are_label_values(tmp_path: Path, name: str, labels: tuple[Any, ...], dtype: Any) -> None:
    frame = raw(labels=labels)
    build(tmp_path / "m", name, frame, n_estimators=10)
    model = models.load(tmp_path / "m")
    found = model.predict(frame)
    assert found["prediction"].dtype == dtype
    assert model.classes == sorted(labels)
    assert (found["prediction"] == frame["y"]).mean() > 0.8  # type: ignore[operator]
    assert found.columns == ["prediction", *(f"probability_{value}" for value in sorted(labels))]


def test_a_lazy_table_is_scored_in_chunks_with_the_same_result(
    saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = models.load(saved)
    whole = model.predict(raw())
    raw().write_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr(models.contract, "_CHUNK_ROWS", 17)
    assert_frame_equal(model.predict(raw().lazy()), whole)
    assert_frame_equal(model.predict(pl.scan_parquet(tmp_path / "t.parquet")), whole)
    assert_frame_equal(model.predict(raw()), whole)


def test_no_rows_give_no_predictions_of_the_right_types(saved: Path) -> None:
    model = models.load(saved)
    assert model.predict(raw().clear()).schema == model.predict(raw()).schema


def test_other_columns_order_and_types_do_not_matter(saved: Path) -> None:
    model = models.load(saved)
    expected = model.predict(raw())
    disguised = raw().select(
        pl.lit("x").alias("other"),
        pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S"),
        pl.col("visits").cast(pl.Float32),
        pl.col("member").cast(pl.Int8),
        pl.col("x").cast(pl.String),
        pl.col("town").cast(pl.Categorical),
        pl.col("born").cast(pl.String),
    )
    assert_frame_equal(model.predict(disguised), expected)


def test_unseen_categories_and_missing_values_are_scored(saved: Path) -> None:
    frame = raw().with_columns(town=pl.lit("Oslo"), visits=pl.lit(None), born=pl.lit(None))
    assert models.load(saved).predict(frame).null_count().sum_horizontal().item() == 0


def test_a_missing_column_gives_a_one_line_error(saved: Path) -> None:
    with pytest.raises(ValueError, match="feature column 'town' is not in the table; columns are: x, visits"):
        models.load(saved).predict(raw().drop("town"))


def test_a_value_that_does_not_fit_gives_a_one_line_error(saved: Path) -> None:
    frame = raw().with_columns(visits=pl.lit("often"))
    with pytest.raises(ValueError, match="'visits' must hold integer values, as in training, not 'often'"):
        models.load(saved).predict(frame)


def test_metadata_is_read_without_the_libraries(saved: Path) -> None:
    code = (
        "import sys; from flowparts import models;"
        "print(models.metadata(sys.argv[1])['validation']['roc_auc']);"
        "print([name for name in ('sklearn', 'mlflow', 'pandas', 'skops', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["0.9", "[]"]
    found = models.metadata(saved)
    taken = Schema.from_dict(found.pop("schema"))
    assert taken.additional_columns
    assert {column.name: column.type for column in taken.columns} == {
        "x": "number",
        "visits": "number",
        "member": "boolean",
        "town": "string",
        "at": "timestamp",
        "born": "date",
    }
    assert all(column.nullable for column in taken.columns)
    assert found == METADATA | {
        "framework": "scikit-learn",
        "task": C,
        "label": "y",
        "classes": ["no", "yes"],
        "features": ["x", "visits", "member", "town", "at", "born"],
        "categories": {"town": ["Köln", "Paris"]},
    }
    json.dumps(found, allow_nan=False)


def test_loading_and_predicting_does_not_import_mlflow(saved: Path) -> None:
    code = (
        "import sys, polars as pl; from flowparts import models; m = models.load(sys.argv[1]);"
        "m.predict(pl.DataFrame(schema={name: pl.Null for name in m.features}));"
        "print('mlflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("task", [C, R])
@pytest.mark.parametrize("name", ["RandomForest", "XGB", "LGBM"])
# MLflow warns about itself when imported.
@pytest.mark.filterwarnings("ignore")
def test_plain_mlflow_loads_it_and_predicts_labels(tmp_path: Path, name: str, task: str) -> None:
    import mlflow

    build(tmp_path / "m", name, task=task, n_estimators=10)
    expected = models.load(tmp_path / "m").predict(raw())["prediction"].to_list()
    features = raw().drop("y", "amount").to_pandas()
    served = mlflow.pyfunc.load_model(str(tmp_path / "m"))
    assert served.predict(features).tolist() == expected
    assert mlflow.sklearn.load_model(str(tmp_path / "m")).predict(features).tolist() == expected
    assert served.metadata.get_input_schema().input_names() == features.columns.tolist()
    assert {column.name for column in served.metadata.get_input_schema() if not column.required} == {
        "x", "town", "at",
    }  # fmt: skip
    # A column that may be missing may be left out altogether.
    assert len(served.predict(features.drop(columns=["town"]))) == len(features)
    example = served.metadata.load_input_example(str(tmp_path / "m"))
    assert served.predict(example).tolist() == expected[:5]


# MLflow warns about itself when imported.
@pytest.mark.filterwarnings("ignore")
def test_the_signature_holds_raw_columns_with_their_types(saved: Path) -> None:
    from mlflow.models import get_model_info

    signature = get_model_info(str(saved)).signature.to_dict()
    assert [(column["name"], column["type"]) for column in json.loads(signature["inputs"])] == [
        ("x", "double"), ("visits", "long"), ("member", "boolean"), ("town", "string"), ("at", "datetime"),
        ("born", "datetime"),
    ]  # fmt: skip
    assert json.loads(signature["outputs"]) == [{"type": "string", "name": "y", "required": True}]


def test_requirements_are_pinned_and_without_what_is_not_needed(saved: Path, tmp_path: Path) -> None:
    lines = (saved / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in lines)
    names = {line.partition("==")[0] for line in lines}
    assert {"scikit-learn", "skops", "pandas", "polars", "flowparts"} <= names
    assert not {"lightgbm", "xgboost", "xgboost-cpu"} & names
    build(tmp_path / "m", "LGBM", n_estimators=5)
    assert "lightgbm==" in (tmp_path / "m" / "requirements.txt").read_text()


def test_equal_trainings_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(tmp_path / name, n_estimators=5)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_the_saved_model_says_nothing_about_processors(saved: Path) -> None:
    loaded = models.load(saved)
    assert isinstance(loaded, PipelineModel)
    assert loaded.pipeline[-1].n_jobs is None


def test_a_tampered_model_is_refused(saved: Path, tmp_path: Path) -> None:
    import zipfile

    shutil.copytree(saved, tmp_path / "m")
    with (
        zipfile.ZipFile(saved / "model.skops") as source,
        zipfile.ZipFile(tmp_path / "m/model.skops", "w") as copy,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name == "schema.json":
                content = content.replace(b'"sklearn.pipeline"', b'"os"').replace(b'"Pipeline"', b'"system"')
            copy.writestr(name, content)
    # Whatever the tampered directory itself says may be trusted counts for nothing.
    described = yaml.safe_load((saved / "MLmodel").read_text())
    described["flavors"]["sklearn"]["skops_trusted_types"].append("os.system")
    (tmp_path / "m/MLmodel").write_text(yaml.safe_dump(described))
    with pytest.raises(ValueError, match="refused to load"):
        models.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no model at .*: the directory holds no file MLmodel"),
        ("a: [", "is not valid YAML"),
        ("flavors: {}", "was not saved by flowparts"),
        ("- 1", "was not saved by flowparts"),
    ],
)
def test_an_artifact_that_is_not_a_model_gives_a_one_line_error(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "MLmodel").write_text(content)
    for read in (models.load, models.metadata):
        with pytest.raises(ValueError, match=message):
            read(tmp_path)


def test_weights_of_another_kind_give_a_one_line_error(saved: Path, tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge

    shutil.copytree(saved, tmp_path / "m")
    weights.dump(Ridge(), tmp_path / "m" / "model.skops")
    with pytest.raises(ValueError, match="aren't a pipeline saved by flowparts"):
        models.load(tmp_path / "m")


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    learned, _ = preprocess.fit(raw().lazy(), label="y", task=C)
    broken = KNeighborsClassifier(metric=os.system)
    with pytest.raises(ValueError, match="untrusted"):
        models.save(
            tmp_path / "m", broken, preprocessor=learned, task=C, label="y", classes=["no"], metadata={}
        )
    assert list(tmp_path.iterdir()) == []


# Estimators of scikit-learn that a table with one label can't train.
REASONS = {
    "ClassifierChain": "takes several labels",
    "MultiOutputClassifier": "takes several labels",
    "MultiOutputRegressor": "takes several labels",
    "MultiTaskElasticNet": "takes several labels",
    "MultiTaskElasticNetCV": "takes several labels",
    "MultiTaskLasso": "takes several labels",
    "MultiTaskLassoCV": "takes several labels",
    "RegressorChain": "takes several labels",
    "CategoricalNB": "takes no negative features, and numbers are standardized",
    "ComplementNB": "takes no negative features, and numbers are standardized",
    "MultinomialNB": "takes no negative features, and numbers are standardized",
    "IsotonicRegression": "takes a single feature",
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "CCA": {"n_components": 1},
    "PLSCanonical": {"n_components": 1},
    "QuadraticDiscriminantAnalysis": {"reg_param": 0.5},
    "SelfTrainingClassifier": {"estimator": "Linear"},
}
EVERY = [(name, C) for name, _ in all_estimators(type_filter="classifier")]
EVERY += [(name, R) for name, _ in all_estimators(type_filter="regressor")]


def test_the_list_of_exceptions_is_no_longer_than_needed() -> None:
    assert set(REASONS) | set(PARAMETERS) <= {name for name, _ in EVERY}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "task"), EVERY, ids=[name for name, _ in EVERY])
def test_every_estimator_of_scikit_learn_trains_saves_and_loads(tmp_path: Path, name: str, task: str) -> None:
    parameters = dict(PARAMETERS.get(name, {}))
    signature = inspect.signature(estimators.resolve(name, task)).parameters
    if "estimators" in signature:
        parameters["estimators"] = ["Linear", "DecisionTree"]
    if "estimator" in signature and signature["estimator"].default is inspect.Parameter.empty:
        parameters["estimator"] = "Linear"
    frame = raw(60).select("x", "visits", "town", "y", "amount")
    if name in REASONS:
        with pytest.raises(ValueError, match="can't be trained on this table"):
            build(tmp_path / "m", name, frame, task, **parameters)
        return
    expected = build(tmp_path / "m", name, frame, task, **parameters)
    # 32-bit sums depend on the order in which memory is walked.
    assert_frame_equal(models.load(tmp_path / "m").predict(frame), expected, rel_tol=1e-4, abs_tol=1e-5)
