import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import metrics

FOLDER = Path("benchmarks/accuracy").resolve()
RANDOM = np.random.default_rng(0)
# Of 60 rows; few values, so that some are equal.
BINARY = RANDOM.integers(0, 2, 60), np.round(RANDOM.random(60), 1)
SEVERAL = RANDOM.integers(0, 3, 60), RANDOM.dirichlet([1, 1, 1], 60)
NUMBERS = RANDOM.normal(size=60), RANDOM.normal(size=60)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def test_scores_are_those_of_scikit_learn(module: Any) -> None:
    scores = module("scores")
    truth, second = BINARY
    binary = scores.Fold(truth, np.column_stack([1 - second, second]))
    assert scores.score(binary, "roc_auc") == pytest.approx(metrics.roc_auc_score(truth, second))
    several = scores.Fold(*SEVERAL)
    assert scores.score(several, "log_loss") == pytest.approx(metrics.log_loss(*SEVERAL))
    numbers = scores.Fold(*NUMBERS)
    assert scores.score(numbers, "rmse") == pytest.approx(metrics.root_mean_squared_error(*NUMBERS))


def test_a_row_that_is_drawn_twice_counts_twice(module: Any) -> None:
    scores = module("scores")
    truth, second = BINARY
    fold = scores.Fold(truth, np.column_stack([1 - second, second]))
    drawn = np.random.default_rng(0).integers(0, 60, 60)
    expected = metrics.roc_auc_score(truth[drawn], second[drawn])
    assert scores.resampled([fold], "roc_auc")[0] == pytest.approx(expected)


def test_a_difference_within_noise_is_level(module: Any) -> None:
    scores = module("scores")
    truth = RANDOM.normal(size=500)
    good, alike, bad = (
        scores.resampled([scores.Fold(truth, truth + RANDOM.normal(size=500) * spread)], "rmse")
        for spread in (0.5, 0.5, 1)
    )
    assert scores.verdict(good, bad, "rmse") == "better"
    assert scores.verdict(bad, good, "rmse") == "worse"
    assert scores.verdict(good, alike, "rmse") == "level"


def test_predictions_that_cannot_be_scored_are_refused(module: Any) -> None:
    scores = module("scores")
    with pytest.raises(ValueError, match="59 predictions for 60 rows"):
        scores.score(scores.Fold(NUMBERS[0], NUMBERS[1][1:]), "rmse")
    with pytest.raises(ValueError, match="aren't finite"):
        scores.score(scores.Fold(NUMBERS[0], np.full(60, np.nan)), "rmse")


def test_the_tables_count_wins_and_losses_and_name_what_is_missing(module: Any, tmp_path: Path) -> None:
    report = module("report")
    truth = RANDOM.normal(size=400)
    results = []
    # On "wage" ours is far ahead of LightGBM, on "california" far behind.
    for name, method, spread in [
        ("wage", "lightgbm", 1.0),
        ("wage", "quick", 0.5),
        ("wage", "autogluon_good", 0.499),
        ("california", "lightgbm", 0.5),
        ("california", "quick", 1.0),
    ]:
        predicted = truth + spread * np.tile([1.0, -1.0], 200)
        np.savez(tmp_path / f"{name}-0-{method}.npz", truth=truth, predicted=predicted)
        results.append(
            {"set": name, "fold": 0, "method": method, "budget": 0.0, "error": "", "metric": "rmse"}
            | {"value": spread, "seconds": 2 * spread, "cpu_seconds": 1.0, "megabytes": 100.0, "used": "one"}
            | {"rows": 400, "features": 3, "test_rows": 400}
        )
    facts = {"metric": "rmse", "rows": 400, "features": 3, "test_rows": 400}
    failed = {"set": "california", "fold": 0, "method": "autogluon_good", "budget": 0.0, "error": "no memory"}
    text = report.tables(
        [*results, failed | facts],
        tmp_path,
        ["wage", "california", "flights"],
        ["lightgbm", "quick", "h2o", "autogluon_good"],
    )
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    overall = next(line for line in text.splitlines() if line.startswith("| quick |"))
    # Second twice; better than LightGBM once, worse once; near AutoGluon on the only table that it has.
    assert overall.startswith("| quick | 2 | 2.00 | 1 / 0 / 1 | 1 of 1 | 1.00x | 1.00x |")
    assert "failed" in rows["california"]
    assert "- california, autogluon_good: no memory" in text
    assert "Not measured: flights." in text


def test_methods_are_measured_once_on_equal_rows(tmp_path: Path) -> None:
    rows = 240
    numbers = RANDOM.normal(size=rows)
    frame = pl.DataFrame(
        {
            "number": numbers,
            "text": RANDOM.choice(["red", "green"], rows),
            "class": np.where(numbers + RANDOM.normal(size=rows) / 2 > 0, "up", "down"),
        }
    )
    (tmp_path / "sets/australian").mkdir(parents=True)
    frame.write_parquet(tmp_path / "sets/australian/whole.parquet")
    command = [sys.executable, str(FOLDER / "measure.py"), str(tmp_path / "sets"), "--work", str(tmp_path)]
    command += ["--sets", "australian", "--methods", "lightgbm", "quick"]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert first.startswith("australian 0 lightgbm: ")
    assert second.startswith("### Scores")
    found = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(each["method"], each["error"]) for each in found] == [("lightgbm", ""), ("quick", "")]
    for each in found:
        kept = np.load(tmp_path / f"predictions/australian-0-{each['method']}.npz")
        assert each["value"] == pytest.approx(
            metrics.roc_auc_score(kept["truth"], kept["predicted"][:, 1]), abs=1e-4
        )
        assert each["value"] > 0.85
        assert len(kept["truth"]) == each["test_rows"] == 80
    assert found[1]["served"]["equal"]
    assert "equal, 80 rows, ONNX" in second
