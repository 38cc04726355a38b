"""The server's metrics as an OpenTelemetry collector gets them."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowparts.serving.otlp_export import Exporter
from flowparts.serving.server_metrics import Metrics
from tests.flowparts.serving.conftest import Server
from tests.flowparts.serving.test_metrics import samples
from tests.otlp_collector import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    yield server
    server.close()


def attributes(of: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in of.attributes}


def exposed(request: Any) -> dict[str, float]:
    """Return what was received under the names of Prometheus' text format."""
    found = {}

    def put(name: str, labels: dict[str, str], value: float) -> None:
        found[f"{name}{{{','.join(f'{key}={labels[key]}' for key in sorted(labels))}}}"] = value

    for metric in request.resource_metrics[0].scope_metrics[0].metrics:
        for point in (*metric.gauge.data_points, *metric.sum.data_points):
            put(metric.name, attributes(point), point.as_double)
        for point in metric.histogram.data_points:
            count = 0
            labels = attributes(point)
            assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
            for bound, number in zip([*point.explicit_bounds, "+Inf"], point.bucket_counts, strict=True):
                count += number
                put(f"{metric.name}_bucket", {**labels, "le": str(bound)}, count)
            put(f"{metric.name}_count", labels, point.count)
            put(f"{metric.name}_sum", labels, point.sum)
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def environment(collector: Collector, milliseconds: int, **more: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_METRIC_EXPORT_INTERVAL": str(milliseconds),
        **more,
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_a_collector_gets_the_numbers_that_prometheus_gets(
    serve: Callable[..., Server], model: Path, records: Any, collector: Collector, workers: int
) -> None:
    given = environment(collector, 50, OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test")
    server = serve(model, f"--workers={workers}", "--name=m", environment=given)
    for record in records[:20]:
        assert server.call("/predict", {"instances": [record]}, {"connection": "close"})[0] == 200
    assert server.call("/predict", b"{")[0] == 400
    scraped = samples(server.call("/metrics", headers={"connection": "close"})[1].decode())
    # The request for the metrics was in flight, and is counted by now.
    told = {name: value for name, value in scraped.items() if "protocol=other" not in name}
    del told["flowparts_requests_in_flight{}"]
    number = len(collector.received)
    until(lambda: len(collector.received) > number + 1)
    request = collector.received[-1]
    received = exposed(request)
    resource = attributes(request.resource_metrics[0].resource)
    assert resource["service.name"] == "m"
    assert resource["deployment.environment"] == "test"
    assert {name: received[name] for name in told} == pytest.approx(told)


def test_metrics_are_sent_periodically_and_a_failing_collector_changes_nothing(
    serve: Callable[..., Server], model: Path, records: Any, collector: Collector
) -> None:
    collector.rejects = 1
    server = serve(model, environment=environment(collector, 50, OTEL_EXPORTER_OTLP_HEADERS="api-key=k"))
    until(lambda: len(collector.received) > 2)
    assert collector.requests[0].headers["api-key"] == "k"
    assert server.call("/predict", {"instances": records})[0] == 200
    server.stop()
    (line, *_) = server.say("metrics can't be sent")
    assert "rejected 1 of" in line["reason"]


def test_numbers_that_cannot_be_read_once_are_sent_the_next_time(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(collector, 50).items():
        monkeypatch.setenv(name, value)
    numbers, failures = Metrics(tmp_path, 0, None), iter([OSError("a worker's file is gone")])

    def collect() -> Any:
        for failure in failures:
            raise failure
        return Metrics.collect(numbers)

    monkeypatch.setattr(numbers, "collect", collect)
    exporter = Exporter(numbers, "m")
    until(lambda: bool(collector.received))
    exporter.close()


def test_a_variable_that_cannot_be_used_is_an_error(
    serve: Callable[..., Server], model: Path, collector: Collector
) -> None:
    given = {**environment(collector, 1), "OTEL_METRIC_EXPORT_INTERVAL": "1m"}
    with pytest.raises(AssertionError, match="OTEL_METRIC_EXPORT_INTERVAL must be a number of milliseconds"):
        serve(model, environment=given)


def test_counters_start_where_the_server_did(tmp_path: Path) -> None:
    from flowparts.serving import otlp_export
    from flowparts.util import otlp

    numbers = Metrics(tmp_path, 0, None)
    numbers.finished("predict", 200, 0.2)
    made, scope = otlp.request({})
    otlp_export.add_metrics(scope, numbers.collect(), 5, 9)
    (requests,) = [each for each in scope.metrics if each.name == "flowparts_requests_total"]
    assert requests.sum.is_monotonic
    (point,) = requests.sum.data_points
    assert (point.start_time_unix_nano, point.time_unix_nano, point.as_double) == (5, 9, 1)
    assert made.SerializeToString()
