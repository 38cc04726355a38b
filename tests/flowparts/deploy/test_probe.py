"""What a probe concludes; probes of live endpoints are in the tests of probe_endpoint and roll_out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

from flowparts.deploy import probe
from flowparts.deploy.probe import Responses, Rules


def responses(
    milliseconds: float,
    answered: int = 100,
    lost: int = 0,
    revision: str = "r2",
    crashes: int = 0,
    server: float | None = None,
) -> Responses:
    moments = [float(number) for number in range(answered)]
    return Responses(
        revision,
        dict.fromkeys(moments, milliseconds),
        dict.fromkeys(map(float, range(lost)), "the server gave no answer"),
        crashes,
        {} if server is None else dict.fromkeys(moments, server),
    )


DIFFERENT = [{"row": 3, "served": "no", "offline": "yes"}]
CASES: dict[str, tuple[Responses, Responses | None, list[Any], bool, str]] = {
    "alone and well": (responses(5), None, [], True, "100 of 100 requests, in 5.0 ms"),
    "as fast as before": (
        responses(5),
        responses(5, revision="r1"),
        [],
        True,
        "predicts 50 rows as the model",
    ),
    "much slower": (
        responses(30),
        responses(5, revision="r1"),
        [],
        False,
        "takes 6.0 times as long as r1 for a row at the same moment, 30.0 ms against 5.0 ms at the median",
    ),
    "as slow as is allowed": (responses(10), responses(5, revision="r1"), [], True, "in 10.0 ms"),
    "slow in too few pairs to tell": (responses(30, 9), responses(5, 9, revision="r1"), [], True, "9 of 9"),
    "slow in few pairs": (responses(30, 10), responses(5, 10, revision="r1"), [], False, "6.0 times as long"),
    "slower by less than the noise": (responses(2.5), responses(1, revision="r1"), [], True, "2.5 ms"),
    "slow with nothing to compare": (responses(3000), None, [], True, "3000.0 ms"),
    "slow behind a slow proxy": (
        responses(97, server=52),
        responses(47, revision="r1", server=2),
        [],
        False,
        "takes 26.0 times as long as r1 for a row at the same moment by the servers' own clocks, 52.0 ms "
        "against 2.0 ms at the median; 2.1 times is allowed",
    ),
    "as fast behind a slow proxy": (
        responses(97, server=3.9),
        responses(47, revision="r1", server=2),
        [],
        True,
        "in 97.0 ms",
    ),
    "requests lost": (responses(5, 90, 10), None, [], False, "left 10 of 100 requests .* 1.0% are allowed"),
    "no more lost than before": (responses(5, 90, 10), responses(5, 90, 10, "r1"), [], True, "90 of 100"),
    "no answer before excuses none": (
        responses(5, 90, 10),
        responses(5, 0, 100, "r1"),
        [],
        False,
        "left 10 of 100 requests .* 1.0% are allowed",
    ),
    "no answer at all": (
        responses(5, 0, 3),
        responses(5, 0, 3, "r1"),
        [],
        False,
        "the last one: the server gave no",
    ),
    "servers that crash": (
        responses(5, crashes=2),
        responses(5, revision="r1"),
        [],
        False,
        "servers of revision r2 crashed 2x while it was watched",
    ),
    "other predictions": (
        responses(5),
        None,
        DIFFERENT,
        False,
        "1 of 50 predictions of revision r2 differ .* row 3: 'no' for 'yes'",
    ),
}


@pytest.mark.parametrize(("current", "previous", "different", "healthy", "words"), CASES.values(), ids=CASES)
def test_the_verdict_follows_the_rules(
    current: Responses, previous: Responses | None, different: list[Any], healthy: bool, words: str
) -> None:
    rules = Rules(max_slowdown=2.1) if current.server_ms else Rules()
    broken, reason = probe.judge(current, previous, different, 50, rules)
    assert (not broken) is healthy
    with pytest.raises(ValueError, match=words):
        raise ValueError(reason)


def test_the_reason_includes_why_a_server_died() -> None:
    for unhealthy in (responses(5, crashes=1), responses(5, 0, 3)):
        _, reason = probe.judge(
            unhealthy, None, [], 0, Rules(), "its server ended with exit code 3: no memory"
        )
        assert reason.endswith("; its server ended with exit code 3: no memory")


@pytest.mark.parametrize(("requests", "factor"), [(30, 100.0), (200, 10.0)])
def test_a_busy_machine_causes_no_false_slowdown_and_hides_no_real_one(requests: int, factor: float) -> None:
    """Latencies vary a hundredfold, in bursts that hit both revisions, as on an overloaded host."""
    called_slow, slower_medians = 0, 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        bursts = np.repeat(generator.lognormal(3.5, 1.5, requests // 5), 5)

        def watched(
            revision: str, factor: float = 1.0, noise: Any = bursts, draw: Any = generator
        ) -> Responses:
            latencies = factor * noise * draw.lognormal(0, 1.2, len(noise))
            own = factor * noise / 5 * draw.lognormal(0, 1.2, len(noise))
            return Responses(
                revision, dict(enumerate(latencies.tolist())), {}, 0, dict(enumerate(own.tolist()))
            )

        usual, same, slow = watched("r1"), watched("r2"), watched("r2", factor)
        called_slow += bool(probe.judge(same, usual, [], 50, Rules())[0])
        slower_medians += same.latency_ms(0.5) > 2 * usual.latency_ms(0.5)
        assert probe.judge(slow, usual, [], 50, Rules())[0] == "latency"
    assert called_slow == 0
    if requests == 30:
        assert slower_medians  # what a comparison of medians would have called slow


def of_pairs(pairs: Sequence[tuple[bool, bool, bool]], revision: str) -> Responses:
    """Return the responses to pairs: whether each was lost, and whether the current one was slow."""
    found = Responses(revision)
    for moment, (lost, lost_before, slow) in enumerate(pairs):
        if lost_before if revision == "r1" else lost:
            found.errors[moment] = "lost"
        else:
            found.latencies_ms[moment] = 50.0 if slow and revision == "r2" else 5.0
    return found


def test_a_probe_ends_early_only_if_the_verdict_can_no_longer_change() -> None:
    """A decision after each pair is held against all that may follow: at its best and at its worst."""
    generator, requests, rules = np.random.default_rng(1), 30, Rules(max_error_rate=0.1)
    decided = {"lost": 0, "slow": 0}
    for trial in range(100):
        odds = generator.uniform(0, 1, 3) * (trial % 2, trial % 2, 1.5)
        pairs = [tuple(map(bool, generator.uniform(0, 1, 3) < odds)) for _ in range(requests)]
        for sent in range(1, requests):
            current, previous = (of_pairs(pairs[:sent], revision) for revision in ("r2", "r1"))
            left = requests - sent
            is_lost = probe._is_lost(current, previous, rules, left)
            is_slow = probe._is_slow(current, previous, rules, left)
            if not (is_lost or is_slow):
                continue
            decided["lost" if is_lost else "slow"] += 1
            for further in range(left + 1):
                for came in ((False, False, False), (False, True, False)):
                    all_of_it = [*pairs[:sent], *[came] * further]
                    now, usual = (of_pairs(all_of_it, revision) for revision in ("r2", "r1"))
                    assert probe.judge(now, usual, [], 1, rules)[0]
            break
    assert min(decided.values()) > 10


def test_latencies_and_errors_are_summed_up() -> None:
    latencies = {number / 7: float(number) for number in range(1, 101)}
    measured = Responses("r1", latencies, dict.fromkeys(map(float, range(25)), "lost")).measures()
    expected = pl.Series(range(1, 101))
    assert measured == {
        "requests": 125,
        "error_rate": 0.2,
        "latency_ms_median": 50.5,
        "latency_ms_p95": pytest.approx(expected.quantile(0.95, "linear")),
        "latency_ms_p99": pytest.approx(expected.quantile(0.99, "linear")),
    }
    assert Responses("r1").measures()["error_rate"] == 0


def test_crashes_are_counted_as_the_increase_per_server() -> None:
    assert probe._more({"a": 5, "gone": 3}, {"a": 6, "new": 1, "newer": 0}) == 2
    assert probe._more({"a": 5}, {}) == 0
    # A look that failed says nothing, and so accuses nobody.
    assert probe._more(None, {"a": 5}) is None
    assert probe._more({"a": 5}, None) is None


@pytest.mark.parametrize(
    ("rules", "words"),
    [({"max_error_rate": 1.0}, "max_error_rate must be"), ({"max_slowdown": 0.5}, "max_slowdown must be")],
)
def test_rules_that_make_no_sense_are_refused(rules: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Rules(**rules)


def test_a_probe_of_nothing_is_refused() -> None:
    for requests, seconds, rows in [(0, 1.0, 1), (1, 0.0, 1), (1, 1.0, 0)]:
        with pytest.raises(ValueError, match="must be more than 0"):
            probe.check_options(requests, seconds, rows)


def test_equal_classes_with_other_probabilities_are_reported_with_the_probabilities() -> None:
    row = {"row": 1, "served": "pro", "offline": "pro"}
    row |= {
        "all that was served": "{'probability_pro': 0.6}",
        "all that is offline": "{'probability_pro': 0.9}",
    }
    current = Responses("r2", {0.1: 5.0})
    _, reason = probe.judge(current, None, [row], 1, Rules())
    assert reason.endswith("such as row 1: {'probability_pro': 0.6} for {'probability_pro': 0.9}")
