from typing import NamedTuple

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def probe_endpoint(
    endpoint: Input[Artifact],
    model: Input[Model],
    predictions: Input[Dataset],
    metrics: Output[Metrics],
    report: Output[HTML],
    requests: int = 200,
    seconds: float = 20.0,
    sample_rows: int = 100,
    max_error_rate: float = 0.01,
    max_slowdown: float = 2.0,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [("healthy", bool), ("reason", str), ("latency_ms", float), ("error_rate", float)],
):
    """Send real requests to a live endpoint, compare the answers with the offline ones and measure them.

    The current and the previous revision are asked in turn. The current one is healthy if it predicts what
    the model does offline, answers no fewer requests than the previous one, isn't much slower, and none of
    its servers crashes, where the platform reports it. An unhealthy one doesn't fail this step.

    Args:
        endpoint: The endpoint (JSON), of any deployment target.
        model: The model that its current revision was made from; only its metadata is read.
        predictions: Raw rows to send, with what the model predicts for them offline (of batch_predict).
        metrics: healthy (1 or 0), requests, error_rate and latency_ms_median, _p95 and _p99 of the current
            revision, and with previous_ of the other one; crashes of the current one's servers, where the
            platform reports it.
        report: The requests, their latencies and what was wrong, as a page.
        requests: Requests of one row to each revision, spread evenly over the seconds.
        seconds: How long to watch; requests that didn't fit in are left out.
        sample_rows: Number of different rows to send.
        max_error_rate: Maximum fraction of requests without a prediction, above the previous revision's.
        max_slowdown: Largest ratio of the median latency to the previous revision's.

    Returns:
        healthy: Whether the current revision keeps to the rules.
        reason: Why, in one sentence.
        latency_ms: Its median milliseconds for a request of one row; 0 if there was no answer.
        error_rate: Its share of requests without a prediction.
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
    metadata.log_metrics(metrics, measured)
    outputs.write_text(report.path, probe.probe_page(live, finding))
    reason, current = metadata.plain(finding.reason), finding.current
    return finding.healthy, reason, current.latency_ms(0.5), current.error_rate
