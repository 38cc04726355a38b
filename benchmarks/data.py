"""Make the tables that the benchmarks read: `data.py FOLDER ROWS`, the same on every machine."""

import json
import shutil
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from flowparts import tables

CHUNK_ROWS = 250_000
START = np.datetime64("2024-01-01T00:00:00.000000")
COUNTRIES = [first + second for first in "ABCDE" for second in "KLMN"]

# Column, rule, how many rows break it, and the value that does.
PLANTED_VALUES = [
    ("amount", "null", 101, None),
    ("country", "null", 103, None),
    ("age", "minimum", 107, -5),
    ("score", "maximum", 109, 1e6),
    ("created_at", "null", 113, None),
    ("updated_at", "minimum", 127, datetime(1970, 1, 1)),
    ("plan", "category", 131, "golden"),
    ("device", "category", 137, "toaster"),
    ("id", "duplicate", 139, 0),
]
PLANTED_COLUMNS = [("active", "type"), ("visits", "missing_column"), ("extra", "unexpected_column")]


def chunk(number: int, rows: int) -> pl.DataFrame:
    """Return rows of 20 columns: 5 floats, 4 integers, 6 texts, 2 timestamps, 2 booleans and a label."""
    random = np.random.default_rng([7, number])

    def text(prefix: str, below: int, digits: int) -> pl.Series:
        return prefix + pl.Series(random.integers(0, below, rows)).cast(pl.String).str.zfill(digits)

    def some_missing(values: object, share: float) -> pl.Series:
        present = pl.Series(random.random(rows) > share)
        return pl.DataFrame({"value": values}).select(pl.when(present).then("value")).to_series()

    score = random.normal(size=rows)
    age = random.integers(18, 91, rows)
    plan = random.choice(["free", "basic", "pro", "team"], rows, p=[0.5, 0.3, 0.15, 0.05])
    created = START + random.integers(0, 63_072_000, rows).astype("timedelta64[s]")
    updated = created + random.integers(0, 86_400_000_000, rows).astype("timedelta64[us]")
    odds = 0.8 * score + 0.02 * (age - 50) + np.where(plan == "pro", 1.0, -0.5)
    return pl.DataFrame(
        {
            "id": np.arange(number * CHUNK_ROWS, number * CHUNK_ROWS + rows),
            "amount": random.lognormal(3, 1, rows).round(2),
            "score": score,
            "ratio": some_missing(random.random(rows), 0.05),
            "temperature": some_missing(random.normal(15, 8, rows).round(1), 0.1),
            "longitude": random.uniform(-180, 180, rows).round(5),
            "age": age,
            "visits": some_missing(random.poisson(3, rows), 0.03),
            "balance": random.integers(-(10**9), 10**9, rows),
            "country": random.choice(COUNTRIES, rows),
            "plan": plan,
            "device": some_missing(random.choice(["phone", "tablet", "laptop", "tv"], rows), 0.08),
            "city": text("city ", 5_000, 1),
            "user": text("u", 10**6, 9),
            "session": some_missing(text("s", 2**62, 20), 0.02),
            "created_at": created,
            "updated_at": some_missing(updated, 0.2),
            "active": random.random(rows) < 0.7,
            "verified": some_missing(random.random(rows) < 0.4, 0.05),
            "label": (random.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int64),
        }
    )


def planted(frame: pl.LazyFrame, rows: int) -> pl.LazyFrame:
    """Break every rule of a schema, those of values in rows spread over the table, no two in one row."""
    counts = [count for _, _, count, _ in PLANTED_VALUES]
    # The first row keeps the identifier that the duplicates repeat.
    places = np.random.default_rng(11).choice(np.arange(1, rows), sum(counts), replace=False)
    chosen = np.split(places, np.cumsum(counts)[:-1])
    broken = [
        pl.when(pl.col("row").is_in(pl.Series(rows).implode()))
        .then(pl.lit(value))
        .otherwise(pl.col(name))
        .alias(name)
        for rows, (name, _, _, value) in zip(chosen, PLANTED_VALUES, strict=True)
    ]
    return (
        frame.with_row_index("row")
        .with_columns(*broken, pl.col("active").cast(pl.String), extra=pl.lit(1))
        .drop("row", "visits")
    )


def main(folder: Path, rows: int) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "chunks").mkdir(parents=True)
    with (partial / "table.csv").open("wb") as csv:
        for number, first in enumerate(range(0, rows, CHUNK_ROWS)):
            frame = chunk(number, min(CHUNK_ROWS, rows - first))
            frame.write_csv(csv, include_header=number == 0, datetime_format="%Y-%m-%dT%H:%M:%S%.6f")
            frame.write_parquet(partial / "chunks" / f"{number:05d}.parquet")
    whole = pl.scan_parquet(partial / "chunks" / "*.parquet")
    tables.write(whole, partial / "table")
    tables.write(planted(whole, rows), partial / "planted")
    shutil.rmtree(partial / "chunks")
    values = [(name, rule, count) for name, rule, count, _ in PLANTED_VALUES]
    (partial / "planted.json").write_text(json.dumps({"values": values, "columns": PLANTED_COLUMNS}))
    partial.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
