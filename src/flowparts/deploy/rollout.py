"""Roll out a model: deploy it for a part of the traffic, probe it, promote it in stages or roll it back.

A rollout keeps no state. When it is retried after a kill, it finds the revision at the traffic that it had
reached: below 100 % it starts at the first stage, at 100 % it is probed once more before it counts as
promoted.
"""

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import polars as pl

from flowparts import deploy, reports
from flowparts.deploy import operations, probe
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.options import percent_of
from flowparts.models import agreement
from flowparts.util import termination

# Percentages of the stages after the first.
STEPS = (50, 100)
# How long the previous revision keeps its servers after the new one passed at 100 %.
WARM_SECONDS = 60.0

_log = logging.getLogger("flowparts")


@dataclass(frozen=True)
class Watch:
    """The probe of a revision in each stage.

    Attributes:
        requests: One-row requests per revision.
        seconds: Time over which they are spread.
        rules: The limits of a healthy revision.
        sample_rows: Number of different rows to send.

    Raises:
        ValueError: requests or seconds aren't positive.
    """

    requests: int
    seconds: float
    rules: probe.Rules
    sample_rows: int = 100

    def __post_init__(self) -> None:
        probe.check_options(self.requests, self.seconds, self.sample_rows)


@dataclass(frozen=True)
class Stage:
    """A stage of a rollout.

    Attributes:
        asked: Requested percentage of the traffic.
        traffic: The actual traffic split on the platform.
        verdict: The probe's result.
    """

    asked: int
    traffic: Mapping[str, int]
    verdict: probe.Verdict


@dataclass
class Rollout:
    """A rollout: its stages and its result.

    Attributes:
        endpoint: The endpoint's current state.
        revision: The new revision.
        shares: The requested percentages, in order.
        note: Why the actual traffic split differs from the requested one; empty if it doesn't.
        stages: The completed stages.
        promoted: Whether the revision got all requests.
        reason: Why, in one sentence.
        problem: Why the step fails, in one sentence; empty if the revision was promoted, or rolled back
            because it is unhealthy, which is a result, not a failure.
    """

    endpoint: Endpoint
    revision: str
    shares: list[int]
    note: str = ""
    stages: list[Stage] = field(default_factory=list)
    promoted: bool = False
    reason: str = ""
    problem: str = ""

    @property
    def is_rolled_back(self) -> bool:
        """Whether another revision serves again."""
        return self.endpoint.revision != self.revision


def roll_out(
    model: str,
    metadata: Mapping[str, Any],
    predictions: pl.LazyFrame,
    *,
    target: str,
    name: str,
    traffic_fraction: float,
    options: Mapping[str, Any],
    watch: Watch,
    warm_seconds: float = WARM_SECONDS,
    origin: Mapping[str, str] | None = None,
) -> Rollout:
    """Deploy a model beside the current revision and promote it in stages, or roll it back.

    A first revision gets all requests at once. An unhealthy revision is rolled back, and so is one whose
    rollout fails or is interrupted (SIGTERM, Ctrl-C).

    Args:
        model: The model's directory or URI, as for the target.
        metadata: The model's metadata.
        predictions: Raw rows with the model's offline predictions, from batch_predict.
        target: Module of `flowparts.deploy`.
        name: The endpoint.
        traffic_fraction: Fraction of the requests in the first stage; the larger `STEPS` follow.
        options: The target's options; others keep the endpoint's values.
        watch: The probe of each stage.
        warm_seconds: How long the previous revision keeps its servers after the promotion; until then, the
            endpoint can be rolled back immediately, by another step.
        origin: Origin of the model, as for `flowparts.deploy.operations.changing`.

    Raises:
        ValueError: An option or the table is invalid, or the revision fails to start; the previous revision
            keeps serving.
    """
    platform = deploy.target(target)
    percent = percent_of(traffic_fraction)
    check_warm_seconds(warm_seconds)
    named = operations.options(target, options)
    probe.check_predictions(metadata, predictions)
    # Read before anything is deployed: an invalid table leaves the endpoint unchanged.
    sample = agreement.sample(predictions, watch.sample_rows).lazy()
    with termination.deferred(), operations.changing(target, name, named, origin) as chosen:
        plan = operations.plan(target, name, [percent, *(step for step in STEPS if step > percent)], chosen)
        stages = plan.stages()
        if plan.note:
            _log.warning(plan.note)
        # 100 % is reached by a shift, which keeps the previous revision warm; a deployment may not.
        live = platform.deploy(model, name, percent=stages[0] if stages[0] < 100 else 0, **chosen)
        is_alone = live.percent == 100
        rollout = Rollout(live, live.revision, [100] if is_alone else stages, "" if is_alone else plan.note)
        try:
            _climb(platform, rollout, metadata, sample, watch)
        except Exception as error:
            termination.disarm()
            rollout.reason = str(error)
            rollout.problem = f"the rollout of revision {live.revision} was interrupted: {error}"
            if not isinstance(error, ValueError):
                _roll_back(platform, rollout)
                raise
        termination.disarm()
        if not rollout.promoted:
            _roll_back(platform, rollout)
    _log.info("endpoint %s: %s", name, headline(rollout))
    if rollout.promoted:
        _release(platform, rollout.endpoint, warm_seconds)
    return rollout


def with_way_out(reason: str, version: str | None) -> str:
    """Return why a registered model isn't deployed, after how to deploy it: no later run does so.

    The way out comes first, because notices cut long reasons.
    """
    if not version:
        return reason
    way_out = "once this is fixed, run deploy-with-canary"
    return f"version {version} is registered but not deployed; {way_out}: {reason}"


def check_warm_seconds(warm_seconds: float) -> None:
    """Raise ValueError unless warm_seconds is valid."""
    if not 0 <= warm_seconds < math.inf:
        raise ValueError(f"warm_seconds must be at least 0, not {warm_seconds:g}")


def headline(rollout: Rollout) -> str:
    """Return the result of a rollout in a few words."""
    share = rollout.stages[-1].traffic[rollout.revision] if rollout.stages else rollout.shares[0]
    if rollout.promoted:
        return f"revision {rollout.revision} promoted to 100 %"
    if rollout.is_rolled_back:
        return f"revision {rollout.revision} rolled back at {share} %, {rollout.endpoint.revision} serves"
    return f"revision {rollout.revision} is not healthy and keeps {rollout.endpoint.percent} %"


def _climb(
    platform: deploy.Target,
    rollout: Rollout,
    metadata: Mapping[str, Any],
    predictions: pl.LazyFrame,
    watch: Watch,
) -> None:
    """Probe a revision in each stage, until it is unhealthy or has all requests."""
    crashes = probe.crashes(rollout.endpoint)
    for number, share in enumerate(rollout.shares, 1):
        termination.check()
        if (number > 1 or share == 100) and rollout.endpoint.percent < 100:
            rollout.endpoint = platform.shift(rollout.endpoint, share)
        live = rollout.endpoint
        given = live.percent
        _log.info(
            "stage %d of %d: revision %s gets %d %% of the requests%s",
            *(number, len(rollout.shares), live.revision, given),
            "" if given == share else f"; {share} % were requested",
        )
        verdict = probe.probe(
            live,
            metadata,
            predictions,
            requests=watch.requests,
            seconds=watch.seconds,
            sample_rows=watch.sample_rows,
            rules=watch.rules,
            crashes_before=crashes,
        )
        rollout.stages.append(Stage(share, live.traffic, verdict))
        rollout.reason = verdict.reason
        if not verdict.healthy:
            return
    rollout.promoted = True


def _roll_back(platform: deploy.Target, rollout: Rollout) -> None:
    """Roll back, or record why that isn't possible."""
    before = rollout.endpoint
    failed = rollout.problem or rollout.reason
    if before.previous_revision is None:
        rollout.problem = (
            f"{failed}; there is no revision before it, so it serves until another one is deployed"
        )
        return
    try:
        rollout.endpoint = platform.rollback(before)
    except ValueError as error:
        rollout.problem = f"{failed}; and it can't be rolled back: {error}"
        return
    if rollout.problem:
        rollout.problem += f"; it is rolled back, and {rollout.endpoint.revision} serves as before"


def _release(platform: deploy.Target, promoted: Endpoint, warm_seconds: float) -> None:
    """Stop the previous revision's servers after a while, if the platform can start them again.

    SIGTERM ends the wait.
    """
    if not isinstance(platform, deploy.SupportsRelease) or promoted.previous_revision is None:
        return
    with termination.deferred():
        if warm_seconds:
            _log.info("revision %s keeps its servers for %g s", promoted.previous_revision, warm_seconds)
        with suppress(termination.TerminatedError):
            termination.pause(warm_seconds)
        termination.disarm()
        try:
            platform.release(promoted)
        except ValueError as error:
            _log.warning("revision %s keeps its servers: %s", promoted.previous_revision, error)


def measures(rollout: Rollout) -> dict[str, Any]:
    """Return the metrics of a rollout: promoted, stages, traffic_fraction, and those of its last probe."""
    if not rollout.stages:
        return {"promoted": 0, "stages": 0}
    last = rollout.stages[-1]
    numbers = probe.measures(last.verdict)
    del numbers["healthy"]
    return {
        "promoted": int(rollout.promoted),
        "stages": len(rollout.stages),
        "traffic_fraction": last.traffic[rollout.revision] / 100,
        **numbers,
    }


def rollout_page(rollout: Rollout, watch: Watch) -> str:
    """Return the HTML report of a rollout."""
    endpoint = rollout.endpoint
    verdicts = [stage.verdict for stage in rollout.stages]
    early = probe.early_end(verdicts[-1]) if verdicts else []
    result = reports.Block("<strong>{}</strong><br>{}").format(
        *map(_sentence, (headline(rollout), rollout.problem or rollout.reason))
    )
    blocks = [
        reports.callout(result, "good" if rollout.promoted else "bad"),
        reports.facts(
            {
                "serves now": endpoint.revision,
                "its share": f"{endpoint.percent} %",
                "stages": f"{len(rollout.stages)} of {len(rollout.shares)}",
                "requests": sum(verdict.current.requests for verdict in verdicts),
                "errors": sum(len(verdict.current.errors) for verdict in verdicts),
            }
        ),
        reports.section("Stages", reports.table(_stages(rollout)), *early),
    ]
    if rollout.note:
        blocks.insert(1, reports.callout(_sentence(rollout.note)))
    if verdicts:
        blocks.append(reports.section("Over time", probe.charts_over_time(verdicts, _shares(rollout))))
    blocks += probe.problems(verdicts)
    watched = f"Each revision gets {watch.requests} requests of one row in {watch.seconds:g} s in each stage."
    rules = reports.table(_rules(rollout, watch))
    blocks.append(reports.section("Rules", reports.Block("<p>{}</p>").format(watched), rules))
    return reports.page(
        "Rollout of a model",
        *blocks,
        subtitle=f"{endpoint.name} on {endpoint.target}, {endpoint.url}",
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _stage_rows(number: int, stage: Stage) -> list[dict[str, object]]:
    verdict = stage.verdict
    word, level = ("healthy", "good") if verdict.healthy else ("unhealthy", "bad")
    rows: list[dict[str, object]] = []
    for responses in (verdict.current, verdict.previous):
        if responses is None:
            continue
        is_new = responses is verdict.current
        rows.append(
            {
                "stage": number if is_new else "",
                "verdict": reports.tag(word, level) if is_new else "(previous)",
                "revision": responses.revision,
                "share": f"{stage.traffic[responses.revision]} %",
                "asked for": f"{stage.asked if is_new else 100 - stage.asked} %",
                "requests": responses.requests,
                "errors": len(responses.errors),
                "median, ms": responses.latency_ms(0.5) if responses.latencies_ms else None,
                "p95, ms": responses.latency_ms(0.95) if responses.latencies_ms else None,
            }
        )
    return rows


def _stages(rollout: Rollout) -> list[dict[str, object]]:
    rows = [row for number, stage in enumerate(rollout.stages, 1) for row in _stage_rows(number, stage)]
    reached = len(rollout.stages)
    rows += [
        {
            "stage": number,
            "verdict": reports.tag("not reached"),
            "revision": rollout.revision,
            "share": "",
            "asked for": f"{share} %",
        }
        for number, share in enumerate(rollout.shares[reached:], reached + 1)
    ]
    return rows


def _shares(rollout: Rollout) -> reports.Block:
    """Draw the new revision's traffic over time."""
    times = probe.starts([stage.verdict for stage in rollout.stages])
    across = [moment for moments in pairwise(times) for moment in moments]
    shares = {
        "asked for": [stage.asked for stage in rollout.stages],
        "given": [stage.traffic[rollout.revision] for stage in rollout.stages],
    }
    lines = {
        name: (across, [float(value) for value in values for _ in range(2)])
        for name, values in shares.items()
    }
    return reports.lines(lines, probe.WATCHED, f"percent for {rollout.revision}")


def _rules(rollout: Rollout, watch: Watch) -> list[dict[str, object]]:
    """List the limits in the order of the checks, with the measurements of the last stage."""
    rules = watch.rules
    allowed = {
        "errors": f"{rules.max_error_rate:.1%} of the requests, above the rate of the previous revision",
        "crashes": "none of its servers",
        "predictions": "the offline predictions",
        "latency": f"{rules.max_slowdown:g} times the previous revision's at the same moment",
    }
    last = rollout.stages[-1].verdict if rollout.stages else None
    measured = _measured(last) if last else {}
    state = reports.tag("kept", "good") if last else reports.tag("not judged")
    rows: list[dict[str, object]] = []
    for rule, limit in allowed.items():
        is_broken = last is not None and rule == last.violated
        row = {"rule": rule, "allowed": limit, "in the last stage": measured.get(rule, "")}
        rows.append({**row, "verdict": reports.tag("broken", "bad") if is_broken else state})
        if is_broken:
            state = reports.tag("not judged")
    return rows


def _measured(verdict: probe.Verdict) -> dict[str, str]:
    current, previous = verdict.current, verdict.previous
    errors = f"{current.error_rate:.1%}"
    if previous and previous.latencies_ms:
        errors += f", the previous revision {previous.error_rate:.1%}"
    slowdown = verdict.slowdown
    return {
        "errors": errors,
        "crashes": "not reported by the platform" if current.crashes is None else str(current.crashes),
        "predictions": f"{len(verdict.differences)} rows differ",
        "latency": "nothing to compare with" if slowdown is None else f"{slowdown:.2f} times",
    }
