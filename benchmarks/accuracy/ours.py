"""Train flowparts on the rows of a folder and predict its test rows: `ours.py METHOD FOLDER`.

The rows are split and trained on by the components of `tabular-training`. `ours.py served FOLDER` then says
whether the model serves: the real server must predict the test rows as the model does offline.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import task
from kfp import dsl
from task import Task

from flowparts import models, tables
from flowparts.components.prepare.split_table import split_table
from flowparts.components.train.train_tabular import train_tabular
from flowparts.evaluate import serving_check
from flowparts.models import agreement

# The rows for training and validation of tabular-training, without its test rows.
SHARES = {"train_fraction": 0.7 / 0.85, "validation_fraction": 1 - 0.7 / 0.85, "test_fraction": 0.0}
ORDER = "order_of_time"
SERVED_ROWS = 5_000
FOUR_CANDIDATES = [
    {"estimator": "Linear", "parameters": {}},
    {"estimator": "RandomForest", "parameters": {"n_estimators": 200}},
    {"estimator": "HistGradientBoosting", "parameters": {}},
    {"estimator": "LGBM", "parameters": {"n_estimators": 200, "learning_rate": 0.05}},
]
METHODS: dict[str, dict[str, Any]] = {
    "four_candidates": {"candidates": FOUR_CANDIDATES},
    "quick": {"effort": "quick"},
    "standard": {"effort": "standard"},
    "thorough": {"effort": "thorough"},
}


def main(method: str, folder: Path) -> None:
    if method == "served":
        served(folder)
        return
    what = Task.read(folder)
    train, test = (pl.read_parquet(folder / f"{part}.parquet") for part in ("train", "test"))
    _import_estimators()
    started = time.monotonic()
    model = _trained(train, what, METHODS[method], folder / "artifacts")
    loaded = models.load(model.path)
    predicted = loaded.predict(test)
    used = str(loaded.metadata["estimator"])
    if what.task == "regression":
        task.answer(folder, predicted["prediction"].to_numpy(), [], used, started)
    else:
        names = [f"probability_{value}" for value in loaded.classes or []]
        task.answer(folder, predicted.select(names).to_numpy(), loaded.classes or [], used, started)


def _import_estimators() -> None:
    """Import what training does, which is no part of its time."""
    import lightgbm  # noqa: F401
    import optuna  # noqa: F401
    import skl2onnx  # noqa: F401
    import xgboost  # noqa: F401

    from flowparts.train import estimators

    estimators.resolve("LGBM", "regression")


def _trained(train: pl.DataFrame, what: Task, options: dict[str, Any], folder: Path) -> dsl.Model:
    shutil.rmtree(folder, ignore_errors=True)

    def artifact(name: str, kind: type[Any] = dsl.Dataset) -> Any:
        return kind(name=name, uri=str(folder / name))

    excluded, time_column = [], None
    if what.time:
        train = train.with_columns(pl.struct(what.time).rank("ordinal").alias(ORDER))
        excluded, time_column = [ORDER], ORDER
    whole, parts = artifact("table"), {name: artifact(name) for name in ("train", "validation", "test")}
    tables.write(train, whole.path)
    split_table.python_func(
        table=whole,
        **parts,
        stratify_by=what.label,
        time_column=time_column,
        exclude_columns=excluded,
        task=what.task,
        **SHARES,
    )
    model: dsl.Model = artifact("model", dsl.Model)
    train_tabular.python_func(
        train=parts["train"],
        validation=parts["validation"],
        model=model,
        validation_metrics=artifact("metrics", dsl.Metrics),
        training_report=artifact("report", dsl.HTML),
        label=what.label,
        task=what.task,
        exclude_columns=excluded,
        **options,
    )
    return model


def served(folder: Path) -> None:
    """Write whether the real server predicts the test rows as the model does offline."""
    path = folder / "artifacts" / "model"
    rows = agreement.sample(pl.scan_parquet(folder / "test.parquet"), SERVED_ROWS)
    verdict = serving_check.check(path, rows, 120.0)
    export = models.metadata(path).get("onnx") or {}
    content = {
        "equal": verdict.servable,
        "rows": rows.height,
        "onnx": bool(export.get("agrees")),
        "reason": verdict.reason,
        "megabytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6,
    }
    (folder / "served.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
