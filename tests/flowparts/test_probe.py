"""What a probe concludes; probes of live endpoints are in the tests of probe_endpoint and of the canary."""

from typing import Any

import polars as pl
import pytest

from flowparts import probe
from flowparts.probe import Lane, Rules


def lane(
    milliseconds: float, answered: int = 100, lost: int = 0, revision: str = "r2", crashes: int = 0
) -> Lane:
    return Lane(revision, [milliseconds] * answered, ["the server gave no answer"] * lost, crashes)


DIFFERENT = [{"row": 3, "served": "no", "offline": "yes"}]
CASES: dict[str, tuple[Lane, Lane | None, list[Any], bool, str]] = {
    "alone and well": (lane(5), None, [], True, "100 of 100 requests, in 5.0 ms"),
    "as fast as before": (lane(5), lane(5, revision="r1"), [], True, "predicts 50 rows as the model"),
    "much slower": (
        lane(30),
        lane(5, revision="r1"),
        [],
        False,
        "30.0 ms for a row, 6.0 times the 5.0 ms of r1",
    ),
    "slower by less than the noise": (lane(2.5), lane(1, revision="r1"), [], True, "2.5 ms"),
    "slow with nothing to compare": (lane(3000), None, [], True, "3000.0 ms"),
    "requests lost": (lane(5, 90, 10), None, [], False, "left 10 of 100 requests .* 1.0% are allowed"),
    "no more lost than before": (lane(5, 90, 10), lane(5, 90, 10, "r1"), [], True, "90 of 100"),
    "no answer before excuses none": (
        lane(5, 90, 10),
        lane(5, 0, 100, "r1"),
        [],
        False,
        "left 10 of 100 requests .* 1.0% are allowed",
    ),
    "no answer at all": (lane(5, 0, 3), lane(5, 0, 3, "r1"), [], False, "the last one: the server gave no"),
    "servers that crash": (
        lane(5, crashes=2),
        lane(5, revision="r1"),
        [],
        False,
        "servers of revision r2 crashed 2x while it was watched",
    ),
    "other predictions": (lane(5), None, DIFFERENT, False, "1 of 50 rows otherwise .* row 3: 'no' for 'yes'"),
}


@pytest.mark.parametrize(("current", "previous", "different", "healthy", "words"), CASES.values(), ids=CASES)
def test_verdict(
    current: Lane, previous: Lane | None, different: list[Any], healthy: bool, words: str
) -> None:
    found, reason = probe.judge(current, previous, different, 50, Rules())
    assert found is healthy
    with pytest.raises(ValueError, match=words):
        raise ValueError(reason)


def test_latencies_and_errors_are_summed_up() -> None:
    measured = Lane("r1", [float(number) for number in range(1, 101)], ["lost"] * 25).measures()
    expected = pl.Series(range(1, 101))
    assert measured == {
        "requests": 125,
        "error_rate": 0.2,
        "latency_ms_median": 50.5,
        "latency_ms_p95": pytest.approx(expected.quantile(0.95, "linear")),
        "latency_ms_p99": pytest.approx(expected.quantile(0.99, "linear")),
    }
    assert Lane("r1").measures()["error_rate"] == 0


def test_crashes_are_what_has_grown_on_each_server_meanwhile() -> None:
    assert probe._more({"a": 5, "gone": 3}, {"a": 6, "new": 1, "newer": 0}) == 2
    assert probe._more({"a": 5}, {}) == 0
    # A look that failed says nothing, and so accuses nobody.
    assert probe._more(None, {"a": 5}) is None
    assert probe._more({"a": 5}, None) is None


@pytest.mark.parametrize(
    ("rules", "words"),
    [({"max_error_rate": 1.0}, "max_error_rate must be"), ({"max_slowdown": 0.5}, "max_slowdown must be")],
)
def test_rules_that_make_no_sense_are_answered(rules: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Rules(**rules)


def test_a_probe_of_nothing_is_answered() -> None:
    for requests, seconds, rows in [(0, 1.0, 1), (1, 0.0, 1), (1, 1.0, 0)]:
        with pytest.raises(ValueError, match="must be more than 0"):
            probe.check_options(requests, seconds, rows)
