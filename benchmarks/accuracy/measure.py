"""How good and how costly flowparts is on real tables beside plain boosting and AutoML tools.

`measure.py FOLDER` trains each method on each table that ../real/sets.py made in FOLDER, in a process of its
own, on the same rows as the others and one after the other, and appends what it took to a file of JSON lines
at once; what the file holds already isn't measured again. `--print` prints the tables of the README from
that file.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "real"))
import report
import scores
import usage
from sets import TABLES, Table
from task import Task

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDS, SEED = 3, 17
# Each with the environment it runs in, empty for ours, and whether it is given a time budget.
METHODS = {
    "lightgbm": ("", False),
    "hist_gradient_boosting": ("", False),
    "four_candidates": ("", False),
    "quick": ("", False),
    "standard": ("", False),
    "thorough": ("", False),
    "flaml": ("flaml", True),
    "h2o": ("h2o", True),
    "autogluon_medium": ("autogluon", True),
    "autogluon_good": ("autogluon", True),
}
START, END = "<!-- From here on written by measure.py. -->\n", "<!-- To here. -->\n"
OURS = ("four_candidates", "quick", "standard", "thorough")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="*", default=[*TABLES], choices=TABLES, metavar="SET")
    parser.add_argument("--methods", nargs="*", default=[*METHODS], choices=METHODS, metavar="METHOD")
    parser.add_argument("--seconds", type=float, default=30.0, help="budget of AutoML (%(default)s)")
    parser.add_argument("--folds", type=int, default=1, choices=range(1, FOLDS + 1))
    parser.add_argument("--core", type=int, help="pin each method to this processor; all if not given")
    parser.add_argument("--priority", type=int, default=0, help="niceness of each method (%(default)s)")
    parser.add_argument("--work", type=Path, default=ROOT / "build/accuracy", help="where results are kept")
    parser.add_argument("--again", action="store_true", help="measure again what has failed before")
    parser.add_argument("--print", action="store_true", help="print the tables, measure nothing")
    parser.add_argument("--write", action="store_true", help="also write them into the README")
    options = parser.parse_args()
    file = options.work / "results.jsonl"
    if not options.print:
        options.work.mkdir(parents=True, exist_ok=True)
        measure(options, file)
    text = report.tables(report.read(file), options.work / "predictions", [*TABLES], [*METHODS])
    print(text)
    if options.write:
        readme = HERE / "README.md"
        before, _, written = readme.read_text(encoding="utf-8").partition(START)
        readme.write_text(f"{before}{START}\n{text}\n{END}{written.partition(END)[2]}", encoding="utf-8")


def measure(options: argparse.Namespace, file: Path) -> None:
    known = {
        (each["set"], each["fold"], each["method"], each["budget"])
        for each in report.read(file)
        if not (options.again and each["error"])
    }
    for name in options.sets:
        for fold in range(1 if TABLES[name].time else options.folds):
            for method in options.methods:
                environment, has_budget = METHODS[method]
                budget = options.seconds if has_budget else 0.0
                python = ROOT / f".venv-bench/{environment}/bin/python" if environment else sys.executable
                if (name, fold, method, budget) in known:
                    continue
                if not Path(python).exists():
                    print(f"{method} isn't installed: make .venv-bench/{environment}/installed", flush=True)
                    continue
                found = {"set": name, "fold": fold, "method": method, "budget": budget, "error": ""}
                found |= measured(options, name, fold, method, str(python))
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(found) + "\n")
                shown = found["error"] or f"{found['value']:.5g} in {found['seconds']:.1f} s"
                print(f"{name} {fold} {method}: {shown}", flush=True)


def measured(options: argparse.Namespace, name: str, fold: int, method: str, python: str) -> dict[str, Any]:
    """Train a method on a fold of a table, score its predictions and, of ours, serve its model."""
    folder = options.work / "tasks" / f"{name}-{fold}"
    whole = options.folder / name / "whole.parquet"
    what, facts = prepared(whole, TABLES[name], fold, folder, options.seconds)
    program = str(HERE / ("ours.py" if method in OURS else "peers.py"))
    taken = run(options, [python, program, method, str(folder)])
    facts |= {"cpu_seconds": taken.cpu_seconds, "megabytes": taken.megabytes}
    if taken.timed_out:
        return facts | {"error": f"stopped after {taken.seconds:.0f} s"}
    if taken.returncode:
        last = [line for line in taken.errors.splitlines() if line.strip()] or [f"exit {taken.returncode}"]
        return facts | {"error": last[-1][:300]}
    content = json.loads((folder / "answer.json").read_text())
    truth = np.load(folder / "truth.npy")
    predicted = np.load(folder / "predicted.npy")
    if classes := json.loads((folder / "classes.json").read_text()):
        predicted = predicted[:, [content["classes"].index(value) for value in classes]]
    answered = scores.Fold(truth, predicted)
    facts |= {"value": scores.score(answered, what.metric), "seconds": content["seconds"]}
    facts |= {"used": content["used"]}
    kept = options.work / "predictions" / f"{name}-{fold}-{method}.npz"
    kept.parent.mkdir(exist_ok=True)
    np.savez_compressed(kept, truth=truth, predicted=predicted.astype(np.float32))
    if method in OURS:
        run(options, [python, program, "served", str(folder)])
        served = folder / "served.json"
        facts["served"] = json.loads(served.read_text()) if served.exists() else {"equal": False}
    return facts


def run(options: argparse.Namespace, command: list[str]) -> usage.Usage:
    """Run a method on the processor and with the priority that it is to have."""

    def pin() -> None:
        if options.core is not None:
            os.sched_setaffinity(0, {options.core})
        if options.priority:
            os.setpriority(os.PRIO_PROCESS, 0, options.priority)

    def prefer(process: int) -> None:
        # Niceness counts within a session only, and H2O's server is a session of its own.
        with contextlib.suppress(OSError):
            Path(f"/proc/{process}/autogroup").write_text(str(options.priority))

    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    limit = 300 + 5 * options.seconds
    return usage.run(
        command, ROOT, environment, limit, pin, prefer if options.priority else None, interval=0.25
    )


def prepared(
    whole: Path, table: Table, fold: int, folder: Path, seconds: float
) -> tuple[Task, dict[str, Any]]:
    """Write the rows of a fold for any method; return what is to be learned and the facts of the table."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    train, test = parts(pl.read_parquet(whole), table, fold)
    truth, classes = test[table.label].to_numpy(), []
    if table.task == "classification":
        classes = sorted(pl.concat([train[table.label], test[table.label]]).unique().to_list())
        truth = np.array([classes.index(value) for value in truth.tolist()])
    metric = "rmse" if not classes else "roc_auc" if len(classes) == 2 else "log_loss"
    np.save(folder / "truth.npy", truth)
    (folder / "classes.json").write_text(json.dumps([str(value) for value in classes]))
    train.write_parquet(folder / "train.parquet")
    test.drop(table.label).write_parquet(folder / "test.parquet")
    what = Task(table.label, table.task, metric, table.time, seconds)
    what.write(folder)
    rows = {"rows": train.height + test.height, "features": train.width - 1, "test_rows": test.height}
    return what, {**rows, "metric": metric}


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


if __name__ == "__main__":
    main()
