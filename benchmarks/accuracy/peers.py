"""Train another library on the rows of a folder and predict its test rows: `peers.py METHOD FOLDER`.

Each as its documentation shows it, with nothing set but the metric and the time; the label is a category
for those that want to be told. It runs in the method's own environment.
"""

import importlib
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import task
from task import Task

METRICS = {
    "flaml": {"roc_auc": "roc_auc", "log_loss": "log_loss", "rmse": "rmse"},
    "h2o": {"roc_auc": "AUC", "log_loss": "logloss", "rmse": "RMSE"},
    "autogluon": {"roc_auc": "roc_auc", "log_loss": "log_loss", "rmse": "root_mean_squared_error"},
}
# Neither imports nor the start of H2O's server are timed.
IMPORTS = {
    "lightgbm": "lightgbm",
    "hist_gradient_boosting": "sklearn.ensemble",
    "flaml": "flaml",
    "h2o": "h2o",
    "autogluon_medium": "autogluon.tabular",
    "autogluon_good": "autogluon.tabular",
}
Found = tuple[Any, list[Any], str]


def main(method: str, folder: Path) -> None:
    what = Task.read(folder)
    train, test = (pd.read_parquet(folder / f"{part}.parquet") for part in ("train", "test"))
    learn = globals()[method]
    module = importlib.import_module(IMPORTS[method])
    if method == "h2o":
        # A server of another measurement must not be joined.
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        module.init(port=port, verbose=False)
        module.no_progress()
    started = time.monotonic()
    predicted, classes, used = learn(train, test, what)
    task.answer(folder, predicted, classes, used, started)


def lightgbm(train: pd.DataFrame, test: pd.DataFrame, what: Task) -> Found:
    """LightGBM's defaults, with its own treatment of categories and missing values."""
    from lightgbm import LGBMClassifier, LGBMRegressor

    cls = LGBMRegressor if what.task == "regression" else LGBMClassifier
    return _plain(cls(verbosity=-1, random_state=0), train, test, what, most=len(train) // 2)


def hist_gradient_boosting(train: pd.DataFrame, test: pd.DataFrame, what: Task) -> Found:
    """scikit-learn's defaults; text of more than 255 values, which it can't take, is left out."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    cls = HistGradientBoostingRegressor if what.task == "regression" else HistGradientBoostingClassifier
    estimator = cls(random_state=0, categorical_features="from_dtype")
    return _plain(estimator, train, test, what, most=255)


def _plain(estimator: Any, train: pd.DataFrame, test: pd.DataFrame, what: Task, most: int) -> Found:
    """Fit an estimator to numbers and categories; text of more than `most` values is left out."""
    label = train[what.label].to_numpy()
    rows, others = train.drop(columns=what.label), test.copy()
    for name in others.columns:
        if pd.api.types.is_numeric_dtype(rows[name]):
            continue
        values = sorted(rows[name].dropna().unique())
        if len(values) > most:
            rows, others = rows.drop(columns=name), others.drop(columns=name)
            continue
        kind = pd.CategoricalDtype(values)
        rows[name], others[name] = rows[name].astype(kind), others[name].astype(kind)
    # LightGBM takes no names with some characters, such as commas.
    rows.columns = others.columns = pd.Index([f"x{number}" for number in range(len(rows.columns))])
    estimator.fit(rows, label)
    used = type(estimator).__name__
    if what.task == "regression":
        return estimator.predict(others), [], used
    return estimator.predict_proba(others), list(estimator.classes_), used


def flaml(train: pd.DataFrame, test: pd.DataFrame, what: Task) -> Found:
    """FLAML's search of estimators and parameters."""
    from flaml import AutoML

    found = AutoML()
    found.fit(
        X_train=train.drop(columns=what.label),
        y_train=train[what.label],
        task=what.task,
        metric=METRICS["flaml"][what.metric],
        time_budget=what.seconds,
        seed=0,
        verbose=0,
    )
    if what.task == "regression":
        return found.predict(test), [], found.best_estimator
    return found.predict_proba(test), list(found.classes_), found.best_estimator


def h2o(train: pd.DataFrame, test: pd.DataFrame, what: Task) -> Found:
    """H2O AutoML, by its server, which is started before the time counts."""
    import h2o
    from h2o.automl import H2OAutoML

    with tempfile.TemporaryDirectory() as scratch:
        files = [f"{scratch}/{name}.csv" for name in ("train", "test")]
        for frame, file in zip((train, test), files, strict=True):
            # H2O ends a row where a text has a line break.
            frame.replace(r"[\r\n]+", " ", regex=True).to_csv(file, index=False)
        # Where all is text, H2O would take the names for a row.
        rows = h2o.import_file(files[0], header=1)
        kinds = {name: kind for name, kind in rows.types.items() if name != what.label}
        others = h2o.import_file(files[1], header=1, col_types=kinds)
    if what.task == "classification":
        rows[what.label] = rows[what.label].asfactor()
    search = H2OAutoML(
        max_runtime_secs=int(what.seconds), seed=1, sort_metric=METRICS["h2o"][what.metric], verbosity=None
    )
    search.train(y=what.label, training_frame=rows)
    if search.leader is None:
        raise RuntimeError("H2O AutoML trained no model in its time")
    predicted = search.leader.predict(others).as_data_frame()
    used = f"{search.leader.algo}, {search.leaderboard.nrow} models"
    if what.task == "regression":
        return predicted["predict"].to_numpy(), [], used
    (classes,) = rows[what.label].levels()
    return predicted.drop(columns="predict").to_numpy(), classes, used


def autogluon_medium(train: pd.DataFrame, test: pd.DataFrame, what: Task) -> Found:
    """AutoGluon's medium_quality, its default."""
    return _autogluon(train, test, what, "medium_quality")


def autogluon_good(train: pd.DataFrame, test: pd.DataFrame, what: Task) -> Found:
    """AutoGluon's good_quality: bagging, stacking if it pays, then a refit."""
    return _autogluon(train, test, what, "good_quality")


def _autogluon(train: pd.DataFrame, test: pd.DataFrame, what: Task, preset: str) -> Found:
    from autogluon.tabular import TabularPredictor

    with tempfile.TemporaryDirectory() as scratch:
        predictor = TabularPredictor(
            what.label, eval_metric=METRICS["autogluon"][what.metric], path=scratch, verbosity=0
        )
        predictor.fit(train, presets=preset, time_limit=what.seconds)
        used = f"{predictor.model_best}, {len(predictor.model_names())} models"
        if what.task == "regression":
            return predictor.predict(test).to_numpy(), [], used
        predicted = predictor.predict_proba(test)
        return predicted.to_numpy(), list(predicted.columns), used


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
