"""The tables of the README, from the results that measure.py wrote."""

import json
import statistics
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scores
from scipy import stats

REFERENCE, GOOD = "lightgbm", "autogluon_good"
# How near a score must be to AutoGluon's, relative to it.
NEAR = 0.005
# The best one-hour result of the AutoML Benchmark of 2019 (https://openml.github.io/automlbenchmark/), of the
# tables that are in both, on other folds.
PUBLISHED = {
    "adult": 0.9295,
    "australian": 0.9397,
    "german": 0.7955,
    "chess": 0.99987,
    "phoneme": 0.9689,
    "segment": 0.0472,
    "vehicle": 0.3530,
}
Result = dict[str, Any]


def read(file: Path) -> list[Result]:
    """Return the results of a file, the last one of what was measured several times."""
    if not file.exists():
        return []
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [*{(each["set"], each["fold"], each["method"], each["budget"]): each for each in found}.values()]


def tables(results: Sequence[Result], predictions: Path, order: list[str], methods: list[str]) -> str:
    """Return the tables as Markdown.

    Args:
        results: What was measured.
        predictions: Folder of the predictions.
        order: All sets, in the order of the rows.
        methods: All methods, in the order of the columns.
    """
    good = [each for each in results if not each["error"]]
    names = [name for name in order if any(each["set"] == name for each in results)]
    methods = [method for method in methods if any(each["method"] == method for each in results)]
    measured = {
        (name, method): Measured(name, method, results, predictions) for name in names for method in methods
    }
    parts = [
        "### Scores",
        _scores(measured, names, methods),
        "### All together",
        _overall(measured, names, methods),
        "### Seconds, and peak memory in MB",
        _table(measured, names, methods, lambda each: f"{each.seconds:.1f}, {each.megabytes:,.0f}"),
    ]
    if any(each.get("served") for each in good):
        parts += ["### Our models on the server", _served(measured, names, methods)]
    if known := [name for name in names if name in PUBLISHED]:
        parts += ["### Beside the best published results of one hour", _published(measured, known, methods)]
    if lost := [each for each in results if each["error"]]:
        parts += ["### Failed", "\n".join(map(_lost, lost))]
    if missing := [name for name in order if name not in names]:
        parts.append(textwrap.fill(f"Not measured: {', '.join(missing)}.", 125))
    return "\n\n".join(parts) + "\n"


class Measured:
    """What a method did on a set, over the folds that were measured.

    Attributes:
        folds: Their numbers; none if the method wasn't measured or failed.
        failed: Whether it failed on any.
        metric: The metric.
        value: Its mean.
        resampled: The bootstrap of that mean.
        seconds, cpu_seconds, megabytes: Means; the largest peak.
        served: What the server's check found, of each fold.
    """

    def __init__(self, name: str, method: str, results: Sequence[Result], predictions: Path) -> None:
        every = [each for each in results if (each["set"], each["method"]) == (name, method)]
        self.failed = any(each["error"] for each in every)
        found = sorted((each for each in every if not each["error"]), key=lambda each: each["fold"])
        self.folds = [each["fold"] for each in found]
        self.facts = every[0] if every else {}
        self.metric = self.facts.get("metric", "")
        self.served = [each["served"] for each in found if "served" in each]
        if not found:
            self.folds = []
            return
        self.value = statistics.mean(each["value"] for each in found)
        self.seconds = statistics.mean(each["seconds"] for each in found)
        self.cpu_seconds = statistics.mean(each["cpu_seconds"] for each in found)
        self.megabytes = max(each["megabytes"] for each in found)
        self.used = [each["used"] for each in found]
        kept = [np.load(predictions / f"{name}-{fold}-{method}.npz") for fold in self.folds]
        pairs = [scores.Fold(each["truth"], each["predicted"].astype(float)) for each in kept]
        self.resampled = scores.resampled(pairs, self.metric)


Grid = dict[tuple[str, str], Measured]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(grid: Grid, names: list[str], methods: list[str], cell: Callable[[Measured], str]) -> str:
    lines = [_row(["table", *methods]), "|" + "---|" * (len(methods) + 1)]
    for name in names:
        row = [grid[name, method] for method in methods]
        lines.append(_row([name, *(cell(each) if each.folds else _missing(each) for each in row)]))
    return "\n".join(lines)


def _missing(each: Measured) -> str:
    return "failed" if each.failed else ""


def _scores(grid: Grid, names: list[str], methods: list[str]) -> str:
    lines = [_row(["table", "rows, features, folds", "metric", *methods]), "|" + "---|" * (len(methods) + 3)]
    for name in names:
        row = [grid[name, method] for method in methods]
        known = [each for each in row if each.folds]
        if not known:
            continue
        sign = 1 if known[0].metric == scores.GREATER else -1
        best = max(sign * each.value for each in known)
        cells = []
        for each in row:
            if not each.folds:
                cells.append(_missing(each))
                continue
            low, high = scores.interval(each.resampled)
            shown = f"{each.value:.4g}"
            shown = f"**{shown}**" if sign * each.value == best else shown
            cells.append(f"{shown} ±{(high - low) / 2:.2g}")
        facts = known[0].facts
        size = f"{facts['rows']:,}, {facts['features']}, {max(len(each.folds) for each in known)}"
        lines.append(_row([name, size, known[0].metric, *cells]))
    return "\n".join(lines)


def _overall(grid: Grid, names: list[str], methods: list[str]) -> str:
    """Return a row for each method: its rank, and how it compares with LightGBM and AutoGluon."""
    ranks = _ranks(grid, names, methods)
    header = [
        "method",
        "tables",
        "mean rank",
        f"better / level / worse than {REFERENCE}",
        f"at most {NEAR:.1%} behind {GOOD}",
        "its seconds, median",
        "its memory, median",
        "seconds, mean",
        "CPU seconds, mean",
        "peak MB",
    ]
    lines = [_row(header), "|" + "---|" * len(header)]
    for method in methods:
        known = [grid[name, method] for name in names if grid[name, method].folds]
        if not known:
            continue
        verdicts = [
            scores.verdict(*_common(grid[name, method], grid[name, REFERENCE]))
            for name in names
            if _comparable(grid, name, method, REFERENCE)
        ]
        counted = [str(verdicts.count(kind)) for kind in ("better", "level", "worse")]
        against = [name for name in names if _comparable(grid, name, method, GOOD)]
        pairs = [(grid[name, method], grid[name, GOOD]) for name in against]
        near = sum(_is_near(ours, theirs) for ours, theirs in pairs)
        cells = [method, str(len(known)), f"{ranks[method]:.2f}" if method in ranks else ""]
        cells.append(" / ".join(counted) if method != REFERENCE else "")
        if method == GOOD or not pairs:
            cells += ["", "", ""]
        else:
            cells.append(f"{near} of {len(pairs)}")
            cells.append(f"{statistics.median(ours.seconds / its.seconds for ours, its in pairs):.2f}x")
            cells.append(f"{statistics.median(ours.megabytes / its.megabytes for ours, its in pairs):.2f}x")
        cells.append(f"{statistics.mean(each.seconds for each in known):.1f}")
        cells.append(f"{statistics.mean(each.cpu_seconds for each in known):.1f}")
        cells.append(f"{max(each.megabytes for each in known):,.0f}")
        lines.append(_row(cells))
    whole = _everywhere(grid, names, methods)
    note = f"Ranks are over the {len(whole)} tables that every method was measured on; a failure ranks last."
    return "\n".join(lines) + "\n\n" + note


def _comparable(grid: Grid, name: str, method: str, other: str) -> bool:
    if (name, method) not in grid or (name, other) not in grid:
        return False
    return bool(grid[name, method].folds) and grid[name, method].folds == grid[name, other].folds


def _common(ours: Measured, others: Measured) -> tuple[Any, Any, str]:
    return ours.resampled, others.resampled, ours.metric


def _is_near(ours: Measured, others: Measured) -> bool:
    return scores.gain(ours.value, others.value, ours.metric) >= -NEAR * abs(others.value)


def _everywhere(grid: Grid, names: list[str], methods: list[str]) -> list[str]:
    return [name for name in names if all(grid[name, method].facts for method in methods)]


def _ranks(grid: Grid, names: list[str], methods: list[str]) -> dict[str, float]:
    every: list[Any] = []
    for name in _everywhere(grid, names, methods):
        row = [grid[name, method] for method in methods]
        sign = -1 if row[0].metric == scores.GREATER else 1
        every.append(stats.rankdata([sign * each.value if each.folds else np.inf for each in row]))
    if not every:
        return {}
    return dict(zip(methods, np.mean(every, axis=0).tolist(), strict=True))


def _served(grid: Grid, names: list[str], methods: list[str]) -> str:
    ours = [method for method in methods if any(grid[name, method].served for name in names)]

    def cell(each: Measured) -> str:
        equal = all(verdict["equal"] for verdict in each.served)
        rows = sum(verdict.get("rows", 0) for verdict in each.served)
        form = "ONNX" if all(verdict.get("onnx") for verdict in each.served) else "native"
        size = max(verdict.get("megabytes", 0.0) for verdict in each.served)
        return f"{'equal' if equal else 'NOT equal'}, {rows:,} rows, {form}, {size:.1f} MB"

    return _table(grid, names, ours, cell)


def _published(grid: Grid, names: list[str], methods: list[str]) -> str:
    lines = [_row(["table", "metric", "published", *methods]), "|" + "---|" * (len(methods) + 3)]
    for name in names:
        cells = [f"{each.value:.4g}" if each.folds else "" for each in (grid[name, one] for one in methods)]
        metric = next(filter(None, (grid[name, one].metric for one in methods)), "")
        lines.append(_row([name, metric, f"{PUBLISHED[name]:.5g}", *cells]))
    return "\n".join(lines)


def _lost(result: Result) -> str:
    return f"- {result['set']}, {result['method']}: {result['error']}"
