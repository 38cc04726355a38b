"""How good and how costly our default is beside plain LightGBM and HistGradientBoosting, on real tables.

`measure.py FOLDER [NAME ...]` prints a row for each table that ../real/sets.py made in FOLDER and each
method: the metric on the test rows of each fold, seconds, processor seconds and memory. A method runs in a
process of its own, after the others on the same fold, with the same rows: a fold of three, or the newest
fifth where time orders the rows.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn import metrics

sys.path.insert(0, str(Path(__file__).parents[1] / "real"))
from sets import TABLES, Table

FOLDS, SEED = 3, 17
METHODS = ("default", "lightgbm", "hist_gradient_boosting", "quick", "tune")
# Beyond, only the first fold is measured unless `--folds` says otherwise.
MANY_ROWS = 5_000
TUNING_SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(TABLES)}; default: all")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--folds", type=int, default=0, help="how many of the three folds")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "FOLD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        method, fold = options.one
        print(json.dumps(measured(options.folder, options.names[0], method, int(fold))))
        return
    print(
        "| table | rows | metric | method | value (each fold) | seconds | CPU s | peak MB | used |\n|"
        + "---|" * 9
    )
    for name in options.names or TABLES:
        rows = pl.scan_parquet(options.folder / name / "whole.parquet").select(pl.len()).collect().item()
        several = 1 if TABLES[name].time else options.folds or (FOLDS if rows <= MANY_ROWS else 1)
        found: dict[str, list[dict[str, Any]]] = {method: [] for method in options.methods}
        for fold in range(several):
            for method in options.methods:
                command = [sys.executable, __file__, str(options.folder), name, "--one", method, str(fold)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{method} on {name} failed:\n{done.stderr[-2000:]}")
                found[method].append(json.loads(done.stdout.splitlines()[-1]))
        for method, runs in found.items():
            values = [run["value"] for run in runs]
            shown = f"{np.mean(values):.4g}"
            if len(values) > 1:
                shown += f" ({', '.join(f'{value:.4g}' for value in values)})"
            seconds = np.mean([run["seconds"] for run in runs])
            cells = [name, f"{rows:,}", runs[0]["metric"], method, shown, f"{seconds:.1f}"]
            cells.append(f"{np.mean([run['processor_seconds'] for run in runs]):.1f}")
            cells += [f"{max(run['megabytes'] for run in runs):,.0f}", runs[0]["used"]]
            print(f"| {' | '.join(cells)} |", flush=True)


def measured(folder: Path, name: str, method: str, fold: int) -> dict[str, Any]:
    table = TABLES[name]
    train, test = parts(pl.read_parquet(folder / name / "whole.parquet"), table, fold)
    warm_up()
    started, processor = time.monotonic(), time.process_time()
    predicted, used = globals()[method](train, test, table)
    seconds, processor = time.monotonic() - started, time.process_time() - processor
    metric, value = scored(test[table.label], predicted, table.task)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "metric": metric,
        "value": value,
        "seconds": seconds,
        "processor_seconds": processor,
        "megabytes": peak / 1e3,
        "used": used,
    }


def warm_up() -> None:
    """Import what every method uses, which is no part of its time."""
    import lightgbm  # noqa: F401
    import xgboost  # noqa: F401

    from flowparts.train import estimators

    estimators.resolve("LGBM", "regression")


def parts(whole: pl.DataFrame, table: Table, fold: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows to train on and those to test on, without columns that are no features."""
    from flowparts.prepare import folds

    rows = whole.drop(table.exclude)
    rows = rows.filter(pl.col(table.label).is_not_null())
    if table.time:
        order = rows.select(pl.struct(table.time).rank("ordinal")).to_series()
        newest = order > 0.8 * rows.height
        return rows.filter(~newest), rows.filter(newest)
    found = folds.assign(rows.lazy(), FOLDS, label=table.label, task=table.task, seed=SEED)[fold]
    return rows.filter(found.train), rows.filter(found.validation)


def scored(truth: pl.Series, predicted: Any, task: str) -> tuple[str, float]:
    """Return the metric of the AutoML benchmarks: ROC AUC, log loss of several classes, or RMSE."""
    if task == "regression":
        return "rmse", float(metrics.root_mean_squared_error(truth.to_numpy(), predicted))
    labels = truth.to_numpy()
    classes = sorted(set(labels.tolist()))
    if len(classes) == 2:
        return "roc_auc", float(metrics.roc_auc_score(labels == classes[1], predicted[:, 1]))
    return "log_loss", float(metrics.log_loss(labels, predicted, labels=classes))


def ours(model: str, test: pl.DataFrame, task: str) -> tuple[Any, str]:
    from flowparts import models

    loaded = models.load(model)
    predicted = loaded.predict(test)
    if task == "regression":
        return predicted["prediction"].to_numpy(), loaded.metadata["estimator"]
    names = [name for name in predicted.columns if name.startswith("probability_")]
    return predicted.select(names).to_numpy(), loaded.metadata["estimator"]


def held_out(train: pl.DataFrame, table: Table) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Split as tabular-training does, but for the test part: 70 to 15."""
    from flowparts.prepare import split

    share = 0.7 / 0.85
    options = {"time_column": "order"} if table.time else {"stratify_by": table.label}
    rows = train
    if table.time:
        rows = train.with_columns(order=pl.struct(table.time).rank("ordinal"))
    assigned = split.assign(rows.lazy(), (share, 1 - share, 0.0), **options)
    return tuple(split.part(train.lazy(), assigned, part) for part in ("train", "validation"))


def default(train: pl.DataFrame, test: pl.DataFrame, table: Table) -> tuple[Any, str]:
    """What tabular-training does today: four candidates, of which the best on the validation rows is kept."""
    from flowparts.pipelines.tabular_training import CANDIDATES
    from flowparts.train import candidates

    built = candidates.build(CANDIDATES, table.task, candidates.Options())
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/model"
        candidates.train_best(built, *held_out(train, table), model, label=table.label, task=table.task)
        return ours(model, test, table.task)


def tune(train: pl.DataFrame, test: pl.DataFrame, table: Table) -> tuple[Any, str]:
    """What tune_model does in its shipped space, cross-validated on small tables, within a minute."""
    from flowparts.train.candidates import Options
    from flowparts.tune import tuning
    from flowparts.tune.study import Budget

    small = train.height < MANY_ROWS and not table.time
    rows, validation = (train.lazy(), None) if small else held_out(train, table)
    budget = Budget(trials=0, seconds=TUNING_SECONDS)
    settings = tuning.Settings(table.label, table.task, None, Options(early_stopping_rounds=50), budget)
    settings.check(validated=validation is not None)
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/model"
        with tuning.remembered(f"{folder}/states", model, {}) as journal:
            tuned = tuning.tune(rows, validation, model, settings, journal)
        predicted, used = ours(model, test, table.task)
        return predicted, f"{used}, {len(tuned.trials)} trials"


def quick(train: pl.DataFrame, test: pl.DataFrame, table: Table) -> tuple[Any, str]:
    import quick as experiment

    order = train.select(pl.struct(table.time).rank("ordinal")).to_series() if table.time else None
    return experiment.predict(train, test, table.label, table.task, order)


def pandas(train: pl.DataFrame, test: pl.DataFrame, label: str) -> tuple[Any, Any]:
    """Return features as each library takes them: numbers, and texts as categories known from training."""
    import pandas as pd

    features = [frame.drop(label).to_pandas() for frame in (train, test)]
    for name in features[0].columns:
        if not pd.api.types.is_numeric_dtype(features[0][name]):
            categories = pd.CategoricalDtype(sorted(features[0][name].dropna().unique()))
            for frame in features:
                frame[name] = frame[name].astype(categories)
    return features[0], features[1]


def plain(estimator: Any, train: pl.DataFrame, test: pl.DataFrame, table: Table) -> tuple[Any, str]:
    rows, others = pandas(train, test, table.label)
    estimator.fit(rows, train[table.label].to_numpy())
    method = estimator.predict if table.task == "regression" else estimator.predict_proba
    return method(others), type(estimator).__name__


def lightgbm(train: pl.DataFrame, test: pl.DataFrame, table: Table) -> tuple[Any, str]:
    """LightGBM's own defaults on all rows, with its own treatment of categories and missing values."""
    from lightgbm import LGBMClassifier, LGBMRegressor

    cls = LGBMRegressor if table.task == "regression" else LGBMClassifier
    return plain(cls(verbosity=-1, random_state=0), train, test, table)


def hist_gradient_boosting(train: pl.DataFrame, test: pl.DataFrame, table: Table) -> tuple[Any, str]:
    """scikit-learn's defaults on all rows; text of more than 255 values is left out, which it can't take."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    cls = HistGradientBoostingRegressor if table.task == "regression" else HistGradientBoostingClassifier
    texts = [name for name, kind in train.schema.items() if kind == pl.String and name != table.label]
    many = [name for name in texts if train[name].n_unique() > 255]
    return plain(cls(random_state=0), train.drop(many), test.drop(many), table)


if __name__ == "__main__":
    main()
