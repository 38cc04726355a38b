"""The Seldon Core 2 target: a Server and a Model per revision, and an Experiment that splits the traffic.

Seldon's Servers can hold any models that their capabilities allow; here each holds one, in the same image as
on other targets, so that a revision's pods can't disturb another's
(https://docs.seldon.ai/seldon-core-2/user-guide/servers). An agent beside the server downloads the model and
asks the server to load it. Clients name the Experiment in the header Seldon-Model and use the Open Inference
Protocol.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from flowparts.deploy import common, prometheus
from flowparts.deploy.cluster import Cluster, Manifest, condition, observed
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.pod_log import Logged
from flowparts.deploy.server_pod import ServerPod

_API = "mlops.seldon.io/v1alpha1"
_STATE = "flowparts/endpoint"
_REVISION = "flowparts/revision"
_MESH = "seldon-mesh"
# Seldon's server configuration with the agent for the scheduler, and its ports and folder.
_CONFIG = "mlserver"
_CONFIG_PORTS = (9000, 9500)
_CONFIG_MODELS = "/mnt/agent/models"
# Its name of the first port.
_METRICS_PORT = "server-http"
# Seldon's label on the pods of a Server.
_SERVER = "seldon-server-name"
# Seldon's sidecars, and the security context that Pod Security's "restricted" requires.
_BESIDE = ("rclone", "agent")
_RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
# An Experiment doesn't report when the mesh has applied a change; a revision without traffic stays this long.
_MESH_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Options(Logged):
    """The options of Seldon.

    Attributes:
        environment_from: A Secret whose keys become the server's environment; it needs no credentials.
        storage_access: A Secret with the rclone settings of Seldon's agent for the download; see
            https://docs.seldon.ai/seldon-core-2/user-guide/storage-secrets.
    """

    storage_access: str = ""


def deploy(model: str, name: str, **given: Any) -> Endpoint:
    """Deploy a model on its own servers, wait until it is ready, and route traffic to it by the Experiment.

    Args:
        model: s3:// or gs://, which Seldon's agent downloads.
        name: The Experiment.
        given: `Options` by name.

    Raises:
        ValueError: An option is wrong, or the revision fails to start. It is removed, and the previous one
            keeps serving.
    """
    chosen = Options(**given)
    common.require_allowed("storage_access", chosen.storage_access)
    if chosen.pod_options.metadata():
        raise ValueError(
            "Seldon takes no labels and annotations for pods; leave them out of the option 'pods'"
        )
    pod = ServerPod.of(model, name, chosen)
    if pod.mounted:
        raise ValueError(f"Seldon can't take a model from a volume such as {model}; give s3:// or gs://")
    pod = replace(pod, digest=common.digest(pod.model, chosen.digest))
    fleet = _Fleet(Cluster(chosen.namespace), name)
    if pod.log:
        pod.log.require_claim(fleet.cluster)
    with fleet.cluster.writing(name, chosen.wait_seconds):
        before = fleet.state()
        after = Endpoint("seldon", name, fleet.url, pod.revision, {pod.revision: 100})
        if before:
            after = before.deploying(pod.revision, chosen.percent)
        after = replace(after, settings={"namespace": fleet.cluster.namespace, **common.kept_options()})
        monitor, watched = fleet.monitor(), fleet.watched(after)
        monitor.install(chosen, watched)

        def undo() -> None:
            try:
                fleet.undo(pod.revision, before)
            finally:
                monitor.undo()

        try:
            fleet.place(pod, chosen.replicas, chosen.storage_access)
            what = f"revision {pod.revision} of endpoint {name!r}"
            common.wait(what, lambda: fleet.look(pod.revision), chosen.timeout_seconds)
            fleet.require_served(pod)
            fleet.steer(after, chosen.timeout_seconds)
        except ValueError as error:
            kept = before.traffic if before else []
            raise common.not_deployed(name, pod.revision, error, kept, undo) from None
        fleet.tidy(after)
        monitor.finish(chosen, watched)
        return after


def remove(name: str, *, namespace: str = "", dry_run: bool = False) -> list[str]:
    """Remove an endpoint with all its revisions; with `dry_run`, only return its objects."""
    cluster = Cluster(namespace)
    cluster.is_dry_run = dry_run
    fleet = _Fleet(cluster, name)
    with cluster.writing(name):
        cluster.delete(_API, "Experiment", name)
        for model in cluster.find(_API, "Model", fleet.labels):
            fleet.remove(model["metadata"]["labels"][_REVISION])
        fleet.monitor().remove()
    return cluster.deleted


@contextmanager
def writing(name: str, *, namespace: str = "", wait_seconds: float = 0.0) -> Iterator[Endpoint | None]:
    """Lock an endpoint for changes, and yield it; None if there is none."""
    fleet = _Fleet(Cluster(namespace), name)
    with fleet.cluster.writing(name, wait_seconds):
        yield fleet.state()


def shift(endpoint: Endpoint, percent: int) -> Endpoint:
    """Change the weights of the Experiment; the previous revision stays loaded."""
    fleet = _Fleet.of(endpoint)
    with fleet.cluster.writing(fleet.name):
        after = common.unchanged(endpoint, fleet.state(), fleet.where).with_percent(percent)
        fleet.steer(after)
        return after


def rollback(endpoint: Endpoint) -> Endpoint:
    """Route all traffic to the previous revision, which is still loaded, and remove the current one."""
    fleet = _Fleet.of(endpoint)
    with fleet.cluster.writing(fleet.name):
        after = common.rolled_back(endpoint, fleet.state(), fleet.where)
        fleet.steer(after)
        fleet.tidy(after)
        return after


def predict(endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = "") -> list[dict[str, Any]]:
    """Send rows by the Open Inference Protocol for the Experiment, or for one revision's Model."""
    wanted = f"{endpoint.name}-{revision}" if revision else f"{endpoint.name}.experiment"
    path = f"v2/models/{endpoint.name}/infer"
    return rows_of(ask(Cluster(endpoint.settings["namespace"]), path, tensors(rows), wanted))


def crashes(endpoint: Endpoint, revision: str) -> dict[str, int]:
    """Return how often each container of a revision's pods has crashed."""
    fleet = _Fleet.of(endpoint)
    return fleet.cluster.crashes(fleet.pods_of(revision))


def diagnose(endpoint: Endpoint, revision: str) -> str:
    """Return why pods of a revision don't run or have crashed; empty if nothing is wrong."""
    fleet = _Fleet.of(endpoint)
    return fleet.cluster.diagnose(fleet.pods_of(revision), f"{endpoint.name}-{revision}")[0]


def endpoints(namespace: str = "") -> list[Endpoint]:
    """Return the endpoints in a namespace."""
    cluster = Cluster(namespace)
    states = (_Fleet(cluster, name).state() for name in cluster.names(_API, "Experiment"))
    return [state for state in states if state]


def ask(cluster: Cluster, path: str, body: Any, model: str) -> Any:
    """Get or post JSON to a Model or an Experiment through the mesh."""
    return cluster.ask_service(_MESH, path, body, {"Seldon-Model": model})


def tensors(rows: Sequence[dict[str, Any]]) -> Manifest:
    """Return rows as a request of the Open Inference Protocol: one tensor of shape [rows] per column."""
    inputs = []
    for name in dict.fromkeys(column for row in rows for column in row):
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if kinds == {bool}:
            datatype = "BOOL"
        elif kinds == {int}:
            datatype = "INT64"
        else:
            datatype = "FP64" if kinds and kinds <= {int, float} else "BYTES"
        inputs.append({"name": name, "shape": [len(rows)], "datatype": datatype, "data": values})
    return {"inputs": inputs}


def rows_of(answer: Any) -> list[dict[str, Any]]:
    """Return the rows of an answer of the Open Inference Protocol.

    Raises:
        ValueError: It isn't such an answer.
    """
    try:
        columns = {output["name"]: output["data"] for output in answer["outputs"]}
    except (KeyError, TypeError):
        raise ValueError(f"the answer holds no outputs: {json.dumps(answer)[:200]}") from None
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class _Fleet:
    """All objects of one endpoint."""

    cluster: Cluster
    name: str

    @classmethod
    def of(cls, endpoint: Endpoint) -> "_Fleet":
        return cls(Cluster(endpoint.settings["namespace"]), endpoint.name)

    @property
    def url(self) -> str:
        return f"http://{_MESH}.{self.cluster.namespace}.svc"

    @property
    def where(self) -> str:
        return f"in namespace {self.cluster.namespace}"

    @property
    def labels(self) -> dict[str, str]:
        return self.cluster.labels(self.name)

    def state(self) -> Endpoint | None:
        """Return the last requested endpoint, which the cluster stores."""
        found = self.cluster.get(_API, "Experiment", self.name)
        written = (found or {}).get("metadata", {}).get("annotations", {}).get(_STATE)
        return Endpoint(**json.loads(written)) if written else None

    def place(self, pod: ServerPod, replicas: int, storage_access: str) -> None:
        """Apply a revision's Server and Model."""
        own = f"{self.name}-{pod.revision}"
        labels = {**self.labels, _REVISION: pod.revision}
        # Seldon merges this with its configuration: the agent, which needs the pod's account to read Secrets,
        # its volume, the user, and the grace period, in which the agent drains.
        server = pod.container(_CONFIG, *_CONFIG_PORTS, _CONFIG_MODELS)
        beside = [{"name": name, "securityContext": _RESTRICTED} for name in _BESIDE]
        security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        spec = {**pod.spec(), "containers": [server, *beside], "securityContext": security}
        del spec["automountServiceAccountToken"]
        servers = {
            "serverConfig": _CONFIG,
            # A capability that no other model requires, so the server takes no other.
            "capabilities": [own],
            "podSpec": spec,
            "replicas": replicas,
        }
        model = {"storageUri": pod.model, "server": own, "requirements": [own], "replicas": replicas}
        if storage_access:
            model["secretName"] = storage_access
        self._apply("Server", own, servers, labels)
        about = {f"flowparts/{what}": of for what, of in common.origin().items()}
        self._apply("Model", own, model, labels, **({"annotations": about} if about else {}))

    def steer(self, asked: Endpoint, timeout_seconds: float = 600.0) -> None:
        """Split the traffic, and wait until it is applied."""
        self.set_weights(asked)
        what = f"the experiment of endpoint {self.name!r}"
        common.wait(what, lambda: self._state_of("Experiment", self.name), timeout_seconds)

    def set_weights(self, asked: Endpoint) -> None:
        """Apply the Experiment."""
        candidates = [
            {"name": f"{self.name}-{revision}", "weight": percent}
            for revision, percent in asked.traffic.items()
            if percent
        ]
        written = {_STATE: json.dumps(asdict(asked), sort_keys=True)}
        self._apply("Experiment", self.name, {"candidates": candidates}, self.labels, annotations=written)

    def undo(self, revision: str, before: Endpoint | None) -> None:
        """Restore the traffic split, then remove a new revision."""
        if before:
            self.set_weights(before)
        else:
            self.cluster.delete(_API, "Experiment", self.name)
        if before is None or revision not in before.traffic:
            self.remove(revision)

    def pods_of(self, revision: str) -> dict[str, str]:
        """Return Seldon's labels of a revision's pods."""
        return {_SERVER: f"{self.name}-{revision}"}

    def monitor(self) -> prometheus.Monitor:
        """Return the endpoint's monitor for Prometheus."""
        return prometheus.Monitor(self.cluster, self.name, prometheus.PODS, f"{self.name}-seldon")

    def watched(self, asked: Endpoint) -> Manifest:
        """Return its targets: the servers of each revision, whose pods have no label of the endpoint."""
        servers = [f"{self.name}-{revision}" for revision in sorted(asked.traffic)]
        ours = {"matchExpressions": [{"key": _SERVER, "operator": "In", "values": servers}]}
        return prometheus.by_pods(self.name, ours, _METRICS_PORT, _SERVER, f"{self.name}-(.+)")

    def look(self, revision: str) -> str:
        """Return "" when a revision's Model is ready, else its state."""
        own = f"{self.name}-{revision}"
        state = self._state_of("Model", own)
        why, is_terminal = self.cluster.diagnose(self.pods_of(revision), own) if state else ("", False)
        if is_terminal:
            raise ValueError(why)
        return why or state

    def require_served(self, pod: ServerPod) -> None:
        """Raise ValueError unless a revision's servers serve its pod's model."""
        own = f"{self.name}-{pod.revision}"
        path = pod.digest_path.format(name=own)
        common.await_served(lambda: ask(self.cluster, path, None, own), pod.digest, pod.revision)

    def remove(self, revision: str) -> None:
        self.cluster.delete(_API, "Model", f"{self.name}-{revision}")
        self.cluster.delete(_API, "Server", f"{self.name}-{revision}")

    def tidy(self, asked: Endpoint) -> None:
        """Remove revisions that the endpoint doesn't name, once the mesh sends them no requests."""
        models = self.cluster.find(_API, "Model", self.labels)
        revisions = [model["metadata"]["labels"][_REVISION] for model in models]
        if doomed := [revision for revision in revisions if revision not in asked.traffic]:
            time.sleep(_MESH_SECONDS)
        for revision in doomed:
            self.remove(revision)

    def _apply(self, kind: str, name: str, spec: Manifest, labels: Manifest, **more: Any) -> None:
        metadata = {"name": name, "namespace": self.cluster.namespace, "labels": labels, **more}
        self.cluster.apply({"apiVersion": _API, "kind": kind, "metadata": metadata, "spec": spec})

    def _state_of(self, kind: str, name: str) -> str:
        found = self.cluster.get(_API, kind, name) or {"metadata": {}}
        ready = condition(found, "Ready")
        if ready.get("status") == "True" and observed(found):
            return ""
        return f"{kind} {name}: {ready.get('message') or ready.get('reason') or 'not scheduled yet'}"
