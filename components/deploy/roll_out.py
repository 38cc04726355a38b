from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def roll_out(
    model: Input[Model],
    predictions: Input[Dataset],
    endpoint: Output[Artifact],
    metrics: Output[Metrics],
    report: Output[HTML],
    deploy_target: str,
    endpoint_name: str,
    traffic_fraction: float = 0.1,
    deploy_options: Optional[dict] = None,
    requests: int = 200,
    seconds: float = 20.0,
    max_error_rate: float = 0.01,
    max_slowdown: float = 2.0,
    warm_seconds: float = 60.0,
    run_id: Optional[str] = None,
    model_version: Optional[str] = None,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs", [("promoted", bool), ("reason", str), ("revision", str), ("url", str)]
):
    """Deploy a model beside the one that serves, watch it, and promote it in steps or roll it back.

    The new revision gets its share of the requests, then 50 %, then all; a first revision gets all at once.
    At each share it is probed: it is healthy if it predicts what the model does offline, answers no fewer
    requests than the previous revision, isn't much slower at the same moments, and none of its servers
    crashes, where the platform reports it. An unhealthy one is rolled back without failing this step. A step
    that gets SIGTERM rolls back as well; one that was killed is picked up when it is run again.

    Args:
        model: The model directory.
        predictions: Raw rows to send, with what the model predicts for them offline (of batch_predict).
        endpoint: The endpoint as it is in the end (JSON).
        metrics: promoted (1 or 0), stages, traffic_fraction, and of the last stage requests, error_rate,
            crashes and latency_ms_median, _p95 and _p99 of the new revision, with previous_ of the other
            one.
        report: The stages with their shares, requests, errors and latencies, and the decision, as a page.
        deploy_target: docker, kubernetes, kserve, seldon, tf_serving, vertex or sagemaker.
        endpoint_name: Name of the endpoint: at most 38 of a-z, 0-9 and hyphen.
        traffic_fraction: Fraction of the requests that the new revision gets at first; then 0.5, then 1.
        deploy_options: The target's own options, such as replicas, cpu and memory, as its component takes
            them. What isn't named stays as the endpoint has it, unless {"reset": true} is.
        requests: Requests of one row to each revision at each share; 10 at least to judge the latency.
        seconds: How long to watch at each share; requests that didn't fit in are left out.
        max_error_rate: Maximum fraction of requests without a prediction, above the previous revision's.
        max_slowdown: Maximum ratio of its latency to the previous revision's at the same moment.
        warm_seconds: How long the previous revision keeps its servers when the new one is promoted, where the
            platform can start them again; a rollback by another step needs no start meanwhile.
        run_id: The pipeline run that deploys; clusters note it beside the revision.
        model_version: The model's version in the registry, likewise.

    Returns:
        promoted: Whether the model has all requests; if not, it was rolled back.
        reason: Why, in one sentence.
        revision: The revision that serves now.
        url: Where requests go.
    """
    from flowparts import models, tables
    from flowparts.deploy import endpoint as endpoints
    from flowparts.deploy import probe, rollout
    from flowparts.util import metadata, outputs

    watch = rollout.Watch(requests, seconds, probe.Rules(max_error_rate, max_slowdown))
    result = rollout.roll_out(
        model.uri,
        models.metadata(model.path),
        tables.scan(predictions.path),
        target=deploy_target,
        name=endpoint_name,
        traffic_fraction=traffic_fraction,
        options=deploy_options or {},
        watch=watch,
        warm_seconds=warm_seconds,
        origin={"run": run_id or "", "model-version": model_version or ""},
    )
    measured = rollout.measures(result)
    metadata.log_metrics(metrics, measured)
    outputs.write_text(report.path, rollout.rollout_page(result, watch))
    url, revision, _ = endpoints.publish(result.endpoint, endpoint)
    reason = metadata.plain(result.reason)
    if result.is_rolled_back:
        metadata.describe(endpoint, {"rolled_back": result.revision, "reason": reason})
    if result.problem:
        raise ValueError(result.problem)
    return result.promoted, reason, revision, url
