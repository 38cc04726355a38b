"""KServe: one InferenceService, whose revisions Knative keeps and shares requests between.

A canary needs KServe's Knative mode: the plain Deployments of its other mode know no share
(https://kserve.github.io/website/docs/model-serving/predictive-inference/rollout-strategies/canary). KServe
keeps the revision that last had all requests beside the newest one; `canaryTrafficPercent` is the newest
one's share.

What was asked for, and the predictor of each revision, stand on the InferenceService as annotations: a step
that is tried again finds them, and a rollback applies the previous predictor again.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from flowparts import cluster
from flowparts import deploy as targets
from flowparts.cluster import Cluster, Manifest
from flowparts.endpoint import Endpoint
from flowparts.model_pod import OUTSIDE_MESH
from flowparts.server_pod import END_SECONDS, HTTP_PORT, ServerPod

_API = "serving.kserve.io/v1beta1"
_KIND = "InferenceService"
_STATE = "flowparts/endpoint"
_PREDICTORS = "flowparts/predictors"
_REVISION = "flowparts/revision"


def deploy(
    model: str,
    name: str,
    *,
    share: int = 100,
    replicas: int = 1,
    max_replicas: int = 0,
    cpu: str = "1",
    memory: str = "2Gi",
    image: str = "",
    namespace: str = "",
    environment_from: str = "",
    service_account: str = "",
    timeout_seconds: float = 600.0,
) -> Endpoint:
    """Make a model the newest revision of an InferenceService, with a share, and wait until it is ready.

    Args:
        model: s3://, gs:// or pvc://CLAIM/PATH, which the server fetches itself. For a volume, Knative must
            have its feature kubernetes.podspec-persistent-volume-claim enabled.
        name: The InferenceService.
        share: Percent of the requests for this revision while there is another one.
        replicas: Pods of a revision at least.
        max_replicas: Pods of a revision at most; 0 for no autoscaling.
        cpu: Processors of a pod.
        memory: Memory of a pod.
        image: The model server's image.
        namespace: Where it is deployed; if not given, the step's own namespace.
        environment_from: A Secret whose keys become the server's environment.
        service_account: The pods' service account.
        timeout_seconds: How long to wait.

    Raises:
        ValueError: An option is wrong, or the revision doesn't come up. The service is as before then.
    """
    targets.check_share(share)
    targets.check_replicas(replicas, max_replicas)
    targets.check_timeout(timeout_seconds)
    pod = ServerPod(
        model, name, targets.image("serving", image), cpu, memory, environment_from, service_account
    )
    service = _Service(Cluster(namespace), name)
    before, predictors = service.state()
    server = pod.container("kserve-container")
    predictors[pod.revision] = {
        **pod.spec(),
        # Knative takes one port, and brings its own drain.
        "containers": [{**server, "ports": [{"containerPort": HTTP_PORT, "protocol": "TCP"}]}],
        "labels": {_REVISION: pod.revision, **OUTSIDE_MESH},
        "minReplicas": replicas,
        "maxReplicas": max_replicas or replicas,
        # Knative takes no period of grace; it grants what a request may take.
        "timeout": END_SECONDS,
    }
    after = Endpoint("kserve", name, f"http://{name}", pod.revision, {pod.revision: 100})
    if before:
        after = before.deploying(pod.revision, share)
    after = replace(after, settings={"namespace": service.there.namespace})
    try:
        return service.move(before, after, predictors, timeout_seconds)
    except ValueError as error:
        kept = before.traffic if before else []
        raise targets.not_deployed(
            name, pod.revision, error, kept, lambda: service.undo(before, predictors, timeout_seconds)
        ) from None


def shift(endpoint: Endpoint, percent: int) -> Endpoint:
    """Set the newest revision's share of the requests."""
    service = _Service.of(endpoint)
    state, predictors = service.state()
    before = targets.unchanged(endpoint, state, service.where)
    return service.move(before, before.with_share(percent), predictors)


def rollback(endpoint: Endpoint) -> Endpoint:
    """Send all requests to the previous revision, which becomes the newest one again."""
    service = _Service.of(endpoint)
    before, predictors = service.state()
    return service.move(before, targets.rolled_back(endpoint, before, service.where), predictors)


def predict(endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = "") -> list[dict[str, Any]]:
    """Send rows by the V1 protocol to the InferenceService's URL, or to the one of a revision's tag."""
    url = _Service.of(endpoint).url(endpoint, revision)
    return targets.ask(f"{url}/v1/models/{endpoint.name}:predict", rows)


def restarts(endpoint: Endpoint, revision: str) -> int:
    """Return how often the containers of a revision's pods have been restarted."""
    return _Service.of(endpoint).there.restarts({_REVISION: revision})


@dataclass(frozen=True)
class _Service:
    """An InferenceService."""

    there: Cluster
    name: str

    @classmethod
    def of(cls, endpoint: Endpoint) -> "_Service":
        return cls(Cluster(endpoint.settings["namespace"]), endpoint.name)

    @property
    def where(self) -> str:
        return f"in namespace {self.there.namespace}"

    def state(self) -> tuple[Endpoint | None, dict[str, Manifest]]:
        """Return the endpoint as it was asked for last and its revisions' predictors."""
        found = self.there.get(_API, _KIND, self.name) or {}
        annotations = found.get("metadata", {}).get("annotations", {})
        if _STATE not in annotations:
            return None, {}
        return Endpoint(**json.loads(annotations[_STATE])), json.loads(annotations[_PREDICTORS])

    def move(
        self,
        before: Endpoint | None,
        after: Endpoint,
        predictors: dict[str, Manifest],
        timeout_seconds: float = 600.0,
    ) -> Endpoint:
        """Make the service what was asked for, wait for it, and return the endpoint with its address."""
        if after.revision not in predictors:
            raise ValueError(
                f"endpoint {self.name!r} holds no predictor of revision {after.revision}; "
                "deploy its model again"
            )
        self._bring_up(before, after.revision, predictors, timeout_seconds)
        self.apply(after, predictors)
        self._wait(after.revision, after.share, timeout_seconds)
        found = self.there.get(_API, _KIND, self.name) or {}
        return replace(after, url=found["status"]["url"])

    def _bring_up(
        self, before: Endpoint | None, revision: str, predictors: dict[str, Manifest], timeout_seconds: float
    ) -> None:
        """Bring a revision up without requests, where another canary would get its share until it is ready.

        Knative gives the newest one's share to the newest that is ready, so what is taken away would have it.
        """
        status = (self.there.get(_API, _KIND, self.name) or {}).get("status", {})
        predictor = status.get("components", {}).get("predictor", {})
        canary = predictor.get("latestReadyRevision")
        if not before or canary in (None, predictor.get("latestRolledoutRevision")):
            return
        if self._revision(canary) != revision:
            self.apply(before, predictors, revision)
            self._wait(revision, 0, timeout_seconds)

    def apply(self, asked: Endpoint, predictors: dict[str, Manifest], waiting: str = "") -> None:
        """Apply what was asked for; with a revision that is `waiting`, make that the newest one, with 0 %."""
        names = [*asked.traffic, *([waiting] if waiting else [])]
        kept = {revision: predictors[revision] for revision in names if revision in predictors}
        annotations = {
            # By its older name, which every release takes.
            "serving.kserve.io/deploymentMode": "Serverless",
            # Gives each revision an address of its own.
            "serving.kserve.io/enable-tag-routing": "true",
            _STATE: json.dumps(asdict(asked), sort_keys=True),
            _PREDICTORS: json.dumps(kept, sort_keys=True),
        }
        metadata = {"name": self.name, "namespace": self.there.namespace}
        canary = {"canaryTrafficPercent": asked.share} if asked.previous_revision else {}
        if waiting:
            canary = {"canaryTrafficPercent": 0}
        self.there.apply(
            {
                "apiVersion": _API,
                "kind": _KIND,
                "metadata": {**metadata, "labels": self.there.labels(self.name), "annotations": annotations},
                "spec": {"predictor": {**predictors[waiting or asked.revision], **canary}},
            }
        )

    def undo(self, before: Endpoint | None, predictors: dict[str, Manifest], timeout_seconds: float) -> None:
        """Ask for what was there before."""
        if before:
            self._bring_up(before, before.revision, predictors, timeout_seconds)
            self.apply(before, predictors)
        else:
            self.there.delete(_API, _KIND, self.name)

    def url(self, endpoint: Endpoint, revision: str) -> str:
        """Return the service's address, or a revision's; in the cluster the one known there."""
        status = (self.there.get(_API, _KIND, self.name) or {}).get("status", {})
        if not revision:
            inside = status.get("address", {}).get("url", endpoint.url)
            return str(inside if cluster.in_cluster() else endpoint.url)
        tag = "latest" if revision == endpoint.revision else "prev"
        for target in status.get("components", {}).get("predictor", {}).get("traffic", []):
            if target.get("tag") == tag:
                host = str(target["url"]).partition("://")[2].partition(".")[0]
                return (
                    f"http://{host}.{self.there.namespace}.svc"
                    if cluster.in_cluster()
                    else str(target["url"])
                )
        raise ValueError(f"revision {revision} of endpoint {self.name!r} has no address of its own")

    def _wait(self, revision: str, share: int, timeout_seconds: float) -> None:
        what = f"revision {revision} of endpoint {self.name!r}"
        targets.wait(what, lambda: self._look(revision, share), timeout_seconds)

    def _look(self, revision: str, share: int) -> str:
        """Return "" when the newest revision is the one asked for, is ready and has its share."""
        found = self.there.get(_API, _KIND, self.name) or {}
        status = found.get("status", {})
        mode = status.get("deploymentMode", "Serverless")
        if mode not in ("Serverless", "Knative"):
            raise ValueError(
                f"KServe runs it in mode {mode}, which shares no requests between revisions; install "
                "Knative, or deploy to the target kubernetes"
            )
        predictor = status.get("components", {}).get("predictor", {})
        if self._revision(predictor.get("latestCreatedRevision")) != revision:
            why, _ = self.there.trouble({_REVISION: revision}, self.name)
            return why or "KServe has not made the revision yet"
        ready = cluster.condition(found, "Ready")
        if predictor.get("latestReadyRevision") == predictor["latestCreatedRevision"]:
            shares = [
                entry["percent"] for entry in predictor.get("traffic", []) if entry.get("latestRevision")
            ]
            if shares == [share] and ready.get("status") == "True" and status.get("url"):
                return ""
            return f"it is ready and has {shares[0] if shares else 0} of {share} % of the requests"
        why, hopeless = self.there.trouble(
            {_REVISION: revision}, self.name, predictor["latestCreatedRevision"]
        )
        predicting = cluster.condition(found, "PredictorReady")
        if predicting.get("status") == "False" and not why:
            why = f"{predicting.get('reason')}: {predicting.get('message')}"
        # Knative gives up on a revision by itself, and takes its pods away.
        if hopeless or predicting.get("reason") == "RevisionFailed":
            raise ValueError(why)
        return why or "its pods are starting"

    def _revision(self, knative_revision: str | None) -> str:
        """Return our revision of one of Knative's, by the label that its pods bear."""
        found = (
            self.there.get("serving.knative.dev/v1", "Revision", knative_revision)
            if knative_revision
            else None
        )
        return str((found or {}).get("metadata", {}).get("labels", {}).get(_REVISION, ""))
