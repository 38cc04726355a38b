"""Compare two tables of 20 columns: one way of doing it, its time and its peak memory, as a line of JSON.

    python benchmarks/monitoring/drift_speed.py ours|stored|scipy|evidently|nannyml FOLDER

`columns.py` writes the folder. Each way has a process and an environment of its own; `compare.py` runs all.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def ours(folder: Path) -> dict[str, float]:
    """Summarise both tables and compare them."""
    from flowparts import tables
    from flowparts.monitor import drift
    from flowparts.tables import summary

    before, now = (summary.summarise(tables.scan(folder / name)) for name in ("before", "now"))
    return {each.name: each.measures.get("ks", 0.0) for each in drift.compare(before, now)}


def stored(folder: Path) -> dict[str, float]:
    """Compare with a baseline that is there already."""
    from flowparts import tables
    from flowparts.monitor import drift
    from flowparts.tables import summary

    before = summary.read(folder / "baseline")
    now = summary.summarise(tables.scan(folder / "now"))
    return {each.name: each.measures.get("ks", 0.0) for each in drift.compare(before, now)}


def scipy(folder: Path) -> dict[str, float]:
    """Compute the same statistics exactly, column by column."""
    import numpy as np
    import polars as pl
    from scipy import spatial, stats

    found = {}
    first, second = (pl.scan_parquet(folder / name / "*.parquet") for name in ("before", "now"))
    for name, dtype in first.collect_schema().items():
        a, b = (frame.select(name).collect()[name] for frame in (first, second))
        if a.null_count():
            stats.chi2_contingency([[s.null_count(), len(s) - s.null_count()] for s in (a, b)])
        a, b = a.drop_nulls(), b.drop_nulls()
        if dtype in (pl.String, pl.Boolean):
            counts = [s.value_counts(name="n") for s in (a, b)]
            table = counts[0].join(counts[1], on=name, how="full", coalesce=True).fill_null(0)
            shares = table["n"].to_numpy(), table["n_right"].to_numpy()
            stats.chi2_contingency(np.array(shares), correction=False)
        else:
            x, y = (s.to_physical().cast(pl.Float64).to_numpy() for s in (a, b))
            found[name] = float(stats.ks_2samp(x, y, method="asymp").statistic)
            stats.wasserstein_distance(x, y)
            edges = np.quantile(x, np.arange(1, 10) / 10)
            shares = tuple(np.bincount(np.searchsorted(edges, values), minlength=10) for values in (x, y))
        spatial.distance.jensenshannon(*shares, base=2)
    return found


def _pandas(folder: Path) -> Any:
    import pandas as pd

    return [pd.read_parquet(folder / name) for name in ("before", "now")]


def evidently(folder: Path) -> dict[str, float]:
    """Run the data drift preset, with Kolmogorov-Smirnov and chi-square as here."""
    from evidently import Dataset, Report
    from evidently.presets import DataDriftPreset

    before, now = _pandas(folder)
    report = Report([DataDriftPreset(num_method="ks", cat_method="chisquare")])
    report.run(Dataset.from_pandas(now), Dataset.from_pandas(before)).dict()
    return {}


def nannyml(folder: Path) -> dict[str, float]:
    """Run the univariate drift calculator in one chunk, with the same methods."""
    import nannyml as nml

    before, now = _pandas(folder)
    names = [name for name in before.columns if name != "moment"]
    calculator = nml.UnivariateDriftCalculator(
        column_names=names,
        continuous_methods=["kolmogorov_smirnov", "jensen_shannon", "wasserstein"],
        categorical_methods=["chi2", "jensen_shannon"],
        chunk_number=1,
    )
    calculator.fit(before)
    calculator.calculate(now).to_df()
    return {}


def used() -> tuple[float, float]:
    """Return the CPU seconds of this process since its start, imports included, and its peak memory in MB.

    Both are the kernel's, from /proc/self: in rusage, the peak begins with what the parent had in memory.
    """
    times = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[11:13]
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK"), int(peak) / 1024


if __name__ == "__main__":
    way, data = sys.argv[1], Path(sys.argv[2])
    start = time.perf_counter()
    distances = {name: function for name, function in globals().items() if name == way}[way](data)
    seconds = time.perf_counter() - start
    cpu, megabytes = used()
    measured = {"seconds": seconds, "cpu": cpu, "megabytes": megabytes, "ks": distances}
    print(json.dumps({"way": way, **measured}))
