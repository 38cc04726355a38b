"""ROC AUC estimated without labels beside the measured one, on five real tables: ours and NannyML's CBPE.

    .venv/bin/python benchmarks/monitoring/estimate.py build/real     (make bench-estimates)

A boosted model learns from half of a table's rows; a fifth are the labelled reference. The others come in ten
windows. Each is drawn with a preference for rows with high or low values of a feature that moves with the
prediction, so that the rows become harder or easier while what follows from a row stays the same: the kind of
change that confidence-based estimation claims to see.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from flowparts.monitor import estimation
from flowparts.monitor.performance import Source

TABLES = {
    "phoneme": "class",
    "caravan": "Purchase",
    "compas": "two-year-recid",
    "credit": "default-payment-next-month",
    "adult": "income",
}
WINDOWS, MOST_ROWS = 10, 20_000
PEER = Path(".venv-bench/nannyml/bin/python")


def main(folder: Path) -> None:
    print("| table | rows per window | measured AUC | method | mean error | inside | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, label in TABLES.items():
        reference, windows = predictions(pl.read_parquet(folder / name / "whole.parquet"), label)
        real = [roc_auc_score(window["label"], window["probability_1"]) for window in windows]
        first = f"| {name} | {windows[0].height:,} | {min(real):.3f} to {max(real):.3f} |"
        score = float(roc_auc_score(reference["label"], reference["probability_1"]))
        print(f"{first} reference score | {error([score] * WINDOWS, real):.4f} | | |", flush=True)
        for way, estimate in (("ours", ours), ("NannyML", nannyml)):
            start = time.perf_counter()
            found = estimate(reference, windows)
            seconds = time.perf_counter() - start
            if found is None:
                print(f"{first} {way} | make .venv-bench/nannyml/installed first | | |", flush=True)
                continue
            inside = np.mean([low <= true <= high for (_, low, high), true in zip(found, real, strict=True)])
            off = error([value for value, *_ in found], real)
            print(f"{first} {way} | {off:.4f} | {inside:.0%} | {seconds:.1f} |", flush=True)


def error(estimates: Sequence[float], measured: Sequence[float]) -> float:
    """Return the mean absolute difference."""
    return float(np.mean(np.abs(np.subtract(estimates, measured))))


def predictions(table: pl.DataFrame, label: str) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Train on a part and return the predictions for the reference and for each window."""
    random = np.random.default_rng(7)
    table = table.filter(pl.col(label).is_not_null()).sample(
        min(table.height, MOST_ROWS), shuffle=True, seed=7
    )
    truth = (table[label] == table[label].value_counts(sort=True)[label][-1]).cast(pl.Int64).to_numpy()
    frame = table.drop(label, "ID", strict=False).to_pandas()
    texts = frame.select_dtypes(exclude="number").columns.tolist()
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, max_categories=50)
    model = make_pipeline(
        make_column_transformer((encoder, texts), remainder="passthrough"),
        HistGradientBoostingClassifier(random_state=0, early_stopping=False, max_iter=60),
    )
    train, middle = len(frame) // 2, len(frame) * 7 // 10
    model.fit(frame[:train], truth[:train])
    positive = model.predict_proba(frame)[:, 1]
    found = pl.DataFrame(
        {
            "prediction": (positive > 0.5).astype(int),
            "probability_0": 1 - positive,
            "probability_1": positive,
            "label": truth,
        }
    )
    rest = np.arange(middle, len(frame))
    numbers = frame.select_dtypes("number").fillna(0.0)
    moves = numbers[middle:].corrwith(pl.Series(positive[middle:]).to_pandas().set_axis(rest)).abs()
    rank = numbers[moves.idxmax()].iloc[middle:].rank(pct=True, method="first").to_numpy()
    size, windows = len(rest) // 3, []
    for steepness in np.linspace(-3, 3, WINDOWS):
        weight = np.exp(steepness * rank)
        chosen = random.choice(rest, size, replace=False, p=weight / weight.sum())
        windows.append(found[np.sort(chosen)])
    return found[train:middle], windows


def ours(reference: pl.DataFrame, windows: list[pl.DataFrame]) -> list[tuple[float, ...]]:
    first = datetime(2026, 1, 1)
    log = pl.concat(
        window.with_columns(time=pl.lit(first + timedelta(days=number)))
        for number, window in enumerate(windows)
    )
    of = Source("classification", "label", [0, 1], 1, {})
    found = estimation.estimate(log.drop("label"), of, "roc_auc", reference, None, "time")
    every = [window.metrics["roc_auc"] for window in found.windows]
    return [(each.value, each.low, each.high) for each in every]


def nannyml(reference: pl.DataFrame, windows: list[pl.DataFrame]) -> list[tuple[float, ...]] | None:
    if not PEER.exists():
        return None
    with tempfile.TemporaryDirectory() as scratch:
        reference.write_parquet(Path(scratch) / "reference.parquet")
        pl.concat(windows).drop("label").write_parquet(Path(scratch) / "windows.parquet")
        command = [PEER, Path(__file__).with_name("nannyml_estimates.py"), scratch, str(windows[0].height)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return [tuple(each) for each in json.loads(ended.stdout.splitlines()[-1])]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
