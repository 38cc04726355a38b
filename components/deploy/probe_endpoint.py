from typing import NamedTuple

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def probe_endpoint(
    endpoint: Input[Artifact],
    model: Input[Model],
    predictions: Input[Dataset],
    probe_metrics: Output[Metrics],
    probe_report: Output[HTML],
    requests: int = 200,
    seconds: float = 20.0,
    sample_rows: int = 100,
    max_error_rate: float = 0.01,
    max_slowdown: float = 2.0,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [("healthy", bool), ("reason", str), ("latency_ms", float), ("error_rate", float)],
):
    """Send real requests to a live endpoint, compare the answers with offline predictions and measure them.

    Requests alternate between the current and the previous revision. The current one is healthy if it returns
    the offline predictions, fails no more often than the previous one, isn't much slower, and no server
    crashes (if the platform reports crashes). An unhealthy revision doesn't fail this step.

    Args:
        endpoint: The endpoint (JSON) on any deployment target.
        model: The model of its current revision; only its metadata is read.
        predictions: Raw rows to send, with the model's offline predictions (from batch_predict).
        probe_metrics: healthy (1 or 0); requests, error_rate and latency_ms_median, _p95 and _p99 of the
            current revision, and with the prefix previous_ of the previous one; crashes of the current one's
            servers, if the platform reports them.
        probe_report: HTML page with the requests, their latencies and what went wrong.
        requests: Number of one-row requests per revision, spread evenly over the seconds.
        seconds: Length of the probe; requests that don't fit in are left out.
        sample_rows: Number of different rows to send.
        max_error_rate: Maximum fraction of requests without a prediction, above the previous revision's.
        max_slowdown: Maximum ratio of the median latency to the previous revision's.

    Returns:
        healthy: Whether the current revision meets the limits.
        reason: Reason for the verdict, in one sentence.
        latency_ms: Its median latency for a one-row request, in milliseconds; 0 without an answer.
        error_rate: Its fraction of requests without a prediction.
    """
    from flowparts import models, tables
    from flowparts.deploy import endpoint as endpoints
    from flowparts.deploy import probe
    from flowparts.util import metadata, outputs

    live = endpoints.read(endpoint.path)
    finding = probe.probe(
        live,
        models.metadata(model.path),
        tables.scan(predictions.path),
        requests=requests,
        seconds=seconds,
        sample_rows=sample_rows,
        rules=probe.Rules(max_error_rate, max_slowdown),
    )
    measured = probe.measures(finding)
    metadata.log_metrics(probe_metrics, measured)
    outputs.write_text(probe_report.path, probe.probe_page(live, finding))
    reason, current = metadata.plain(finding.reason), finding.current
    return finding.healthy, reason, current.latency_ms(0.5), current.error_rate
