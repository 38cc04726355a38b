"""Metrics in OpenTelemetry's protocol over HTTP (OTLP), with its own environment variables.

The messages are written and sent here rather than by the SDK's exporter, which says nothing of points that
the endpoint rejects and can't be held to the allowed addresses.
"""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from flowparts import __version__
from flowparts.util import outgoing

WHAT = "the OTLP endpoint"
# "api-key=KEY,other=VALUE" with values percent-encoded.
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"


def request(resource: Mapping[str, str]) -> tuple[Any, Any]:
    """Return a request and the scope that its metrics are added to.

    Args:
        resource: Attributes of what is measured, such as service.name.
    """
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    made = ExportMetricsServiceRequest()
    measured = made.resource_metrics.add()
    add_attributes(measured.resource.attributes, resource)
    scope = measured.scope_metrics.add()
    scope.scope.name, scope.scope.version = "flowparts", __version__
    return made, scope


def add_attributes(attributes: Any, labels: Mapping[str, str]) -> None:
    """Add labels to the attributes of a point or a resource."""
    for label, value in labels.items():
        attributes.add(key=label).value.string_value = value


def send(made: Any, address: str, headers: Mapping[str, str], what: str) -> None:
    """Send a request.

    Args:
        made: The request.
        address: Base address such as http://collector:4318, to which /v1/metrics is added, or one that ends
            with that path.
        headers: Further headers.
        what: What is sent, such as "20 measurements", for the message.

    Raises:
        ValueError: The endpoint can't be reached, refuses, or rejects some of the points.
    """
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    base = outgoing.check_address(address, WHAT).rstrip("/")
    url = base if base.endswith("/v1/metrics") else f"{base}/v1/metrics"
    sent = {"Content-Type": "application/x-protobuf", **headers}
    answer = outgoing.send("POST", url, made.SerializeToString(), sent, WHAT)
    try:
        partial = ExportMetricsServiceResponse.FromString(answer).partial_success
    except Exception:  # some endpoints answer success with a body of their own
        return
    if partial.rejected_data_points:
        reason = " ".join(partial.error_message.split())[:200]
        raise ValueError(
            f"{WHAT} rejected {partial.rejected_data_points} of {what}: {reason or 'it gives no reason'}"
        )


def headers() -> dict[str, str]:
    """Return the headers that the environment names.

    Raises:
        ValueError: They can't be read.
    """
    return pairs(HEADERS)


def pairs(variable: str) -> dict[str, str]:
    """Return what a variable such as OTEL_RESOURCE_ATTRIBUTES holds: NAME=VALUE, separated by commas.

    Raises:
        ValueError: It reads otherwise.
    """
    found = {}
    for pair in filter(None, (part.strip() for part in os.environ.get(variable, "").split(","))):
        name, separator, value = pair.partition("=")
        if not separator or quote(name.strip(), safe="-_.") != name.strip() or not name.strip():
            raise ValueError(f"{variable} must read NAME=VALUE, with commas between several")
        found[name.strip()] = unquote(value.strip())
    return found
