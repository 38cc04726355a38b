"""How often drift is flagged: where there is none (the false-alarm rate), and where one column of 20 has it.

.venv/bin/python benchmarks/monitoring/power.py [REPETITIONS]
"""

import sys
from collections import Counter
from collections.abc import Callable

import columns
import numpy as np
import polars as pl

from flowparts.monitor import drift
from flowparts.tables import summary

BEFORE_ROWS = 100_000
ROWS = (1_000, 10_000, 100_000)
RULES = {"default rule": drift.DEFAULT, "no least effect": drift.Rule(minimum_effect=0.0)}


def _mixed(table: pl.DataFrame) -> pl.Series:
    chosen = pl.Series(np.random.default_rng(0).random(table.height) < 0.1)
    return table.select(pl.when(chosen).then(pl.lit("value 9")).otherwise("category_1")).to_series()


def _nulls(table: pl.DataFrame) -> pl.Series:
    return table["normal_3"].set(pl.Series(np.random.default_rng(0).random(table.height) < 0.1), None)


CHANGES: dict[str, tuple[str, Callable[[pl.DataFrame], pl.Series]]] = {
    "none": ("normal_3", lambda table: table["normal_3"]),
    "mean +0.1 SD": ("normal_3", lambda table: table["normal_3"] + 0.1),
    "mean +0.25 SD": ("normal_3", lambda table: table["normal_3"] + 0.25),
    "mean +0.5 SD": ("normal_3", lambda table: table["normal_3"] + 0.5),
    "SD x 1.5": ("normal_3", lambda table: table["normal_3"] * 1.5),
    "10 % of a category": ("category_1", _mixed),
    "10 % nulls": ("normal_3", _nulls),
}


def main(repetitions: int) -> None:
    random = np.random.default_rng(1)
    before = summary.summarise(columns.columns(random, BEFORE_ROWS, 0.0).lazy())
    hits: Counter[tuple[str, str, int]] = Counter()
    others: Counter[tuple[str, str, int]] = Counter()
    for rows in ROWS:
        for _ in range(repetitions):
            window = columns.columns(random, rows, 0.0)
            unchanged = summary.summarise(window.lazy())
            for change, (name, changed) in CHANGES.items():
                # Of a window only the changed column is measured again.
                column = summary.summarise(changed(window).alias(name).to_frame().lazy())
                now = summary.Summary(unchanged.columns | column.columns)
                for said, rule in RULES.items():
                    flagged = {each.name for each in drift.compare(before, now, rule) if each.drifted}
                    hits[change, said, rows] += bool(flagged) if change == "none" else name in flagged
                    others[change, said, rows] += change != "none" and bool(flagged - {name})
        print(f"{rows:,} rows are done", file=sys.stderr)
    print(
        f"share of {repetitions} windows flagged, and other columns flagged; baseline of {BEFORE_ROWS:,} rows"
    )
    print("\n| change | rule | " + " | ".join(f"{rows:,} rows" for rows in ROWS) + " |")
    print("|---|---|" + "---|" * len(ROWS))
    for change in CHANGES:
        for said in RULES:
            shares = []
            for rows in ROWS:
                key = change, said, rows
                shares.append(f"{hits[key] / repetitions:.0%}")
                shares[-1] += f" ({others[key]} others)" if others[key] else ""
            print(f"| {change} | {said} | " + " | ".join(shares) + " |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
