"""Ingest tables of few rows and many columns beside pandas: seconds of CPU for each, and peak memory of ours.

`wide.py [ROWS]` prints a line for each format and width. Both read the same file and write Parquet, after a
small table that pays for what is loaded once; what pandas takes to read alone stands beside it. Each case has
a process of its own, as its memory is told too.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from flowparts import ingest

CASES = [
    *(("csv", columns) for columns in (500, 1_000, 2_000)),
    *(("jsonl", columns) for columns in (250, 1_000, 2_000)),
    *(("parquet", columns) for columns in (1_600, 2_000)),
]


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    print("| format | columns | pandas reads, s | and writes, s | flowparts, s | ratio | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for kind, columns in CASES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            read, theirs, ours, peak = pool.apply(_measured, (kind, columns, rows))
        seconds = " | ".join(f"{each:.2f}" for each in (read, theirs, ours))
        print(f"| {kind} | {columns:,} | {seconds} | {ours / theirs:.1f} | {peak:.0f} |", flush=True)


def _measured(kind: str, columns: int, rows: int) -> tuple[float, float, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        small, wide = (_file(Path(folder), kind, width, rows) for width in (3, columns))
        read = {"csv": pd.read_csv, "jsonl": _read_jsonl, "parquet": pd.read_parquet}[kind]

        def pandas(source: Path) -> None:
            read(source).to_parquet(Path(folder) / "pandas.parquet")

        def flowparts(source: Path) -> None:
            ingest.ingest(str(source), Path(folder) / "table", Path(folder) / "rejected")

        seconds = []
        for run in (read, pandas, flowparts):
            run(small)
            seconds.append(min(_cpu_seconds(run, wide) for _ in range(3)))
    return *seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _file(folder: Path, kind: str, columns: int, rows: int) -> Path:
    numbers = np.random.default_rng(0).normal(size=(rows, columns)).round(4)
    frame = pl.DataFrame(numbers, schema=[f"c{place}" for place in range(columns)])
    file = folder / f"{columns}.{kind}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[kind](file)
    return file


def _read_jsonl(file: Path) -> pd.DataFrame:
    return pd.read_json(file, lines=True)


def _cpu_seconds(run: Callable[[Path], None], source: Path) -> float:
    start = time.process_time()
    run(source)
    return time.process_time() - start


if __name__ == "__main__":
    main()
