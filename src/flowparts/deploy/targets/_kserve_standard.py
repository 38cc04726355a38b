"""KServe's Standard mode: plain Deployments, and canaries beside the predictor.

`spec.canary` holds the canary. KServe sets its weight in the service's HTTPRoute, so only traffic through the
Gateway is split. The status only repeats the requested percentage; the route's weights are the truth. Without
the Gateway API a revision gets no traffic or all.

Clients in the cluster use a stable Service of ours, because each promotion gives KServe's another name. It
selects the revision with all traffic, or else the one that isn't the canary.

A canary becomes the predictor without a restart if `predictor.name` takes its name. KServe then removes the
pods of the previous one, so this is done only once they get no requests.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flowparts.deploy import common
from flowparts.deploy.cluster import Manifest, UndeclaredFieldError, condition, in_cluster, observed
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.model_pod import OUTSIDE_MESH, pod_security, port
from flowparts.deploy.server_pod import END_SECONDS, HTTP_PORT
from flowparts.deploy.targets._kserve_service import (
    CONTAINER,
    REVISION,
    UNDO_SECONDS,
    Service,
    StoredPod,
    label,
)

ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")
_ROUTE_SECONDS = 120.0
_SHARED_BY = (
    "let KServe use the Gateway API (ingress.enableGatewayApi and kserveIngressGateway in its ConfigMap "
    "inferenceservice-config)"
)
# Digits of a revision in a predictor's name: with the longest endpoint name, KServe's label
# isvc.{endpoint}-{name}-predictor reaches the limit of 63 characters.
_NAME_LENGTH = 9

_log = logging.getLogger("flowparts")


@dataclass(frozen=True)
class Form:
    """The requested state of an InferenceService.

    Attributes:
        base: The revision of its predictor; empty if there is no service.
        canary: The revision beside it; empty if there is none.
        percent: The canary's percentage.
    """

    base: str = ""
    canary: str = ""
    percent: int = 0


class StandardService(Service):
    """An InferenceService with plain Deployments as revisions."""

    mode = "Standard"
    metrics_port = "http"

    def predictor(self, pod: StoredPod, replicas: int, max_replicas: int) -> Manifest:
        """Return a complete predictor: KServe merges a canary's into the stable one's."""
        server = pod.container(CONTAINER)
        spec = pod.spec()
        return {
            **spec,
            "name": pod.revision[:_NAME_LENGTH],
            "containers": [{**server, "ports": [port(self.metrics_port, HTTP_PORT)]}],
            **pod.options.metadata(),
            "labels": {**pod.options.labels, REVISION: pod.revision, **OUTSIDE_MESH},
            "minReplicas": replicas,
            "maxReplicas": max_replicas or replicas,
            "enableServiceLinks": False,
            "securityContext": pod_security(),
            "serviceAccountName": spec.get("serviceAccountName", "default"),
            "terminationGracePeriodSeconds": END_SECONDS,
            "timeout": END_SECONDS,
        }

    def check_percent(self, percent: int) -> None:
        """Refuse a percentage if nothing splits the traffic.

        Raises:
            ValueError: There is no route with weights.
        """
        if 0 < percent < 100 and self.weights() is None:
            raise ValueError(f"{self._unshared}; give traffic_fraction 0 or 1, or {_SHARED_BY}")

    def plan(self, percentages: Sequence[int]) -> common.Plan:
        """Return the traffic that a revision would get: none or all if nothing splits it."""
        if self.weights() is not None:
            return super().plan(percentages)
        given = {percent: percent if percent == 100 else 0 for percent in percentages}
        note = (
            f"{self._unshared}, so the revision is watched without requests of clients before it gets all; "
            f"for a canary {_SHARED_BY}"
        )
        return common.Plan(given, note if any(percent != given[percent] for percent in percentages) else "")

    def state(self) -> tuple[Endpoint | None, dict[str, Manifest]]:
        """Return the requested endpoint of the service, and the recorded predictors."""
        (endpoint, predictors), form = self.record(), self._form()
        if not endpoint or not form.base:
            return None, {}
        # From the specification, not the record, which may be left over from a killed step.
        if form.canary:
            tried = form.canary if form.canary != endpoint.previous_revision else form.base
            other = form.base if tried == form.canary else form.canary
            percent = form.percent if tried == form.canary else 100 - form.percent
            traffic = {tried: percent, other: 100 - percent}
            endpoint = replace(endpoint, revision=tried, previous_revision=other, traffic=traffic)
        elif endpoint.traffic.get(form.base) != 100:
            endpoint = replace(endpoint, revision=form.base, previous_revision=None, traffic={form.base: 100})
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
        if before:
            self.keep(before, predictors, after.revision)
        self._steer(after, predictors, timeout_seconds)
        made = replace(after, url=self._url())
        self.keep(made, predictors)
        return made

    def restore(self, before: Endpoint, predictors: dict[str, Manifest], timeout_seconds: float) -> None:
        """Request the previous state; its pods still exist."""
        form = self._form()
        other = _other(before, form.base)
        percent = before.traffic[other] if other else 0
        self._select(other if percent == 100 else form.base)
        self._ask(Form(form.base, other, percent), predictors)
        self._wait_for_route(before.traffic, timeout_seconds)

    def release(self, endpoint: Endpoint) -> None:
        """Make a canary with all traffic the predictor, which removes the previous one's pods."""
        form = self._form()
        if (form.canary, form.percent) == (endpoint.revision, 100):
            _, predictors = self.record()
            self._promote(form, predictors)

    def undo(
        self,
        revision: str,
        before: Endpoint | None,
        predictors: dict[str, Manifest],
        timeout_seconds: float,  # noqa: ARG002 a route has its own timeout
    ) -> None:
        """Undo the deployment of a revision that failed to start.

        Raises:
            ValueError: Another step has deployed to the endpoint since, and this would undo its work.
        """
        form = self._form()
        theirs = {form.base, form.canary} - {"", revision} - set(before.traffic if before else ())
        if theirs:
            raise ValueError(f"another step has deployed revision {min(theirs)} since, which stays")
        if before:
            self.restore(before, predictors, UNDO_SECONDS)
        elif form.base:
            self.remove()

    def remove(self) -> None:
        """Delete the service and its other objects."""
        super().remove()
        self.cluster.delete("v1", "Service", self._kept)

    def predict(self, endpoint: Endpoint, rows: list[dict[str, Any]], revision: str) -> list[dict[str, Any]]:
        """Send rows to our Service or the Gateway, or to a revision's Service."""
        path = f"v1/models/{endpoint.name}:predict"
        service = self._of(revision) if revision else self._kept
        if not revision and not in_cluster() and self.weights() is not None:
            return common.ask(f"{endpoint.url}/{path}", rows)
        return self.cluster.predict(service, path, rows)

    def request_server(self, endpoint: Endpoint, path: str) -> Any:
        """Get JSON at a path from the servers of the current revision."""
        return self.cluster.ask_service(self._of(endpoint.revision), path)

    def weights(self) -> dict[str, int] | None:
        """Return the weights of the revisions' predictors in KServe's route, by Service.

        None without a route: then KServe doesn't use the Gateway API.
        """
        route = self._route()
        if not route:
            return None
        rules = [rule["backendRefs"] for rule in route["spec"]["rules"]]
        percentages = [_percentages(backends) for backends in rules]
        # While KServe changes one rule after the other, the weights are undefined.
        return percentages[0] if all(percent == percentages[0] for percent in percentages) else {}

    def _steer(self, asked: Endpoint, predictors: dict[str, Manifest], timeout_seconds: float) -> None:
        """Move from the current to the requested state without an interruption."""
        form = self._form()
        if form.base not in predictors:
            # Nothing has served yet; remove leftovers of a killed step's first revision.
            self._ask(Form(asked.revision), predictors)
            self._wait(asked.revision, _count(predictors, asked.revision), timeout_seconds)
            self._wait_for_service(timeout_seconds)
            self._select(asked.revision)
            return
        if form.base not in asked.traffic and form.canary in asked.traffic:
            # Another canary follows, so the current one becomes the predictor.
            form = self._promote(self._shift(form, 100, predictors, timeout_seconds), predictors)
        other = _other(asked, form.base)
        if form.canary and form.canary != other:
            form = self._drop(form, predictors)
            if not other:
                return
        if other:
            percent = asked.traffic[other]
            self._shift(replace(form, canary=other), percent, predictors, timeout_seconds)
            if form.base not in asked.traffic:
                self._promote(replace(form, canary=other, percent=percent), predictors)
        else:
            self._ask(form, predictors)
            self._wait(form.base, _count(predictors, form.base), timeout_seconds)
            self._wait_for_service(timeout_seconds)
            self._select(form.base)

    def _shift(
        self, form: Form, percent: int, predictors: dict[str, Manifest], timeout_seconds: float
    ) -> Form:
        """Start a canary's pods and then set its percentage; return the requested state."""
        stable, canary = (self.known(revision, predictors) for revision in (form.base, form.canary))
        if inherited := _inherited(stable, canary):
            _log.warning(
                "KServe merges a canary into the stable predictor: until revision %s becomes the stable one, "
                "which restarts its pods, they have %s of revision %s",
                *(form.canary, ", ".join(inherited), form.base),
            )
        pods = _pods(_count(predictors, form.base), max(form.percent, percent))
        self._ask(form, predictors, pods)
        self._wait(form.canary, pods, timeout_seconds)
        if percent < 100:
            self._select(form.base)
        form = replace(form, percent=percent)
        self._ask(form, predictors, pods)
        self._wait_for_route({form.base: 100 - percent, form.canary: percent})
        if percent == 100:
            self._select(form.canary)
        return form

    def _drop(self, form: Form, predictors: dict[str, Manifest]) -> Form:
        """Route traffic away from a canary, then remove it."""
        self._select(form.base)
        if form.percent:
            pods = _pods(_count(predictors, form.base), form.percent)
            self._ask(replace(form, percent=0), predictors, pods)
            self._wait_for_route({form.base: 100})
        self._ask(Form(form.base), predictors)
        return Form(form.base)

    def _promote(self, form: Form, predictors: dict[str, Manifest]) -> Form:
        """Make a canary the predictor, once the previous one gets no requests."""
        self._wait_for_route({form.canary: 100})
        promoted = Form(form.canary)
        self._ask(promoted, predictors)
        self._wait_for_route({form.canary: 100})
        return promoted

    def _ask(self, form: Form, predictors: Mapping[str, Manifest], pods: int | None = None) -> None:
        """Apply the InferenceService.

        KServe removes as many pods from the predictor as a canary has ready, so it gets more.
        """
        base = dict(self.known(form.base, predictors))
        spec: Manifest = {"predictor": base}
        if form.canary:
            canary = dict(self.known(form.canary, predictors))
            del canary["maxReplicas"]
            count = pods or _pods(base["minReplicas"], form.percent)
            canary["minReplicas"] = count
            base["minReplicas"] += count
            base["maxReplicas"] = max(base["maxReplicas"], base["minReplicas"])
            spec["canary"] = [{"predictor": canary, "trafficPercent": form.percent}]
        try:
            self.apply(spec)
        except UndeclaredFieldError as error:
            if error.field.startswith(".spec.canary"):
                raise ValueError(
                    f"this cluster's KServe can't try a revision beside {form.base}: its InferenceService "
                    "has no spec.canary; upgrade KServe, or deploy to the target kubernetes"
                ) from None
            raise

    def _select(self, revision: str) -> None:
        """Make the Service for clients in the cluster select a revision."""
        http = {"name": "http", "port": 80, "targetPort": HTTP_PORT, "protocol": "TCP", "appProtocol": "http"}
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": self._metadata(self._kept),
                "spec": {"selector": self.pods_of(revision), "ports": [http]},
            }
        )

    @property
    def _unshared(self) -> str:
        return (
            f"nothing shares requests between revisions of endpoint {self.name!r}: KServe has made no "
            "HTTPRoute of it"
        )

    def _form(self) -> Form:
        """Return the requested state of the service."""
        spec = self.fetch().get("spec", {})
        if not spec:
            return Form()
        for entry in spec.get("canary", []):
            return Form(label(spec["predictor"]), label(entry["predictor"]), entry["trafficPercent"])
        return Form(label(spec["predictor"]))

    def _of(self, revision: str) -> str:
        """Return KServe's name of a revision's Deployment and Service."""
        return f"{self.name}-{revision[:_NAME_LENGTH]}-predictor"

    def _url(self) -> str:
        status = self.fetch().get("status", {})
        if self.weights() is not None and status.get("url"):
            return str(status["url"])
        return f"http://{self._kept}.{self.cluster.namespace}.svc"

    def _wait(self, revision: str, count: int, timeout_seconds: float) -> None:
        what = f"revision {revision} of endpoint {self.name!r}"
        common.wait(what, lambda: self._look(revision, count), timeout_seconds)

    def _look(self, revision: str, count: int) -> str:
        """Return "" when a revision has its pods, else its state."""
        form = self._form()
        if revision not in (form.base, form.canary):
            raise ValueError(f"another step has deployed revision {form.canary or form.base} meanwhile")
        deployment = self.cluster.get("apps/v1", "Deployment", self._of(revision)) or {}
        status = deployment.get("status", {})
        ready = min(status.get("updatedReplicas", 0), status.get("availableReplicas", 0))
        if deployment and observed(deployment) and ready >= count:
            return ""
        refused = condition(deployment, "ReplicaFailure")
        if refused.get("status") == "True":
            raise ValueError(_refused(str(refused.get("message", refused.get("reason")))))
        why, is_terminal = self.cluster.diagnose(self.pods_of(revision), self.name, self._of(revision))
        if is_terminal:
            raise ValueError(why)
        return why or f"{ready} of {count} pods are ready"

    def _wait_for_service(self, timeout_seconds: float) -> None:
        what = f"endpoint {self.name!r}"
        common.wait(what, self._look_at_service, timeout_seconds)

    def _look_at_service(self) -> str:
        found = self.fetch()
        ready = condition(found, "Ready")
        if ready.get("status") == "True":
            return ""
        bad = [entry for entry in found.get("status", {}).get("conditions", []) if entry["status"] == "False"]
        worst = next((entry for entry in bad if entry["type"] != "Ready"), ready)
        return f"KServe says {worst.get('type', 'nothing')}: {worst.get('message') or worst.get('reason')}"

    def _wait_for_route(
        self, percentages: Mapping[str, int], timeout_seconds: float = _ROUTE_SECONDS
    ) -> None:
        """Wait until the route has these weights; without a route, return at once."""
        what = f"the route of endpoint {self.name!r}"
        common.wait(what, lambda: self._look_at_route(percentages), timeout_seconds)

    def _look_at_route(self, percentages: Mapping[str, int]) -> str:
        given = self.weights()
        if given is None:
            return ""
        asked = {self._of(revision): percent for revision, percent in percentages.items() if percent}
        if given != asked:
            weights = ", ".join(f"{service} {weight} %" for service, weight in given.items())
            return f"its weights are {weights or 'changing'}"
        parents = (self._route() or {}).get("status", {}).get("parents", [])
        bad = [entry for parent in parents for entry in parent["conditions"] if entry["status"] == "False"]
        return f"{bad[0]['type']} is false: {bad[0].get('message', bad[0].get('reason'))}" if bad else ""

    def _route(self) -> Manifest | None:
        return self.cluster.get(*ROUTE, self.name) if self.cluster.serves(*ROUTE) else None


def _inherited(stable: Manifest, canary: Manifest) -> list[str]:
    """Return what a canary's pods get from the stable predictor, because its own doesn't have it.

    KServe merges mappings key by key. Anything else that isn't empty in the canary's replaces the stable
    one's.
    """
    found = []
    for name, value in stable.items():
        if not value:
            continue
        if not canary.get(name):
            found.append(name)
        elif isinstance(value, dict):
            found += [f"{name}.{key}" for key in value if key not in canary[name]]
    return sorted(found)


def _other(asked: Endpoint, base: str) -> str:
    """Return the revision that must be beside the predictor; empty for none."""
    for revision, percent in asked.traffic.items():
        # The previous one, without traffic, is restored from the record if it is needed.
        if revision != base and (percent or revision == asked.revision):
            return revision
    return ""


def _count(predictors: Mapping[str, Manifest], revision: str) -> int:
    return int(predictors[revision]["minReplicas"]) if revision in predictors else 1


def _pods(full: int, percent: int) -> int:
    """Return how many pods a canary needs for its percentage."""
    return max(1, math.ceil(full * percent / 100))


def _percentages(backends: list[Manifest]) -> dict[str, int]:
    total = sum(backend.get("weight", 1) for backend in backends)
    return {
        backend["name"]: round(100 * weight / total)
        for backend in backends
        if (weight := backend.get("weight", 1))
    }


def _refused(message: str) -> str:
    """Return why pods are refused, and a hint if KServe's initializer is the cause."""
    hint = (
        "; give KServe's ClusterStorageContainer 'default' a securityContext, as docs/kserve.md says"
        if "PodSecurity" in message and "storage-initializer" in message
        else ""
    )
    return f"its pods are refused: {message}{hint}"
