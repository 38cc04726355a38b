"""Probe a live endpoint: send real requests, compare the answers with the offline ones, measure and judge.

The current and the previous revision are asked in turn, so that whatever else the machine does slows both.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from flowparts import deploy, progress, report, serving_check, tables
from flowparts.endpoint import Endpoint

_PERCENTILES = {"median": 0.5, "p95": 0.95, "p99": 0.99}
# Differences of latency below this are noise, whatever their ratio.
_NOISE_MS = 2.0
_SHOWN = 5
# A revision with a share of 10 % answers one of so many requests for all but one in a billion.
_TRIES = 200

_log = logging.getLogger("flowparts")


@dataclass(frozen=True)
class Rules:
    """What a healthy revision keeps to.

    Attributes:
        max_error_rate: Largest share of requests without a prediction, beyond that of the previous revision.
        max_slowdown: Largest ratio of its median latency to the previous revision's; differences of less than
            2 ms don't count.
    """

    max_error_rate: float = 0.01
    max_slowdown: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_error_rate < 1:
            raise ValueError(f"max_error_rate must be at least 0 and below 1, not {self.max_error_rate:g}")
        if not self.max_slowdown >= 1:
            raise ValueError(f"max_slowdown must be at least 1, not {self.max_slowdown:g}")


@dataclass
class Lane:
    """What the requests to one revision came to.

    Attributes:
        revision: The revision.
        latencies_ms: Milliseconds of those that were answered.
        errors: Why the others weren't.
        crashes: How often its servers ended by themselves meanwhile; None where the platform doesn't tell.
    """

    revision: str
    latencies_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    crashes: int | None = None

    @property
    def requests(self) -> int:
        """Number of requests sent."""
        return len(self.latencies_ms) + len(self.errors)

    @property
    def error_rate(self) -> float:
        """Share of the requests without a prediction; 0 where none was sent."""
        return len(self.errors) / max(1, self.requests)

    def latency_ms(self, quantile: float) -> float:
        """Return a quantile of the answered requests' milliseconds; 0 where none was answered."""
        return float(pl.Series(self.latencies_ms, dtype=pl.Float64).quantile(quantile, "linear") or 0.0)

    def measures(self) -> dict[str, Any]:
        """Return what is told of the lane: requests, error_rate, crashes and latency_ms_* (milliseconds)."""
        latencies = {f"latency_ms_{name}": self.latency_ms(share) for name, share in _PERCENTILES.items()}
        crashes = {} if self.crashes is None else {"crashes": self.crashes}
        return {"requests": self.requests, "error_rate": self.error_rate, **latencies, **crashes}


@dataclass(frozen=True)
class Finding:
    """What a probe found.

    Attributes:
        healthy: Whether the current revision keeps to the rules.
        reason: Why, in one sentence.
        current: The current revision's requests.
        previous: The previous revision's; None where there is none.
        different: Examples of rows whose prediction differs: the row's number, the served prediction and the
            offline one.
    """

    healthy: bool
    reason: str
    current: Lane
    previous: Lane | None
    different: list[dict[str, Any]]


def check_options(requests: int, seconds: float, sample_rows: int) -> None:
    """Raise ValueError unless requests, seconds and rows are more than none."""
    for name, value in {"requests": requests, "seconds": seconds, "sample_rows": sample_rows}.items():
        if not value > 0:
            raise ValueError(f"{name} must be more than 0, not {value:g}")


def probe(
    endpoint: Endpoint,
    model: Mapping[str, Any],
    predictions: pl.LazyFrame,
    *,
    requests: int,
    seconds: float,
    sample_rows: int,
    rules: Rules,
) -> Finding:
    """Send requests of one row to the current revision, as many to the previous one, and judge the current.

    Args:
        endpoint: The live endpoint.
        model: Metadata of the model that the current revision was made from.
        predictions: Raw rows with what that model predicts for them offline, as batch_predict writes it.
        requests: Number of requests to each revision, spread evenly over the time.
        seconds: The time; what isn't sent by then is left out.
        sample_rows: Number of different rows to send, spread over the table, again and again.
        rules: What the current revision must keep to.

    Raises:
        ValueError: An option makes no sense, or a column is missing.
    """
    check_options(requests, seconds, sample_rows)
    predicted = ["prediction", *(f"probability_{value}" for value in model["classes"] or [])]
    tables.require_columns(predictions, [*model["features"], *predicted], "column")
    rows = serving_check.sample(predictions, sample_rows)
    offline = rows.select(predicted)
    records = serving_check.to_records(tables.select(rows, model["features"]))
    current = Lane(endpoint.revision)
    previous = Lane(endpoint.previous_revision) if endpoint.previous_revision else None
    answers: dict[int, dict[str, Any]] = {}
    lanes = [current, *([previous] if previous else [])]
    target = deploy.target(endpoint.target)
    ends = _crashes(target, endpoint)
    for lane in lanes:  # the first request opens what the others find open
        with suppress(ValueError):
            _ask(target, endpoint, records[0], lane.revision)
    start = time.monotonic()
    with progress.reported(f"probing {endpoint.name}", lambda: current.requests, requests, "requests"):
        for number in range(requests):
            time.sleep(max(0.0, start + number * seconds / requests - time.monotonic()))
            if time.monotonic() - start > seconds:
                break
            index = number % len(records)
            for lane in lanes:
                try:
                    answer, latency_ms = _ask(target, endpoint, records[index], lane.revision)
                except ValueError as error:
                    lane.errors.append(str(error))
                    continue
                lane.latencies_ms.append(latency_ms)
                if lane is current:
                    answers[index] = answer
    different = _different(model["task"], offline, answers)
    current.crashes = _more(ends, _crashes(target, endpoint))
    healthy, reason = judge(current, previous, different, len(answers), rules)
    _log.info(reason)
    return Finding(healthy, reason, current, previous, different)


def judge(
    current: Lane,
    previous: Lane | None,
    different: Sequence[Mapping[str, Any]],
    compared: int,
    rules: Rules,
) -> tuple[bool, str]:
    """Decide whether a revision is healthy.

    Args:
        current: Its requests.
        previous: The previous revision's requests, if there is one.
        different: The rows whose prediction is not the offline one, from all that were compared.
        compared: Number of rows that were compared.
        rules: What it must keep to.

    Returns:
        The decision, and why in one sentence.
    """
    who = f"revision {current.revision}"
    last = current.errors[-1] if current.errors else "none was sent"
    # A previous revision without any answer, such as one that is kept without servers, excuses nothing.
    before = previous if previous and previous.latencies_ms else None
    allowed = rules.max_error_rate + (before.error_rate if before else 0.0)
    if current.error_rate > allowed or not current.latencies_ms:
        return False, (
            f"{who} left {len(current.errors)} of {current.requests} requests without a prediction, "
            f"{allowed:.1%} are allowed; the last one: {last}"
        )
    if current.crashes:
        # A balancer asks another server where one doesn't answer, so requests alone don't show it.
        return False, f"servers of {who} crashed {current.crashes}x while it was watched"
    if different:
        row = different[0]
        return False, (
            f"{who} predicts {len(different)} of {compared} rows otherwise than the model offline, such as "
            f"row {row['row']}: {row['served']!r} for {row['offline']!r}"
        )
    median = current.latency_ms(0.5)
    if before:
        usual = before.latency_ms(0.5)
        if median > usual * rules.max_slowdown and median - usual > _NOISE_MS:
            return False, (
                f"{who} takes {median:.1f} ms for a row, {median / usual:.1f} times the {usual:.1f} ms of "
                f"{before.revision}; {rules.max_slowdown:g} times is allowed"
            )
    return True, (
        f"{who} answered {len(current.latencies_ms)} of {current.requests} requests, in {median:.1f} ms "
        f"at the median, and predicts {compared} rows as the model does offline"
    )


def measures(finding: Finding) -> dict[str, Any]:
    """Return the numbers of a probe: those of the current revision, and with `previous_` of the other one."""
    previous = finding.previous.measures() if finding.previous else {}
    return {
        "healthy": int(finding.healthy),
        **finding.current.measures(),
        **{f"previous_{name}": value for name, value in previous.items()},
    }


def probe_page(endpoint: Endpoint, finding: Finding) -> str:
    """Return the HTML report of a probe."""
    lanes = [lane for lane in (finding.current, finding.previous) if lane]
    rows = [
        {
            "revision": lane.revision,
            "share of the traffic": f"{endpoint.traffic[lane.revision]}%",
            "requests": lane.requests,
            "without a prediction": len(lane.errors),
            **{f"{name}, ms": lane.latency_ms(share) for name, share in _PERCENTILES.items()},
        }
        for lane in lanes
    ]
    over_requests = {
        lane.revision: (list(range(1, len(lane.latencies_ms) + 1)), lane.latencies_ms) for lane in lanes
    }
    percentiles = {
        f"{lane.revision} {name}": lane.latency_ms(share)
        for name, share in _PERCENTILES.items()
        for lane in lanes
    }
    blocks = [
        report.callout(finding.reason, "good" if finding.healthy else "bad"),
        report.facts(
            {
                "share of the traffic": f"{endpoint.share}%",
                "median, ms": finding.current.latency_ms(0.5),
                "p95, ms": finding.current.latency_ms(0.95),
                "error rate": f"{finding.current.error_rate:.1%}",
            }
        ),
        report.section(
            "Requests",
            report.table(rows),
            report.grid(
                report.lines(over_requests, "answered request", "ms"),
                report.bars(percentiles, label="milliseconds for a request of one row"),
            ),
        ),
    ]
    if finding.different:
        blocks.append(
            report.section("Rows predicted otherwise than offline", report.table(finding.different[:_SHOWN]))
        )
    errors = [
        {"revision": lane.revision, "requests": lane.errors.count(text), "what happened": text}
        for lane in lanes
        for text in list(dict.fromkeys(lane.errors))[:_SHOWN]
    ]
    if errors:
        blocks.append(report.section("Requests without a prediction", report.table(errors)))
    return report.page(
        "Probe of an endpoint",
        *blocks,
        subtitle=f"{endpoint.name} on {endpoint.target}, {endpoint.url}",
    )


def _ask(
    target: deploy.Target, endpoint: Endpoint, record: dict[str, Any], revision: str
) -> tuple[dict[str, Any], float]:
    """Return the prediction for a row and the milliseconds of the request that a revision answered.

    Raises:
        ValueError: There is no prediction, or others answered each time.
    """
    for _ in range(_TRIES):
        began = time.perf_counter()
        try:
            (answer,) = target.predict(endpoint, [record], revision)
        except deploy.AnotherRevisionError as error:
            missed = error
            continue
        return answer, 1000 * (time.perf_counter() - began)
    raise missed


def _crashes(target: deploy.Target, endpoint: Endpoint) -> Mapping[str, int] | None:
    """Return how often each server of the current revision has ended by itself; None where nothing tells."""
    count = getattr(target, "crashes", None)
    if count is None:
        return None
    try:
        found: Mapping[str, int] = count(endpoint, endpoint.revision)
    except ValueError as error:
        _log.warning("whether servers of %s crash can't be found out: %s", endpoint.revision, error)
        return None
    return found


def _more(before: Mapping[str, int] | None, after: Mapping[str, int] | None) -> int | None:
    """Return how much larger the numbers are that have grown, or are new."""
    if before is None or after is None:
        return None
    return sum(max(0, count - before.get(server, 0)) for server, count in after.items())


def _different(
    task: str, offline: pl.DataFrame, answers: Mapping[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    """List the rows whose served prediction isn't the offline one."""
    found = []
    unit = serving_check.scale(offline, task)
    for index, answer in answers.items():
        expected = offline[index]
        try:
            served = pl.DataFrame([answer], schema=expected.schema)
            wrong = serving_check.differences(expected, served, task, unit).item()
        except (pl.exceptions.PolarsError, TypeError):  # another column, or a value of another type
            wrong = True
        if wrong:
            found.append(
                {
                    "row": index + 1,
                    "served": answer.get("prediction"),
                    "offline": expected["prediction"].item(),
                    "all that was served": str(answer)[:200],
                }
            )
    return found
