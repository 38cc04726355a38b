"""Revisions of an endpoint as Deployments behind one Service, for any server.

Traffic is split without a mesh. With a Gateway (https://gateway-api.sigs.k8s.io), an HTTPRoute gives each
revision its exact percentage. Without one, the Service spreads connections evenly over the pods of both
revisions, so the split is the ratio of pods, the nearest that `replicas` allows, and the endpoint's traffic
reports it. A revision without traffic isn't selected at all.

The requested endpoint is an annotation of the Service, so that a retried step finds it.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from flowparts.deploy import common, prometheus
from flowparts.deploy.cluster import NAME_LABEL, ChangedError, Cluster, Manifest, condition, observed
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.model_pod import OUTSIDE_MESH, ModelPod
from flowparts.deploy.options import Routed

_STATE = "flowparts/endpoint"
_REVISION = "flowparts/revision"
_DIGEST = "flowparts/model-digest"
_MODEL = "flowparts/model"
_SHARE = "flowparts/share"
_BUSY_PERCENT = 70
_ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")
_GATEWAY = ("gateway.networking.k8s.io/v1", "Gateway")
_ROUTE_SECONDS = 120.0
_SWAP_TRIES = 5
_CLEAR_SECONDS = 120.0

_log = logging.getLogger("flowparts")


@dataclass
class Fleet:
    """All objects of one endpoint.

    Attributes:
        cluster: The namespace.
        target: The endpoint's target.
        kind: Class of its pods.
        name: The endpoint; the Service's name.
        replicas: Pods of a revision that gets all requests.
        max_replicas: Maximum for the autoscaler; 0 turns autoscaling off.
        gateway: Gateway that splits the traffic exactly, as NAME or NAMESPACE/NAME; default: split by pods.
    """

    cluster: Cluster
    target: str
    kind: type[ModelPod]
    name: str
    replicas: int
    max_replicas: int
    gateway: str
    # The Service's annotation at this step's last read or write.
    record: str = ""

    @classmethod
    def of(cls, endpoint: Endpoint, kind: type[ModelPod]) -> "Fleet":
        """Return the fleet of an existing endpoint."""
        settings = {name: endpoint.settings[name] for name in ("replicas", "max_replicas", "gateway")}
        return cls(Cluster(endpoint.settings["namespace"]), endpoint.target, kind, endpoint.name, **settings)

    @classmethod
    def of_options(cls, target: str, kind: type[ModelPod], name: str, chosen: Routed) -> "Fleet":
        """Return the fleet for options."""
        cluster = Cluster(chosen.namespace)
        return cls(cluster, target, kind, name, chosen.replicas, chosen.max_replicas, chosen.gateway)

    def deploy(self, pod: ModelPod, chosen: Routed) -> Endpoint:
        """Start a pod's revision, wait until enough replicas are ready, and route traffic to it.

        Args:
            pod: The pod that serves the model.
            chosen: The options.

        Raises:
            ValueError: The revision fails to start. It is removed, and the previous one keeps serving.
        """
        pod = replace(pod, digest=common.digest(pod.model, chosen.digest))
        with self.cluster.writing(self.name, chosen.wait_seconds):
            return self._deploy(pod, chosen)

    def _deploy(self, pod: ModelPod, chosen: Routed) -> Endpoint:
        before = self.state()
        if before and before.target != self.target:
            raise ValueError(
                f"endpoint {self.name!r} in namespace {self.cluster.namespace} is of the target "
                f"{before.target}; give the one of {self.target} another name"
            )
        if before is None:
            after = Endpoint(self.target, self.name, self.url(), pod.revision, {pod.revision: 100})
        else:
            after = replace(before.deploying(pod.revision, chosen.percent), url=self.url())
        after = replace(after, target=self.target, settings={**self.settings, **common.kept_options()})
        # A crashing revision, which the new one was to replace, doesn't count as serving.
        kept = (
            [revision for revision, part in before.traffic.items() if part and self._ready(revision)]
            if (before)
            else []
        )
        monitor, watched = self.monitor(), self._watched()
        monitor.install(chosen, watched)

        def undo() -> None:
            try:
                self.undo(pod.revision, before)
            finally:
                monitor.undo()

        try:
            self._narrow(before, after)
            self.place(pod, chosen.clients)
            after = self.steer(after, chosen.timeout_seconds, pod)
        except ValueError as error:
            raise common.not_deployed(self.name, pod.revision, error, kept, undo) from None
        self.tidy(after)
        self._take_away(before, after)
        if before is None or before.traffic != after.traffic:  # otherwise it may be a rollout in progress
            self.release(after)
        monitor.finish(chosen, watched)
        if not chosen.clients and monitor.is_possible:
            _log.info(
                "the NetworkPolicy of endpoint %s admits Prometheus if clients names its namespace", self.name
            )
        return after

    def plan(self, percentages: Sequence[int]) -> common.Plan:
        """Return the traffic that a new revision would get beside the current one."""
        before = self.state()
        if before is None:
            return common.Plan(dict.fromkeys(percentages, 100))
        given = {percent: self.measured(before.deploying("next", percent)).percent for percent in percentages}
        if all(percent == given[percent] for percent in percentages):
            return common.Plan(given)
        differing = ", ".join(
            f"{percent} % is {given[percent]} %" for percent in percentages if percent != given[percent]
        )
        note = (
            f"without a Gateway the share is a ratio of pods, so {differing}; more replicas bring it nearer"
        )
        if self.cluster.serves(*_GATEWAY):
            note += ", and a Gateway, which this cluster knows, makes it exact (option gateway)"
        return common.Plan(given, note)

    def shift(self, endpoint: Endpoint, percent: int) -> Endpoint:
        """Route a percentage to the current revision; the previous one keeps its pods, even at 100."""
        with self.cluster.writing(self.name):
            after = common.unchanged(endpoint, self.state(), self.where).with_percent(percent)
            return self.steer(after)

    def rollback(self, endpoint: Endpoint) -> Endpoint:
        """Scale the previous revision to full size, route all traffic to it and remove the current one."""
        with self.cluster.writing(self.name):
            after = common.rolled_back(endpoint, self.state(), self.where)
            after = self.steer(after)
            self.tidy(after)
            return after

    def release(self, endpoint: Endpoint) -> None:
        """Scale a previous revision without traffic to zero."""
        if endpoint.previous_revision and endpoint.percent == 100:
            with self.cluster.writing(self.name):
                # It may have got traffic again in the meantime.
                if common.unchanged(endpoint, self.state(), self.where).percent == 100:
                    self.cluster.scale(self._of(endpoint.previous_revision), 0)

    def ask(
        self, endpoint: Endpoint, path: str, rows: list[dict[str, Any]], revision: str
    ) -> list[dict[str, Any]]:
        """Post rows to the Gateway or the Service, or to a revision's own Service."""
        if self.gateway and not revision:
            return common.ask(f"{endpoint.url}/{path}", rows)
        service = self._of(revision) if revision else self.name
        return self.cluster.predict(service, path, rows)

    def crashes(self, revision: str) -> dict[str, int]:
        """Return how often each container of a revision's pods has crashed."""
        return self.cluster.crashes({**self.labels, _REVISION: revision})

    def diagnose(self, revision: str) -> str:
        """Return why pods of a revision don't run or have crashed; empty if nothing is wrong."""
        return self.cluster.diagnose({**self.labels, _REVISION: revision}, self._of(revision))[0]

    @property
    def where(self) -> str:
        return f"in namespace {self.cluster.namespace}"

    @property
    def labels(self) -> dict[str, str]:
        return self.cluster.labels(self.name)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "namespace": self.cluster.namespace,
            "replicas": self.replicas,
            "max_replicas": self.max_replicas,
            "gateway": self.gateway,
        }

    def state(self) -> Endpoint | None:
        """Return the last requested endpoint, which the cluster stores."""
        _, self.record = self._written()
        return Endpoint(**json.loads(self.record)) if self.record else None

    def _written(self) -> tuple[str, str]:
        """Return the Service's version and its annotation; both empty if there is none."""
        metadata = (self.cluster.get("v1", "Service", self.name) or {}).get("metadata", {})
        return metadata.get("resourceVersion", ""), metadata.get("annotations", {}).get(_STATE, "")

    def place(self, pod: ModelPod, clients: list[str]) -> None:
        """Apply a revision's objects, and the policies of all revisions."""
        self._apply("networking.k8s.io/v1", "NetworkPolicy", self.name, self._network(pod, clients))
        labels = {**self.labels, _REVISION: pod.revision}
        # One per revision, removed with it: a common one would count pods of deleted Deployments, and block
        # draining of nodes meanwhile.
        disruption = {
            "selector": {"matchLabels": labels},
            "maxUnavailable": 1,
            # A pod that never gets ready must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        }
        self._apply("policy/v1", "PodDisruptionBudget", self._of(pod.revision), disruption, labels)
        if pod.has_files:
            self.cluster.apply(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": self._metadata(self._of(pod.revision), labels),
                    "data": pod.files,
                    "immutable": True,
                }
            )
        # The number of pods isn't applied: it belongs to the traffic split or the autoscaler.
        spec = {
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {
                    **pod.options.metadata(),
                    "labels": {
                        **pod.options.labels,
                        **labels,
                        **OUTSIDE_MESH,
                        **self._named(pod.revision),
                    },
                },
                "spec": pod.full_spec(labels),
            },
        }
        self._apply(
            "apps/v1",
            "Deployment",
            self._of(pod.revision),
            spec,
            {**labels, **self._named(pod.revision), **({_DIGEST: pod.digest} if pod.digest else {})},
            annotations={
                _MODEL: pod.model,
                **{f"flowparts/{what}": of for what, of in common.origin().items()},
            },
        )
        self._apply("v1", "Service", self._of(pod.revision), self._service(labels), labels)

    def steer(self, asked: Endpoint, timeout_seconds: float = 600.0, pod: ModelPod | None = None) -> Endpoint:
        """Split the traffic: first add pods, then change the routes, then remove pods.

        The requested revision must be ready, and so must additional pods of the other one. Otherwise the
        other one's state doesn't matter, since the new revision may replace a crashing one. A deployed
        revision must serve its pod's model.

        Returns:
            The endpoint with the actual traffic, as stored in the cluster.
        """
        pods = self._pods(asked)
        given = self.measured(asked)
        expected = {asked.revision: pods[asked.revision]}
        for revision, count in pods.items():
            if count and self._placed(revision) < count:
                expected[revision] = count
                self.cluster.scale(self._of(revision), count)
            if count and self.max_replicas:
                scaler = self._scaler(revision, min(count, self.replicas))
                self._apply("autoscaling/v2", "HorizontalPodAutoscaler", self._of(revision), scaler)
        what = f"revision {asked.revision} of endpoint {self.name!r}"
        common.wait(
            what,
            lambda: "; ".join(filter(None, map(self._look, expected, expected.values()))),
            timeout_seconds,
        )
        if pod and pod.digest and self.kind.digest_path and common.dry_run() is None:
            path = self.kind.digest_path.format(name=self.name)
            found = self.cluster.ask_service(self._of(asked.revision), path)
            common.require_served(found, pod.digest, asked.revision)
        self._route(given)
        if self.gateway:
            common.wait(f"the route of endpoint {self.name!r}", self._look_at_route, _ROUTE_SECONDS)
        for revision, count in pods.items():
            # Above its minimum, the autoscaler decides.
            if count and not self.max_replicas:
                self.cluster.scale(self._of(revision), count)
        for revision, percent in given.traffic.items():
            said = (
                "" if percent == asked.traffic[revision] else f", for {asked.traffic[revision]} % asked for"
            )
            self.cluster.note(
                "Deployment",
                self._of(revision),
                "Share",
                f"{revision} gets {percent} % of the requests{said}",
                {_SHARE: str(percent)},
            )
        return given

    def _take_away(self, before: Endpoint | None, after: Endpoint) -> None:
        """Remove objects of options that the endpoint no longer has."""
        if before is None:
            return
        if before.settings["gateway"] and not self.gateway:
            self.cluster.delete(*_ROUTE, self.name)
        if before.settings["max_replicas"] and not self.max_replicas:
            for revision in after.traffic:
                self.cluster.delete("autoscaling/v2", "HorizontalPodAutoscaler", self._of(revision))

    def undo(self, revision: str, before: Endpoint | None) -> None:
        """Restore the traffic split, then remove a new revision."""
        if before:
            replace(Fleet.of(before, self.kind), cluster=self.cluster, record=self.record)._route(before)
            if self.gateway and not before.settings["gateway"]:
                self.cluster.delete(*_ROUTE, self.name)
        if before is None or revision not in before.traffic:
            self.remove(revision, last=before is None)

    def remove(self, revision: str, last: bool = False) -> None:
        """Remove a revision, and with the last one the common objects."""
        self.cluster.delete("policy/v1", "PodDisruptionBudget", self._of(revision))
        self.cluster.delete("autoscaling/v2", "HorizontalPodAutoscaler", self._of(revision))
        self.cluster.delete("v1", "Service", self._of(revision))
        self.cluster.delete("apps/v1", "Deployment", self._of(revision))
        if self.kind.has_files:
            self.cluster.delete("v1", "ConfigMap", self._of(revision))
        if last:
            if self.gateway:
                self.cluster.delete(*_ROUTE, self.name)
            self.cluster.delete("v1", "Service", self.name)
            self.cluster.delete("networking.k8s.io/v1", "NetworkPolicy", self.name)

    def tidy(self, asked: Endpoint) -> None:
        """Remove every revision that the endpoint doesn't name."""
        for revision in self._others(asked):
            self.remove(revision)
        # Earlier releases created one budget for all revisions.
        self.cluster.delete("policy/v1", "PodDisruptionBudget", self.name)

    def measured(self, asked: Endpoint) -> Endpoint:
        """Return the endpoint with the actual traffic by pods."""
        if self.gateway or not 0 < asked.percent < 100:
            return asked
        pods = self._pods(asked)
        return asked.with_percent(round(100 * pods[asked.revision] / sum(pods.values())))

    @staticmethod
    def _named(revision: str) -> dict[str, str]:
        """Return a revision's labels for people and dashboards."""
        return {"app.kubernetes.io/component": "model-server", "app.kubernetes.io/version": revision}

    def _ready(self, revision: str) -> int:
        """Return how many pods of a revision are ready."""
        found = self.cluster.get("apps/v1", "Deployment", self._of(revision)) or {}
        return int(found.get("status", {}).get("availableReplicas", 0))

    def _of(self, revision: str) -> str:
        return f"{self.name}-{revision}"

    def _apply(
        self,
        api_version: str,
        kind: str,
        name: str,
        spec: Manifest,
        labels: Manifest | None = None,
        **more: Any,
    ) -> Manifest:
        metadata = {**self._metadata(name, labels or self.labels), **more}
        return self.cluster.apply(
            {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
        )

    def _metadata(self, name: str, labels: Manifest) -> Manifest:
        return {"name": name, "namespace": self.cluster.namespace, "labels": labels}

    def _pods(self, asked: Endpoint) -> dict[str, int]:
        """Return the number of pods of each revision; without a Gateway their ratio is the traffic split.

        At 0 % the revision keeps its pods: it gets no requests, and can take over at once.
        """
        full, percent = self.replicas, asked.percent
        if self.max_replicas and asked.previous_revision:
            # The new revision must be able to take over from one that the autoscaler has enlarged.
            full = min(self.max_replicas, max(full, self._placed(asked.previous_revision)))
        if asked.previous_revision is None or percent == 100:
            current, previous = full, 0
        elif percent == 0:
            current, previous = 1, full
        elif self.gateway:
            current = previous = full
        elif percent <= 50:
            current, previous = max(1, round(full * percent / (100 - percent))), full
        else:
            current, previous = full, max(1, round(full * (100 - percent) / percent))
        return {revision: current if revision == asked.revision else previous for revision in asked.traffic}

    def _placed(self, revision: str) -> int:
        return int((self._deployment(revision)["spec"]).get("replicas", 1))

    def _deployment(self, revision: str) -> Manifest:
        found = self.cluster.get("apps/v1", "Deployment", self._of(revision))
        if found is None:
            raise ValueError(
                f"revision {revision} of endpoint {self.name!r} is gone from namespace "
                f"{self.cluster.namespace}; deploy its model again"
            )
        return found

    def _look(self, revision: str, count: int) -> str:
        """Return "" when a revision has its pods, else its state."""
        deployment = self._deployment(revision)
        status = deployment.get("status", {})
        ready = min(status.get("updatedReplicas", 0), status.get("availableReplicas", 0))
        if observed(deployment) and ready >= count:
            return ""
        refused = condition(deployment, "ReplicaFailure")
        if refused.get("status") == "True":
            raise ValueError(f"its pods are refused: {refused.get('message', refused.get('reason'))}")
        why, is_terminal = self.cluster.diagnose({**self.labels, _REVISION: revision}, self._of(revision))
        if is_terminal:
            raise ValueError(why)
        return f"{ready} of {count} pods of {revision} are ready" + (f" ({why})" if why else "")

    def _narrow(self, before: Endpoint | None, after: Endpoint) -> None:
        """Route traffic away from a canary that another one replaces.

        If traffic is split by pods, the Service would otherwise select the new one's as soon as they are
        ready.
        """
        if before and not self.gateway and 0 < before.percent < 100 and after.revision not in before.traffic:
            self._route(before.with_percent(0 if before.previous_revision in after.traffic else 100))

    def _clear(self, asked: Endpoint) -> None:
        """Remove revisions that don't belong to an endpoint, such as leftovers of a killed step."""
        strangers = self._others(asked)
        for revision in strangers:
            self.remove(revision)

        def look() -> str:
            pods = [
                pod["metadata"]["name"]
                for revision in strangers
                for pod in self.cluster.find("v1", "Pod", {**self.labels, _REVISION: revision})
                if "deletionTimestamp" not in pod["metadata"]
            ]
            return f"{', '.join(pods)} of another deployment is there" if pods else ""

        common.wait(f"endpoint {self.name!r}", look, _CLEAR_SECONDS)

    def _others(self, asked: Endpoint) -> list[str]:
        """Return existing revisions that an endpoint doesn't name."""
        placed = self.cluster.find("apps/v1", "Deployment", self.labels)
        revisions = [deployment["metadata"]["labels"][_REVISION] for deployment in placed]
        return [revision for revision in revisions if revision not in asked.traffic]

    def _route(self, asked: Endpoint) -> None:
        serving = [revision for revision, percent in asked.traffic.items() if percent]
        if len(serving) > 1 and not self.gateway:
            self._clear(asked)  # the Service then selects all pods of the endpoint
        if self.gateway and asked.previous_revision and asked.percent < 100:
            # The Gateway uses each revision's own Service. Clients of this one get the stable revision, and
            # never pods of a revision outside of the endpoint.
            serving = [asked.previous_revision]
        selector = self.labels if len(serving) > 1 else {**self.labels, _REVISION: serving[0]}
        record = json.dumps(asdict(asked), sort_keys=True)
        self._swap(record, self._service(selector))
        if self.gateway:
            self._apply(*_ROUTE, self.name, self._http_route(asked))

    def _swap(self, record: str, service: Manifest) -> None:
        """Write the Service if its annotation is unchanged since this step's last read or write.

        If other fields have changed, the newer version is updated.
        """
        for _ in range(_SWAP_TRIES):
            version, found = self._written()
            if found not in (self.record, record):
                raise ValueError(
                    f"endpoint {self.name!r} {self.where} was changed by something else meanwhile; look at "
                    "its Service, and run this again"
                )
            marks: Manifest = {"annotations": {_STATE: record}}
            if version:
                marks["resourceVersion"] = version
            try:
                self._apply("v1", "Service", self.name, service, **marks)
            except ChangedError as error:
                last = error
                continue
            self.record = record
            return
        raise last

    def monitor(self) -> prometheus.Monitor:
        """Return the endpoint's monitor for Prometheus."""
        return prometheus.Monitor(self.cluster, self.name, prometheus.SERVICES, self.name)

    def _watched(self) -> Manifest:
        # The revisions' own Services: the common one would count the same pods twice.
        each = {
            "matchLabels": self.labels,
            "matchExpressions": [{"key": _REVISION, "operator": "Exists"}],
        }
        return prometheus.by_services(each, self.kind.metrics_path, NAME_LABEL, [_REVISION])

    def _http_route(self, asked: Endpoint) -> Manifest:
        parent = dict(zip(("name", "namespace"), reversed(self.gateway.split("/")), strict=False))
        path = {"type": "PathPrefix", "value": f"/{self.cluster.namespace}/{self.name}"}
        rewrite = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}
        rule = {
            "matches": [{"path": path}],
            "filters": [{"type": "URLRewrite", "urlRewrite": rewrite}],
            "backendRefs": [
                {"name": self._of(revision), "port": 80, "weight": percent}
                for revision, percent in asked.traffic.items()
            ],
        }
        return {"parentRefs": [parent], "rules": [rule]}

    def _look_at_route(self) -> str:
        route = self.cluster.get(*_ROUTE, self.name) or {}
        parents = route.get("status", {}).get("parents", [])
        now = route.get("metadata", {}).get("generation", 0)
        conditions = [
            entry
            for parent in parents
            for entry in parent["conditions"]
            if entry.get("observedGeneration", now) >= now
        ]
        if bad := [entry for entry in conditions if entry["status"] == "False"]:
            return f"{bad[0]['type']} is false: {bad[0].get('message', bad[0].get('reason'))}"
        return "" if conditions else f"the gateway {self.gateway} has not taken it yet"

    def url(self) -> str:
        if not self.gateway:
            return f"http://{self.name}.{self.cluster.namespace}.svc"
        name, _, namespace = reversed(self.gateway.rpartition("/"))
        beside = Cluster(namespace) if namespace else self.cluster
        found = beside.get(*_GATEWAY, name)
        addresses = (found or {}).get("status", {}).get("addresses", [])
        if not found or not addresses:
            raise ValueError(
                f"the gateway {self.gateway} is not there or has no address; name one that is programmed"
            )
        listener = found["spec"]["listeners"][0]
        scheme = "https" if listener["protocol"] in ("HTTPS", "TLS") else "http"
        # Requests to a listener with a host name need it; for *.example.com any matching one will do.
        host = listener.get("hostname", addresses[0]["value"]).replace("*", self.name, 1)
        return f"{scheme}://{host}:{listener['port']}/{self.cluster.namespace}/{self.name}"

    def _network(self, pod: ModelPod, clients: list[str]) -> Manifest:
        ports = [{"protocol": "TCP", "port": port} for port in (self.kind.http_port, self.kind.grpc_port)]
        rule: Manifest = {"ports": ports}
        if "*" not in clients:
            # Kubernetes itself admits the probes of the pods' node. Others to admit: the sources of routed
            # requests, and the probing step.
            others = {*clients, self.gateway.rpartition("/")[0], self.cluster.pod_namespace}
            rule["from"] = [{"podSelector": {}}]
            if values := sorted(others - {"", self.cluster.namespace}):
                named = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": values}
                rule["from"].append({"namespaceSelector": {"matchExpressions": [named]}})
        policy: Manifest = {
            "podSelector": {"matchLabels": self.labels},
            "policyTypes": ["Ingress"],
            "ingress": [rule],
        }
        # A policy can't name the model's store, so only a mounted model allows blocking outgoing traffic.
        return {**policy, "policyTypes": ["Ingress", "Egress"]} if pod.mounted else policy

    def _scaler(self, revision: str, count: int) -> Manifest:
        busy = {"type": "Utilization", "averageUtilization": _BUSY_PERCENT}
        return {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": self._of(revision)},
            "minReplicas": count,
            "maxReplicas": self.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": busy}}],
        }

    def _service(self, selector: dict[str, str]) -> Manifest:
        http, grpc = self.kind.http_port, self.kind.grpc_port
        return {
            "selector": selector,
            "ports": [
                {"name": "http", "port": 80, "targetPort": http, "protocol": "TCP", "appProtocol": "http"},
                {
                    "name": "grpc",
                    "port": grpc,
                    "targetPort": grpc,
                    "protocol": "TCP",
                    "appProtocol": "kubernetes.io/h2c",
                },
            ],
        }


@dataclass(frozen=True)
class Platform:
    """The functions, besides `deploy` and `predict`, of targets with fleets.

    Attributes:
        target: The target's name.
        kind: Class of its pods.
    """

    target: str
    kind: type[ModelPod]

    def endpoints(self, namespace: str = "") -> list[Endpoint]:
        """Return the endpoints in a namespace."""
        cluster = Cluster(namespace)
        found = []
        for service in cluster.find("v1", "Service", cluster.managed()):
            if written := service["metadata"].get("annotations", {}).get(_STATE):
                endpoint = Endpoint(**json.loads(written))
                if endpoint.target == self.target:
                    found.append(endpoint)
        return found

    def plan(
        self,
        name: str,
        percentages: Sequence[int],
        *,
        replicas: int = 2,
        max_replicas: int = 0,
        namespace: str = "",
        gateway: str = "",
        **_: Any,
    ) -> common.Plan:
        """Return the traffic that a revision would get: without a Gateway, by the ratio of pods."""
        cluster = Cluster(namespace)
        return Fleet(cluster, self.target, self.kind, name, replicas, max_replicas, gateway).plan(percentages)

    def remove(self, name: str, *, namespace: str = "", dry_run: bool = False) -> list[str]:
        """Remove an endpoint with all its revisions; with `dry_run`, only return its objects."""
        cluster = Cluster(namespace)
        cluster.is_dry_run = dry_run
        fleet = self._fleet(cluster, name)
        with cluster.writing(name):
            state = fleet.state()
            if state and state.target != self.target:
                raise ValueError(f"endpoint {name!r} {fleet.where} is of the target {state.target}")
            placed = cluster.find("apps/v1", "Deployment", fleet.labels)
            revisions = {deployment["metadata"]["labels"][_REVISION] for deployment in placed}
            # First the routes to them.
            if cluster.serves(*_ROUTE):
                cluster.delete(*_ROUTE, name)
            cluster.delete("v1", "Service", name)
            for revision in sorted(revisions | set(state.traffic if state else ())):
                fleet.remove(revision)
            cluster.delete("networking.k8s.io/v1", "NetworkPolicy", name)
            fleet.monitor().remove()
        return cluster.deleted

    @contextmanager
    def writing(
        self, name: str, *, namespace: str = "", wait_seconds: float = 0.0
    ) -> Iterator[Endpoint | None]:
        """Lock an endpoint for changes, and yield it; None if there is none."""
        fleet = self._fleet(Cluster(namespace), name)
        with fleet.cluster.writing(name, wait_seconds):
            yield fleet.state()

    def shift(self, endpoint: Endpoint, percent: int) -> Endpoint:
        """Route a percentage to the current revision; the previous one keeps its pods for a rollback."""
        return Fleet.of(endpoint, self.kind).shift(endpoint, percent)

    def rollback(self, endpoint: Endpoint) -> Endpoint:
        """Scale the previous revision to full size, route all traffic to it, remove the current one."""
        return Fleet.of(endpoint, self.kind).rollback(endpoint)

    def crashes(self, endpoint: Endpoint, revision: str) -> dict[str, int]:
        """Return how often each container of a revision's pods has crashed."""
        return Fleet.of(endpoint, self.kind).crashes(revision)

    def diagnose(self, endpoint: Endpoint, revision: str) -> str:
        """Return why pods of a revision don't run or have crashed; empty if nothing is wrong."""
        return Fleet.of(endpoint, self.kind).diagnose(revision)

    def release(self, endpoint: Endpoint) -> None:
        """Scale a previous revision without traffic to zero; a rollback scales it up again."""
        Fleet.of(endpoint, self.kind).release(endpoint)

    def _fleet(self, cluster: Cluster, name: str) -> Fleet:
        """Return the fleet of an endpoint, with default options."""
        return Fleet(cluster, self.target, self.kind, name, 1, 0, "")
