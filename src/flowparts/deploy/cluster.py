"""The Kubernetes API as deployment targets need it: apply, look, wait, and tell why something doesn't run.

Objects are plain dictionaries, as in a manifest. They are written by server-side apply
(https://kubernetes.io/docs/reference/using-api/server-side-apply/) under one field manager, so applying the
same manifest again changes nothing, and what others have set stays theirs. Every refusal of the API is one
sentence.
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

NAME_LABEL = "app.kubernetes.io/name"
_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "flowparts"
_BACK_OFF = "CrashLoopBackOff"
# What time doesn't heal: the kubelet has already tried these several times when it gives them as a reason.
HOPELESS = (_BACK_OFF, "CreateContainerConfigError", "ImagePullBackOff", "InvalidImageName")

# Why a container doesn't run, rather than that it ended.
_CAUSES = (*HOPELESS, "ErrImagePull", "OOMKilled")

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PROXIED = re.compile("/services/([^/:]+)[^/]*/proxy/")
# So says server-side apply, and nothing but the text tells it apart.
_UNDECLARED = re.compile(r"(\.\S+): field not declared in schema")
_TIMEOUT_SECONDS = (10, 60)
_LEASE = ("coordination.k8s.io/v1", "Lease")
# Between this machine's clock and the cluster's.
_CLOCKS_DIFFER = timedelta(minutes=1)

Manifest = dict[str, Any]

_log = logging.getLogger("flowparts")


class Cluster:
    """One namespace of a Kubernetes cluster, reached by the kubeconfig or as the pod's service account.

    Args:
        namespace: Where objects are; if not given, the namespace of this pod, or of the kubeconfig's context.

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
            # A pod's own account first: what runs there has no kubeconfig, and the client's own order prints.
            if in_cluster():
                incluster_config.load_incluster_config(settings)
                own = self.pod_namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
            else:
                # The client reads this variable when it is imported, which may be too early.
                file = os.environ.get("KUBECONFIG")
                kube_config.load_kube_config(file, client_configuration=settings)
                own = kube_config.list_kube_config_contexts(file)[1]["context"].get("namespace", own)
        except (config_exception.ConfigException, OSError) as error:
            raise ValueError(
                "no Kubernetes cluster is configured: run in a pod with a service account, or name a "
                f"kubeconfig in KUBECONFIG ({_line(str(error))})"
            ) from None
        # One failed attempt is enough to say so: the step itself is retried.
        settings.retries = False
        if namespace != own:
            require_allowed("namespace", namespace)
        self.namespace = namespace or own
        self._client = ApiClient(settings)
        self._paths: dict[tuple[str, str], str] = {}
        # What the API has answered to manifests that it was asked not to keep.
        self._unkept: dict[str, Manifest] = {}
        self._since = datetime.now(UTC) - _CLOCKS_DIFFER
        self._is_blind = False
        # How far the API server's clock is ahead of this machine's.
        self._ahead = timedelta()
        self._lease: _lease.Lease | None = None
        # What was deleted here, or, where this only pretends to, would be.
        self.deleted: list[str] = []
        self.pretends = False

    @contextmanager
    def writing(self, name: str, wait_seconds: float = 0.0) -> Iterator[None]:
        """Be the only one that changes an endpoint: hold its Lease while the block runs.

        Whatever this writes in the block is refused once another step has taken the Lease.

        Args:
            name: The endpoint.
            wait_seconds: How long to wait for a step that changes it already.

        Raises:
            ValueError: Another step changes it, in a sentence that says which and since when.
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
        """Make an object what a manifest says, and return it; what is so already isn't touched.

        With a resourceVersion in its metadata only that version is changed.

        Raises:
            ChangedError: It has another resourceVersion.
            ValueError: The API refuses it, or another manager has set one of the fields otherwise.
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
        """Return the names of all endpoints of which there is an object of a kind."""
        found = self.find(api_version, kind, self.managed())
        return sorted({thing["metadata"]["labels"][NAME_LABEL] for thing in found})

    @property
    def host(self) -> str:
        """The API's address."""
        return str(self._client.configuration.host)

    @staticmethod
    def labels(name: str) -> dict[str, str]:
        """Return the labels of all that belongs to an endpoint; only what bears them is ever deleted."""
        return {NAME_LABEL: name, _MANAGED_BY: MANAGER}

    @staticmethod
    def managed() -> dict[str, str]:
        """Return the labels of all that belongs to any endpoint."""
        return {_MANAGED_BY: MANAGER}

    def get(self, api_version: str, kind: str, name: str) -> Manifest | None:
        """Return an object, or nothing if it isn't there."""
        path = self._path(api_version, kind, name)
        if path in self._unkept:
            return self._unkept[path]
        found: Manifest | None = self._json("GET", path, missing=None)
        return found

    def find(self, api_version: str, kind: str, labels: Mapping[str, str]) -> list[Manifest]:
        """Return the objects of a kind that bear these labels."""
        query = [("labelSelector", ",".join(f"{key}={value}" for key, value in labels.items()))]
        found: list[Manifest] = self._json("GET", self._path(api_version, kind), query=query)["items"]
        return found

    def delete(self, api_version: str, kind: str, name: str) -> None:
        """Delete an object and what it owns; it may be gone already, and what somebody else made stays."""
        found = self.get(api_version, kind, name) or {}
        if dry_run() is not None:
            return
        if found.get("metadata", {}).get("labels", {}).get(_MANAGED_BY) != MANAGER:
            return
        self._check_lease()
        self.deleted.append(f"{kind} {name}")
        if self.pretends:
            return
        options = {"propagationPolicy": "Background", "preconditions": {"uid": found["metadata"]["uid"]}}
        try:
            self._json("DELETE", self._path(api_version, kind, name), options, missing=None)
        except ChangedError:  # it is gone, and another one has its name
            _log.info("%s %s was made anew meanwhile, and stays", kind, name)

    def note(self, kind: str, name: str, reason: str, message: str, labels: Mapping[str, str]) -> None:
        """Label a Deployment and write an Event about it for people, unless it has the labels."""
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
            _log.warning("kubectl won't show the share of %s: %s", name, error)

    def create(self, manifest: Manifest) -> Manifest:
        """Make an object that isn't there yet.

        Raises:
            ChangedError: It is there.
        """
        path = self._path(manifest["apiVersion"], manifest["kind"])
        made: Manifest = self._json("POST", path, manifest, [("fieldManager", MANAGER)])
        return made

    def replace(self, manifest: Manifest) -> Manifest:
        """Make an object what a manifest says as a whole.

        Raises:
            ChangedError: It is gone, or has another resourceVersion than the manifest.
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
        """Return whether the cluster knows a kind of objects."""
        return bool(self._resource(api_version, kind))

    def scale(self, deployment: str, replicas: int) -> None:
        """Set how many pods a Deployment has; if it is so already, it isn't touched."""
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
        """Return the JSON that a service has at a path of its port 80, or what it answers to a body of JSON.

        In the cluster it is reached directly, from anywhere else through the API server. The header
        Authorization is the user's there, so a server's token, FLOWPARTS_SERVING_TOKEN of this step's
        environment, goes in a header of its own.

        Args:
            service: Its name.
            path: Path on the service, without a leading slash.
            body: What to post; None to get.
            headers: Further headers for the service.

        Raises:
            ValueError: There is no answer, or it is an error.
        """
        if in_cluster():
            return fetch(f"http://{service}.{self.namespace}.svc/{path}", body, headers)
        address = f"/api/v1/namespaces/{self.namespace}/services/{service}:80/proxy/{path}"
        sent = {**_token(), **(headers or {})}
        return self._json("GET" if body is None else "POST", address, body, headers=sent)

    def predict(self, service: str, path: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Post rows to a model server's service and return its predictions, as `common.ask` does."""
        answer = self.ask_service(service, path, {"instances": list(rows)})
        return predictions(answer, len(rows), f"service {service}")

    def trouble(self, labels: Mapping[str, str], *makers: str) -> tuple[str, bool]:
        """Return why pods with these labels don't run, and whether waiting can't help.

        The reason is what their containers wait for or ended with and the last line of a crashed container's
        log, why no node takes them, or the latest warning among the events since this object was made of
        the pods that aren't ready and of what makes them; "" if nothing is wrong.

        Args:
            labels: The pods' labels.
            makers: Names of the objects whose controllers make the pods.
        """
        pods = self.find("v1", "Pod", labels)
        for pod in pods:
            name = pod["metadata"]["name"]
            status = pod.get("status", {})
            containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
            # A container that watches another one fails because that one does.
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
                return f"{reason} in pod {name}: {said}", reason in HOPELESS
            placed = condition(pod, "PodScheduled")
            if placed.get("status") == "False":
                reason = placed.get("reason", "Unschedulable")
                return f"{reason}, pod {name}: {_line(placed.get('message', ''))}", False
        # What a pod that is ready now was warned of, such as a probe while it started, is over.
        waiting = [pod["metadata"]["name"] for pod in pods if condition(pod, "Ready").get("status") != "True"]
        names = [*waiting, *makers]
        warnings = [warning for name in names for warning in self._warnings(name)]
        if warnings:
            _, latest = max(warnings, key=lambda warning: warning[0])
            return f"{latest['reason']}: {_line(latest['message'])}", False
        return "", False

    def crashes(self, labels: Mapping[str, str]) -> dict[str, int]:
        """Return how often each container of pods with these labels has ended by itself."""
        found = {}
        for pod in self.find("v1", "Pod", labels):
            for container in pod.get("status", {}).get("containerStatuses", []):
                state = container.get("state", {})
                # Counted as restarted only when it runs again, which may take minutes.
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
            # They would only explain; what is being waited for may come all the same.
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
        """Return a kind's name in paths, as the API itself tells; "" if it isn't known."""
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
            except _NotThereError:
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
            server_time.note(answer.headers)
            return str(answer.data.decode("utf-8", "replace"))
        except ApiException as error:
            raise _sentence(error, method, path) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            host = self.host
            raise UnreachableError(
                f"the Kubernetes API at {host} can't be reached; is the address right and the cluster up? "
                f"({_line(str(error))})"
            ) from None


class _NotThereError(MissingError):
    """The API has no such object."""


class ChangedError(RefusedError):
    """An object isn't the version any more that was to be changed, or is there already."""


class UndeclaredFieldError(RefusedError):
    """A manifest has a field that the cluster's version of the kind doesn't.

    Attributes:
        field: Its path, such as ".spec.canary".
    """

    def __init__(self, sentence: str, field: str) -> None:
        super().__init__(sentence)
        self.field = field


class _LeaseObject:
    """An endpoint's lease as a Lease of Kubernetes, which is there only while a step has it.

    It speaks to the API by a connection of its own, because it is renewed from another thread.
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
        except (ChangedError, _NotThereError):
            return ""
        return str(made["metadata"]["resourceVersion"])

    def clear(self, version: str) -> None:
        self._there.drop(*_LEASE, self._name, version)


def _micro_time(moment: datetime) -> str:
    """Return a time as Kubernetes' MicroTime has it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _moment(event: Manifest) -> datetime:
    """Return when an event was last seen; reporters differ in where they write it."""
    written = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(written)


def in_cluster() -> bool:
    """Return whether this process runs in a pod."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def condition(thing: Manifest, kind: str) -> Manifest:
    """Return a condition of an object's status by its type; empty if it isn't there."""
    conditions = thing.get("status", {}).get("conditions", [])
    return next((dict(entry) for entry in conditions if entry["type"] == kind), {})


def _state_reason(container: Manifest) -> str:
    state = container.get("state", {})
    return str((state.get("waiting") or state.get("terminated") or {}).get("reason", ""))


def observed(thing: Manifest) -> bool:
    """Return whether an object's status speaks of its present specification, as far as it says so."""
    generation = thing["metadata"].get("generation", 0)
    return bool(thing.get("status", {}).get("observedGeneration", generation) >= generation)


def _sentence(error: Any, method: str, path: str) -> ValueError:
    is_servers = False
    try:
        content = json.loads(error.body)
        is_servers = "error" in content
        # The API's own refusals have a message, those of servers behind it an error.
        said = _line(content["error"] if "error" in content else content["message"])
    except (ValueError, KeyError, TypeError):
        said = _line(str(error.reason))
    if error.status == 404:
        return _NotThereError(f"the cluster has nothing at {path} ({said})")
    proxied = _PROXIED.search(path)
    if error.status == 401 and proxied and is_servers:
        return RefusedError(
            f"the server behind service {proxied[1]} is guarded by a token, which this step doesn't have; "
            "give it in FLOWPARTS_SERVING_TOKEN of the step's environment"
        )
    if error.status == 401:
        return RefusedError(f"the Kubernetes API doesn't accept this step's credentials; renew them ({said})")
    if error.status == 403 and "exceeded quota" in said:
        return RefusedError(f"the namespace's quota is used up; free some or have it raised ({said})")
    if error.status == 403:
        return RefusedError(
            f"no permission to {method} {path}; give this step's service account a role for it ({said})"
        )
    if error.status == 409 and not said.startswith("Apply failed"):
        return ChangedError(f"{path} was changed by something else meanwhile; run this again ({said})")
    if error.status == 409:
        return RefusedError(
            f"{path} has fields that something else has set otherwise; remove them there, or delete the "
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
    """Return the header that opens a model server to this step, if it has a token."""
    token = os.environ.get("FLOWPARTS_SERVING_TOKEN")
    return {"X-Flowparts-Token": token} if token else {}


def _line(text: str) -> str:
    """Return text on one line of at most 400 characters."""
    return " ".join(text.split())[:400]
