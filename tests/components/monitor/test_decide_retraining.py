import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from sklearn.linear_model import LogisticRegression

from flowparts import tables
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.decide_retraining import decide_retraining
from flowparts.components.monitor.mark_data_seen import mark_data_seen
from flowparts.models import baseline
from flowparts.monitor import new_data, retraining
from flowparts.register import registry

START = datetime(2026, 3, 1)
ALL = ["new_data", "drift", "performance", "age"]
Decide = Callable[..., tuple[bool, str]]


@dsl.pipeline
def example(outside: str, source: str = "sample://breast_cancer"):
    table = ingest_table(source=source).outputs["table"]
    decide_retraining(
        table=table, model_name="not-yet-trained", state_uri=f"{outside}/retraining.json"
    ).set_caching_options(False)


def rows(count: int, first: int = 0, shift: float = 0.0, noise: float = 0.3) -> pl.DataFrame:
    """A row each hour; by the noise the label is harder to tell from the amount."""
    random = np.random.default_rng(first)
    amount = random.normal(0, 1, count)
    return pl.DataFrame(
        {
            "time": [START + timedelta(hours=number) for number in range(first, first + count)],
            "amount": amount + shift,
            "plan": random.choice(["basic", "pro"], count),
            "left": (amount + random.normal(0, noise, count) > 0).astype(int),
        }
    )


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, save_model: Callable[..., Any], uri: str) -> str:
    """Register a champion that was trained on the first 1,000 rows."""
    folder = tmp_path_factory.mktemp("champion")
    reference = {"validation": {"roc_auc": 0.95}, "metric": "roc_auc"}
    save_model(folder / "model", rows(1_000), "left", LogisticRegression(), **reference)
    for name, part in (("train", rows(1_000).head(800)), ("validation", rows(1_000).tail(200))):
        tables.write(part, folder / name)
    baseline.record(folder / "model", folder / "train", folder / "validation")
    registry.register(folder / "model", "churn", metrics={}, reports={}, tracking_uri=uri)
    return "churn"


@pytest.fixture
def state_uri(tmp_path: Path) -> str:
    return str(tmp_path / "state.json")


@pytest.fixture
def decide(artifact: Callable[..., Any], table: Callable[..., dsl.Dataset], uri: str, model: str) -> Decide:
    def call(frame: pl.DataFrame, trained: str = "", **given: Any) -> tuple[bool, str]:
        made = {"decision": artifact("decision"), "decision_report": artifact("report", dsl.HTML)}
        made["mark"] = artifact("mark")
        asked = {"model_name": model, "time_column": "time", "tracking_uri": uri, **given}
        found = decide_retraining.python_func(table=table(frame), **made, **asked)
        if trained:
            mark_data_seen.python_func(mark=made["mark"], state_uri=trained)
        return found

    return call


def test_without_a_champion_there_is_a_training(decide: Decide, state_uri: str) -> None:
    assert decide(rows(100), model_name="other", state_uri=state_uri) == (True, "there is no champion")


def test_new_rows_ask_for_a_training_until_one_has_used_them(decide: Decide, state_uri: str) -> None:
    by = {"state_uri": state_uri, "reasons": ["new_data"]}
    assert decide(rows(1_000), **by) == (True, "no data was seen before, and there are 1,000 rows")
    assert decide(rows(1_000), trained=state_uri, **by)[0]
    assert decide(rows(1_000), **by) == (
        False,
        "no row lies beyond time 2026-04-11T15:00:00",
    )
    grown = rows(1_080)
    assert decide(grown, **by) == (True, "80 rows lie beyond time 2026-04-11T15:00:00")
    few = "80 rows lie beyond time 2026-04-11T15:00:00, fewer than 100"
    assert decide(grown, **by, min_new_rows=100) == (False, few)


def test_only_rows_that_came_since_the_last_training_are_judged(
    decide: Decide, state_uri: str, artifact: Callable[..., Any]
) -> None:
    by = {"state_uri": state_uri, "reasons": ["drift", "performance"]}
    moved = pl.concat([rows(1_000), rows(300, first=1_000, shift=2.0)])
    decide(rows(1_000), trained=state_uri, **by)
    retrain, reason = decide(moved, **by)
    assert retrain
    # The time moved as well, as it always does, and isn't named.
    assert reason == "1 of 3 columns drifted: amount"
    found = json.loads(Path(artifact("decision").path).read_text())
    assert found["judged_rows"] == 300
    assert [each["column"] for each in found["drift"]] == ["amount", "plan", "left"]
    # A training that lost to the champion has used them: the next run doesn't train again.
    decide(moved, trained=state_uri, **by)
    assert decide(moved, **by) == (
        False,
        "drift has no new rows to be judged by; performance has no new rows to be judged by",
    )


def test_labels_that_the_champion_gets_wrong_ask_for_a_training(
    decide: Decide, state_uri: str, artifact: Callable[..., Any], open_page: Callable[[Path], Any]
) -> None:
    decide(rows(1_000), trained=state_uri, state_uri=state_uri)
    same = pl.concat([rows(1_000), rows(400, first=1_000)])
    retrain, reason = decide(same, state_uri=state_uri, reasons=["drift", "performance"], tolerance=0.02)
    assert not retrain
    assert "no column has drifted; roc_auc is" in reason
    harder = pl.concat([rows(1_000), rows(400, first=1_000, noise=3.0)])
    retrain, reason = decide(harder, state_uri=state_uri, reasons=["drift", "performance"])
    assert retrain
    assert reason.startswith("roc_auc on all rows is 0.")
    assert reason.endswith("worse than the reference 0.95")
    main = open_page(Path(artifact("report").path)).find_element("tag name", "main").text
    assert "Training: roc_auc on all rows" in main
    assert "400" in main


def test_without_a_state_file_the_rows_that_the_champion_has_not_seen_are_judged(
    decide: Decide, artifact: Callable[..., Any]
) -> None:
    retrain, reason = decide(rows(1_000), reasons=ALL[:3], tolerance=0.02)
    assert not retrain
    assert "new rows can't be told from old ones without a state file" in reason
    assert "0 rows are too few to judge by" in reason
    moved = pl.concat([rows(1_000), rows(200, first=1_000, shift=2.0)])
    assert decide(moved, reasons=ALL[:3])[0]
    assert json.loads(Path(artifact("decision").path).read_text())["judged_rows"] == 200


def test_age_counts_from_the_last_training(decide: Decide, state_uri: str) -> None:
    by = {"state_uri": state_uri, "reasons": ["age"]}
    retrain, reason = decide(rows(100), **by)
    assert not retrain
    assert f"due on {datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}" in reason
    assert decide(rows(100), **by, max_age_days=1e-9)[0]
    mark = new_data.mark(rows(100).lazy(), "time")
    old = retraining.Champion(Path(), "1", START)
    for trained, asks in ((None, True), (START + timedelta(days=20), False)):
        remembered = new_data.State(mark, trained)
        rules, now = retraining.Rules(["age"]), START + timedelta(days=40)
        assert retraining.decide(rows(100).lazy(), old, mark, remembered, rules, now).retrain is asks


def test_a_training_on_fewer_rows_than_before_counts_for_the_age_too(state_uri: str) -> None:
    higher = new_data.mark(rows(200).lazy(), "time")
    Path(state_uri).write_text(json.dumps({**higher.to_dict(), "at": "2026-03-01"}))
    new_data.remember(state_uri, new_data.mark(rows(100).lazy(), "time"))
    seen = new_data.seen(state_uri)
    assert seen is not None
    assert seen.mark == higher
    assert seen.at is not None
    assert seen.at > START


def test_a_champion_that_may_have_learned_from_the_rows_is_doubted(
    decide: Decide, tmp_path: Path, save_model: Callable[..., Any], uri: str
) -> None:
    reference = {"validation": {"roc_auc": 0.95}, "metric": "roc_auc"}
    save_model(tmp_path / "own", rows(1_000), "left", LogisticRegression(), **reference)
    registry.register(tmp_path / "own", "own", metrics={}, reports={}, tracking_uri=uri)
    retrain, reason = decide(rows(1_000), model_name="own", reasons=["performance"], tolerance=0.02)
    assert not retrain
    assert "doesn't say which rows it has seen; it may have learned from these" in reason


def test_an_explicit_request_trains_regardless_of_the_rules(decide: Decide, state_uri: str) -> None:
    decide(rows(1_000), trained=state_uri, state_uri=state_uri)
    assert decide(rows(1_000), state_uri=state_uri, request="FlowpartsDrift") == (
        True,
        "it was requested: FlowpartsDrift",
    )


def test_a_table_that_the_champion_cant_judge_asks_for_a_training(decide: Decide) -> None:
    retrain, reason = decide(rows(1_000).drop("amount"))
    assert retrain
    assert reason.startswith("the champion can't judge the rows: the baseline's column 'amount' is not in")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"reasons": ["luck"]},
            "'luck' is no reason to train; reasons are: new_data, drift, perf",
        ),
        ({"min_new_rows": 0}, "min_new_rows is 0; it must be at least 1"),
        ({"max_age_days": float("nan")}, "max_age_days is nan; it must be a number of days above 0"),
        ({"max_age_days": 4e6}, "it must be a number of days above 0, at most 36,500"),
        ({"tolerance": -1.0}, "tolerance is -1; it must be a number of at least 0"),
        ({"minimum_effect": 2.0}, "minimum_effect must be at least 0 and less than 1"),
        ({"time_column": "moment"}, "column of the high-water mark 'moment' is not in"),
        ({"model_name": "a/b"}, "model name 'a/b' is not valid in MLflow"),
    ],
)
def test_bad_input_gives_a_one_line_error_and_writes_nothing(
    decide: Decide, tmp_path: Path, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        decide(rows(100), **given)
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["table"]
