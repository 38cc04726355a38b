"""Probe a live endpoint: send real requests, compare the answers with offline predictions, and judge.

Requests to the current and the previous revision alternate, so that other load on the machine slows both, and
latencies are compared in pairs.
"""

import bisect
import logging
import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from flowparts import deploy, reports, tables
from flowparts.deploy import common, server_time
from flowparts.deploy.endpoint import Endpoint
from flowparts.models import agreement
from flowparts.util import progress, termination

_PERCENTILES = {"median": 0.5, "p95": 0.95, "p99": 0.99}
# Smaller differences of latency are noise, whatever their ratio.
_NOISE_MS = 2.0
# By a server's own clock a row takes a fraction of a millisecond; a busy host can add ten.
_SERVER_NOISE_MS = 15.0
_SHOWN = 5
# A revision that is as fast as the other one is judged too slow at most once in this many probes, however its
# latencies vary: of a pair of requests at one moment, each is the slower one equally often.
_FALSE_ALARMS = 1 / 1000
# Minimum number of pairs for that; they are sent even after the time is over.
_MIN_PAIRS = 10
# How often to check whether crashes or the latencies so far have decided the verdict.
_LOOK_EVERY_SECONDS = 1.0
# Maximum points per revision in a chart.
_POINTS = 150
WATCHED = "seconds of the watch"
# With 10 % of the traffic, a revision answers one of this many requests in all but one of a billion cases.
_TRIES = 200

_log = logging.getLogger("flowparts")


@dataclass(frozen=True)
class Rules:
    """The limits of a healthy revision.

    Attributes:
        max_error_rate: Maximum fraction of requests without a prediction, above the previous revision's.
        max_slowdown: Maximum ratio of its latency to the previous revision's at the same moment, as clients
            see it and as the servers measure it; differences below 2 ms don't count. A sign test of the
            pairs of requests decides, at a significance level of 0.1 %, whether it is exceeded.
    """

    max_error_rate: float = 0.01
    max_slowdown: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_error_rate < 1:
            raise ValueError(f"max_error_rate must be at least 0 and below 1, not {self.max_error_rate:g}")
        if not self.max_slowdown >= 1:
            raise ValueError(f"max_slowdown must be at least 1, not {self.max_slowdown:g}")


@dataclass
class Responses:
    """The responses of a revision.

    Attributes:
        revision: The revision.
        latencies_ms: Latency of each answered request in milliseconds, by the second of the probe at which
            both revisions got a request.
        server_ms: The server's own measurement of each, likewise; left out for servers that don't report it.
        errors: Error of each failed request, likewise.
        crashes: How often its servers crashed during the probe; None if the platform doesn't report it.
    """

    revision: str
    latencies_ms: dict[float, float] = field(default_factory=dict)
    errors: dict[float, str] = field(default_factory=dict)
    crashes: int | None = None
    server_ms: dict[float, float] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """Number of requests sent."""
        return len(self.latencies_ms) + len(self.errors)

    @property
    def error_rate(self) -> float:
        """Fraction of the requests without a prediction; 0 if none was sent."""
        return len(self.errors) / max(1, self.requests)

    def latency_ms(self, quantile: float) -> float:
        """Return a quantile of the answered requests' latency in milliseconds; 0 if none was answered."""
        latencies = pl.Series(self.latencies_ms.values(), dtype=pl.Float64)
        return float(latencies.quantile(quantile, "linear") or 0.0)

    def measures(self) -> dict[str, Any]:
        """Return requests, error_rate, crashes and latency_ms_* (milliseconds)."""
        latencies = {
            f"latency_ms_{name}": self.latency_ms(quantile) for name, quantile in _PERCENTILES.items()
        }
        crashes = {} if self.crashes is None else {"crashes": self.crashes}
        return {"requests": self.requests, "error_rate": self.error_rate, **latencies, **crashes}


@dataclass(frozen=True)
class Verdict:
    """The result of a probe.

    Attributes:
        healthy: Whether the current revision meets the limits.
        reason: Reason for the verdict, in one sentence.
        current: The current revision's responses.
        previous: The previous revision's; None if there is none.
        differences: Examples of rows with a different prediction: row number, served prediction and offline
            prediction.
        violated: The first limit that it violates: errors, crashes, predictions or latency; empty if none.
        unsent: Number of requests that weren't sent because the verdict was certain.
    """

    healthy: bool
    reason: str
    current: Responses
    previous: Responses | None
    differences: list[dict[str, Any]]
    violated: str = ""
    unsent: int = 0

    @property
    def slowdown(self) -> float | None:
        """Median ratio of the current revision's latency to the previous one's, in pairs."""
        if self.previous is None:
            return None
        found = [_pairs(now, usual) for _, now, usual, _ in _clocks(self.current, self.previous)]
        # The servers' own measurements, if they report them.
        pairs = next(filter(None, reversed(found)), [])
        return statistics.median(now / usual for now, usual in pairs) if pairs else None


def check_options(requests: int, seconds: float, sample_rows: int) -> None:
    """Raise ValueError unless requests, seconds and rows are positive."""
    for name, value in {"requests": requests, "seconds": seconds, "sample_rows": sample_rows}.items():
        if not value > 0:
            raise ValueError(f"{name} must be more than 0, not {value:g}")


def check_predictions(model: Mapping[str, Any], predictions: pl.LazyFrame) -> None:
    """Raise ValueError unless a table has a model's features and predictions."""
    tables.require_columns(predictions, [*model["features"], *_predicted(model)], "column")


def probe(
    endpoint: Endpoint,
    model: Mapping[str, Any],
    predictions: pl.LazyFrame,
    *,
    requests: int,
    seconds: float,
    sample_rows: int,
    rules: Rules,
    crashes_before: Mapping[str, int] | None = None,
) -> Verdict:
    """Send one-row requests to the current and the previous revision, and judge the current one.

    It ends early if the remaining requests can't make the current revision healthy.

    Args:
        endpoint: The live endpoint.
        model: Metadata of the current revision's model.
        predictions: Raw rows with the model's offline predictions, from batch_predict.
        requests: Number of requests to each revision, spread evenly over the time.
        seconds: Length of the probe; requests that don't fit in are left out, except for the first 10.
        sample_rows: Number of different rows to send repeatedly, spread over the table.
        rules: The limits of a healthy revision.
        crashes_before: Result of `crashes` at the time from which crashes count; default: now.

    Raises:
        ValueError: An option is invalid, or a column is missing.
        TerminatedError: The step got SIGTERM.
    """
    check_options(requests, seconds, sample_rows)
    check_predictions(model, predictions)
    rows = agreement.sample(predictions, sample_rows)
    offline = rows.select(_predicted(model))
    records = agreement.to_records(tables.select(rows, model["features"]))
    current = Responses(endpoint.revision)
    previous = Responses(endpoint.previous_revision) if endpoint.previous_revision else None
    answers: dict[int, dict[str, Any]] = {}
    different: dict[int, dict[str, Any]] = {}
    undone = 0
    asked = [current, *([previous] if previous else [])]
    target = deploy.target(endpoint.target)
    ends = crashes(endpoint) if crashes_before is None else crashes_before
    for each in asked:  # the first request opens connections
        with suppress(ValueError):
            _ask(target, endpoint, records[0], each.revision)
    start = looked = time.monotonic()
    with progress.reported(f"probing {endpoint.name}", lambda: current.requests, requests, "requests"):
        for number in range(requests):
            termination.pause(start + number * seconds / requests - time.monotonic())
            moment = time.monotonic() - start
            if moment > seconds and number >= _MIN_PAIRS:
                break
            index = number % len(records)
            # Each revision goes first equally often, because the first request of a pair may find the CPU
            # idle.
            for each in asked if number % 2 else reversed(asked):
                termination.check()
                try:
                    answer, each.latencies_ms[moment], server_ms = _ask(
                        target, endpoint, records[index], each.revision
                    )
                except ValueError as error:
                    each.errors[moment] = str(error)
                    continue
                if server_ms is not None:
                    each.server_ms[moment] = server_ms
                if each is current and answer != answers.get(index):
                    answers[index] = answer
                    if wrong := _difference(model, offline, index, answer):
                        different.setdefault(index, wrong)
            left = requests - current.requests
            is_decided = bool(different) or _is_lost(current, previous, rules, left)
            if not is_decided and time.monotonic() - looked > _LOOK_EVERY_SECONDS:
                looked = time.monotonic()
                if ends is not None:
                    current.crashes = _more(ends, crashes(endpoint))
                is_decided = bool(current.crashes) or _is_slow(current, previous, rules, left)
            if is_decided:
                undone = left
                break
    if not current.crashes:
        current.crashes = _more(ends, crashes(endpoint))
    # Asked now, because a rollback removes the servers with their logs.
    problem = _diagnosis(endpoint) if current.errors or current.crashes else ""
    found = [different[index] for index in sorted(different)]
    broken, reason = judge(current, previous, found, len(answers), rules, problem)
    _log.info(reason)
    return Verdict(not broken, reason, current, previous, found, broken, undone)


def crashes(endpoint: Endpoint) -> Mapping[str, int] | None:
    """Return how often each server of the current revision has crashed; None if it isn't reported."""
    target = deploy.target(endpoint.target)
    if not isinstance(target, deploy.SupportsDiagnosis):
        return None
    try:
        return target.crashes(endpoint, endpoint.revision)
    except ValueError as error:
        _log.warning("can't get the crashes of %s: %s", endpoint.revision, error)
        return None


def judge(
    current: Responses,
    previous: Responses | None,
    different: Sequence[Mapping[str, Any]],
    compared: int,
    rules: Rules,
    problem: str = "",
) -> tuple[str, str]:
    """Decide whether a revision is healthy.

    Args:
        current: Its responses.
        previous: The previous revision's responses, if there is one.
        different: The compared rows that differ from the offline prediction.
        compared: Number of compared rows.
        rules: The limits of a healthy revision.
        problem: What is wrong with its servers by the platform; empty if nothing is known.

    Returns:
        The first limit that it violates (errors, crashes, predictions or latency; empty if it is healthy),
        and the reason in one sentence.
    """
    who = f"revision {current.revision}"
    last = current.errors[max(current.errors)] if current.errors else "none was sent"
    why = f"; {problem}" if problem else ""
    # A previous revision without any answer, such as one kept without servers, doesn't excuse errors.
    before = previous if previous and previous.latencies_ms else None
    allowed = rules.max_error_rate + (before.error_rate if before else 0.0)
    if current.error_rate > allowed or not current.latencies_ms:
        return "errors", (
            f"{who} left {len(current.errors)} of {current.requests} requests without a prediction, "
            f"{allowed:.1%} are allowed; the last one: {last}{why}"
        )
    if current.crashes:
        # A load balancer retries on another server, so requests alone don't show crashes.
        return "crashes", f"servers of {who} crashed {current.crashes}x while it was watched{why}"
    if different:
        row = different[0]
        example = f"{row['served']!r} for {row['offline']!r}"
        if row["served"] == row["offline"]:  # the same class with other probabilities
            example = f"{row['all that was served']} for {row['all that is offline']}"
        return "predictions", (
            f"{len(different)} of {compared} predictions of {who} differ from the offline ones, such as row "
            f"{row['row']}: {example}"
        )
    for clock, now, usual, noise_ms in _clocks(current, before) if before else []:
        if before and (ratio := _slowdown(now, usual, rules, noise_ms)):
            return "latency", (
                f"{who} takes {ratio:.1f} times as long as {before.revision} for a row at the same moment"
                f"{clock}, {statistics.median(now.values()):.1f} ms against "
                f"{statistics.median(usual.values()):.1f} ms at the median; "
                f"{rules.max_slowdown:g} times is allowed"
            )
    return "", (
        f"{who} answered {len(current.latencies_ms)} of {current.requests} requests, in "
        f"{current.latency_ms(0.5):.1f} ms at the median, and predicts {compared} rows as the model does "
        "offline"
    )


def measures(verdict: Verdict) -> dict[str, Any]:
    """Return the metrics of a probe: of the current revision and, with `previous_`, of the previous one."""
    previous = verdict.previous.measures() if verdict.previous else {}
    return {
        "healthy": int(verdict.healthy),
        **verdict.current.measures(),
        **{f"previous_{name}": value for name, value in previous.items()},
    }


def probe_page(endpoint: Endpoint, verdict: Verdict) -> str:
    """Return the HTML report of a probe."""
    responses = [each for each in (verdict.current, verdict.previous) if each]
    rows = [
        {
            "revision": each.revision,
            "traffic": f"{endpoint.traffic[each.revision]}%",
            "requests": each.requests,
            "without a prediction": len(each.errors),
            **{f"{name}, ms": each.latency_ms(quantile) for name, quantile in _PERCENTILES.items()},
            "median of the server's own clock, ms": (
                statistics.median(each.server_ms.values()) if each.server_ms else None
            ),
        }
        for each in responses
    ]
    percentiles = {
        f"{each.revision} {name}": each.latency_ms(quantile)
        for name, quantile in _PERCENTILES.items()
        for each in responses
    }
    return reports.page(
        "Probe of an endpoint",
        reports.callout(verdict.reason, "good" if verdict.healthy else "bad"),
        reports.facts(
            {
                "traffic": f"{endpoint.percent}%",
                "median, ms": verdict.current.latency_ms(0.5),
                "p95, ms": verdict.current.latency_ms(0.95),
                "error rate": f"{verdict.current.error_rate:.1%}",
            }
        ),
        reports.section(
            "Requests",
            reports.table(rows),
            *early_end(verdict),
            charts_over_time([verdict]),
            reports.bars(percentiles, label="milliseconds for a request of one row"),
        ),
        *problems([verdict]),
        subtitle=f"{endpoint.name} on {endpoint.target}, {endpoint.url}",
    )


def early_end(verdict: Verdict) -> list[reports.Block]:
    """Explain why a probe ended early, if it did."""
    if not verdict.unsent:
        return []
    sent = verdict.current.requests
    return [
        reports.Block(
            "<p>The watch ended after {} of {} requests: nothing could have made the revision healthy any "
            "more.</p>"
        ).format(sent, sent + verdict.unsent)
    ]


def charts_over_time(verdicts: Sequence[Verdict], *further: reports.Block) -> reports.Block:
    """Draw latencies, errors and requests of both revisions over the time of successive probes."""
    latencies, sent, errors = _Series(), _Series(), _Series()
    for verdict, start in zip(verdicts, starts(verdicts), strict=False):
        for each in (verdict.current, verdict.previous):
            if each is None:
                continue
            moments = sorted({*each.latencies_ms, *each.errors})
            latencies.add(each.revision, start, _thinned(each.latencies_ms))
            # A point without a value separates the stages.
            latencies.add(each.revision, start, {0.0: math.nan})
            shown = [*moments[:: math.ceil(len(moments) / _POINTS) or 1], *moments[-1:]]
            for series, counted in ((sent, moments), (errors, sorted(each.errors))):
                before = series.last(each.revision)
                so_far = {moment: before + bisect.bisect_right(counted, moment) for moment in shown}
                series.add(each.revision, start, so_far)
    return reports.grid(
        reports.lines(latencies.points, WATCHED, "ms for a request of one row"),
        reports.lines(errors.points, WATCHED, "requests without a prediction so far"),
        reports.lines(sent.points, WATCHED, "requests so far"),
        *further,
    )


def starts(verdicts: Sequence[Verdict]) -> list[float]:
    """Return the second at which each successive probe starts, and when the last one ends."""
    ends = [0.0]
    for verdict in verdicts:
        asked = [verdict.current, *([verdict.previous] if verdict.previous else [])]
        moments = [moment for each in asked for moment in (*each.latencies_ms, *each.errors)]
        ends.append(ends[-1] + max(moments, default=0.0))
    return ends


class _Series:
    """Lines of a chart: name to x and y values."""

    def __init__(self) -> None:
        self.points: dict[str, tuple[list[float], list[float]]] = {}

    def add(self, name: str, start: float, points: Mapping[float, float]) -> None:
        across, upright = self.points.setdefault(name, ([], []))
        across += [start + second for second in points]
        upright += points.values()

    def last(self, name: str) -> float:
        return self.points[name][1][-1] if name in self.points else 0.0


def problems(verdicts: Sequence[Verdict]) -> list[reports.Block]:
    """Show examples of rows that differ from the offline predictions, and of failed requests."""
    blocks = []
    if different := [row for verdict in verdicts for row in verdict.differences]:
        blocks.append(
            reports.section(
                "Rows that differ from the offline predictions", reports.table(different[:_SHOWN])
            )
        )
    failed = Counter(
        (each.revision, text)
        for verdict in verdicts
        for each in (verdict.current, verdict.previous)
        if each
        for text in each.errors.values()
    )
    if failed:
        errors = [
            {"revision": revision, "requests": count, "what happened": text}
            for (revision, text), count in failed.most_common(2 * _SHOWN)
        ]
        blocks.append(reports.section("Requests without a prediction", reports.table(errors)))
    return blocks


def _thinned(latencies_ms: Mapping[float, float]) -> dict[float, float]:
    """Return medians of neighbouring latencies, at most `_POINTS`."""
    each = math.ceil(len(latencies_ms) / _POINTS)
    if each < 2:
        return dict(latencies_ms)
    moments = sorted(latencies_ms)
    parts = [moments[first : first + each] for first in range(0, len(moments), each)]
    return {
        part[len(part) // 2]: statistics.median(latencies_ms[moment] for moment in part) for part in parts
    }


def _predicted(model: Mapping[str, Any]) -> list[str]:
    return ["prediction", *(f"probability_{value}" for value in model["classes"] or [])]


Milliseconds = Mapping[float, float]


def _clocks(current: Responses, before: Responses) -> list[tuple[str, Milliseconds, Milliseconds, float]]:
    """Return both revisions' latencies in milliseconds by clients and by servers, with their noise.

    If a proxy adds 50 ms to each request, clients don't notice that a server takes 20 ms instead of 2.
    """
    return [
        ("", current.latencies_ms, before.latencies_ms, _NOISE_MS),
        (" by the servers' own clocks", current.server_ms, before.server_ms, _SERVER_NOISE_MS),
    ]


def _slowdown(
    current: Milliseconds, before: Milliseconds, rules: Rules, noise_ms: float, to_come: int = 0
) -> float:
    """Return the slowdown of a revision at the same moments, if it is too slow; else 0.

    By a sign test: if the true slowdown were the allowed one, half of the pairs would exceed it.

    Args:
        current: The revision's milliseconds by moment.
        before: The previous revision's.
        rules: The limits.
        noise_ms: Differences below this are noise.
        to_come: Number of further pairs, assumed not to exceed it.
    """
    pairs = _pairs(current, before)
    exceeding = sum(now > usual * rules.max_slowdown and now - usual > noise_ms for now, usual in pairs)
    if _chance(exceeding, len(pairs) + to_come) > _FALSE_ALARMS:
        return 0.0
    return statistics.median(now / usual for now, usual in pairs)


def _is_slow(current: Responses, previous: Responses | None, rules: Rules, left: int) -> bool:
    """Return whether a revision is too slow, however fast it answers the remaining requests."""
    if previous is None:
        return False
    clocks = _clocks(current, previous)
    return any(_slowdown(now, usual, rules, noise_ms, left) for _, now, usual, noise_ms in clocks)


def _is_lost(current: Responses, previous: Responses | None, rules: Rules, left: int) -> bool:
    """Return whether a revision has failed too many requests, whatever happens to the remaining ones.

    The best case: it answers all remaining requests, and the previous revision none.
    """
    excused = len(previous.errors) + left if previous else 0
    return len(current.errors) > rules.max_error_rate * (current.requests + left) + excused


def _pairs(current: Milliseconds, before: Milliseconds) -> list[tuple[float, float]]:
    """Return both revisions' milliseconds at each moment when both answered."""
    return [(latency_ms, before[moment]) for moment, latency_ms in current.items() if moment in before]


def _ask(
    target: deploy.Target, endpoint: Endpoint, record: dict[str, Any], revision: str
) -> tuple[dict[str, Any], float, float | None]:
    """Return a revision's prediction for a row and the latency of the request in milliseconds.

    The last value is the server's own measurement; None if it doesn't report one.

    Raises:
        ValueError: There is no prediction, or other revisions answered each time.
    """
    for _ in range(_TRIES):
        began = time.perf_counter()
        try:
            with server_time.recorded() as times:
                (answer,) = target.predict(endpoint, [record], revision)
        except common.AnotherRevisionError as error:
            missed = error
            continue
        return answer, 1000 * (time.perf_counter() - began), times[-1] if times else None
    raise missed


def _chance(heads: int, tosses: int) -> float:
    """Return the probability that a fair coin shows at least this many heads."""
    logs = (
        math.lgamma(tosses + 1)
        - math.lgamma(count + 1)
        - math.lgamma(tosses - count + 1)
        - tosses * math.log(2)
        for count in range(heads, tosses + 1)
    )
    return sum(map(math.exp, logs))


def _diagnosis(endpoint: Endpoint) -> str:
    """Return why servers of the current revision crashed or don't run; empty if it isn't reported."""
    target = deploy.target(endpoint.target)
    if not isinstance(target, deploy.SupportsDiagnosis):
        return ""
    try:
        return target.diagnose(endpoint, endpoint.revision)
    except ValueError as error:
        _log.warning("can't get the state of %s: %s", endpoint.revision, error)
        return ""


def _more(before: Mapping[str, int] | None, after: Mapping[str, int] | None) -> int | None:
    """Return the increase of numbers that have grown or are new."""
    if before is None or after is None:
        return None
    return sum(max(0, count - before.get(server, 0)) for server, count in after.items())


def _difference(
    model: Mapping[str, Any], offline: pl.DataFrame, index: int, answer: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Describe how a served prediction differs from the offline one; None if it doesn't."""
    expected = offline[index]
    try:
        served = pl.DataFrame([answer], schema=expected.schema)
        unit = agreement.scale(offline, model["task"])
        wrong = agreement.differences(expected, served, model["task"], unit, model).item()
    except (pl.exceptions.PolarsError, TypeError):  # another column, or a value of another type
        wrong = True
    if not wrong:
        return None
    return {
        "row": index + 1,
        "served": answer.get("prediction"),
        "offline": expected["prediction"].item(),
        "all that was served": str(answer)[:200],
        "all that is offline": str(expected.to_dicts()[0])[:200],
    }
