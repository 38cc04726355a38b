"""KServe: one InferenceService, whose revisions Knative keeps and shares requests between.

A canary needs KServe's Knative mode: the plain Deployments of its other mode know no share
(https://kserve.github.io/website/docs/model-serving/predictive-inference/rollout-strategies/canary). KServe
keeps the revision that last had all requests beside the newest one; `canaryTrafficPercent` is the newest
one's share.

The endpoint, and the predictor of each revision, stand in a ConfigMap: a step that is tried again finds them,
and a rollback applies the previous predictor again. Not on the InferenceService, whose annotations become
those of its pods, so that each change of them would make a revision.
"""

import json
from collections import Counter
from collections.abc import Mapping
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


def crashes(endpoint: Endpoint, revision: str) -> dict[str, int]:
    """Return how often each container of a revision's pods has ended by itself."""
    return _Service.of(endpoint).there.crashes({_REVISION: revision})


def trouble(endpoint: Endpoint, revision: str) -> str:
    """Return why pods of a revision don't run, or have ended; empty if nothing is wrong."""
    return _Service.of(endpoint).there.trouble({_REVISION: revision})[0]


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
        """Return the endpoint as the last step left it, and its revisions' predictors."""
        kept, found = self.there.get("v1", "ConfigMap", self._kept), self._found()
        if not kept or not found:
            return None, {}
        endpoint = Endpoint(**json.loads(kept["data"]["endpoint"]))
        predictors = json.loads(kept["data"]["predictors"])
        serving = self._revision(_predictor(found).get("latestRolledoutRevision"))
        if serving and serving != _stable(endpoint):
            # A step was killed when it had asked for this, and KServe has done it since.
            if serving in endpoint.traffic:
                endpoint = endpoint.with_share(100 if serving == endpoint.revision else 0)
            elif serving in predictors:
                endpoint = endpoint.deploying(serving, 100)
        return endpoint, predictors

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
        if before:
            self._keep(before, predictors, after.revision)
        self._bring_up(before, predictors, after.revision, timeout_seconds)
        self._apply(after.revision, _canary(after), predictors)
        self._wait(after.revision, after.traffic, timeout_seconds)
        made = replace(after, url=self._found()["status"]["url"])
        self._keep(made, predictors)
        return made

    def undo(self, before: Endpoint | None, predictors: dict[str, Manifest], timeout_seconds: float) -> None:
        """Ask for what was there before."""
        if before:
            self._bring_up(before, predictors, before.revision, timeout_seconds)
            self._apply(before.revision, _canary(before), predictors)
        else:
            self.there.delete(_API, _KIND, self.name)
            self.there.delete("v1", "ConfigMap", self._kept)

    @property
    def _kept(self) -> str:
        return f"{self.name}-endpoint"

    def _found(self) -> Manifest:
        """Return the InferenceService; empty if it isn't there."""
        return self.there.get(_API, _KIND, self.name) or {}

    def _bring_up(
        self, before: Endpoint | None, predictors: dict[str, Manifest], revision: str, timeout_seconds: float
    ) -> None:
        """Bring a revision up without requests, where another one would get its share until it is ready.

        Knative gives the newest one's share to the newest that is ready, which may be what is taken away.
        """
        predictor = _predictor(self._found())
        newest = predictor.get("latestCreatedRevision")
        is_ready = newest == predictor.get("latestReadyRevision")
        has_all = newest == predictor.get("latestRolledoutRevision")
        if not before or (is_ready and (has_all or self._revision(newest) == revision)):
            return
        self._apply(revision, 0, predictors)
        self._wait(revision, {_stable(before): 100}, timeout_seconds)

    def _apply(self, revision: str, share: int | None, predictors: dict[str, Manifest]) -> None:
        """Make a revision's predictor the newest one, with a share; None where it is the only one."""
        annotations = {
            # By its older name, which every release takes.
            "serving.kserve.io/deploymentMode": "Serverless",
            # Gives each revision an address of its own.
            "serving.kserve.io/enable-tag-routing": "true",
        }
        metadata = {"name": self.name, "namespace": self.there.namespace}
        canary = {} if share is None else {"canaryTrafficPercent": share}
        self.there.apply(
            {
                "apiVersion": _API,
                "kind": _KIND,
                "metadata": {**metadata, "labels": self.there.labels(self.name), "annotations": annotations},
                "spec": {"predictor": {**predictors[revision], **canary}},
            }
        )

    def _keep(self, endpoint: Endpoint, predictors: dict[str, Manifest], coming: str = "") -> None:
        revisions = {*endpoint.traffic, coming}
        known = {name: predictor for name, predictor in predictors.items() if name in revisions}
        metadata = {"name": self._kept, "namespace": self.there.namespace}
        data = {"endpoint": asdict(endpoint), "predictors": known}
        self.there.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {**metadata, "labels": self.there.labels(self.name)},
                "data": {name: json.dumps(content, sort_keys=True) for name, content in data.items()},
            }
        )

    def url(self, endpoint: Endpoint, revision: str) -> str:
        """Return the service's address, or a revision's; in the cluster the one known there."""
        found = self._found()
        if not revision:
            inside = found.get("status", {}).get("address", {}).get("url", endpoint.url)
            return str(inside if cluster.in_cluster() else endpoint.url)
        tag = "latest" if revision == endpoint.revision else "prev"
        for target in _predictor(found).get("traffic", []):
            if target.get("tag") == tag:
                host = str(target["url"]).partition("://")[2].partition(".")[0]
                return (
                    f"http://{host}.{self.there.namespace}.svc"
                    if cluster.in_cluster()
                    else str(target["url"])
                )
        raise ValueError(f"revision {revision} of endpoint {self.name!r} has no address of its own")

    def _wait(self, revision: str, traffic: Mapping[str, int], timeout_seconds: float) -> None:
        what = f"revision {revision} of endpoint {self.name!r}"
        targets.wait(what, lambda: self._look(revision, traffic), timeout_seconds)

    def _look(self, revision: str, traffic: Mapping[str, int]) -> str:
        """Return "" when the newest revision is the one asked for and ready, and requests are shared so."""
        found = self._found()
        status = found.get("status", {})
        mode = status.get("deploymentMode", "Serverless")
        if mode not in ("Serverless", "Knative"):
            raise ValueError(
                f"KServe runs it in mode {mode}, which shares no requests between revisions; install "
                "Knative, or deploy to the target kubernetes"
            )
        predictor = _predictor(found)
        if self._revision(predictor.get("latestCreatedRevision")) != revision:
            why, _ = self.there.trouble({_REVISION: revision}, self.name)
            return why or "KServe has not made the revision yet"
        ready = cluster.condition(found, "Ready")
        if predictor.get("latestReadyRevision") == predictor["latestCreatedRevision"]:
            shares: Counter[str] = Counter()
            for entry in predictor.get("traffic", []):
                shares[self._revision(entry["revisionName"])] += entry["percent"]
            if +shares == +Counter(traffic) and ready.get("status") == "True" and status.get("url"):
                return ""
            return f"it is ready and has {shares[revision]} of {traffic.get(revision, 0)} % of the requests"
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


def _predictor(service: Manifest) -> Manifest:
    """Return what an InferenceService's status says of its predictor."""
    status = service.get("status", {})
    return dict(status.get("components", {}).get("predictor", {}))


def _stable(endpoint: Endpoint) -> str:
    """Return the revision that KServe gives what the newest one doesn't get."""
    previous = endpoint.previous_revision
    return previous if previous and endpoint.share < 100 else endpoint.revision


def _canary(endpoint: Endpoint) -> int | None:
    """Return the newest revision's share where there is another one."""
    return endpoint.share if endpoint.previous_revision else None
