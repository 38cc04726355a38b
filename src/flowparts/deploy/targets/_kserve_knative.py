"""KServe's Knative mode: Knative splits the traffic between the two latest revisions.

KServe keeps the revision that last had all traffic beside the newest one; `canaryTrafficPercent` is the
newest one's percentage
(https://kserve.github.io/website/docs/model-serving/predictive-inference/rollout-strategies/canary).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flowparts.deploy import common
from flowparts.deploy.cluster import Manifest, condition, in_cluster
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.model_pod import OUTSIDE_MESH, USER
from flowparts.deploy.server_pod import END_SECONDS, HTTP_PORT
from flowparts.deploy.targets._kserve_service import CONTAINER, REVISION, Service, StoredPod, label

KNATIVE = ("serving.knative.dev/v1", "Revision")
# Its older name, which every release accepts.
MODE_NAME = "Serverless"
# Gives each revision its own address.
_TAGS = {"serving.kserve.io/enable-tag-routing": "true"}
# The only reason for which Knative gives up on a revision and removes its pods; others are transient.
_GIVEN_UP = "ProgressDeadlineExceeded"


class KnativeService(Service):
    """An InferenceService with Knative revisions."""

    mode = MODE_NAME
    # Knative's name of the port.
    metrics_port = "user-port"

    def predictor(self, pod: StoredPod, replicas: int, max_replicas: int) -> Manifest:
        """Return a predictor with the pod fields that Knative allows."""
        server = pod.container(CONTAINER)
        return {
            **pod.spec(),
            # Knative allows one port, and drains itself.
            "containers": [{**server, "ports": [{"containerPort": HTTP_PORT, "protocol": "TCP"}]}],
            **({"securityContext": {"fsGroup": USER}} if pod.log else {}),
            **pod.options.metadata(),
            "labels": {**pod.options.labels, REVISION: pod.revision, **OUTSIDE_MESH},
            "minReplicas": replicas,
            "maxReplicas": max_replicas or replicas,
            # Knative allows no grace period; it grants the request timeout.
            "timeout": END_SECONDS,
        }

    def check_percent(self, percent: int) -> None:
        """Accept every percentage."""

    def state(self) -> tuple[Endpoint | None, dict[str, Manifest]]:
        """Return the endpoint from the last step, and its revisions' predictors."""
        (endpoint, predictors), found = self.record(), self.fetch()
        if not endpoint or not found:
            return None, {}
        serving = self._revision(_status(found).get("latestRolledoutRevision"))
        if serving and serving != _stable(endpoint):
            # A step was killed after requesting this, and KServe has done it since.
            if serving in endpoint.traffic:
                endpoint = endpoint.with_percent(100 if serving == endpoint.revision else 0)
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
        """Apply the requested endpoint, wait for it, and return it with its address."""
        self.known(after.revision, predictors)
        what = f"revision {after.revision} of endpoint {self.name!r}"
        newest = self._kept_back(after, predictors)
        if before:
            self.keep(before, predictors, after.revision, newest)
        if newest:
            self._apply(newest, 0, predictors)
            common.wait(what, lambda: self._look_back(after.revision), timeout_seconds)
        else:
            self._bring_up(before, predictors, after.revision, timeout_seconds)
            self._apply(after.revision, _canary(after), predictors)
            self._wait(after.revision, after.traffic, timeout_seconds)
        made = replace(after, url=self.fetch().get("status", {}).get("url", after.url))
        self.keep(made, predictors, newest)
        return made

    def restore(self, before: Endpoint, predictors: dict[str, Manifest], timeout_seconds: float) -> None:
        """Request the previous state."""
        self._bring_up(before, predictors, before.revision, timeout_seconds)
        self._apply(before.revision, _canary(before), predictors)

    def predict(self, endpoint: Endpoint, rows: list[dict[str, Any]], revision: str) -> list[dict[str, Any]]:
        """Send rows to the InferenceService's URL, or to that of a revision's tag."""
        return common.ask(f"{self._url(endpoint, revision)}/v1/models/{endpoint.name}:predict", rows)

    def request_server(self, endpoint: Endpoint, path: str) -> Any:
        """Get JSON at a path from the servers of the current revision."""
        # A revision with all traffic needs no own address, and may have none.
        revision = endpoint.revision if endpoint.percent < 100 else ""
        return common.fetch(f"{self._url(endpoint, revision)}/{path}")

    def release(self, endpoint: Endpoint) -> None:
        """Do nothing: Knative itself scales down a revision without requests."""

    def _kept_back(self, after: Endpoint, predictors: Mapping[str, Manifest]) -> str:
        """Return the newest revision, if an older one is to get all traffic again.

        Then that one's pods serve at once, or start with the first request; applied again it would be a copy
        that must be scheduled first, while the newest one keeps its traffic. KServe keeps the one before the
        newest for it, as long as Knative does.
        """
        if after.previous_revision is not None:
            return ""
        status = _status(self.fetch())
        created, rolled = status.get("latestCreatedRevision"), status.get("latestRolledoutRevision")
        newest = self._revision(created)
        if newest == after.revision or newest not in predictors:
            return ""
        has_all = created == rolled == status.get("latestReadyRevision")
        older = status.get("previousRolledoutRevision") if has_all else rolled
        return newest if self._revision(older) == after.revision else ""

    def _bring_up(
        self, before: Endpoint | None, predictors: dict[str, Manifest], revision: str, timeout_seconds: float
    ) -> None:
        """Start a revision without traffic if another one would get its traffic until it is ready.

        Knative gives the newest one's percentage to the newest that is ready, which may be the one to
        replace.
        """
        status = _status(self.fetch())
        newest = status.get("latestCreatedRevision")
        is_ready = newest == status.get("latestReadyRevision")
        has_all = newest == status.get("latestRolledoutRevision")
        if not before or (is_ready and (has_all or self._revision(newest) == revision)):
            return
        self._apply(revision, 0, predictors)
        self._wait(revision, {_stable(before): 100}, timeout_seconds)

    def _apply(self, revision: str, percent: int | None, predictors: dict[str, Manifest]) -> None:
        """Make a revision's predictor the newest one, with a percentage; None if it is the only one."""
        canary = {} if percent is None else {"canaryTrafficPercent": percent}
        self.apply({"predictor": {**predictors[revision], **canary}}, _TAGS)

    def _url(self, endpoint: Endpoint, revision: str) -> str:
        """Return the service's or a revision's address; in the cluster, the internal one."""
        found = self.fetch()
        if not revision:
            inside = found.get("status", {}).get("address", {}).get("url", endpoint.url)
            return str(inside if in_cluster() else endpoint.url)
        for target in _status(found).get("traffic", []):
            if "tag" in target and self._revision(target["revisionName"]) == revision:
                host = str(target["url"]).partition("://")[2].partition(".")[0]
                return f"http://{host}.{self.cluster.namespace}.svc" if in_cluster() else str(target["url"])
        raise ValueError(f"revision {revision} of endpoint {self.name!r} has no address of its own")

    def _wait(self, revision: str, traffic: Mapping[str, int], timeout_seconds: float) -> None:
        what = f"revision {revision} of endpoint {self.name!r}"
        common.wait(what, lambda: self._look(revision, traffic), timeout_seconds)

    def _look(self, revision: str, traffic: Mapping[str, int]) -> str:
        """Return "" when the newest revision is the requested one and ready, with the requested traffic."""
        found = self.fetch()
        if (asked := label(found["spec"]["predictor"])) != revision:
            raise ValueError(f"another step has deployed revision {asked} meanwhile")
        status = found.get("status", {})
        mode = status.get("deploymentMode", MODE_NAME)
        if mode not in (MODE_NAME, "Knative"):
            raise ValueError(f"KServe runs it in mode {mode} although it was asked for Knative's")
        predictor = _status(found)
        if self._revision(predictor.get("latestCreatedRevision")) != revision:
            why, _ = self.cluster.diagnose({REVISION: revision}, self.name)
            if why.startswith("ServerlessModeRejected"):
                raise ValueError(why)
            return why or "KServe has not made the revision yet"
        ready = condition(found, "Ready")
        if predictor.get("latestReadyRevision") == predictor["latestCreatedRevision"]:
            percentages = self._percentages(predictor)
            if percentages == +Counter(traffic) and ready.get("status") == "True" and status.get("url"):
                return ""
            return (
                f"it is ready and has {percentages[revision]} of {traffic.get(revision, 0)} % of the requests"
            )
        newest = predictor["latestCreatedRevision"]
        why, is_terminal = self.cluster.diagnose({REVISION: revision}, self.name, newest)
        predicting = condition(found, "PredictorReady")
        if predicting.get("status") == "False" and not why:
            why = f"{predicting.get('reason')}: {predicting.get('message')}"
        of_revision = self.cluster.get(*KNATIVE, newest) or {}
        if is_terminal or condition(of_revision, "Ready").get("reason") == _GIVEN_UP:
            raise ValueError(why)
        return why or "its pods are starting"

    def _look_back(self, revision: str) -> str:
        """Return "" when a revision other than the newest has all traffic."""
        found = self.fetch()
        percentages = self._percentages(_status(found))
        if percentages == {revision: 100} and found["status"].get("url"):
            return ""
        return f"it has {percentages[revision]} of 100 % of the requests"

    def _percentages(self, status: Manifest) -> Counter[str]:
        """Return each of our revisions' percentage of the traffic."""
        percentages: Counter[str] = Counter()
        for entry in status.get("traffic", []):
            percentages[self._revision(entry["revisionName"])] += entry["percent"]
        return +percentages

    def _revision(self, knative_revision: str | None) -> str:
        """Return our revision for one of Knative's, by its pods' label."""
        found = self.cluster.get(*KNATIVE, knative_revision) if knative_revision else None
        return str((found or {}).get("metadata", {}).get("labels", {}).get(REVISION, ""))


def _status(service: Manifest) -> Manifest:
    """Return the predictor's part of an InferenceService's status."""
    status = service.get("status", {})
    return dict(status.get("components", {}).get("predictor", {}))


def _stable(endpoint: Endpoint) -> str:
    """Return the revision that gets the rest of the traffic."""
    previous = endpoint.previous_revision
    return previous if previous and endpoint.percent < 100 else endpoint.revision


def _canary(endpoint: Endpoint) -> int | None:
    """Return the newest revision's percentage if there is another one."""
    return endpoint.percent if endpoint.previous_revision else None
