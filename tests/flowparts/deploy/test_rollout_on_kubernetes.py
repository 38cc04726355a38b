"""Rollouts against the stand-in for the Kubernetes API, with a real model server behind its services."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flowparts import models
from flowparts.deploy import probe, rollout
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import kubernetes
from flowparts.util import termination
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.serving.conftest import Server, rows

FIRST, SECOND = "s3://models/churn/1", "s3://models/churn/2"
OPTIONS = {"image": "registry.example/flowparts-serving:0.1.0", "replicas": 3, "timeout_seconds": 5.0}
WATCH = rollout.Watch(requests=10, seconds=0.5, rules=probe.Rules(max_slowdown=100.0))

# Longer than a test may take, unless it ends early.
LONG = rollout.Watch(requests=1000, seconds=300.0, rules=probe.Rules(max_slowdown=100.0))


@pytest.fixture
def first(api: KubernetesApi) -> Endpoint:
    return kubernetes.deploy(FIRST, "churn", **OPTIONS)


@pytest.fixture
def roll_out(model: Path) -> Callable[..., rollout.Rollout]:
    offline = pl.concat([rows().head(20), models.load(model).predict(rows().head(20))], how="horizontal")

    def run(
        traffic_fraction: float = 0.1, warm_seconds: float = 0.0, watch: rollout.Watch = WATCH
    ) -> rollout.Rollout:
        return rollout.roll_out(
            SECOND,
            models.metadata(model),
            offline.lazy(),
            target="kubernetes",
            name="churn",
            traffic_fraction=traffic_fraction,
            options=OPTIONS,
            watch=watch,
            warm_seconds=warm_seconds,
            origin={"run": "weekly-7f2", "model-version": "12"},
        )

    return run


def pods(api: KubernetesApi, revision: str) -> int:
    return int(api.get("deployments", f"churn-{revision}")["spec"]["replicas"])


@pytest.mark.parametrize("traffic_fraction", [0.1, 1.0])
def test_the_previous_revision_stays_warm_until_the_verdict(
    traffic_fraction: float,
    api: KubernetesApi,
    server: Server,
    first: Endpoint,
    roll_out: Callable[..., rollout.Rollout],
) -> None:
    warm: set[int] = set()

    def backend(service: str) -> str:
        warm.add(pods(api, first.revision))
        return server.url

    api.backend = backend
    result = roll_out(traffic_fraction)
    assert result.promoted, result.reason
    assert [stage.asked for stage in result.stages] == ([10, 50, 100] if traffic_fraction == 0.1 else [100])
    # A ratio of pods is the share without a gateway: one of four, then three of six.
    assert [stage.traffic[result.revision] for stage in result.stages] == (
        [25, 50, 100] if traffic_fraction == 0.1 else [100]
    )
    assert warm == {3}
    assert result.stages[-1].verdict.previous
    assert not result.stages[-1].verdict.previous.errors
    assert pods(api, first.revision) == 0
    assert pods(api, result.revision) == 3
    assert kubernetes.rollback(result.endpoint).traffic == {first.revision: 100}
    assert pods(api, first.revision) == 3


def test_a_promoted_revision_can_be_rolled_back_by_another_step_while_the_previous_one_is_warm(
    api: KubernetesApi,
    server: Server,
    first: Endpoint,
    roll_out: Callable[..., rollout.Rollout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[tuple[float, int, bool]] = []
    pause = termination.pause

    def noted(seconds: float) -> None:
        if seconds < 3600:
            return pause(seconds)
        is_held = ("leases", "churn-writer") in api.objects
        kept.append((seconds, pods(api, first.revision), is_held))
        (live,) = kubernetes.endpoints()
        kubernetes.shift(live, 50)
        return None

    monkeypatch.setattr(termination, "pause", noted)
    api.backend = lambda service: server.url
    assert roll_out(warm_seconds=3600.0).promoted
    assert kept == [(3600.0, 3, False)]
    # What somebody else has decided meanwhile is not undone.
    (live,) = kubernetes.endpoints()
    assert live.percent == 50
    assert pods(api, first.revision) == 3


def test_a_revision_tells_which_run_has_deployed_which_version(
    api: KubernetesApi, server: Server, first: Endpoint, roll_out: Callable[..., rollout.Rollout]
) -> None:
    api.backend = lambda service: server.url
    result = roll_out()
    assert api.get("deployments", f"churn-{result.revision}")["metadata"]["annotations"] == {
        "flowparts/model": SECOND,
        "flowparts/run": "weekly-7f2",
        "flowparts/model-version": "12",
    }


def test_the_reason_for_crashing_pods_is_read_before_they_are_removed(
    api: KubernetesApi,
    server: Server,
    first: Endpoint,
    roll_out: Callable[..., rollout.Rollout],
) -> None:
    def backend(service: str) -> str:
        if service not in ("churn", f"churn-{first.revision}"):
            api.born_as[service] = "crash"
            api.step()
        return server.url

    api.backend = backend
    result = roll_out()
    assert result.is_rolled_back
    assert not result.problem
    assert result.endpoint.traffic == {first.revision: 100}
    assert "crashed 4x while it was watched; CrashLoopBackOff in pod" in result.reason
    assert "exit code 1 (Error, 3 restarts), last log line: model is damaged" in result.reason
    assert api.names("deployments") == [f"churn-{first.revision}"]
    page = rollout.rollout_page(result, WATCH)
    assert result.reason[1:] in page
    assert "Without a Gateway the share is a ratio of pods, so 10 % is 25 %" in page
    assert page.count("not reached") == 2
    # Errors are judged before crashes, and what comes after is not judged.
    verdicts = re.findall(r'<span class="tag \w+">(kept|broken|not judged)</span>', page)
    assert verdicts == ["kept", "broken", "not judged", "not judged"]


def test_a_wrong_prediction_ends_the_probe_early(
    api: KubernetesApi, server: Server, model: Path, first: Endpoint
) -> None:
    api.backend = lambda service: server.url
    table = rows().head(20)
    others = models.load(model).predict(rows().tail(20))
    result = rollout.roll_out(
        SECOND,
        models.metadata(model),
        pl.concat([table, others], how="horizontal").lazy(),
        target="kubernetes",
        name="churn",
        traffic_fraction=0.1,
        options=OPTIONS,
        watch=LONG,
        warm_seconds=0.0,
    )
    (stage,) = result.stages
    assert stage.verdict.violated == "predictions"
    sent = stage.verdict.current.requests
    assert sent < 20
    assert stage.verdict.unsent == 1000 - sent
    assert f"The watch ended after {sent} of 1000 requests" in rollout.rollout_page(result, LONG)


def test_a_crash_ends_the_probe_early(
    api: KubernetesApi, server: Server, first: Endpoint, roll_out: Callable[..., rollout.Rollout]
) -> None:
    def backend(service: str) -> str:
        if service not in ("churn", f"churn-{first.revision}"):
            api.born_as[service] = "crash"
            api.step()
        return server.url

    api.backend = backend
    (stage,) = roll_out(watch=LONG).stages
    assert stage.verdict.violated == "crashes"
    assert stage.verdict.unsent > 900


def test_server_side_timings_pass_the_proxy(
    api: KubernetesApi, server: Server, first: Endpoint, roll_out: Callable[..., rollout.Rollout]
) -> None:
    api.backend = lambda service: server.url
    for stage in roll_out().stages:
        for responses in (stage.verdict.current, stage.verdict.previous):
            assert responses
            assert responses.server_ms.keys() == responses.latencies_ms.keys()
            assert all(own < responses.latencies_ms[moment] for moment, own in responses.server_ms.items())


def test_a_rollout_that_cannot_go_on_is_rolled_back_and_fails(
    api: KubernetesApi,
    server: Server,
    first: Endpoint,
    roll_out: Callable[..., rollout.Rollout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(endpoint: Endpoint, percent: int) -> Endpoint:
        raise ValueError("no node has room for another pod")

    api.backend = lambda service: server.url
    monkeypatch.setattr(kubernetes, "shift", refused)
    result = roll_out()
    assert result.endpoint.traffic == {first.revision: 100}
    assert result.problem == (
        f"the rollout of revision {result.revision} was interrupted: no node has room for another "
        f"pod; it is rolled back, and {first.revision} serves as before"
    )


def test_a_revision_that_crashes_is_replaced_by_one_that_does_not(
    api: KubernetesApi, server: Server, first: Endpoint, roll_out: Callable[..., rollout.Rollout]
) -> None:
    def backend(service: str) -> str:
        return server.url if service.removeprefix("churn-") != first.revision else "http://127.0.0.1:9"

    api.backend = backend
    api.born_as[f"churn-{first.revision}"] = "crash"
    api.step()
    result = roll_out()
    assert result.promoted, result.reason
    assert result.endpoint.percent == 100


def test_a_bad_parameter_is_refused_before_anything_is_deployed(
    api: KubernetesApi, model: Path, first: Endpoint
) -> None:
    before = api.versions()
    given: dict[str, Any] = {
        "target": "kubernetes",
        "name": "churn",
        "traffic_fraction": 0.1,
        "options": {},
        "watch": WATCH,
    }
    for wrong, words in [
        ({"traffic_fraction": 10}, "traffic_fraction must be from 0 to 1, such as 0.1 for 10 %, not 10"),
        ({"target": "kuber"}, "unknown deployment target"),
        ({"options": {"replica": 1}}, "unknown option of the target kubernetes"),
        ({}, "column 'prediction' is not in the table"),
    ]:
        with pytest.raises(ValueError, match=words):
            rollout.roll_out(SECOND, models.metadata(model), rows().lazy(), **{**given, **wrong})
    assert api.versions() == before
