"""Three runs in a row: the first trains, the second has no reason to, the third has new rows that moved."""

import inspect
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from backends.local import runner
from flowparts import tables
from flowparts.pipelines.continuous_training import continuous_training
from flowparts.pipelines.tabular_training import tabular_training
from flowparts.register import registry

QUICK = [{"estimator": "Linear", "parameters": {}}]
# What tests/contract runs; see examples.py there.
RUNS = [{"candidates": QUICK}]
ON_A_CLUSTER = RUNS[0]
START = datetime(2026, 3, 1)
TRAINING = {"profile-table", "split-table", "train-tabular", "register-champion", "mark-data-seen"}


def rows(days: int, first: int = 0, factor: float = 1.0) -> pl.DataFrame:
    """Ten rows a day; the label follows the amount, or with a negative factor its opposite."""
    random = np.random.default_rng(first)
    count = days * 10
    amount = random.normal(0, 1, count)
    moments = [START + timedelta(days=first, minutes=144 * number) for number in range(count)]
    label = (factor * amount + random.normal(0, 0.4, count) > 0).astype(int)
    return pl.DataFrame({"time": moments, "amount": amount, "left": label})


def ran(record: runner.Run) -> dict[str, str]:
    return {task.name: task.state for task in record.tasks}


def outputs(record: runner.Run, task: str) -> dict[str, Any]:
    return next(dict(each.outputs) for each in record.tasks if each.name == task)


def test_training_starts_only_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, state, source = (
        f"sqlite:///{tmp_path / 'mlflow.db'}",
        tmp_path / "state.json",
        tmp_path / "log.csv",
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    def run(frame: pl.DataFrame) -> runner.Run:
        frame.write_csv(source)
        given = {"source": str(source), "label": "left", "time_column": "time", "window_days": 60.0}
        given |= {"exclude_columns": ["time"], "state_uri": str(state), "model_name": "churn"}
        record = runner.run(continuous_training, {**given, "candidates": QUICK}, tmp_path / "runs")
        assert record.succeeded, [(task.name, task.error) for task in record.failed] or record.problem
        return record

    first = run(rows(90))
    assert outputs(first, "decide-retraining")["reason"] == "there is no champion"
    window = tables.scan(outputs(first, "ingest-table")["table"].path).collect()
    assert window.height == 600
    assert registry.champion_version("churn", uri) == "1"
    left_out = f"300 rows outside the 60 days up to {window['time'].max()}"
    assert ("left out", left_out) in runner.findings(first)

    second = run(rows(90))
    assert outputs(second, "decide-retraining")["retrain"] is False
    states = ran(second)
    assert {states.get(task, "skipped") for task in TRAINING} == {"skipped"}
    assert registry.champion_version("churn", uri) == "1"

    third = run(pl.concat([rows(90), rows(60, first=90, factor=-1.0)]))
    decided = outputs(third, "decide-retraining")
    assert "600 rows lie beyond time 2026-05-29T21:36:00; " in decided["reason"]
    assert "worse than the reference" in decided["reason"]
    assert outputs(third, "register-champion")["promote"] is True
    assert registry.champion_version("churn", uri) == "2"
    assert json.loads(state.read_text())["seen"]["highest"] == "2026-07-28T21:36:00"


def test_it_accepts_the_parameters_of_tabular_training() -> None:
    """Whoever trains a model with tabular-training can put it on a schedule without other parameters."""
    mine, theirs = (
        {
            name: (port.default, port.description)
            for name, port in (pipeline.component_spec.inputs or {}).items()
        }
        for pipeline in (continuous_training, tabular_training)
    )
    other = {"data_version", "schema_uri", "time_column", "model_name", "endpoint_name"}
    assert theirs.keys() - mine.keys() == {"data_version"}
    assert {name: mine[name] for name in theirs if name not in other} == {
        name: port for name, port in theirs.items() if name not in other
    }
    assert "tabular-training" in (inspect.getdoc(continuous_training.pipeline_func) or "")
