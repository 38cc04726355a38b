"""The Kubernetes API for deployment targets: apply and read objects, and explain why something doesn't run.

Objects are plain dictionaries, as in a manifest. They are written by server-side apply
(https://kubernetes.io/docs/reference/using-api/server-side-apply/) under one field manager, so applying the
same manifest again changes nothing, and fields set by others are left alone. Errors of the API become
messages of one sentence.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from flowparts.deploy import _lease, server_time
from flowparts.deploy.common import dry_run, fetch, log_text, predictions, require_allowed
from flowparts.util.errors import MissingError, RefusedError, UnreachableError
from flowparts.util.shortening import one_line

NAME_LABEL = "app.kubernetes.io/name"
_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "flowparts"
_BACK_OFF = "CrashLoopBackOff"
# Permanent failures: the kubelet has already retried several times when it reports these reasons.
TERMINAL_REASONS = (_BACK_OFF, "CreateContainerConfigError", "ImagePullBackOff", "InvalidImageName")

# Reasons why a container can't start, rather than that it ended.
_CAUSES = (*TERMINAL_REASONS, "ErrImagePull", "OOMKilled")

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PROXIED = re.compile("/services/([^/:]+)[^/]*/proxy/")
# The message of server-side apply; only its text identifies this error.
_UNDECLARED = re.compile(r"(\.\S+): field not declared in schema")
_TIMEOUT_SECONDS = (10, 60)
_LEASE = ("coordination.k8s.io/v1", "Lease")
# Tolerance between this machine's clock and the cluster's.
_CLOCKS_DIFFER = timedelta(minutes=1)

Manifest = dict[str, Any]

_log = logging.getLogger("flowparts")


class Cluster:
    """A namespace of a Kubernetes cluster, accessed by the kubeconfig or the pod's service account.

    Args:
        namespace: The namespace; default: that of this pod, or of the kubeconfig's context.

    Attributes:
        pod_namespace: The namespace of this pod; empty if this process doesn't run in a pod.

    Raises:
        ValueError: There is neither a kubeconfig nor a service account, or the namespace isn't allowed.
    """

    def __init__(self, namespace: str = ""):
        from kubernetes.client.api_client import ApiClient
        from kubernetes.client.configuration import Configuration
        from kubernetes.config import config_exception, incluster_config, kube_config

        settings = Configuration()
        own = "default"
        self.pod_namespace = ""
        try:
            # The pod's service account first: a pod has no kubeconfig, and the client's own order prints
            # messages.
            if in_cluster():
                incluster_config.load_incluster_config(settings)
                own = self.pod_namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
            else:
                # The client reads this variable on import, which may be too early.
                file = os.environ.get("KUBECONFIG")
                kube_config.load_kube_config(file, client_configuration=settings)
                own = kube_config.list_kube_config_contexts(file)[1]["context"].get("namespace", own)
        except (config_exception.ConfigException, OSError) as error:
            raise ValueError(
                "no Kubernetes cluster is configured: run in a pod with a service account, or name a "
                f"kubeconfig in KUBECONFIG ({_line(str(error))})"
            ) from None
        # One failed attempt is enough: the step itself is retried.
        settings.retries = False
        if namespace != own:
            require_allowed("namespace", namespace)
        self.namespace = namespace or own
        self._client = ApiClient(settings)
        self._paths: dict[tuple[str, str], str] = {}
        # The API's answers to dry runs.
        self._unkept: dict[str, Manifest] = {}
        self._since = datetime.now(UTC) - _CLOCKS_DIFFER
        self._is_blind = False
        # By how much the API server's clock is ahead of this machine's.
        self._ahead = timedelta()
        self._lease: _lease.Lease | None = None
        # What was deleted, or would be in a dry run.
        self.deleted: list[str] = []
        self.is_dry_run = False

    @contextmanager
    def writing(self, name: str, wait_seconds: float = 0.0) -> Iterator[None]:
        """Lock an endpoint for changes: hold its Lease while the block runs.

        Writes in the block are refused once another step has taken the Lease.

        Args:
            name: The endpoint.
            wait_seconds: How long to wait for another step that is changing it.

        Raises:
            ValueError: Another step is changing it; the message says which and since when.
        """
        if dry_run() is not None:  # nothing is written
            yield
            return
        what = f"endpoint {name!r} in namespace {self.namespace}"
        with _lease.writing(_LeaseObject(self.namespace, name), what, wait_seconds) as lease:
            self._lease, before = lease, self._lease
            try:
                yield
            finally:
                self._lease = before

    def now(self) -> datetime:
        """Return the time by the API server's clock, as of its latest answer."""
        return datetime.now(UTC) + self._ahead

    def apply(self, manifest: Manifest) -> Manifest:
        """Apply a manifest and return the object; an unchanged object is left alone.

        With a resourceVersion in the metadata, only that version is changed.

        Raises:
            ChangedError: It has another resourceVersion.
            ValueError: The API refuses it, or another field manager has set a field to another value.
        """
        self._check_lease()
        path = self._path(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])
        query = [("fieldManager", MANAGER), ("fieldValidation", "Strict")]
        noted = dry_run()
        if noted is not None:
            noted.append(manifest)
            query.append(("dryRun", "All"))
        applied: Manifest = self._json("PATCH", path, manifest, query, "application/apply-patch+yaml")
        if noted is not None:
            self._unkept[path] = applied
        return applied

    def names(self, api_version: str, kind: str) -> list[str]:
        """Return the names of all endpoints that have an object of a kind."""
        found = self.find(api_version, kind, self.managed())
        return sorted({thing["metadata"]["labels"][NAME_LABEL] for thing in found})

    @property
    def host(self) -> str:
        """The API's address."""
        return str(self._client.configuration.host)

    @staticmethod
    def labels(name: str) -> dict[str, str]:
        """Return the labels of an endpoint's objects; only objects with these labels are ever deleted."""
        return {NAME_LABEL: name, _MANAGED_BY: MANAGER}

    @staticmethod
    def managed() -> dict[str, str]:
        """Return the labels of all objects of any endpoint."""
        return {_MANAGED_BY: MANAGER}

    def get(self, api_version: str, kind: str, name: str) -> Manifest | None:
        """Return an object; None if it doesn't exist."""
        path = self._path(api_version, kind, name)
        if path in self._unkept:
            return self._unkept[path]
        found: Manifest | None = self._json("GET", path, missing=None)
        return found

    def find(self, api_version: str, kind: str, labels: Mapping[str, str]) -> list[Manifest]:
        """Return the objects of a kind with these labels."""
        query = [("labelSelector", ",".join(f"{key}={value}" for key, value in labels.items()))]
        found: list[Manifest] = self._json("GET", self._path(api_version, kind), query=query)["items"]
        return found

    def delete(self, api_version: str, kind: str, name: str, version: str = "") -> None:
        """Delete an object and its dependents, if it exists; objects created by others stay.

        With a resourceVersion, an object that has changed since stays, too.
        """
        found = self.get(api_version, kind, name) or {}
        if dry_run() is not None:
            return
        if found.get("metadata", {}).get("labels", {}).get(_MANAGED_BY) != MANAGER:
            return
        self._check_lease()
        if self.is_dry_run:
            self.deleted.append(f"{kind} {name}")
            return
        # Of an object that is gone, another one may have the name by now.
        preconditions = {
            "uid": found["metadata"]["uid"],
            **({"resourceVersion": version} if version else {}),
        }
        options = {"propagationPolicy": "Background", "preconditions": preconditions}
        try:
            self._json("DELETE", self._path(api_version, kind, name), options, missing=None)
        except ChangedError:
            _log.info("%s %s was changed or recreated in the meantime, and stays", kind, name)
            return
        self.deleted.append(f"{kind} {name}")

    def note(self, kind: str, name: str, reason: str, message: str, labels: Mapping[str, str]) -> None:
        """Label a Deployment and write an Event about it, unless it has the labels already."""
        self._check_lease()
        found = self.get("apps/v1", kind, name)
        if not found or dry_run() is not None:
            return
        if labels.items() <= found["metadata"].get("labels", {}).items():
            return
        now = self.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{name}.", "namespace": self.namespace},
            "involvedObject": {
                "apiVersion": "apps/v1",
                "kind": kind,
                "name": name,
                "namespace": self.namespace,
                "uid": found["metadata"]["uid"],
            },
            "type": "Normal",
            "reason": reason,
            "message": message,
            "source": {"component": MANAGER},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            patch = {"metadata": {"labels": dict(labels)}}
            query = [("fieldManager", MANAGER)]
            path = self._path("apps/v1", kind, name)
            self._json("PATCH", path, patch, query, "application/merge-patch+json")
            self._json("POST", self._path("v1", "Event"), event)
        except ValueError as error:
            _log.warning("kubectl won't show the traffic of %s: %s", name, error)

    def create(self, manifest: Manifest) -> Manifest:
        """Create an object.

        Raises:
            ChangedError: It exists already.
        """
        path = self._path(manifest["apiVersion"], manifest["kind"])
        made: Manifest = self._json("POST", path, manifest, [("fieldManager", MANAGER)])
        return made

    def replace(self, manifest: Manifest) -> Manifest:
        """Replace an object by a manifest.

        Raises:
            ChangedError: It doesn't exist, or has another resourceVersion than the manifest.
        """
        path = self._path(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])
        made: Manifest = self._json("PUT", path, manifest, [("fieldManager", MANAGER)])
        return made

    def drop(self, api_version: str, kind: str, name: str, version: str) -> None:
        """Delete an object if it has this resourceVersion.

        Raises:
            ChangedError: It has another one.
        """
        options = {"preconditions": {"resourceVersion": version}}
        self._json("DELETE", self._path(api_version, kind, name), options, missing=None)

    def serves(self, api_version: str, kind: str) -> bool:
        """Return whether the cluster serves a kind of objects."""
        return bool(self._resource(api_version, kind))

    def scale(self, deployment: str, replicas: int) -> None:
        """Scale a Deployment, unless it has that number of pods already."""
        if dry_run() is not None:
            return
        self._check_lease()
        path = f"{self._path('apps/v1', 'Deployment', deployment)}/scale"
        if self._json("GET", path)["spec"].get("replicas", 0) != replicas:
            patch = {"spec": {"replicas": replicas}}
            self._json("PATCH", path, patch, [("fieldManager", MANAGER)], "application/merge-patch+json")

    def ask_service(
        self, service: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Get JSON from a path of a service's port 80, or post JSON and return the answer.

        In the cluster the service is called directly, from elsewhere through the API server. There the header
        Authorization is the user's, so a server's token, FLOWPARTS_SERVING_TOKEN of this step's environment,
        has a separate header.

        Args:
            service: Its name.
            path: Path on the service, without a leading slash.
            body: JSON to post; None for GET.
            headers: More headers for the service.

        Raises:
            ValueError: There is no answer, or it is an error.
        """
        if in_cluster():
            return fetch(f"http://{service}.{self.namespace}.svc/{path}", body, headers)
        address = f"/api/v1/namespaces/{self.namespace}/services/{service}:80/proxy/{path}"
        sent = {**_token(), **(headers or {})}
        return self._json("GET" if body is None else "POST", address, body, headers=sent)

    def predict(self, service: str, path: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Post rows to a model server's service and return its predictions, like `common.ask`."""
        answer = self.ask_service(service, path, {"instances": list(rows)})
        return predictions(answer, len(rows), f"service {service}")

    def diagnose(self, labels: Mapping[str, str], *makers: str) -> tuple[str, bool]:
        """Return why pods with these labels don't run, and whether that is permanent.

        The reason is what their containers wait for or exited with and the last line of a crashed container's
        log, why they can't be scheduled, or the latest warning among the events since this object was made of
        the pods that aren't ready and of their controllers; "" if nothing is wrong.

        Args:
            labels: The pods' labels.
            makers: Names of the objects whose controllers create the pods.
        """
        pods = self.find("v1", "Pod", labels)
        for pod in pods:
            name = pod["metadata"]["name"]
            status = pod.get("status", {})
            containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
            # A sidecar fails because the container that it watches does.
            containers.sort(key=lambda container: _state_reason(container) not in _CAUSES)
            for container in containers:
                state, last = container.get("state", {}), container.get("lastState", {})
                ended = state.get("terminated") or last.get("terminated") or {}
                reason = state.get("waiting", {}).get("reason") or ended.get("reason") or ""
                if reason in ("", "Completed", "ContainerCreating", "PodInitializing"):
                    continue
                said = _line(state.get("waiting", {}).get("message") or "")
                if ended:
                    log = self._last_log_line(name, container["name"], "terminated" in last)
                    restarts = container.get("restartCount", 0)
                    often = f", {restarts} restarts" if restarts else ""
                    said = f"exit code {ended.get('exitCode')} ({ended.get('reason')}{often}), "
                    if ended.get("reason") == "OOMKilled":
                        said += "it needs more memory than its limit, "
                    said += f"last log line: {log}"
                return f"{reason} in pod {name}: {said}", reason in TERMINAL_REASONS
            placed = condition(pod, "PodScheduled")
            if placed.get("status") == "False":
                reason = placed.get("reason", "Unschedulable")
                return f"{reason}, pod {name}: {_line(placed.get('message', ''))}", False
        # Warnings about a pod that is ready now, such as failed probes during startup, are outdated.
        waiting = [pod["metadata"]["name"] for pod in pods if condition(pod, "Ready").get("status") != "True"]
        names = [*waiting, *makers]
        warnings = [warning for name in names for warning in self._warnings(name)]
        if warnings:
            _, latest = max(warnings, key=lambda warning: warning[0])
            return f"{latest['reason']}: {_line(latest['message'])}", False
        return "", False

    def crashes(self, labels: Mapping[str, str]) -> dict[str, int]:
        """Return how often each container of pods with these labels has crashed."""
        found = {}
        for pod in self.find("v1", "Pod", labels):
            for container in pod.get("status", {}).get("containerStatuses", []):
                state = container.get("state", {})
                # The restart count only rises when the container runs again, which may take minutes.
                is_down = "terminated" in state or state.get("waiting", {}).get("reason") == _BACK_OFF
                server = f"{pod['metadata'].get('uid')}/{container['name']}"
                found[server] = container.get("restartCount", 0) + is_down
        return found

    def _warnings(self, name: str) -> list[tuple[datetime, Manifest]]:
        """Return the warnings about an object since this one was made, with their times."""
        query = [("fieldSelector", f"involvedObject.name={name},type=Warning")]
        try:
            events = self._json("GET", self._path("v1", "Event"), query=query)["items"]
        except ValueError as error:
            # Events only explain; the pods may become ready anyway.
            if not self._is_blind:
                _log.warning("events can't be read: %s", error)
            self._is_blind = True
            return []
        dated = [(_moment(event), event) for event in events]
        return [(moment, event) for moment, event in dated if moment >= self._since]

    def _last_log_line(self, pod: str, container: str, previous: bool) -> str:
        query = [("container", container), ("tailLines", "20"), ("previous", str(previous).lower())]
        try:
            text = self._text("GET", f"{self._path('v1', 'Pod', pod)}/log", query=query)
        except ValueError as error:
            return str(error)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return _line(log_text(lines[-1])) if lines else "none"

    def _check_lease(self) -> None:
        if self._lease:
            self._lease.check()

    def _path(self, api_version: str, kind: str, name: str = "") -> str:
        plural = self._resource(api_version, kind)
        if not plural:
            raise ValueError(
                f"the cluster knows no {kind} of {api_version}: install what provides it, or deploy to "
                "another target"
            )
        root = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def _resource(self, api_version: str, kind: str) -> str:
        """Return a kind's resource name in paths; "" if the API doesn't serve it."""
        key = api_version, kind
        if not self._paths.get(key):
            root = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
            known = self._json("GET", root, missing={})
            names = [entry["name"] for entry in known.get("resources", []) if entry["kind"] == kind]
            self._paths[key] = min(names, key=len, default="")
        return self._paths[key]

    def _json(self, method: str, path: str, *arguments: Any, **options: Any) -> Any:
        if "missing" in options:
            missing = options.pop("missing")
            try:
                return json.loads(self._text(method, path, *arguments, **options))
            except _NotFoundError:
                return missing
        return json.loads(self._text(method, path, *arguments, **options))

    def _text(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: list[tuple[str, str]] | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> str:
        import urllib3
        from kubernetes.client.exceptions import ApiException

        try:
            answer = self._client.call_api(
                path,
                method,
                query_params=query or [],
                header_params={
                    "Accept": "application/json, */*",
                    "Content-Type": content_type,
                    **(headers or {}),
                },
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=_TIMEOUT_SECONDS,
            )
            if date := answer.headers.get("Date"):
                self._ahead = parsedate_to_datetime(date) - datetime.now(UTC)
            server_time.record(answer.headers)
            return str(answer.data.decode("utf-8", "replace"))
        except ApiException as error:
            raise _sentence(error, method, path) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            host = self.host
            raise UnreachableError(
                f"the Kubernetes API at {host} can't be reached; is the address right and the cluster up? "
                f"({_line(str(error))})"
            ) from None


class _NotFoundError(MissingError):
    """The object doesn't exist."""


class ChangedError(RefusedError):
    """An object has changed since it was read, or exists already."""


class ForbiddenError(RefusedError):
    """The step's role lacks a permission."""


class UndeclaredFieldError(RefusedError):
    """A manifest has a field that the cluster's version of the kind lacks.

    Attributes:
        field: Its path, such as ".spec.canary".
    """

    def __init__(self, sentence: str, field: str) -> None:
        super().__init__(sentence)
        self.field = field


class _LeaseObject:
    """An endpoint's lease as a Kubernetes Lease, which only exists while a step holds it.

    It uses a separate connection, because it is renewed from another thread.
    """

    def __init__(self, namespace: str, name: str):
        self._there = Cluster(namespace)
        self._name = f"{name}-writer"
        self._metadata = {"name": self._name, "namespace": namespace, "labels": Cluster.labels(name)}
        self.key = f"{self._there.host}/{namespace}/{name}"

    def now(self) -> datetime:
        return self._there.now()

    def read(self) -> tuple[_lease.Record | None, str]:
        found = self._there.get(*_LEASE, self._name)
        if found is None:
            return None, ""
        spec = found["spec"]
        times = (_lease.utc(spec[name]) for name in ("acquireTime", "renewTime"))
        return _lease.Record(spec["holderIdentity"], *times), found["metadata"]["resourceVersion"]

    def write(self, record: _lease.Record, version: str) -> str:
        lease = {
            "apiVersion": _LEASE[0],
            "kind": _LEASE[1],
            "metadata": {**self._metadata, **({"resourceVersion": version} if version else {})},
            "spec": {
                "holderIdentity": record.holder,
                "leaseDurationSeconds": int(_lease.SECONDS),
                "acquireTime": _micro_time(record.since),
                "renewTime": _micro_time(record.renewed),
            },
        }
        try:
            made = self._there.replace(lease) if version else self._there.create(lease)
        except (ChangedError, _NotFoundError):
            return ""
        return str(made["metadata"]["resourceVersion"])

    def clear(self, version: str) -> None:
        self._there.drop(*_LEASE, self._name, version)


def _micro_time(moment: datetime) -> str:
    """Return a time in the format of Kubernetes' MicroTime."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _moment(event: Manifest) -> datetime:
    """Return when an event was last seen, which reporters write to different fields."""
    written = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(written)


def in_cluster() -> bool:
    """Return whether this process runs in a pod."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def condition(thing: Manifest, kind: str) -> Manifest:
    """Return a condition of an object's status by its type; empty if there is none."""
    conditions = thing.get("status", {}).get("conditions", [])
    return next((dict(entry) for entry in conditions if entry["type"] == kind), {})


def _state_reason(container: Manifest) -> str:
    state = container.get("state", {})
    return str((state.get("waiting") or state.get("terminated") or {}).get("reason", ""))


def observed(thing: Manifest) -> bool:
    """Return whether an object's status is about its current specification, as far as it says."""
    generation = thing["metadata"].get("generation", 0)
    return bool(thing.get("status", {}).get("observedGeneration", generation) >= generation)


def _sentence(error: Any, method: str, path: str) -> ValueError:
    is_servers = False
    try:
        content = json.loads(error.body)
        is_servers = "error" in content
        # The API's own errors have a message, those of servers behind it an error.
        said = _line(content["error"] if "error" in content else content["message"])
    except (ValueError, KeyError, TypeError):
        said = _line(str(error.reason))
    if error.status == 404:
        return _NotFoundError(f"the cluster has nothing at {path} ({said})")
    proxied = _PROXIED.search(path)
    if error.status == 401 and proxied and is_servers:
        return RefusedError(
            f"the server behind service {proxied[1]} requires a token, which this step doesn't have; "
            "give it in FLOWPARTS_SERVING_TOKEN of the step's environment"
        )
    if error.status == 401:
        return RefusedError(f"the Kubernetes API doesn't accept this step's credentials; renew them ({said})")
    if error.status == 403 and "exceeded quota" in said:
        return RefusedError(f"the namespace's quota is used up; free some or have it raised ({said})")
    if error.status == 403:
        return ForbiddenError(
            f"no permission to {method} {path}; give this step's service account a role for it ({said})"
        )
    if error.status == 409 and not said.startswith("Apply failed"):
        return ChangedError(f"{path} was changed by something else meanwhile; run this again ({said})")
    if error.status == 409:
        return RefusedError(
            f"{path} has fields with other values from another manager; remove them there, or delete the "
            f"object ({said})"
        )
    if proxied and "trying to reach service" in said:
        return RefusedError(
            f"the API server doesn't reach the pods of service {proxied[1]}; if their NetworkPolicy keeps it "
            f"out, deploy from a step in the cluster or with clients ['*'] ({said})"
        )
    if proxied:
        return RefusedError(f"the server behind service {proxied[1]} answered {error.status}: {said}")
    sentence = f"the Kubernetes API refuses {method} {path} with status {error.status}: {said}"
    if undeclared := _UNDECLARED.search(said):
        return UndeclaredFieldError(sentence, undeclared[1])
    return RefusedError(sentence)


def _token() -> dict[str, str]:
    """Return the header with the model server's token, if this step has one."""
    token = os.environ.get("FLOWPARTS_SERVING_TOKEN")
    return {"X-Flowparts-Token": token} if token else {}


def _line(text: str) -> str:
    """Return text on one line of at most 400 characters."""
    return one_line(text, 400)
