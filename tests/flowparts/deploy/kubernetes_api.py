"""A server that speaks the Kubernetes API for the objects of a deployment, for want of a real one.

No package of Debian or PyPI has a kube-apiserver. What is checked here is what a real one checks: unknown
fields and wrong types (by Kubernetes' own JSON schemas where there are any, by the fields of the custom
resources otherwise), ownership of fields in server-side apply, permissions, credentials. Small controllers
drive the objects' status, a step each time somebody looks.
"""

import copy
import hashlib
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate import ValidationError

from tests.flowparts.deploy import custom_resources
from tests.flowparts.tune.katib_controller import Katib

TOKEN = "token-of-the-step"
NAMESPACE = "team"

# API version, kind, plural.
KINDS = [
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "Service", "services"),
    ("v1", "Pod", "pods"),
    ("v1", "Event", "events"),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("apps/v1", "Deployment", "deployments"),
    ("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    ("coordination.k8s.io/v1", "Lease", "leases"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    *((version, kind, plural) for version, kind, plural, _ in custom_resources.ALL),
    *(("kubeflow.org/v1beta1", kind, f"{kind.lower()}s") for kind in ("Experiment", "Suggestion", "Trial")),
]

# Why a Deployment gets no pods.
REFUSED = {
    "quota": "exceeded quota: compute, requested: cpu=1, limited: cpu=4",
    "restricted": 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container '
    '"storage-initializer" must set securityContext.allowPrivilegeEscalation=false)',
}
MODE = "serving.kserve.io/deploymentMode"

Object = dict[str, Any]


@dataclass
class KubernetesApi:
    """The state of a cluster, and how it behaves.

    Attributes:
        scenario: What becomes of pods that are made from now on: "ready", "slow", "crash", "image",
            "unschedulable", "quota" or "restricted" (see REFUSED), "mount" (a warning about the pod is all
            that tells), "refused" (one about what makes them) or "never".
        denied: Verbs and plurals that the step's role lacks, such as ("patch", "deployments").
        role: What it may do, if not everything: namespaces, API groups, plurals and verbs.
        needed: What has been done of that.
        unknown: API versions that aren't installed.
        backend: Where requests for services go: from a service's name to an address.
        shared: The percentages that Knative's revisions, or the Services of KServe's Standard mode behind the
            Gateway, have had, one after another.
        has_gateway: Whether KServe makes HTTPRoutes.
        has_canaries: Whether its InferenceService has spec.canary, as releases since 2026 have.
        lost: Percent of the requests that went to what KServe removed while the route still named it.
        digest: What model the servers of Deployments say they have, if not the one that was asked for.
        timing: The Server-Timing of an answer that is passed on.
        katib: What its Katib does.
    """

    url: str = ""
    scenario: str = "ready"
    denied: set[tuple[str, str]] = field(default_factory=set)
    role: set[tuple[str, str, str, str]] | None = None
    needed: set[tuple[str, str, str, str]] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    backend: Callable[[str], str] = lambda service: ""
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    owners: dict[tuple[str, str], dict[str, dict[tuple[str, ...], Any]]] = field(default_factory=dict)
    born_as: dict[str, str] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    shared: list[dict[str, int]] = field(default_factory=list)
    has_gateway: bool = True
    has_canaries: bool = True
    lost: int = 0
    digest: str | None = None
    version: int = 0
    timing: str = ""
    katib: Katib = field(default_factory=Katib)
    lock: Any = field(default_factory=threading.RLock)

    @property
    def kubeconfig(self) -> str:
        """The file that a user of the cluster would have."""
        settings = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [
                {"name": "here", "context": {"cluster": "here", "user": "step", "namespace": NAMESPACE}}
            ],
            "clusters": [{"name": "here", "cluster": {"server": self.url}}],
            "users": [{"name": "step", "user": {"token": TOKEN}}],
        }
        return yaml.safe_dump(settings)

    # What tests look at.

    def get(self, plural: str, name: str) -> Object:
        return self.objects[plural, name]

    def names(self, plural: str) -> list[str]:
        return sorted(name for kind, name in self.objects if kind == plural)

    def versions(self) -> dict[tuple[str, str], str]:
        """Return every object's resource version."""
        return {
            key: thing["metadata"]["resourceVersion"]
            for key, thing in self.objects.items()
            if key[0] not in ("pods", "events")
        }

    def put(self, plural: str, thing: Object, manager: str = "somebody") -> None:
        """Place an object as another manager's."""
        self.apply(plural, thing["metadata"]["name"], thing, manager)

    # The API.

    def apply(self, plural: str, name: str, wanted: Object, manager: str) -> tuple[int, Object]:
        key = plural, name
        if plural == "inferenceservices" and (refused := self._admit(wanted)):
            return refused
        validate(wanted)
        owners = self.owners.setdefault(key, {})
        fields = dict(leaves({part: wanted[part] for part in wanted if part not in ("apiVersion", "kind")}))
        for other, owned in owners.items():
            clashes = [
                path for path in fields if other != manager and path in owned and owned[path] != fields[path]
            ]
            if clashes:
                path = "".join(f".{part}" for part in clashes[0])
                said = f'conflict with "{other}" using {wanted["apiVersion"]}: {path}'
                return 409, failure(409, "Conflict", f"Apply failed with 1 conflict: {said}")
        before = self.objects.get(key)
        version = fields.pop(("metadata", "resourceVersion"), None)
        if version and (not before or before["metadata"]["resourceVersion"] != version):
            return 409, modified(plural, name)
        after = copy.deepcopy(before) if before else {part: wanted[part] for part in ("apiVersion", "kind")}
        for path in set(owners.get(manager, {})) - set(fields):
            if not any(path in owned for other, owned in owners.items() if other != manager):
                unset(after, path)
        for path, value in fields.items():
            assign(after, path, copy.deepcopy(value))
        owners[manager] = fields
        if plural == "deployments":
            after["spec"].setdefault("replicas", 1)
        return (200 if before else 201), self.store(key, after)

    def check(self, plural: str, name: str, wanted: Object, manager: str) -> tuple[int, Object]:
        """Answer as `apply`, and leave everything as it is."""
        kept = copy.deepcopy((self.objects, self.owners, self.version, self.born_as))
        answer = self.apply(plural, name, wanted, manager)
        self.objects, self.owners, self.version, self.born_as = kept
        return answer

    def _admit(self, service: Object) -> tuple[int, Object] | None:
        """Refuse what KServe's webhook refuses, and a field that an older release doesn't have."""
        if "canary" in service["spec"] and not self.has_canaries:
            message = "failed to create typed patch object: .spec.canary: field not declared in schema"
            return 400, failure(400, "BadRequest", message)
        before = self.objects.get(("inferenceservices", service["metadata"]["name"]))
        modes = [thing["metadata"].get("annotations", {}).get(MODE) for thing in (before or service, service)]
        problem = custom_resources.canary_problem(service["spec"], modes[1])
        if modes[0] not in (None, modes[1]):
            problem = f"update rejected: deploymentMode cannot be changed from '{modes[0]}' to '{modes[1]}'"
        if not problem:
            return None
        denied = 'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request'
        return 400, failure(400, "BadRequest", f"{denied}: {problem}")

    def store(self, key: tuple[str, str], after: Object) -> Object:
        before = self.objects.get(key)
        if before == after:
            return before
        metadata = after["metadata"]
        if before is None:
            self.born_as[key[1]] = self.scenario
            metadata["generation"] = 1
            metadata["uid"] = f"uid-{self.version}"
        elif before.get("spec") != after.get("spec"):
            metadata["generation"] = before["metadata"]["generation"] + 1
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self.objects[key] = after
        return after

    def set_status(self, key: tuple[str, str], status: Object) -> None:
        thing = self.objects[key]
        if thing.get("status") != status:
            self.version += 1
            thing["status"] = status
            thing["metadata"]["resourceVersion"] = str(self.version)

    def delete(self, plural: str, name: str) -> None:
        self.objects.pop((plural, name), None)
        self.owners.pop((plural, name), None)
        if plural == "katib_experiments":
            for key in [key for key in self.objects if key[0] == "katib_trials" and key[1].startswith(name)]:
                del self.objects[key]
        if plural == "inferenceservices":
            for key in [key for key, thing in self.objects.items() if thing.get("made_by") == name]:
                self.delete(*key)
        for pod in [
            pod for kind, pod in self.objects if kind == "pods" and self.objects[kind, pod]["owner"] == name
        ]:
            del self.objects["pods", pod]

    # Controllers.

    def step(self) -> None:
        for key, thing in list(self.objects.items()):
            controller = getattr(self, f"_{key[0]}", None)
            if controller and thing.get("kind") and key in self.objects:
                controller(key, thing)

    def _pods_of(self, owner: str, count: int, labels: Object, container: str) -> str:
        """Keep a number of pods, and return how those of this owner fare."""
        scenario = self.born_as[owner]
        looks = self.looks[owner] = self.looks.get(owner, 0) + 1
        if scenario == "slow":
            scenario = "ready" if looks > 25 else "starting"
        if scenario == "refused":
            self.warn(owner, "FailedCreate", f'admission webhook "policy" denied the pods of {owner}')
        is_refused = scenario == "refused" or scenario in REFUSED
        wanted = [f"{owner}-{number}" for number in range(0 if is_refused else count)]
        for kind, name in list(self.objects):
            if kind == "pods" and self.objects[kind, name]["owner"] == owner and name not in wanted:
                del self.objects[kind, name]
        for name in wanted:
            metadata = {"name": name, "uid": f"uid-of-{name}", "labels": labels, "resourceVersion": "1"}
            status = pod_status(scenario, container)
            if scenario == "mount":
                self.warn(name, "FailedMount", 'MountVolume.SetUp failed for volume "models": no such claim')
            self.objects["pods", name] = {"metadata": metadata, "status": status, "owner": owner}
        return scenario

    def warn(self, name: str, reason: str, message: str) -> None:
        """Tell of an object; older warnings, ones of other objects and what is no warning lie beside."""
        told = [
            (name, "Warning", reason, message, 0),
            (name, "Warning", "Outdated", "of an earlier attempt", 7200),
            (name, "Warning", "Earlier", "before the last one", 5),
            (name, "Normal", "Pulled", "image is there", -5),
            (f"{name}-other", "Warning", "Foreign", "of something else", -5),
        ]
        for of, kind, why, text, age in told:
            moment = datetime.now(UTC) - timedelta(seconds=age)
            self.objects["events", f"{of}.{why}"] = {
                "metadata": {"name": f"{of}.{why}"},
                "involvedObject": {"name": of},
                "type": kind,
                "reason": why,
                "message": text,
                "lastTimestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }

    def _deployments(self, key: tuple[str, str], thing: Object) -> None:
        count, template = thing["spec"]["replicas"], thing["spec"]["template"]
        container = template["spec"]["containers"][0]["name"]
        scenario = self._pods_of(key[1], count, template["metadata"]["labels"], container)
        ready = count if scenario == "ready" else 0
        status: Object = {"observedGeneration": thing["metadata"]["generation"], "replicas": count}
        status |= {"updatedReplicas": count, "availableReplicas": ready}
        if scenario in REFUSED:
            message = f'pods "{key[1]}-x" is forbidden: {REFUSED[scenario]}'
            status["conditions"] = [
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
            ]
        self.set_status(key, status)

    def _httproutes(self, key: tuple[str, str], thing: Object) -> None:
        """Take a route as it is now after a while; until then the status is of the one before."""
        now = thing["metadata"]["generation"]
        looks = self.looks[f"{key[1]}, {now}"] = self.looks.get(f"{key[1]}, {now}", 0) + 1
        if looks < 4:
            return
        parent = thing["spec"]["parentRefs"][0]
        taken = ("gateways", parent["name"]) in self.objects
        condition = {
            "type": "Accepted",
            "status": str(taken),
            "reason": "Accepted" if taken else "NoMatchingParent",
            "observedGeneration": now,
        }
        self.set_status(key, {"parents": [{"parentRef": parent, "conditions": [condition]}]})

    def _inferenceservices(self, key: tuple[str, str], thing: Object) -> None:
        """Do as KServe does in the mode that is asked for."""
        mode = thing["metadata"].get("annotations", {}).get(MODE)
        if mode == "Standard":
            self._standard(key, thing)
        elif "serving.knative.dev/v1" in self.unknown:
            message = "It is not possible to use Knative deployment mode when Knative is not available"
            self.warn(key[1], "ServerlessModeRejected", message)
        else:
            self._serverless(key, thing)

    def _serverless(self, key: tuple[str, str], thing: Object) -> None:
        """Do as KServe and Knative do: a revision for each predictor, shares by canaryTrafficPercent."""
        name, predictor = key[1], copy.deepcopy(thing["spec"]["predictor"])
        canary = predictor.pop("canaryTrafficPercent", None)
        status = copy.deepcopy(thing.get("status") or {"components": {"predictor": {}}})
        state = status["components"]["predictor"]
        revisions = sorted(
            entry
            for kind, entry in self.objects
            if kind == "revisions" and entry.startswith(f"{name}-predictor-")
        )
        # KServe hands its annotations on to the pods, so another one is another revision.
        template = {"predictor": predictor, "annotations": thing["metadata"].get("annotations", {})}
        if not revisions or self.objects["revisions", revisions[-1]]["template"] != template:
            revision = f"{name}-predictor-{len(revisions) + 1:05d}"
            made = {
                "metadata": {"name": revision, "labels": predictor["labels"]},
                "spec": predictor,
                "template": template,
                "kind": "",
                "made_by": name,
            }
            self.store(("revisions", revision), made)
            state["latestCreatedRevision"] = revision
            self.set_status(key, status)
            return
        latest = state["latestCreatedRevision"]
        for revision in revisions:
            # Whatever has come up since counts, not only the newest one.
            if revision >= state.get("latestReadyRevision", ""):
                of_revision = self.objects["revisions", revision]["spec"]
                labels = {**of_revision["labels"], "serving.kserve.io/inferenceservice": name}
                scenario = self._pods_of(revision, of_revision["minReplicas"], labels, "kserve-container")
                if scenario == "ready":
                    state["latestReadyRevision"] = revision
        rolled = state.get("latestRolledoutRevision")
        host = f"{name}-predictor.{NAMESPACE}.example.com"
        if "latestReadyRevision" in state:
            share = 100 if canary is None or not rolled else canary
            newest = {"latestRevision": True, "revisionName": state["latestReadyRevision"], "percent": share}
            state["traffic"] = [{**newest, "tag": "latest", "url": f"http://latest-{host}"}]
            if share < 100:
                other = {"latestRevision": False, "revisionName": rolled, "percent": 100 - share}
                state["traffic"].append({**other, "tag": "prev", "url": f"http://prev-{host}"})
            if share == 100 and rolled != state["latestReadyRevision"]:
                state["previousRolledoutRevision"] = rolled or ""
                state["latestRolledoutRevision"] = state["latestReadyRevision"]
            elif share < 100 and rolled == state["latestReadyRevision"] == latest:
                # Less than all for what had all: KServe takes it for a rollback.
                state["latestRolledoutRevision"] = state.get("previousRolledoutRevision") or rolled
            status["url"] = f"http://{name}.{NAMESPACE}.example.com"
            status["address"] = {"url": f"http://{name}.{NAMESPACE}.svc.cluster.local"}
        ready = {"type": "Ready", "status": "Unknown"}
        if state.get("latestReadyRevision") == latest:
            # It stays the latest ready one when it fails afterwards.
            ready["status"] = "True" if scenario == "ready" else "False"
        elif scenario == "unschedulable":
            # Knative calls a revision failed whose pods find no room, though it goes on trying.
            ready |= {"status": "False", "reason": "RevisionFailed", "message": "Insufficient memory"}
        status["conditions"] = [ready, {**ready, "type": "PredictorReady"}]
        status["deploymentMode"] = "Serverless"
        self.set_status(key, status)
        shares: dict[str, int] = {}
        for entry in reversed(state.get("traffic", [])):
            shares[entry["revisionName"]] = shares.get(entry["revisionName"], 0) + entry["percent"]
        if shares != (self.shared or [{}])[-1]:
            self.shared.append(shares)

    def _standard(self, key: tuple[str, str], thing: Object) -> None:
        """Do as KServe does without Knative: Deployments, and an HTTPRoute where it uses the Gateway API."""
        name, spec = key[1], thing["spec"]
        stable, entries = copy.deepcopy(spec["predictor"]), spec.get("canary", [])
        ready = {entry["name"]: entry["ready"] for entry in thing.get("status", {}).get("canaryStatuses", [])}
        taken = sum(
            entry["predictor"]["minReplicas"] for entry in entries if ready.get(entry["predictor"]["name"])
        )
        wanted = {
            standard_name(name, stable): {**stable, "minReplicas": max(stable["minReplicas"] - taken, 1)}
        }
        for entry in entries:
            wanted[standard_name(name, entry["predictor"])] = merged(stable, entry["predictor"])
        route = self.objects.get(("httproutes", name))
        weights = {
            backend["name"]: backend.get("weight", 100)
            for backend in (route["spec"]["rules"][0]["backendRefs"] if route else [])
        }
        for kind, owner in list(self.objects):
            if (
                kind == "deployments"
                and self.objects[kind, owner].get("made_by") == name
                and owner not in wanted
            ):
                # They go in the moment in which the route changes, and with them what is on its way.
                self.lost += weights.get(owner, 0)
                for plural in ("deployments", "services", "horizontalpodautoscalers"):
                    self.delete(plural, owner)
        for owner, predictor in wanted.items():
            self._deploy_predictor(name, owner, predictor)
        conditions = [{"type": "PredictorReady", "status": str(self._available(next(iter(wanted))))}]
        conditions.append({**conditions[0], "type": "Ready"})
        statuses = [
            {
                "name": entry["predictor"]["name"],
                "ready": self._available(standard_name(name, entry["predictor"])),
                "trafficPercent": entry["trafficPercent"],
            }
            for entry in entries
        ]
        status: Object = {
            "conditions": conditions,
            "deploymentMode": "Standard",
            "address": {"url": f"http://{next(iter(wanted))}.{NAMESPACE}.svc.cluster.local"},
        }
        if statuses:
            every = str(all(entry["ready"] for entry in statuses))
            conditions.append({"type": "CanaryPredictorReady", "status": every})
            status["canaryStatuses"] = statuses
        if self._available(next(iter(wanted))):
            status["url"] = f"http://{name}.{NAMESPACE}.example.com"
        self.set_status(key, status)
        if self.has_gateway and (route or conditions[0]["status"] == "True"):
            self._route_standard(name, next(iter(wanted)), entries, statuses)

    def _deploy_predictor(self, name: str, owner: str, predictor: Object) -> None:
        labels = {
            "app": f"isvc.{owner}",
            "component": "predictor",
            "serving.kserve.io/inferenceservice": name,
            **predictor["labels"],
        }
        assert all(len(value) < 64 for value in labels.values())
        pod = {
            part: value for part, value in predictor.items() if part not in custom_resources.KSERVE_PREDICTOR
        }
        annotations = predictor.get("annotations", {})
        template = {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod}
        for plural, kind, spec in (
            ("deployments", "Deployment", {"replicas": predictor["minReplicas"], "template": template}),
            ("services", "Service", {"selector": {"app": labels["app"]}}),
            (
                "horizontalpodautoscalers",
                "HorizontalPodAutoscaler",
                {"minReplicas": predictor["minReplicas"]},
            ),
        ):
            before = self.objects.get((plural, owner), {})
            metadata = {"name": owner, "labels": labels, **before.get("metadata", {})}
            made = {**before, "kind": kind, "metadata": metadata, "spec": spec, "made_by": name}
            self.store((plural, owner), copy.deepcopy(made))

    def _available(self, deployment: str) -> bool:
        return bool(self.objects["deployments", deployment].get("status", {}).get("availableReplicas"))

    def _route_standard(self, name: str, stable: str, entries: list[Object], statuses: list[Object]) -> None:
        """Weigh the canaries that are ready; the others get nothing."""
        backends = [{"name": stable, "port": 80}]
        for entry, status in zip(entries, statuses, strict=True):
            if status["ready"]:
                weight = entry["trafficPercent"]
                backends[0]["weight"] = 100 - weight
                backends.append(
                    {"name": standard_name(name, entry["predictor"]), "port": 80, "weight": weight}
                )
        for route in (name, f"{name}-predictor"):
            before = self.objects.get(("httproutes", route), {})
            spec = {"parentRefs": [{"name": "kserve"}], "rules": [{"backendRefs": backends}]}
            metadata = {"name": route, **before.get("metadata", {})}
            made = {**before, "kind": "", "metadata": metadata, "spec": spec, "made_by": name}
            self.store(("httproutes", route), copy.deepcopy(made))
        shares = {backend["name"]: backend.get("weight", 100) for backend in backends}
        if shares != (self.shared or [{}])[-1]:
            self.shared.append(shares)

    def _models(self, key: tuple[str, str], thing: Object) -> None:
        server = self.objects.get(("servers", thing["spec"]["server"]))
        if not server or not set(thing["spec"]["requirements"]) <= set(server["spec"]["capabilities"]):
            condition = {
                "type": "Ready",
                "status": "False",
                "message": "Failed to schedule model as no matching server",
            }
        else:
            owner, container = server["metadata"]["name"], server["spec"]["podSpec"]["containers"][0]["name"]
            labels = {"seldon-server-name": owner}
            up = self._pods_of(owner, server["spec"]["replicas"], labels, container) == "ready"
            condition = {"type": "Ready", "status": str(up), "message": "" if up else "ScheduleFailed"}
        self.set_status(key, {"conditions": [condition]})

    def _experiments(self, key: tuple[str, str], thing: Object) -> None:
        there = [("models", candidate["name"]) in self.objects for candidate in thing["spec"]["candidates"]]
        self.set_status(key, {"conditions": [{"type": "Ready", "status": str(all(there))}]})

    def _katib_experiments(self, key: tuple[str, str], thing: Object) -> None:
        self.katib.step(self, key[1], thing)

    def put_whole(self, key: tuple[str, str], wanted: Object, *, is_new: bool) -> tuple[int, Object]:
        """Create an object, or replace the version of it that is named."""
        if key[0] == "katib_experiments":
            if problem := self.katib.refusal(wanted):
                return 400, failure(400, "BadRequest", problem)
        else:
            validate(wanted)
        before = self.objects.get(key)
        if is_new and before:
            return 409, failure(409, "AlreadyExists", f'{key[0]} "{key[1]}" already exists')
        if not is_new and not before:
            return 404, failure(404, "NotFound", f'{key[0]} "{key[1]}" not found')
        if before and before["metadata"]["resourceVersion"] != wanted["metadata"]["resourceVersion"]:
            return 409, modified(*key)
        after = copy.deepcopy(wanted)
        after["metadata"] = {**(before or {}).get("metadata", {}), **after["metadata"]}
        return (201 if is_new else 200), self.store(key, after)


def merged(stable: Object, canary: Object) -> Object:
    """Return a canary's predictor as KServe's buildCanaryPredictor does, by mergo.Merge with WithOverride.

    Mappings are merged key by key. Of anything else, lists too, the canary's replaces the stable one's as a
    whole, unless it is empty, zero or false.
    """
    made = dict(stable)
    for name, value in canary.items():
        if isinstance(value, dict) and isinstance(stable.get(name), dict):
            made[name] = merged(stable[name], value)
        elif value:
            made[name] = value
    return made


def standard_name(service: str, predictor: Object) -> str:
    """Return what KServe calls a predictor's Deployment and Service in its Standard mode."""
    return f"{service}-{predictor['name']}-predictor" if predictor.get("name") else f"{service}-predictor"


def digest_of(model: str, given: str = "") -> str:
    """Return a digest for an address where nothing is."""
    return given or hashlib.sha256(model.encode()).hexdigest()[:16]


def pod_status(scenario: str, container: str) -> Object:
    status: Object = {
        "phase": "Pending",
        "containerStatuses": [{"name": container, "state": {}, "lastState": {}}],
    }
    of_container = status["containerStatuses"][0]
    if scenario == "crash":
        ended = {"exitCode": 1, "reason": "Error"}
        of_container |= {"lastState": {"terminated": ended}, "restartCount": 3}
        of_container["state"] = {
            "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}
        }
    elif scenario == "image":
        message = 'Back-off pulling image "registry.example/flowparts-serving:9"'
        of_container["state"] = {"waiting": {"reason": "ImagePullBackOff", "message": message}}
    elif scenario == "unschedulable":
        message = "0/3 nodes are available: 3 Insufficient memory."
        refused = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        status = {"phase": "Pending", "conditions": [refused]}
    elif scenario in ("starting", "never", "mount"):
        of_container["state"] = {"waiting": {"reason": "ContainerCreating"}}
    else:
        of_container["state"] = {"running": {}}
        status["conditions"] = [{"type": "Ready", "status": "True"}]
    return status


def leaves(thing: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the fields that an applied object sets; a list is one field."""
    for key, value in thing.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def field_of(thing: Any, path: str) -> Any:
    for part in path.split("."):
        thing = thing[part]
    return thing


def assign(thing: Object, path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        thing = thing.setdefault(part, {})
    thing[path[-1]] = value


def unset(thing: Object, path: tuple[str, ...]) -> None:
    holders = [thing]
    for part in path[:-1]:
        holders.append(holders[-1].get(part, {}))
    for holder, part in zip(reversed(holders), reversed(path), strict=True):
        if part in holder and (part == path[-1] or not holder[part]):
            del holder[part]


def validate(thing: Object) -> None:
    """Raise ValidationError where Kubernetes, or a custom resource, knows no such field or type."""
    for version, kind, _, check in custom_resources.ALL:
        if (version, kind) == (thing["apiVersion"], thing["kind"]):
            check(thing["spec"])
            return
    kubernetes_validate.validate(thing, "1.37", strict=True)


def failure(code: int, reason: str, message: str) -> Object:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def modified(plural: str, name: str) -> Object:
    message = (
        f'Operation cannot be fulfilled on {plural} "{name}": the object has been modified; please apply '
        "your changes to the latest version and try again"
    )
    return failure(409, "Conflict", message)


@contextmanager
def serving() -> Iterator[KubernetesApi]:
    """Run the API on a free port of this machine."""
    api = KubernetesApi()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            with api.lock:
                api.timing = ""
                code, answer = respond(api, self, body)
                timing = api.timing
                text = answer if isinstance(answer, str) else json.dumps(answer)
            with suppress(ConnectionError):  # who asked was killed
                self.send_response(code)
                kind = "text/plain" if isinstance(answer, str) else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text.encode())))
                if timing:
                    self.send_header("Server-Timing", timing)
                self.end_headers()
                self.wfile.write(text.encode())

        do_GET = do_PATCH = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def respond(api: KubernetesApi, request: Any, body: Any) -> tuple[int, Any]:
    method = request.command
    parts = urlsplit(request.path)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    path = unquote(parts.path)
    api.requests.append((method, path))
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        return 401, failure(401, "Unauthorized", "Unauthorized")
    if match := re.fullmatch(r"/api(?:s/[^/]+)?/[^/]+", path):
        version = path.removeprefix("/apis/").removeprefix("/api/")
        known = [(kind, plural) for of, kind, plural in KINDS if of == version]
        if version in api.unknown or not known:
            return 404, failure(404, "NotFound", "the server could not find the requested resource")
        resources = [{"name": f"{plural}/status", "kind": kind} for kind, plural in known]
        return 200, {"resources": resources + [{"name": plural, "kind": kind} for kind, plural in known]}
    match = re.fullmatch(r"/api(?:s/[^/]+)?/[^/]+/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?(?:/(.+))?", path)
    if not match:
        return 404, failure(404, "NotFound", "the server could not find the requested resource")
    namespace, plural, name, sub = match.groups()
    verb = {"GET": "get" if name else "list", "POST": "create", "PUT": "update"}.get(method, method.lower())
    resource = f"{plural}/{sub.partition('/')[0]}" if sub else plural
    group = path.split("/")[2] if path.startswith("/apis/") else ""
    needed = {(namespace, group, resource, verb)}
    if method == "PATCH" and not sub and (plural, name) not in api.objects:
        needed.add((namespace, group, plural, "create"))
    api.needed |= needed
    if (verb, plural) in api.denied or (api.role is not None and not needed <= api.role):
        message = (
            f'{resource} is forbidden: User "system:serviceaccount:{namespace}:step" cannot {verb} resource'
        )
        return 403, failure(403, "Forbidden", message)
    api.step()
    if group == "kubeflow.org":  # another kind has the same plural
        plural = f"katib_{plural}"
    if sub and sub.startswith("proxy/"):
        return proxied(api, name, sub.removeprefix("proxy/"), body, request.headers)
    if sub == "log":
        if log := api.objects["pods", name].get("log"):
            return 200, log
        previous = query["previous"] == "true"
        return 200, "loading\nmodel is damaged: no MLmodel in s3://models/churn\n" if previous else ""
    if method == "GET" and not name:
        wanted = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
        fields = dict(pair.split("=") for pair in query.get("fieldSelector", "").split(",") if pair)
        items = [
            thing
            for (kind, _), thing in api.objects.items()
            if kind == plural
            and wanted.items() <= thing["metadata"].get("labels", {}).items()
            and all(field_of(thing, path) == value for path, value in fields.items())
        ]
        return 200, {"items": items}
    key = plural, name
    if method == "POST" and plural == "events":
        name = f"{body['metadata']['generateName']}{api.version}{len(api.objects)}"
        validate({**body, "metadata": {"name": name}})
        api.objects[plural, name] = {**body, "metadata": {"name": name}}
        return 201, api.objects[plural, name]
    if method == "PATCH" and not sub and request.headers["Content-Type"] == "application/merge-patch+json":
        changed = copy.deepcopy(api.objects[key])
        changed["metadata"]["labels"] |= body["metadata"]["labels"]
        return 200, api.store(key, changed)
    if method == "PATCH" and not sub:
        assert request.headers["Content-Type"] == "application/apply-patch+yaml"
        assert query["fieldValidation"] == "Strict"
        assert body["metadata"]["namespace"] == namespace
        try:
            if query.get("dryRun") == "All":
                return api.check(plural, name, body, query["fieldManager"])
            return api.apply(plural, name, body, query["fieldManager"])
        except (ValidationError, jsonschema.ValidationError) as error:
            return 422, failure(422, "Invalid", f"{body['kind']} is invalid: {error.message}")
    if method in ("POST", "PUT"):
        return api.put_whole((plural, name or body["metadata"]["name"]), body, is_new=method == "POST")
    if key not in api.objects:
        return 404, failure(404, "NotFound", f'{plural} "{name}" not found')
    if method == "DELETE":
        metadata = api.objects[key]["metadata"]
        for part, wanted in ((body or {}).get("preconditions") or {}).items():
            if metadata[part] != wanted:
                return 409, failure(409, "Conflict", f"Precondition failed: {part} in precondition: {wanted}")
        api.delete(plural, name)
        return 200, {"status": "Success"}
    if sub == "scale":
        if method == "PATCH":
            changed = copy.deepcopy(api.objects[key])
            changed["spec"]["replicas"] = body["spec"]["replicas"]
            api.store(key, changed)
        return 200, {"spec": {"replicas": api.objects[key]["spec"]["replicas"]}}
    return 200, api.objects[key]


def proxied(api: KubernetesApi, service: str, path: str, body: Any, headers: Any) -> tuple[int, Any]:
    name = service.partition(":")[0]
    if ("services", name) not in api.objects and name != "seldon-mesh":
        return 404, failure(404, "NotFound", f'services "{name}" not found')
    model = headers.get("Seldon-Model", "")
    deployment, server = api.objects.get(("deployments", name)), api.objects.get(("servers", model))
    if body is None and (deployment or server) and re.fullmatch("v2/models/[^/]+/ready", path):
        # Whatever answers for the pods here, they have the model that they were made for.
        pod = server["spec"]["podSpec"] if server else deployment["spec"]["template"]["spec"]
        variables = pod["containers"][0]["env"]
        digest = next(entry["value"] for entry in variables if entry["name"] == "FLOWPARTS_SERVING_DIGEST")
        return 200, {"ready": True, "digest": digest if api.digest is None else api.digest}
    if model:
        # As Seldon's mesh and agent do: to a candidate of the experiment, by the name of its first version.
        if model.endswith(".experiment"):
            candidates = api.get("experiments", model.removesuffix(".experiment"))["spec"]["candidates"]
            model = max(candidates, key=lambda candidate: candidate["weight"])["name"]
        path = re.sub("(v2/models/)[^/]+", rf"\g<1>{model}_1", path)
    address = api.backend(model or name)
    sent = urllib.request.Request(
        f"{address}/{path}",
        None if body is None else json.dumps(body).encode(),
        # All but what is the user's own.
        {
            "content-type": "application/json",
            **{name: value for name, value in headers.items() if name.lower().startswith("x-")},
        },
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sent, timeout=10) as answer:
            api.timing = answer.headers.get("Server-Timing", "")
            return 200, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
