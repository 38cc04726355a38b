"""The Vertex AI target: one model version per revision, deployed to an endpoint that splits the traffic.

The model and the endpoint have the endpoint's name, model versions and deployed models the revision's, so a
retried step finds existing objects and waits for an operation in progress instead of starting a second one.
The endpoint's labels name the current and the previous revision. They and the traffic change in one request:
before it a new revision gets no requests, after it unused ones are undeployed.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flowparts.deploy import common, vertex_api
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.options import Scaled
from flowparts.util.names import unknown

if TYPE_CHECKING:
    from google.cloud import aiplatform_v1

_PORT = 8080
_PREDICT, _HEALTH = "/predict", "/v2/health/ready"
_MANAGED = {"managed-by": "flowparts"}
_CURRENT, _PREVIOUS = "flowparts-revision", "flowparts-previous"
_UNDEPLOY_SECONDS = 1800.0
# Vertex AI's placeholder for the model that a request deploys, which has no number yet.
_NEW = "0"

_log = logging.getLogger("flowparts")


@dataclass(frozen=True, kw_only=True)
class Options(Scaled):
    """The options of Vertex AI.

    Attributes:
        timeout_seconds: Maximum time per operation; deploying takes longest. A longer operation continues,
            and a retry waits for it.
        machine_type: Machine type.
        accelerator: Accelerator type, such as "NVIDIA_TESLA_T4", for a custom image; this release's server
            uses CPUs only. Empty for none.
        accelerator_count: Accelerators per machine.
        project: Google Cloud project; default: the environment's.
        location: Region; default: GOOGLE_CLOUD_LOCATION or CLOUD_ML_REGION.
    """

    timeout_seconds: float = 3600.0
    machine_type: str = "n1-standard-2"
    accelerator: str = ""
    accelerator_count: int = 1
    project: str = ""
    location: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        _accelerator(self.accelerator, self.accelerator_count)


def deploy(model: str, name: str, **given: Any) -> Endpoint:
    """Deploy a model as a revision of a Vertex AI endpoint.

    Args:
        model: The model's gs:// URI.
        name: The endpoint and the registered model.
        given: `Options` by name.

    Raises:
        ValueError: An option or the model is invalid, or Vertex AI refuses or fails to deploy it; the
            previous revision keeps serving.
    """
    common.check_name(name)
    chosen = Options(**given)
    resources = {
        "machine_spec": {
            "machine_type": chosen.machine_type,
            **_accelerator(chosen.accelerator, chosen.accelerator_count),
        },
        "min_replica_count": chosen.replicas,
        "max_replica_count": chosen.max_replicas or chosen.replicas,
    }
    if not model.startswith("gs://"):
        raise ValueError(f"Vertex AI reads models from gs:// only, not {model!r}; copy it to a bucket first")
    common.require_allowed("service_account", chosen.service_account)
    server = common.image("serving", chosen.image)
    with common.local_copy(model) as directory:
        revision = common.revision(
            directory, {"on": resources, "image": server, "as": chosen.service_account}
        )
    with vertex_api.refusals():
        remote = _Place(chosen.project, chosen.location, name)
        before = remote.state(remote.get_or_create(chosen.timeout_seconds))
    after = Endpoint("vertex", name, remote.url, revision, {revision: 100})
    if before:
        after = before.deploying(revision, chosen.percent)
    try:
        with vertex_api.refusals():
            if revision not in _numbers(remote.endpoint()):
                remote.upload(model, revision, server, chosen.timeout_seconds)
                remote.bring_up(revision, resources, chosen.service_account, chosen.timeout_seconds)
            return remote.with_options(remote.apply(after))
    except ValueError as error:
        raise common.not_deployed(name, revision, error, before.traffic if before else []) from None


def shift(endpoint: Endpoint, percent: int) -> Endpoint:
    """Route a part of the traffic to the current revision; the previous one keeps its machines.

    Raises:
        ValueError: Vertex AI refuses, or the endpoint doesn't exist or has changed since.
    """
    with vertex_api.refusals():
        remote = _Place.of(endpoint)
        state = common.unchanged(endpoint, remote.state(remote.endpoint()), remote.where)
        return remote.with_options(remote.apply(state.with_percent(percent)))


def rollback(endpoint: Endpoint) -> Endpoint:
    """Route all traffic to the previous revision and undeploy the current one; idempotent.

    Raises:
        ValueError: Vertex AI refuses, there is no previous revision, or the endpoint doesn't exist or has
            changed since.
    """
    with vertex_api.refusals():
        remote = _Place.of(endpoint)
        after = common.rolled_back(endpoint, remote.state(remote.endpoint()), remote.where)
        return remote.with_options(remote.apply(after))


def endpoints(*, project: str = "", location: str = "") -> list[Endpoint]:
    """Return this library's endpoints in a project and location, with their options.

    Raises:
        ValueError: Vertex AI refuses.
    """
    with vertex_api.refusals():
        place = _Place(project, location, "")
        found = []
        for each in vertex_api.call(place.endpoints.list_endpoints, parent=place.parent):
            remote = _Place(project, location, str(each.name).rpartition("/")[2])
            if _is_own(each) and (state := remote.state(each)):
                found.append(remote.with_options(state))
        return found


@contextmanager
def writing(name: str, *, project: str = "", location: str = "") -> Iterator[Endpoint | None]:
    """Yield an endpoint, None if there is none; Vertex AI itself refuses concurrent changes.

    Raises:
        ValueError: Vertex AI refuses.
    """
    with vertex_api.refusals():
        remote = _Place(project, location, name)
        found = remote.endpoint()
        state = remote.state(found) if found and _is_own(found) else None
        before = remote.with_options(state) if state else None
    yield before


def remove(name: str, *, project: str = "", location: str = "", dry_run: bool = False) -> list[str]:
    """Remove an endpoint with its deployed and registered models, and return what was removed.

    Args:
        name: The endpoint.
        project: Google Cloud project; empty for the environment's.
        location: Region; empty for GOOGLE_CLOUD_LOCATION or CLOUD_ML_REGION.
        dry_run: Remove nothing, and return what would be removed.

    Raises:
        ValueError: Vertex AI refuses.
    """
    with vertex_api.refusals():
        remote = _Place(project, location, name)
        held = remote.resources()
        if not dry_run:
            remote.remove()
        return held


def predict(endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = "") -> list[dict[str, Any]]:
    """Send rows to the endpoint and return the predictions; integers come back as floats.

    Raises:
        ValueError: There is no answer, or it isn't a prediction.
        AnotherRevisionError: Another revision answered, by the traffic split.
    """
    from google.protobuf import json_format

    if revision and not endpoint.traffic.get(revision):
        raise common.AnotherRevisionError(
            f"revision {revision} of endpoint {endpoint.name!r} gets no requests, and Vertex AI lets clients "
            "choose none; give it a share"
        )
    with vertex_api.refusals():
        place = _Place.of(endpoint)
        answer = place.predictions.predict(
            endpoint=place.path,
            instances=rows,
            timeout=vertex_api.ANSWER_SECONDS,
        )
    if revision and endpoint.settings["deployed_models"].get(revision) != answer.deployed_model_id:
        raise common.AnotherRevisionError(
            f"another revision of endpoint {endpoint.name!r} answered than {revision}; ask again"
        )
    said = json_format.MessageToDict(type(answer).pb(answer))
    return common.predictions(said, len(rows), f"endpoint {endpoint.name!r}")


class _Place:
    """An endpoint's clients and resource names."""

    def __init__(self, project: str, location: str, name: str) -> None:
        host, project, location = vertex_api.located(project, location)
        clients = vertex_api.clients(host)
        self.endpoints = clients.get("EndpointServiceClient")
        self.models = clients.get("ModelServiceClient")
        self.predictions = clients.get("PredictionServiceClient")
        self.name = name
        self.settings = {"project": project, "location": location}
        self.parent = f"projects/{project}/locations/{location}"
        self.where = f"in {self.parent}"
        self.path = f"{self.parent}/endpoints/{name}"
        self.model_path = f"{self.parent}/models/{name}"
        self.url = f"{host if '://' in host else f'https://{host}'}/v1/{self.path}:predict"

    @classmethod
    def of(cls, endpoint: Endpoint) -> "_Place":
        return cls(endpoint.settings["project"], endpoint.settings["location"], endpoint.name)

    def endpoint(self) -> "aiplatform_v1.Endpoint | None":
        """Return the endpoint; None if there is none."""
        found: aiplatform_v1.Endpoint | None = vertex_api.or_none(self.endpoints.get_endpoint, name=self.path)
        return found

    def state(self, found: "aiplatform_v1.Endpoint | None") -> Endpoint | None:
        """Return what an endpoint serves; None if nothing gets traffic yet."""
        numbers = _numbers(found)
        labels = dict(found.labels) if found else {}
        revisions = [labels[key] for key in (_CURRENT, _PREVIOUS) if labels.get(key) in numbers]
        if found is None or not revisions:
            return None
        traffic = {revision: found.traffic_split.get(numbers[revision], 0) for revision in revisions}
        if sum(traffic.values()) != 100:
            raise ValueError(
                f"endpoint {self.name!r} sends requests to what was deployed by hand; undeploy that, or "
                "deploy to another name"
            )
        settings = {**self.settings, "deployed_models": {each: numbers[each] for each in traffic}}
        previous = revisions[1] if len(revisions) > 1 else None
        return Endpoint("vertex", self.name, self.url, revisions[0], traffic, previous, settings)

    def get_or_create(self, timeout_seconds: float) -> "aiplatform_v1.Endpoint":
        """Return the endpoint, creating it if necessary, after pending operations."""
        wanted = {"display_name": self.name, "labels": _MANAGED}
        self._bring(
            f"endpoint {self.name!r}",
            self.path,
            lambda: self.endpoint() is not None,
            lambda: vertex_api.call(
                self.endpoints.create_endpoint,
                writes=True,
                parent=self.parent,
                endpoint=wanted,
                endpoint_id=self.name,
            ),
            timeout_seconds,
        )
        found = self.endpoint()
        if found is None or not _is_own(found):
            raise ValueError(
                f"endpoint {self.name!r} {self.where} was made by something else; deploy to another name"
            )
        return found

    def upload(self, model: str, revision: str, image: str, timeout_seconds: float) -> None:
        """Register the model's files and server as a version, unless they are already."""
        path = f"{self.model_path}@{revision}"
        variables = {"FLOWPARTS_SERVING_NAME": self.name, **common.noted_options()}
        wanted = {
            "display_name": self.name,
            "artifact_uri": model,
            "version_aliases": [revision],
            "labels": _MANAGED,
            "container_spec": {
                "image_uri": image,
                "predict_route": _PREDICT,
                "health_route": _HEALTH,
                "ports": [{"container_port": _PORT}],
                "env": [{"name": key, "value": value} for key, value in variables.items()],
            },
        }

        def start() -> Any:
            exists = vertex_api.or_none(self.models.get_model, name=self.model_path) is not None
            place = {"parent_model": self.model_path} if exists else {"model_id": self.name}
            request = {"parent": self.parent, "model": wanted, **place}
            return vertex_api.call(self.models.upload_model, writes=True, request=request)

        def found() -> bool:
            return vertex_api.or_none(self.models.get_model, name=path) is not None

        self._bring(f"model version {revision}", self.model_path, found, start, timeout_seconds)

    def bring_up(
        self, revision: str, resources: Mapping[str, Any], service_account: str, timeout_seconds: float
    ) -> None:
        """Deploy a model version beside the current one, without traffic unless it is the first."""

        def start() -> Any:
            found = self.endpoint()
            request = {
                "endpoint": self.path,
                "deployed_model": {
                    "model": f"{self.model_path}@{revision}",
                    "display_name": revision,
                    "dedicated_resources": resources,
                    "service_account": service_account,
                },
                # Vertex AI keeps an existing traffic split, but an endpoint needs one.
                "traffic_split": {} if found and found.traffic_split else {_NEW: 100},
            }
            return vertex_api.call(self.endpoints.deploy_model, writes=True, request=request)

        def found() -> bool:
            return revision in _numbers(self.endpoint())

        self._bring(f"revision {revision}", self.path, found, start, timeout_seconds)

    def apply(self, after: Endpoint) -> Endpoint:
        """Set the traffic and the labels of an endpoint, and undeploy unused models."""
        found = self.endpoint()
        numbers = _numbers(found)
        if found is None or not after.traffic.keys() <= numbers.keys():
            raise ValueError(
                f"endpoint {self.name!r} has lost one of {', '.join(after.traffic)}; deploy its model again"
            )
        split = {numbers[revision]: percent for revision, percent in after.traffic.items() if percent}
        labels = {key: value for key, value in found.labels.items() if key != _PREVIOUS}
        labels |= {_CURRENT: after.revision}
        labels |= {_PREVIOUS: after.previous_revision} if after.previous_revision else {}
        before = {number: percent for number, percent in found.traffic_split.items() if percent}
        if (before, dict(found.labels)) != (split, labels):
            wanted = {"name": self.path, "traffic_split": split, "labels": labels, "etag": found.etag}
            mask = {"paths": ["traffic_split", "labels"]}
            vertex_api.call(self.endpoints.update_endpoint, endpoint=wanted, update_mask=mask)
        for revision, number in numbers.items():
            if revision not in after.traffic:
                self._undeploy(revision, number)
        serving = {revision: numbers[revision] for revision in after.traffic}
        return replace(after, settings={**self.settings, "deployed_models": serving})

    def with_options(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint with its current revision's options."""
        found = vertex_api.or_none(self.models.get_model, name=f"{self.model_path}@{endpoint.revision}")
        variables = {each.name: each.value for each in found.container_spec.env} if found else {}
        return common.with_noted_options(endpoint, variables)

    def resources(self) -> list[str]:
        """Return everything that belongs to the endpoint."""
        found, model = self._own()
        held = [f"revision {revision}" for revision in _numbers(found)]
        held += [f"endpoint {self.name}"] if found else []
        return held + ([f"model {self.name}"] if model else [])

    def remove(self) -> None:
        """Remove everything that belongs to the endpoint; idempotent."""
        found, model = self._own()
        if found:
            percentages = found.traffic_split
            deployed = sorted(_numbers(found).items(), key=lambda each: percentages.get(each[1], 0))
            for revision, number in deployed:
                # Only the last one can be undeployed with its traffic.
                last = deployed[-1][1]
                self._undeploy(revision, number, {last: 100} if number != last else {})
            self._bring(
                f"the end of endpoint {self.name!r}",
                self.path,
                lambda: self.endpoint() is None,
                lambda: vertex_api.call(self.endpoints.delete_endpoint, writes=True, name=self.path),
                _UNDEPLOY_SECONDS,
            )
        if model:
            self._bring(
                f"the end of model {self.name!r}",
                self.model_path,
                lambda: vertex_api.or_none(self.models.get_model, name=self.model_path) is None,
                lambda: vertex_api.call(self.models.delete_model, writes=True, name=self.model_path),
                _UNDEPLOY_SECONDS,
            )

    def _own(self) -> tuple[Any, Any]:
        """Return the endpoint and the registered model; None for one that doesn't exist or isn't ours."""
        found = (self.endpoint(), vertex_api.or_none(self.models.get_model, name=self.model_path))
        endpoint, model = (each if each and _is_own(each) else None for each in found)
        return endpoint, model

    def _undeploy(self, revision: str, number: str, split: Mapping[str, int] | None = None) -> None:
        request = {"endpoint": self.path, "deployed_model_id": number, "traffic_split": split or {}}
        self._bring(
            f"the end of revision {revision}",
            self.path,
            lambda: revision not in _numbers(self.endpoint()),
            lambda: vertex_api.call(self.endpoints.undeploy_model, writes=True, request=request),
            _UNDEPLOY_SECONDS,
        )

    def _bring(
        self,
        what: str,
        resource: str,
        is_done: Callable[[], bool],
        start: Callable[[], Any],
        timeout_seconds: float,
    ) -> None:
        """Wait until something is done; start it unless an operation is in progress."""
        from google.api_core.exceptions import Conflict
        from requests.exceptions import RequestException

        begun = ""

        def look() -> str:
            nonlocal begun
            if begun:
                operation = vertex_api.call(self.endpoints.get_operation, request={"name": begun})
                if not operation.done:
                    return f"{_operation(begun)} is under way"
                if operation.error.code:
                    raise vertex_api.failed(operation.error)
            elif running := self._running(resource):
                return f"{_operation(running)} is under way already"
            if is_done():
                return ""
            if begun:
                return f"{_operation(begun)} is done, and its result isn't visible yet"
            try:
                begun = str(start().operation.name)
            except Conflict as error:
                return f"something else makes it ({vertex_api.line(error.message)})"
            except RequestException:
                # The request may have arrived; the next check will show.
                return "the connection was cut"
            return f"{_operation(begun)} has begun"

        common.wait(what, look, timeout_seconds)

    def _running(self, resource: str) -> str:
        """Return the name of an unfinished operation on a resource; empty if there is none."""
        found = vertex_api.or_none(self.endpoints.list_operations, request={"name": resource})
        return next((str(each.name) for each in found.operations if not each.done), "") if found else ""


def _is_own(thing: "aiplatform_v1.Endpoint | aiplatform_v1.Model") -> bool:
    """Whether this library created an endpoint or a model."""
    return _MANAGED.items() <= dict(thing.labels).items()


def _numbers(endpoint: "aiplatform_v1.Endpoint | None") -> dict[str, str]:
    """Return an endpoint's numbers of its revisions."""
    return {model.display_name: model.id for model in endpoint.deployed_models} if endpoint else {}


def _accelerator(kind: str, count: int) -> dict[str, Any]:
    """Return the accelerator fields of a machine; empty without accelerators."""
    from google.cloud.aiplatform_v1.types import AcceleratorType

    if count < 1:
        raise ValueError(f"accelerator_count must be at least 1, not {count}")
    known = [each.name for each in AcceleratorType if each]
    if kind and kind not in known:
        raise ValueError(unknown("accelerator", kind, known))
    return {"accelerator_type": kind, "accelerator_count": count} if kind else {}


def _operation(name: str) -> str:
    return f"operation {name.rpartition('/')[2]}"
