"""Publish measurements to Prometheus (Pushgateway, text files) and to OpenTelemetry endpoints (OTLP/HTTP)."""

import base64
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowparts.monitor import measurements
from flowparts.monitor.measurements import Measurement
from flowparts.util import otlp, outgoing, outputs

# Bearer token of a Pushgateway behind an authenticating proxy.
PUSHGATEWAY_TOKEN = "FLOWPARTS_PUSHGATEWAY_TOKEN"  # noqa: S105 the variable's name
# A request may take 4 MiB at many collectors; a point of 10 labels of 128 characters takes about 2 kB.
_POINTS_PER_REQUEST = 1_000
_PUSHGATEWAY = "the Pushgateway"


def with_labels(found: Iterable[Measurement], labels: Mapping[str, Any]) -> list[Measurement]:
    """Return measurements with further labels; a measurement's own labels win.

    Raises:
        ValueError: There are none, a label isn't valid, or two have the same name and labels.
    """
    texts = {name: str(value) for name, value in labels.items()}
    labelled = [Measurement(one.name, one.value, {**texts, **one.labels}, one.description) for one in found]
    if not labelled:
        raise ValueError("there is nothing to publish: give measurements or metrics")
    measurements.require_distinct(labelled, "the measurements to publish")
    return labelled


def publish(
    found: Sequence[Measurement],
    text: str,
    job: str,
    *,
    pushgateway: str | None = None,
    textfile: str | None = None,
    collector: str | None = None,
) -> None:
    """Publish measurements to every given destination; all are checked before anything is sent.

    Args:
        found: The measurements.
        text: Their exposition.
        job: Source of the measurements, such as the model.
        pushgateway: See `to_pushgateway`.
        textfile: See `to_textfile`.
        collector: See `to_otlp`.

    Raises:
        ValueError: The job has no name, or a destination isn't valid, can't be reached or refuses.
    """
    if not job.strip():
        raise ValueError("the job is empty; name the source of the measurements, such as the model")
    if textfile:
        check_textfile(textfile)
    for address, what in ((pushgateway, _PUSHGATEWAY), (collector, otlp.WHAT)):
        if address:
            outgoing.check_address(address, what)
    otlp.headers()
    if textfile:
        to_textfile(text, textfile)
    if pushgateway:
        to_pushgateway(text, pushgateway, job)
    if collector:
        to_otlp(found, collector, job)


def from_metrics(content: Any, where: str) -> list[Measurement]:
    """Return the metrics of an evaluation or a training step as measurements.

    Args:
        content: Of the file of an artifact of metrics: name to number, or a mapping with "metrics".
        where: Where it came from, for the message.

    Raises:
        ValueError: There is no number in it.
    """
    found = content.get("metrics", content) if isinstance(content, dict) else {}
    numbers = {
        str(name): float(value)
        for name, value in (found.items() if isinstance(found, dict) else ())
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    if not numbers:
        raise ValueError(f"{where} holds no metrics: it must be a mapping of names to numbers")
    text = "Metrics of an evaluation, by name."
    return [
        Measurement("flowparts_evaluation_metric", value, {"metric": name}, text)
        for name, value in numbers.items()
    ]


def exposition(found: Sequence[Measurement]) -> str:
    """Return measurements in Prometheus' text format, sorted by name."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily

    families: dict[str, GaugeMetricFamily] = {}
    for one in sorted(found, key=lambda one: (one.name, sorted(one.labels.items()))):
        family = families.setdefault(one.name, GaugeMetricFamily(one.name, one.description))
        family.add_sample(one.name, dict(one.labels), one.value)

    class Families:
        def collect(self) -> Iterable[GaugeMetricFamily]:
            return families.values()

    registry = CollectorRegistry()
    registry.register(Families())
    return generate_latest(registry).decode()


def to_textfile(text: str, file: str) -> None:
    """Write an exposition for the textfile collector of Prometheus' node exporter; it appears whole.

    Raises:
        ValueError: See `check_textfile`.
    """
    check_textfile(file)
    outputs.write_text(file, text)
    # The collector runs as another user.
    Path(file).chmod(0o644)


def check_textfile(file: str) -> None:
    """Raise ValueError if a file isn't one that the collector reads: it ends with .prom."""
    if not file.endswith(".prom"):
        raise ValueError(f"the text file {file!r} must end with .prom, or the node exporter ignores it")
    outputs.require_no_directory(file)


def to_pushgateway(text: str, address: str, job: str) -> None:
    """Push an exposition to a Pushgateway; it replaces earlier measurements of the same job and names.

    Args:
        text: Prometheus' text format.
        address: Of the gateway, such as http://pushgateway:9091.
        job: Value of the label `job`, under which the gateway keeps them.

    Raises:
        ValueError: The gateway can't be reached, or refuses.
    """
    base = outgoing.check_address(address, _PUSHGATEWAY).rstrip("/")
    headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    if token := os.environ.get(PUSHGATEWAY_TOKEN):
        headers["Authorization"] = f"Bearer {token}"
    # Names with slashes, or of dots only, don't pass as a part of a path.
    path = f"job@base64/{base64.urlsafe_b64encode(job.encode()).decode()}"
    outgoing.send("POST", f"{base}/metrics/{path}", text.encode(), headers, _PUSHGATEWAY)


def to_otlp(found: Sequence[Measurement], address: str, job: str) -> None:
    """Send measurements as gauges to an endpoint that speaks OTLP over HTTP.

    Args:
        found: Measurements to send with the present time.
        address: Base address such as http://collector:4318, to which /v1/metrics is added, or one that ends
            with that path.
        job: Value of the resource attribute service.name.

    Raises:
        ValueError: The endpoint can't be reached, refuses, or rejects some of the points.
    """
    headers, now = otlp.headers(), time.time_ns()
    for start in range(0, len(found), _POINTS_PER_REQUEST):
        request, scope = otlp.request({"service.name": job})
        metrics: dict[str, Any] = {}
        for one in found[start : start + _POINTS_PER_REQUEST]:
            metric = metrics.get(one.name)
            if metric is None:
                metric = metrics[one.name] = scope.metrics.add(name=one.name, description=one.description)
            point = metric.gauge.data_points.add(time_unix_nano=now, as_double=one.value)
            otlp.add_attributes(point.attributes, one.labels)
        otlp.send(request, address, headers, f"{len(found)} measurements")
