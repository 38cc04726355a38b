"""Train on real tables as a user would, and hold what is reported to rows that no pipeline saw.

`measure.py FOLDER [NAME ...]` runs tabular-training by run.py on each table that sets.py made in FOLDER, one
after the other, and prints a row for each: the metric that the run reports and the same metric on the rows
held out, with its interval; wall time; peak memory of all processes of the run together; the decision. With
`--tree DIR` another checkout of flowparts is measured, with the same environment.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))
import usage
from sets import TABLES, Table

ROOT = Path(__file__).parents[2]
RESAMPLES = 200
HEADER = (
    "| table | rows, columns | metric | reported | held out (95 % interval) | seconds | peak MB | decision |"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(TABLES)}; default: all")
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout to measure (%(default)s)")
    parser.add_argument("--seconds", type=float, default=600, help="time limit of a run (%(default)s)")
    options = parser.parse_args()
    print(f"{HEADER}\n|{'---|' * HEADER.count(' |')}", flush=True)
    for name in options.names or TABLES:
        cells = _measured(options.folder / name, TABLES[name], options.tree.resolve(), options.seconds)
        print(f"| {' | '.join([name, *cells])} |", flush=True)


def _measured(folder: Path, table: Table, tree: Path, limit: float) -> list[str]:
    held_out = pl.read_parquet(folder / "held_out.parquet")
    whole = pl.scan_parquet(folder / "whole.parquet")
    size = f"{whole.select(pl.len()).collect().item():,}, {len(whole.collect_schema())}"
    environment = {**os.environ, "PYTHONPATH": f"{tree / 'src'}:{tree}", "COLUMNS": "300"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    parameters = {"source": str(folder / "rows.csv"), "label": table.label, "task": table.task}
    parameters |= {"exclude_columns": json.dumps(table.exclude)} if table.exclude else {}
    words = [word for key, value in parameters.items() for word in ("-p", f"{key}={value}")]
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        command = [sys.executable, "run.py", "tabular-training", *words, "--runs", runs]
        taken = usage.run(command, tree, environment, limit)
        cost = [f"{taken.seconds:.0f}", f"{taken.megabytes:,.0f}"]
        if taken.timed_out:
            return [size, "", "", "", f"> {limit:.0f}", cost[1], "stopped at the time limit"]
        (record,) = Path(runs).glob("tabular-training/*/run.json")
        tasks = {task["name"]: task for task in json.loads(record.read_text())["tasks"]}
        if failed := [task for task in tasks.values() if task["error"]]:
            return [size, "", "", "", *cost, f"failed: {failed[0]['name']}: {failed[0]['error'][:200]}"]
        metric = "roc_auc" if table.task == "classification" else "rmse"
        reported = _numbers(tasks, "evaluate-")[metric]
        model = next(tasks[name] for name in ("select-best", "train-tabular") if name in tasks)["outputs"][
            "model"
        ]
        predictions = Path(runs) / "predictions.parquet"
        script = (
            "import sys, polars as pl; from flowparts import models; "
            "models.load(sys.argv[1]).predict(pl.read_parquet(sys.argv[2])).write_parquet(sys.argv[3])"
        )
        words = [model["uri"], str(folder / "held_out.parquet"), str(predictions)]
        subprocess.run([sys.executable, "-c", script, *words], cwd=tree, env=environment, check=True)
        value, low, high = _scored(metric, held_out[table.label], pl.read_parquet(predictions))
    outputs = [task["outputs"] for task in tasks.values()]
    decision = next(each["reason"] for each in outputs if {"promote", "reason"} <= each.keys())
    return [
        size,
        metric,
        f"{reported:.4g}",
        f"{value:.4g} ({low:.4g} to {high:.4g})",
        *cost,
        decision,
    ]


def _numbers(tasks: dict[str, Any], prefix: str) -> dict[str, float]:
    """Return what a task returned and what its Metrics hold, by name."""
    outputs = next(task["outputs"] for name, task in tasks.items() if name.startswith(prefix))
    found = dict(outputs)
    for value in outputs.values():
        if isinstance(value, dict):
            found |= value.get("metadata", {})
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _scored(metric: str, truth: pl.Series, predicted: pl.DataFrame) -> tuple[float, float, float]:
    """Return the metric on all rows and the bounds of its 95 % interval, from resampled rows."""
    import numpy as np
    from sklearn import metrics

    names = [name for name in predicted.columns if name.startswith("probability_")]
    labels = truth.cast(pl.String).to_numpy()
    if names:
        classes = [name.removeprefix("probability_") for name in names]
        scores = predicted.select(names).to_numpy()
        codes = np.array([classes.index(label) for label in labels])

    def score(rows: Any) -> float:
        if metric == "rmse":
            return float(
                metrics.root_mean_squared_error(
                    truth.to_numpy()[rows], predicted["prediction"].to_numpy()[rows]
                )
            )
        if len(classes) == 2:
            return float(metrics.roc_auc_score(codes[rows], scores[rows, 1]))
        return float(metrics.roc_auc_score(codes[rows], scores[rows], multi_class="ovr", average="macro"))

    random = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        with contextlib.suppress(ValueError):  # a class is missing among the rows
            found.append(score(random.integers(0, len(truth), len(truth))))
    low, high = np.percentile(found, [2.5, 97.5])
    return score(np.arange(len(truth))), float(low), float(high)


if __name__ == "__main__":
    main()
