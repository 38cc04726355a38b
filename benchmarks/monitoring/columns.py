"""Twenty columns of mixed kinds, some of which drift; written in parts, so that any number of rows fits.

The parts are what a step gets: small row groups, as every table of this library has them.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl

from flowparts import tables

PART_ROWS = 500_000


def columns(random: np.random.Generator, rows: int, shift: float) -> pl.DataFrame:
    """Draw rows; with a shift the first of each kind of column moves by it, in standard deviations."""
    normal = [random.normal(shift if number == 0 else 0, 1, rows) for number in range(4)]
    moments = random.integers(0, 365 * 86_400, rows) + int(shift * 30 * 86_400)
    made = {f"normal_{number}": values for number, values in enumerate(normal)}
    made |= {
        f"far_{number}": random.normal(1e6 + (shift if number == 0 else 0), 1, rows) for number in range(2)
    }
    made |= {
        f"skewed_{number}": random.lognormal(shift if number == 0 else 0, 1 + number, rows)
        for number in range(3)
    }
    made["heavy"] = random.pareto(1.5, rows)
    made |= {
        f"count_{number}": random.poisson(3 + (shift if number == 0 else 0), rows) for number in range(2)
    }
    made["half_zero"] = np.where(random.random(rows) < 0.5, 0.0, normal[1] + 2)
    made["moment"] = (moments * 1_000_000).astype("datetime64[us]")
    for number, size in enumerate((3, 10, 40, 200)):
        weights = 1 / np.arange(1, size + 1) ** (1 + (shift / 3 if number == 0 else 0))
        names = np.array([f"value {place}" for place in range(size)])
        made[f"category_{number}"] = names[random.choice(size, rows, p=weights / weights.sum())]
    made["flag"] = random.random(rows) < 0.3
    table = pl.DataFrame(made)
    missing = random.random(rows) < 0.05 + 0.1 * shift
    return table.with_columns(with_nulls=pl.Series(normal[2] * 3).set(pl.Series(missing), None))


def write(folder: Path, rows: int, seed: int, shift: float) -> None:
    """Write a table of so many rows."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number, start in enumerate(range(0, rows, PART_ROWS)):
        part = columns(random, min(PART_ROWS, rows - start), shift)
        tables.write_part(part, folder / f"part-{number:05}.parquet")


if __name__ == "__main__":
    target, count = Path(sys.argv[1]), int(sys.argv[2])
    write(target / "before", count, 1, 0.0)
    write(target / "now", count, 2, 0.1)
