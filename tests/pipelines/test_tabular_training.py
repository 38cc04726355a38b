"""Runs the pipeline end to end on real data and asserts on the artifacts and numbers that come out."""

import datetime
import html
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

import run as run_command
from backends.local import run_page, runner
from flowparts import models, tables
from flowparts.models import engines
from flowparts.pipelines.tabular_training import tabular_training
from flowparts.register import registry

QUICK = [
    {"estimator": "Linear", "parameters": {}},
    {"estimator": "XGB", "parameters": {"n_estimators": 50}},
]
WORDS = ["the", "parcel", "came", "late", "again", "and", "nobody", "would", "say", "where", "it", "was"]
# What tests/contract runs; see examples.py there.
RUNS = [
    {"trainer": "keras", "network": {"epochs": 3}, "model_name": "network"},
    {"candidates": QUICK},
    {"source": "sample://diabetes", "task": "regression", "candidates": QUICK[:1], "model_name": "diabetes"},
]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def run(runs: Path, monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> runner.Run:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs / 'mlflow.db'}")
    record = runner.run(tabular_training, parameters, runs)
    assert record.succeeded, [(task.name, task.error) for task in record.failed] or record.problem
    return record


def registered_by(runs: Path) -> str:
    with sqlite3.connect(runs / "mlflow.db") as database:
        query = "SELECT value FROM model_version_tags WHERE key = 'pipeline_run_id'"
        return database.execute(query).fetchone()[0]


def outputs(record: runner.Run, task: str) -> dict[str, Any]:
    return next(each.outputs for each in record.tasks if each.name == task)


def measured(record: runner.Run) -> dict[str, float]:
    found: dict[str, float] = outputs(record, "evaluate-model")["test_metrics"].metadata
    return found


def test_default_run_registers_a_servable_model_and_a_second_one_reuses_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_page: Any
) -> None:
    first = run(tmp_path, monkeypatch)
    assert measured(first)["roc_auc"] > 0.97
    assert outputs(first, "check-serving")["servable"] is True
    assert outputs(first, "register-champion")["promote"] is True
    assert outputs(first, "register-champion")["version"] == "1"
    for task in first.tasks:
        for value in task.outputs.values():
            if isinstance(value, dsl.Artifact):
                assert Path(value.path).exists(), (task.name, value.name)

    assert registered_by(tmp_path) == f"tabular-training-{first.folder.name}"
    assert registry.champion_version("tabular-training", f"sqlite:///{tmp_path / 'mlflow.db'}") == "1"

    second = run(tmp_path, monkeypatch)
    states = {task.name: task.state for task in second.tasks}
    assert states["validate-table"] == "succeeded"
    assert states["ingest-table"] == states["train-tabular"] == states["check-serving"] == "cached"
    assert outputs(second, "register-champion")["promote"] is False
    assert outputs(second, "register-champion")["version"] == ""
    assert set(states) == {task.name for task in first.tasks}, "no step hides in a branch"

    page = run_page.write(second)
    index = run_page.write_index(tmp_path)
    driver = open_page(page)
    for link in driver.find_elements("css selector", "a:not(svg a)"):
        assert Path(link.get_attribute("href").removeprefix("file://")).is_file()
    assert {"train-tabular", "register-champion"} <= {
        text.text for text in driver.find_elements("css selector", "svg.graph text")
    }
    for report in runner.reports(second).values():
        open_page(report)
    assert len(open_page(index).find_elements("css selector", "tbody tr")) == 2


def test_a_network_is_compared_with_a_scikit_learn_champion_on_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path, monkeypatch, candidates=QUICK)
    second = run(tmp_path, monkeypatch, trainer="keras", network={"epochs": 10})
    decision = outputs(second, "register-champion")
    scores = [measured(each)["roc_auc"] for each in (first, second)]
    compared = decision["comparison_metrics"].metadata
    assert [compared["champion_roc_auc"], compared["challenger_roc_auc"]] == pytest.approx(scores)
    assert compared["improvement"] > 0 or not decision["promote"], "it lost, and was promoted"
    assert bool(outputs(second, "register-champion")["version"]) is decision["promote"]
    for record in (first, second):
        assert outputs(record, "check-serving")["servable"] is True
    trained = models.metadata(outputs(second, "train-tabular")["model"].path)
    assert trained["framework"] == "tensorflow"
    assert (
        trained["training_fingerprint"]
        == models.metadata(outputs(first, "train-tabular")["model"].path)["training_fingerprint"]
    )


def test_an_unknown_trainer_fails_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    record = runner.run(tabular_training, {"trainer": "it's keras"}, tmp_path)
    assert [task.name for task in record.failed] == ["validate-table"]
    assert record.failed[0].error.startswith('unknown trainer "it\'s keras"')


def test_three_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = run(tmp_path, monkeypatch, source="sample://wine", candidates=QUICK)
    assert measured(record)["accuracy"] > 0.85
    model = models.load(outputs(record, "train-tabular")["model"].path)
    assert model.classes == ["class_0", "class_1", "class_2"]


def test_regression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = run(tmp_path, monkeypatch, source="sample://diabetes", task="regression", candidates=QUICK)
    assert 40 < measured(record)["rmse"] < 70
    assert outputs(record, "register-champion")["promote"] is True


def test_mixed_types_nulls_and_timestamps_from_a_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "customers.csv"
    generator = random.Random(0)
    start = datetime.datetime(2024, 1, 1)
    rows = []
    for number in range(600):
        country = generator.choice(["DE", "FR", "Österreich", ""])
        spent = generator.gauss(50, 20)
        joined = start + datetime.timedelta(hours=generator.randrange(10_000))
        score = spent / 20 + (country == "DE") * 2 + joined.weekday() / 3 + generator.gauss(0, 0.5)
        rows.append(
            {
                "customer_id": f"c{number}",
                "country": country or None,
                "spent, in EUR": spent if generator.random() > 0.1 else None,
                "joined": joined,
                "seen": joined if generator.random() > 0.05 else None,
                "loyal": generator.random() > 0.5,
                "remark": " ".join(generator.choices(WORDS, k=8)) + (" leaving" if score > 4 else " staying"),
                "churned": "yes" if score > 4.5 else "no",
            }
        )
    rows[10]["churned"] = rows[20]["churned"] = None
    rows[30]["churned"] = "maybe"
    pl.DataFrame(rows).write_csv(source)
    record = run(
        tmp_path / "runs",
        monkeypatch,
        source=str(source),
        label="churned",
        exclude_columns=["customer_id"],
        time_column="joined",
        slice_columns=["country"],
        candidates=QUICK,
    )
    ingested = tables.scan(outputs(record, "ingest-table")["table"].path).collect()
    assert ingested.schema["joined"] == pl.Datetime("us")
    assert ingested.schema["loyal"] == pl.Boolean
    assert ingested["country"].null_count() > 50
    assert measured(record)["roc_auc"] > 0.9
    assert json.loads((record.folder / "run.json").read_text())["parameters"]["data_version"]
    parts = [tables.scan(outputs(record, "split-table")[part].path).collect() for part in ("train", "test")]
    assert parts[0]["joined"].max() < parts[1]["joined"].min()  # type: ignore[operator]
    assert "country" in runner.reports(record)["evaluate-model"].read_text()
    trained = outputs(record, "train-tabular")["model"].path
    model = models.load(trained)
    assert model.classes == ["no", "yes"]
    served = engines.load(trained)
    assert served.name == "onnxruntime"
    columns = {name: parts[1][name].to_list() for name in model.features}
    assert "remark" in columns
    online = served.predict_columns(columns)["probability_yes"]
    assert online == pytest.approx(model.predict(parts[1])["probability_yes"].to_numpy(), abs=1e-5)
    left_out = "2 rows without a label; 1 row of class 'maybe' (fewer than min_class_rows=3)"
    assert ("left out", left_out) in runner.findings(record)
    page = Path(outputs(record, "register-champion")["run_summary"].path).read_text()
    assert f"Left out before the split: {left_out}." in html.unescape(page)


def test_rows_in_the_order_of_a_time_are_split_by_it_and_every_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = random.Random(0)
    start = datetime.datetime(2024, 1, 1)
    rows = []
    for number in range(800):
        load = generator.gauss(0, 1)
        # What the load says weakens with time, so that the newest rows are harder than any random ones.
        late = (1 - number / 1000) * load + generator.gauss(0, 0.4) > 0
        rows.append({"at": start + datetime.timedelta(hours=3 * number), "load": load, "late": int(late)})
    pl.DataFrame(rows).write_csv(tmp_path / "log.csv")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("COLUMNS", "200")
    unfit = {"estimator": "LinearDiscriminantAnalysis", "parameters": {"n_components": 5}}
    words = [f"source={tmp_path / 'log.csv'}", "label=late", f"candidates={json.dumps(['Linear', unfit])}"]
    arguments = [word for given in words for word in ("-p", given)]
    assert run_command.main(["tabular-training", *arguments, "--runs", str(tmp_path / "runs")]) == 0
    said = "by time (at), because the rows are ordered by 'at': oldest rows in train, newest in test"
    left_out = (
        "LinearDiscriminantAnalysis is left out: estimator 'LinearDiscriminantAnalysis' can't be trained"
    )
    terminal = capsys.readouterr().out
    assert f"split: {said}" in terminal
    assert f"warning: candidate {left_out}" in terminal
    (folder,) = (tmp_path / "runs" / "tabular-training").iterdir()
    for name in ("evaluate-model", "register-champion"):
        page = html.unescape((folder / "reports" / f"{name}.html").read_text())
        assert f"The rows were split {said}" in page
        assert f"Candidate {left_out}" in page
    assert left_out in html.unescape((folder / "reports" / "train-tabular.html").read_text())
    train, test = (
        tables.scan(next(folder.glob(f"*/split-table/{part}"))).collect()["at"] for part in ("train", "test")
    )
    assert train.max() < test.min()  # type: ignore[operator]
    assert (len(train), len(test)) == (560, 120)
