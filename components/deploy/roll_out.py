from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def roll_out(
    model: Input[Model],
    predictions: Input[Dataset],
    endpoint: Output[Artifact],
    rollout_metrics: Output[Metrics],
    rollout_report: Output[HTML],
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
    """Deploy a model beside the current revision, probe it, and promote it in stages or roll it back.

    The new revision gets traffic_fraction of the requests, then 50 %, then all; a first revision gets all at
    once. At each stage it is probed: it is healthy if it returns the offline predictions, fails no more often
    than the previous revision, isn't much slower at the same moments, and no server crashes (if the platform
    reports crashes). An unhealthy revision is rolled back without failing this step. SIGTERM also rolls back;
    after SIGKILL, a retry continues the rollout.

    Args:
        model: The model directory.
        predictions: Raw rows to send, with the model's offline predictions (from batch_predict).
        endpoint: The endpoint after the rollout (JSON).
        rollout_metrics: promoted (1 or 0), stages, traffic_fraction; from the last stage, requests,
            error_rate, crashes and latency_ms_median, _p95 and _p99 of the new revision, and with the prefix
            previous_ of the previous one.
        rollout_report: HTML page with the stages, their requests, errors and latencies, and the decision.
        deploy_target: docker, kubernetes, kserve, seldon, tf_serving, vertex or sagemaker.
        endpoint_name: Name of the endpoint: at most 38 characters, a-z, 0-9 and hyphens.
        traffic_fraction: Fraction of the requests in the first stage; then 0.5, then 1.
        deploy_options: Options of the target, such as replicas, cpu and memory; see its deploy component.
            Others keep the endpoint's values, unless {"reset": true} is given.
        requests: Number of one-row requests per revision and stage; at least 10 to judge the latency.
        seconds: Length of the probe in each stage; requests that don't fit in are left out.
        max_error_rate: Maximum fraction of requests without a prediction, above the previous revision's.
        max_slowdown: Maximum ratio of its latency to the previous revision's at the same moment.
        warm_seconds: How long the previous revision keeps its servers after the promotion, on platforms that
            can restart them; until then a rollback is immediate.
        run_id: The pipeline run that deploys; on a cluster it is noted at the revision.
        model_version: The model's version in the registry, noted likewise.

    Returns:
        promoted: Whether the model got all requests; otherwise it was rolled back.
        reason: Reason for the decision, in one sentence.
        revision: The revision that serves now.
        url: URL that takes the requests.
    """
    from flowparts import models, tables
    from flowparts.deploy import endpoint as endpoints
    from flowparts.deploy import probe, rollout
    from flowparts.util import metadata, outputs

    watch = rollout.Watch(requests, seconds, probe.Rules(max_error_rate, max_slowdown))
    try:
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
    except ValueError as error:
        raise ValueError(rollout.with_way_out(str(error), model_version)) from None
    if result.problem and result.is_rolled_back:
        result.problem = rollout.with_way_out(result.problem, model_version)
    measured = rollout.measures(result)
    metadata.log_metrics(rollout_metrics, measured)
    outputs.write_text(rollout_report.path, rollout.rollout_page(result, watch))
    url, revision, _ = endpoints.publish(result.endpoint, endpoint)
    reason = metadata.plain(result.reason)
    if result.is_rolled_back:
        metadata.describe(endpoint, {"rolled_back": result.revision, "reason": reason})
    if result.problem:
        raise ValueError(result.problem)
    return result.promoted, reason, revision, url
