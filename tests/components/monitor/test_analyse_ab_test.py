import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from scipy import stats

from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.analyse_ab_test import analyse_ab_test
from flowparts.monitor import ab_test, measurements, revisions, sequential

Run = Callable[..., dict[str, Any]]


@dsl.pipeline
def example(source: str = "sample://breast_cancer"):
    table = ingest_table(source=source).outputs["table"]
    analyse_ab_test(
        log=table,
        new_log=table,
        labels=table,
        key=["mean_radius", "mean_texture"],
        outcome="worst_area",
        rise_tolerances={"mean_smoothness": 0.5},
    )


def answers(
    rows: int = 4_000, seed: int = 1, lift: float = 0.0, slower: float = 0.0, share: float = 0.5
) -> pl.DataFrame:
    """Return the log of two revisions with what came of each answer."""
    random = np.random.default_rng(seed)
    new = random.random(rows) < share
    start = datetime(2026, 3, 1)
    return pl.DataFrame(
        {
            "time": [start + timedelta(minutes=number) for number in range(rows)],
            "request_id": [f"r{number}" for number in range(rows)],
            "row": 0,
            "version": np.where(new, "2", "1"),
            "user": np.arange(rows),
            "bought": random.random(rows) < 0.3 + lift * new,
            "latency_ms": random.gamma(4, 5, rows) + slower * new,
        }
    )


@pytest.fixture
def run(artifact: Callable[..., Any], table: Callable[..., dsl.Dataset]) -> Run:
    def call(log: pl.DataFrame, **given: Any) -> dict[str, Any]:
        made = {
            "analysis": artifact("analysis"),
            "ab_test_report": artifact("ab_test_report", dsl.HTML),
            "measurements": artifact("measurements"),
        }
        tabled = {name: table(given.pop(name), name) for name in ("labels", "new_log") if name in given}
        if "new_log" not in tabled:
            given = {"new_version": "2"} | given
        given = {"outcome": "bought"} | given
        made["returned"] = analyse_ab_test.python_func(log=table(log, "log"), **tabled, **given, **made)
        made["found"] = json.loads(Path(made["analysis"].path).read_text())
        return made

    return call


def test_a_better_revision_ships_with_the_effect_that_the_rows_show(run: Run) -> None:
    log = answers(lift=0.15)
    made = run(log, rise_tolerances={"latency_ms": 2})
    decision, effect, p_value, reason = made["returned"]
    new, current = (log.filter(pl.col("version") == each)["bought"] for each in ("2", "1"))
    assert decision == "ship"
    assert "every guardrail holds" in reason
    assert effect == pytest.approx(new.mean() - current.mean())
    found = made["found"]
    # Welch's variance of the difference.
    variance = new.var() / len(new) + current.var() / len(current)
    deviation = max(new.cast(float).std(ddof=0), current.cast(float).std(ddof=0))
    assert p_value == pytest.approx(sequential.p_value(effect, variance, deviation / 10))
    half = sequential.half_width(variance, deviation / 10, 0.05)
    assert found["effect"]["low"] == pytest.approx(effect - half)
    assert found["effect"]["high"] == pytest.approx(effect + half)
    assert found["units"] == [len(current), len(new)]
    assert found["looks"][-1] == found["effect"]
    assert len(found["looks"]) == 30
    assert found["looks"][-1]["time"] == "2026-03-03T18:39"
    told = {
        (one.name, *one.labels.values()): one.value for one in measurements.read(made["measurements"].path)
    }
    assert told["flowparts_ab_test_decision", "ship"] == 1
    assert told["flowparts_ab_test_effect", "bought", "low"] == pytest.approx(effect - half)
    page = Path(made["ab_test_report"].path).read_text()
    assert "the new revision is better" in page
    assert "latency_ms" in page


@pytest.mark.parametrize(
    ("log", "given", "decision", "words"),
    [
        (answers(lift=-0.15), {}, "keep", "the new revision is worse"),
        (answers(lift=0.15), {"higher_is_better": False}, "keep", "the new revision is worse"),
        (answers(), {}, "continue", "could be detected by now"),
        (answers(150), {}, "continue", "100 each are needed"),
        (answers(20_000), {"minimum_effect": 0.05}, "keep", "an improvement of 0.05 is ruled out"),
        (answers(lift=0.15, slower=6), {"rise_tolerances": {"latency_ms": 2}}, "keep", "latency_ms rose by"),
        (answers(lift=0.15, slower=-6), {"fall_tolerances": {"latency_ms": 2}}, "keep", "latency_ms fell by"),
        (
            answers(lift=0.15, slower=1),
            {"rise_tolerances": {"latency_ms": 1}},
            "continue",
            "better, but latency_ms can still be worse",
        ),
        (answers(lift=0.15, share=0.4), {}, "invalid", "of the units with an outcome instead of 50.00%"),
        (answers(lift=0.15, share=0.4), {"new_fraction": 0.4}, "ship", "better"),
        (answers().with_columns(bought=pl.lit(True)), {}, "continue", "bought doesn't vary"),
        (answers().with_columns(bought=pl.lit(0.1)), {}, "continue", "bought doesn't vary"),
        (
            answers(lift=0.15).with_columns(failed=pl.lit(False), cost=pl.lit(0.1)),
            {"rise_tolerances": {"failed": 0.01, "cost": 0.01}},
            "ship",
            "every guardrail holds",
        ),
        (
            answers().with_columns(user=pl.col("user") // 2),
            {"unit": "user"},
            "invalid",
            "each must stay with one",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_decision_comes_with_its_reason(
    run: Run, log: pl.DataFrame, given: dict[str, Any], decision: str, words: str
) -> None:
    returned = run(log, **given)["returned"]
    assert returned[0] == decision
    assert words in returned[3]


def test_outcomes_that_arrive_later_are_joined(run: Run) -> None:
    log = answers(lift=0.15)
    labels = log.select("request_id", pl.col("row").cast(pl.Int8), "bought", refunded=pl.lit(0.0))
    late = labels.sample(fraction=0.8, shuffle=True, seed=1)
    made = run(log.drop("bought"), labels=late, rise_tolerances={"refunded": 0.1, "latency_ms": 5})
    kept = log.join(late, on="request_id", how="semi")
    means = dict(kept.group_by("version").agg(pl.col("bought").mean()).iter_rows())
    assert made["returned"][1] == pytest.approx(means["2"] - means["1"])
    assert made["found"]["effect"]["rows"] == len(late)
    assert [each["state"] for each in made["found"]["guardrails"]] == ["holds", "holds"]


def test_a_retried_request_has_one_outcome(run: Run) -> None:
    log = answers(600)
    again = pl.concat([log, log.head(200).with_columns(pl.col("time") + timedelta(days=1))])
    labels = log.select("request_id", "row", "bought")
    once, twice = (run(each.drop("bought"), labels=labels)["found"] for each in (log, again))
    assert twice == once


def test_two_logs_give_what_one_gives(run: Run) -> None:
    log = answers(lift=0.1)
    parts = [log.filter(pl.col("version") == each).drop("version") for each in ("1", "2")]
    assert run(parts[0], new_log=parts[1])["found"] == run(log)["found"]


def test_rows_of_one_unit_count_as_one(run: Run) -> None:
    log = answers(600, lift=0.2)
    often = pl.concat([log] * 20).with_columns(pl.int_range(pl.len()).cast(pl.String).alias("request_id"))
    once, repeated = run(log)["found"]["effect"], run(often, unit="user")["found"]["effect"]
    for name in ("effect", "low", "high", "p_value", "detectable", "units"):
        assert repeated[name] == pytest.approx(once[name]), name
    assert repeated["rows"] == 20 * once["rows"]
    assert run(often)["found"]["effect"]["high"] < once["high"]


def test_the_variance_of_units_with_several_rows_equals_the_jackknifes() -> None:
    random = np.random.default_rng(5)
    user = np.sort(random.integers(0, 900, 5_000))
    level = random.normal(0, 1, 900)[user]
    rows = pl.DataFrame(
        {"user": user, revisions.NEW: user % 2 == 0, "spent": level + random.normal(0, 0.5, len(user))}
    )
    found = ab_test.analyse(rows, ab_test.Plan("spent", minimum_effect=0.2), "user", None).effect
    variance = 0.0
    for arm in (False, True):
        of = rows.filter(pl.col(revisions.NEW) == arm)
        without = np.array(
            [of.filter(pl.col("user") != each)["spent"].mean() for each in of["user"].unique()]
        )
        variance += (len(without) - 1) * without.var()
    assert found.low is not None
    expected = sequential.half_width(variance, 0.2, 0.05)
    assert found.effect - found.low == pytest.approx(expected, rel=0.01)


def test_looking_often_errs_no_more_often_than_stated() -> None:
    random = np.random.default_rng(6)
    repetitions, rows, looks = 300, 6_000, np.arange(200, 6_001, 50)
    false, missed = 0, 0
    for _ in range(repetitions):
        new = random.random(rows) < 0.5
        values = random.exponential(1, rows) + 0.1 * new
        seen, naive = _sequence(values, new, looks)
        missed += bool((np.abs(seen[:, 0] - 0.1) > seen[:, 1]).any())
        false += bool((naive < 0.05).any())
    assert missed <= 0.05 * repetitions
    # The test that may be looked at once errs several times as often as stated.
    assert false > 0.2 * repetitions


def _sequence(values: np.ndarray, new: np.ndarray, looks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return effect and half width at each look, and what a z-test of the true effect of 0.1 says there."""
    counts, sums, squares = (
        np.stack([np.cumsum(part * (new == arm))[looks - 1] for arm in (False, True)])
        for part in (np.ones(len(values)), values, values**2)
    )
    means, variances = sums / counts, (squares / counts - (sums / counts) ** 2) / (counts - 1)
    effect, variance = means[1] - means[0], variances.sum(axis=0)
    half = [sequential.half_width(each, 0.1, 0.05) for each in variance]
    return np.stack([effect, half], axis=1), 2 * stats.norm.sf(np.abs(effect - 0.1) / np.sqrt(variance))


@pytest.mark.parametrize(
    ("log", "given", "sentence"),
    [
        (answers(300), {"outcome": "sold"}, "column of the prediction log 'sold' is not in .* latency_ms"),
        (answers(300), {"outcome": "version"}, "'version' holds String; outcomes .* must be numbers or"),
        (answers(300), {"new_version": None}, "new_version must say which .* the log has: 1, 2"),
        (answers(300), {"new_version": "3"}, "two revisions, '3' and 'another'; the log has: 1, 2"),
        (answers(300, share=0), {}, "two revisions, '2' and 'another'; the log has: 1"),
        (
            answers(300).with_columns(version=pl.col("user").cast(pl.String)),
            {},
            "300 versions: .* give current_version",
        ),
        (answers(300), {"new_fraction": -0.1}, "new_fraction is -0.1; it must lie between 0 and 1"),
        (answers(300), {"confidence": 95}, "confidence is 95; it must lie between"),
        (answers(300), {"minimum_effect": 0.0}, "minimum_effect is 0; it must be above 0"),
        (answers(300), {"rise_tolerances": {"latency_ms": 0}}, "tolerance of guardrail 'latency_ms' is 0"),
        (answers(300), {"fall_tolerances": {"latency_ms": "1"}}, "is '1'; it must be a number"),
        (answers(300), {"fall_tolerances": {"bought": 1}}, "column 'bought' is given twice"),
        (answers(300), {"unit": "client"}, "column of the prediction log 'client' is not in"),
        (
            answers(300).with_columns(user=pl.when(pl.col("user") > 5).then("user")),
            {"unit": "user"},
            "unit column 'user' has missing values",
        ),
        (answers(300), {"time_column": "row"}, "time column 'row' must hold timestamps or dates, not"),
        (
            answers(300).with_columns(latency_ms=pl.lit(float("inf"))),
            {"outcome": "latency_ms"},
            "holds NaN or infinity",
        ),
        (
            answers(300).with_columns(bought=pl.when(pl.col("version") == "1").then("bought")),
            {},
            "only the current revision has predictions with an outcome",
        ),
        (
            answers(300).with_columns(latency_ms=pl.when(pl.col("version") == "1").then("latency_ms")),
            {"rise_tolerances": {"latency_ms": 1}},
            "'latency_ms' has no value in the predictions of the new revision",
        ),
        (answers(300).with_columns(user=0), {"unit": "user"}, "1 units met both revisions"),
        (
            answers(300),
            {"labels": pl.DataFrame({"request_id": ["x"], "row": [0], "bought": [True]})},
            "no request_id and row of the 300 predictions is among the labels",
        ),
        (
            answers(300),
            {"labels": pl.DataFrame({"request_id": ["x"]})},
            "outcome column of the labels 'bought'",
        ),
        (
            answers(300),
            {"new_log": answers(9).drop("bought")},
            "column of the new revision's log 'bought' is",
        ),
        (
            answers(300),
            {"new_log": answers(9).with_columns(bought=pl.lit("yes"))},
            "'bought' is Boolean in the log of the current revision and String in that of the new one",
        ),
        (
            answers(300),
            {
                "labels": answers(300).select("request_id", "row", "bought"),
                "rise_tolerances": {"refunded": 1},
            },
            "column of the prediction log 'refunded' is not in",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_incomparable_log_gives_a_one_line_error(
    run: Run, artifact: Callable[..., Any], log: pl.DataFrame, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        run(log, **given)
    assert not Path(artifact("analysis").path).exists()
