"""Drift of 20 mixed columns: ours beside SciPy's exact statistics, Evidently and NannyML, one by one.

    .venv/bin/python benchmarks/monitoring/compare.py [ROWS] [WAY ...]     (make bench-monitoring)

A peer without an environment is left out, and the table says so.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import columns

from flowparts import tables
from flowparts.tables import summary

HERE = Path(__file__).parent
PYTHONS = dict.fromkeys(("ours", "stored", "scipy"), sys.executable)
PYTHONS |= {peer: f".venv-bench/{peer}/bin/python" for peer in ("evidently", "nannyml")}


def main(rows: int, ways: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        columns.write(folder / "before", rows, 1, 0.0)
        columns.write(folder / "now", rows, 2, 0.1)
        summary.summarise(tables.scan(folder / "before")).write(folder / "baseline")
        size = (folder / "baseline").stat().st_size / 1000
        print(f"{rows:,} rows before and now, 20 columns; baseline {size:.0f} kB\n", flush=True)
        print(
            "| way | seconds | CPU seconds | peak MB | largest KS error |\n|---|---|---|---|---|", flush=True
        )
        exact: dict[str, float] = {}
        for way in ways or ["scipy", "ours", "stored", "evidently", "nannyml"]:
            if not Path(PYTHONS[way]).exists():
                print(f"| {way} | make .venv-bench/{way}/installed first | | | |", flush=True)
                continue
            command = [PYTHONS[way], str(HERE / "drift_speed.py"), way, str(folder)]
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
                print(f"| {way} | failed: {last[:120]} | | | |", flush=True)
                continue
            found = json.loads(ended.stdout.splitlines()[-1])
            exact = found["ks"] if way == "scipy" else exact
            shared = [abs(found["ks"][name] - exact[name]) for name in exact if name in found["ks"]]
            error = f"{max(shared):.5f}" if shared else ""
            cells = [f"{found['seconds']:.1f}", f"{found['cpu']:.1f}", f"{found['megabytes']:.0f}", error]
            print(f"| {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500_000, sys.argv[2:])
