"""The KServe target: one InferenceService that splits its traffic between revisions.

KServe has two modes. With Knative, revisions are Knative's (`flowparts.deploy.targets._kserve_knative`);
otherwise they are plain Deployments (`flowparts.deploy.targets._kserve_standard`). The mode of an existing
service can't be changed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from flowparts.deploy import common
from flowparts.deploy.cluster import Cluster
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.options import Scaled
from flowparts.deploy.pod_log import Logged
from flowparts.deploy.targets._kserve_knative import KNATIVE, KnativeService
from flowparts.deploy.targets._kserve_service import API, KIND, MODE, Service, StoredPod
from flowparts.deploy.targets._kserve_standard import StandardService

_MODES: dict[str, type[Service]] = {
    "Serverless": KnativeService,
    "Knative": KnativeService,
    "Standard": StandardService,
}


@dataclass(frozen=True, kw_only=True)
class Options(Logged, Scaled):
    """The options of KServe; without Knative and a Gateway, percent is 0 or 100."""


def deploy(model: str, name: str, **given: Any) -> Endpoint:
    """Deploy a model as a revision of an InferenceService, and wait until it is ready.

    Args:
        model: s3://, gs:// or pvc://CLAIM/PATH, which KServe's storage initializer downloads.
        name: The InferenceService.
        given: `Options` by name.

    Raises:
        ValueError: An option is wrong, or the revision fails to start. The service is restored.
    """
    chosen = Options(**given)
    pod = StoredPod.of(model, name, chosen, chosen.service_account)
    pod = replace(pod, digest=common.digest(pod.model, chosen.digest))
    cluster = Cluster(chosen.namespace)
    if pod.log:
        pod.log.require_claim(cluster)
    with cluster.writing(name, chosen.wait_seconds):
        return _deploy(cluster, pod, chosen)


def _deploy(cluster: Cluster, pod: StoredPod, chosen: Options) -> Endpoint:
    name = pod.name
    service = _service(cluster, name)
    before, predictors = service.state()
    predictors[pod.revision] = service.predictor(pod, chosen.replicas, chosen.max_replicas)
    after = Endpoint("kserve", name, f"http://{name}", pod.revision, {pod.revision: 100})
    if before:
        after = before.deploying(pod.revision, chosen.percent)
        service.check_percent(after.percent)
    settings = {"namespace": service.cluster.namespace, "mode": service.mode, **common.kept_options()}
    after = replace(after, settings=settings)
    monitor, watched = service.monitor(), service.watched()
    monitor.install(chosen, watched)

    def undo() -> None:
        try:
            service.undo(pod.revision, before, predictors, chosen.timeout_seconds)
        finally:
            monitor.undo()

    try:
        made = service.move(before, after, predictors, chosen.timeout_seconds)
        if pod.digest:
            path = pod.digest_path.format(name=name)
            common.await_served(lambda: service.request_server(made, path), pod.digest, pod.revision)
    except ValueError as error:
        kept = before.traffic if before else []
        raise common.not_deployed(name, pod.revision, error, kept, undo) from None
    if before is None or before.traffic != made.traffic:  # otherwise it may be a rollout in progress
        service.release(made)
    monitor.finish(chosen, watched)
    return made


def remove(name: str, *, namespace: str = "", dry_run: bool = False) -> list[str]:
    """Remove an endpoint with all its revisions; with `dry_run`, only return its objects."""
    cluster = Cluster(namespace)
    cluster.is_dry_run = dry_run
    with cluster.writing(name):
        service = _service(cluster, name)
        service.remove()
        service.monitor().remove()
    return cluster.deleted


@contextmanager
def writing(name: str, *, namespace: str = "", wait_seconds: float = 0.0) -> Iterator[Endpoint | None]:
    """Lock an endpoint for changes, and yield it; None if there is none."""
    service = _service(Cluster(namespace), name)
    with service.cluster.writing(name, wait_seconds):
        yield service.state()[0]


def shift(endpoint: Endpoint, percent: int) -> Endpoint:
    """Route a percentage to the current revision; the previous one keeps its pods if it may serve again."""
    service = _of(endpoint)
    with service.cluster.writing(service.name):
        state, predictors = service.state()
        before = common.unchanged(endpoint, state, service.where)
        after = before.with_percent(percent)
        service.check_percent(after.percent)
        return service.move(before, after, predictors)


def rollback(endpoint: Endpoint) -> Endpoint:
    """Route all traffic to the previous revision."""
    service = _of(endpoint)
    with service.cluster.writing(service.name):
        before, predictors = service.state()
        return service.move(before, common.rolled_back(endpoint, before, service.where), predictors)


def release(endpoint: Endpoint) -> None:
    """Scale a previous revision without traffic to zero; a rollback scales it up again."""
    service = _of(endpoint)
    with service.cluster.writing(service.name):
        common.unchanged(endpoint, service.state()[0], service.where)
        service.release(endpoint)


def predict(endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = "") -> list[dict[str, Any]]:
    """Send rows by the V1 protocol to the InferenceService, or to one revision."""
    return _of(endpoint).predict(endpoint, rows, revision)


def crashes(endpoint: Endpoint, revision: str) -> dict[str, int]:
    """Return how often each container of a revision's pods has crashed."""
    service = _of(endpoint)
    return service.cluster.crashes(service.pods_of(revision))


def diagnose(endpoint: Endpoint, revision: str) -> str:
    """Return why pods of a revision don't run or have crashed; empty if nothing is wrong."""
    service = _of(endpoint)
    return service.cluster.diagnose(service.pods_of(revision))[0]


def plan(name: str, percentages: Sequence[int], *, namespace: str = "", **_: Any) -> common.Plan:
    """Return the traffic that a revision would get: none or all without Knative and a Gateway."""
    service = _service(Cluster(namespace), name)
    return service.plan(percentages) if service.state()[0] else common.Plan(dict.fromkeys(percentages, 100))


def endpoints(namespace: str = "") -> list[Endpoint]:
    """Return the endpoints in a namespace."""
    cluster = Cluster(namespace)
    states = (_service(cluster, name).state()[0] for name in cluster.names(API, KIND))
    return [state for state in states if state]


def _of(endpoint: Endpoint) -> Service:
    """Return the service of an endpoint, in the endpoint's mode."""
    cluster = Cluster(endpoint.settings["namespace"])
    if kind := _MODES.get(endpoint.settings.get("mode", "")):
        return kind(cluster, endpoint.name)
    return _service(cluster, endpoint.name)


def _service(cluster: Cluster, name: str) -> Service:
    """Return a service in its mode, or in the cluster's.

    Raises:
        ValueError: Its mode doesn't allow deployments.
    """
    found = cluster.get(API, KIND, name) or {}
    status = found.get("status", {})
    mode = found.get("metadata", {}).get("annotations", {}).get(MODE) or status.get("deploymentMode", "")
    has_knative = cluster.serves(*KNATIVE)
    if not mode:
        return (KnativeService if has_knative else StandardService)(cluster, name)
    kind = _MODES.get(mode)
    if kind is None:
        problem = "which has no canaries"
    elif kind is KnativeService and not has_knative:
        problem = "but the cluster has no Knative"
    else:
        return kind(cluster, name)
    raise ValueError(
        f"InferenceService {name!r} in namespace {cluster.namespace} has KServe's mode {mode}, {problem}, "
        "and the mode of a service can't be changed; delete it, or deploy under another name"
    )
