"""Export the server's metrics over OTLP, if OpenTelemetry's variables name an endpoint.

A thread of one worker reads the counters of all workers, as /metrics does. Nothing is imported or started
without OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT.
"""

import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from flowparts.serving.logs import say
from flowparts.serving.server_metrics import Metrics

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
METRICS_ENDPOINT = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
_INTERVAL_MS = "60000"
_SECONDS_TO_END = 2.0


class Exporter:
    """Sends the metrics of a server every minute, or every OTEL_METRIC_EXPORT_INTERVAL milliseconds.

    Args:
        metrics: The numbers of all workers.
        name: Value of service.name, unless OTEL_SERVICE_NAME gives another.

    Raises:
        ValueError: A variable of OpenTelemetry is invalid.
    """

    def __init__(self, metrics: Metrics, name: str) -> None:
        from flowparts.util import otlp, outgoing

        self._metrics = metrics
        self._address = os.environ.get(METRICS_ENDPOINT) or os.environ[ENDPOINT]
        outgoing.check_address(self._address, otlp.WHAT)
        self._headers = otlp.headers()
        self._resource = {
            "service.name": os.environ.get("OTEL_SERVICE_NAME") or name,
            "service.instance.id": socket.gethostname(),
            **otlp.pairs("OTEL_RESOURCE_ATTRIBUTES"),
        }
        interval = os.environ.get(INTERVAL) or _INTERVAL_MS
        if not interval.isdecimal() or int(interval) < 1:
            raise ValueError(f"{INTERVAL} must be a number of milliseconds, not {interval!r}")
        self._seconds = int(interval) / 1000
        self._started = time.time_ns()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send the final values, if the endpoint takes them soon."""
        self._ended.set()
        self._thread.join(_SECONDS_TO_END)

    def _run(self) -> None:
        from flowparts.util import otlp

        last = False
        while True:
            try:
                made, scope = otlp.request(self._resource)
                add_metrics(scope, self._metrics.collect(), self._started, time.time_ns())
                otlp.send(made, self._address, self._headers, f"{len(scope.metrics)} metrics")
            except Exception as error:
                # Predictions matter more than metrics; the next attempt sends the totals anyway.
                say("metrics can't be sent", 30, reason=str(error))
            if last:
                return
            last = self._ended.wait(self._seconds)


def add_metrics(scope: Any, families: Iterable[Any], started: int, now: int) -> None:
    """Add Prometheus' metric families to an OTLP scope under their Prometheus names.

    Args:
        scope: The scope to add them to.
        families: Gauges, counters and histograms.
        started: Start of counting, in nanoseconds since 1970.
        now: Current time, in nanoseconds since 1970.
    """
    from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

    from flowparts.util import otlp

    for family in families:
        if not family.samples:
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        metric = scope.metrics.add(name=name, description=family.documentation)
        if family.type == "gauge":
            points = metric.gauge.data_points
        elif family.type == "counter":
            metric.sum.is_monotonic = True
            metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
            points = metric.sum.data_points
        else:
            metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
            for labels, bounds, counts, total in _histograms(family.samples):
                point = metric.histogram.data_points.add(
                    start_time_unix_nano=started,
                    time_unix_nano=now,
                    count=sum(counts),
                    sum=total,
                    bucket_counts=counts,
                    explicit_bounds=bounds,
                )
                otlp.add_attributes(point.attributes, labels)
            continue
        for sample in family.samples:
            point = points.add(time_unix_nano=now, as_double=sample.value)
            if family.type == "counter":
                point.start_time_unix_nano = started
            otlp.add_attributes(point.attributes, sample.labels)


def _histograms(samples: Iterable[Any]) -> Iterable[tuple[Mapping[str, str], list[float], list[int], float]]:
    """Yield labels, upper bounds, counts between them and the sum of each histogram of a family."""
    found: dict[tuple[tuple[str, str], ...], tuple[list[tuple[float, float]], list[float]]] = {}
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        buckets, sums = found.setdefault(tuple(sorted(labels.items())), ([], []))
        if sample.name.endswith("_bucket"):
            buckets.append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_sum"):
            sums.append(sample.value)
    for key, (buckets, sums) in found.items():
        upto = [count for _, count in buckets]
        counts = [int(upper - lower) for lower, upper in zip([0.0, *upto], upto, strict=False)]
        yield dict(key), [bound for bound, _ in buckets[:-1]], counts, sums[0]
