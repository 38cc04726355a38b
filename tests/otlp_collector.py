"""An OpenTelemetry collector on this machine, as far as metrics over HTTP go."""

from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from tests.stand_in import Answer, Request, StandIn


class Collector(StandIn):
    """An OTLP endpoint that keeps what it received and may reject points."""

    routes = (("POST", "/v1/metrics", "export"),)
    rejects = 0

    def export(self, request: Request) -> Answer:
        answer = ExportMetricsServiceResponse()
        if self.rejects:
            answer.partial_success.rejected_data_points = self.rejects
            answer.partial_success.error_message = "too many\nlabels"
        return Answer(answer.SerializeToString().decode("latin-1"), content_type="application/x-protobuf")

    @property
    def received(self) -> list[Any]:
        return [ExportMetricsServiceRequest.FromString(request.body) for request in self.requests]
