from typing import NamedTuple, Optional

from kfp.dsl import Artifact, Input, Metrics, Output

from .. import PUBLISHING, runs_in


@runs_in("sklearn", secrets=PUBLISHING)
def publish_metrics(
    exposition: Output[Artifact],
    job: str,
    drift: Input[Artifact] = None,  # type: ignore[assignment]
    skew: Input[Artifact] = None,  # type: ignore[assignment]
    performance: Input[Artifact] = None,  # type: ignore[assignment]
    metrics: Input[Metrics] = None,  # type: ignore[assignment]
    metric_labels: Optional[dict] = None,
    pushgateway: Optional[str] = None,
    textfile: Optional[str] = None,
    otlp: Optional[str] = None,
) -> NamedTuple("Outputs", [("published", int)]):  # type: ignore[valid-type]
    """Publish measurements to Prometheus and to OpenTelemetry endpoints.

    Every destination is optional; without one, only the exposition is written. Credentials come from the
    environment: FLOWPARTS_PUSHGATEWAY_TOKEN (a bearer token) and OTEL_EXPORTER_OTLP_HEADERS
    ("api-key=KEY,...").

    Args:
        exposition: The published measurements, in Prometheus' text format.
        job: Name of what was measured, such as the model: the label `job` in Prometheus, `service.name` in
            OpenTelemetry. The next push for the same job replaces measurements of the same names.
        drift: Measurements of a monitoring component.
        skew: Measurements of another monitoring component.
        performance: Measurements of a third monitoring component.
        metrics: Metrics of an evaluation or a training, published as
            flowparts_evaluation_metric{metric="..."}.
        metric_labels: Labels for all measurements, such as {"model": "churn", "version": "7"}; a
            measurement's own labels take precedence.
        pushgateway: Address of a Prometheus Pushgateway, such as http://pushgateway:9091.
        textfile: File for the textfile collector of Prometheus' node exporter; its name must end with .prom.
        otlp: Address of an OTLP/HTTP endpoint, such as http://collector:4318.

    Returns:
        published: Number of measurements.
    """
    from flowparts.monitor import measurements, publish
    from flowparts.util import metadata, outputs

    artifacts = [artifact for artifact in (drift, skew, performance) if artifact]
    found = [one for artifact in artifacts for one in measurements.read(artifact.path)]
    if metrics:
        found += publish.from_metrics(outputs.read_json(metrics.path, "the file of metrics"), metrics.path)
    found = publish.with_labels(found, metric_labels or {})
    text = publish.exposition(found)
    publish.publish(found, text, job, pushgateway=pushgateway, textfile=textfile, collector=otlp)
    outputs.write_text(exposition.path, text)
    metadata.describe(exposition, {"measurements": len(found), "job": job})
    return (len(found),)
