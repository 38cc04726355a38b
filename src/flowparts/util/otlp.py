"""Send metrics by OpenTelemetry's protocol over HTTP (OTLP), with its standard environment variables.

Messages are built and sent here rather than by the SDK's exporter, which doesn't report points that the
endpoint rejects and can't be limited to the allowed addresses.
"""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from flowparts import __version__
from flowparts.util import outgoing
from flowparts.util.shortening import one_line

WHAT = "the OTLP endpoint"
# "api-key=KEY,other=VALUE" with values percent-encoded.
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"


def request(resource: Mapping[str, str]) -> tuple[Any, Any]:
    """Return an export request and the scope to add its metrics to.

    Args:
        resource: Attributes of the measured resource, such as service.name.
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
    """Send an export request.

    Args:
        made: The request.
        address: Base address such as http://collector:4318, to which /v1/metrics is added, or one that ends
            with that path.
        headers: Further headers.
        what: Description of the content, such as "20 measurements", for the error message.

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
    except Exception:  # some endpoints answer success with a body in another format
        return
    if partial.rejected_data_points:
        reason = one_line(partial.error_message, 200)
        raise ValueError(
            f"{WHAT} rejected {partial.rejected_data_points} of {what}: {reason or 'no reason given'}"
        )


def headers() -> dict[str, str]:
    """Return the headers that OTEL_EXPORTER_OTLP_HEADERS sets.

    Raises:
        ValueError: The variable can't be parsed.
    """
    return pairs(HEADERS)


def pairs(variable: str) -> dict[str, str]:
    """Parse a variable such as OTEL_RESOURCE_ATTRIBUTES: NAME=VALUE pairs separated by commas.

    Raises:
        ValueError: It has another form.
    """
    found = {}
    for pair in filter(None, (part.strip() for part in os.environ.get(variable, "").split(","))):
        name, separator, value = pair.partition("=")
        if not separator or quote(name.strip(), safe="-_.") != name.strip() or not name.strip():
            raise ValueError(f"{variable} must be NAME=VALUE pairs, separated by commas")
        found[name.strip()] = unquote(value.strip())
    return found
