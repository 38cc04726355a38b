"""A stand-in for what deploying calls of Vertex AI's REST API; the real one needs an account.

Bodies are read into the client library's own messages, so that an unknown field or a value of another type
is refused, and answers are written from them. What the service refuses is refused here too: a second
operation on an endpoint at a time, a traffic split that doesn't add up or names what isn't deployed,
undeploying what has traffic, an old etag. Operations take some looks to end, and what they do shows only
then. Predictions come from a real model server for each model.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import urllib3
from google.cloud.aiplatform_v1 import types

from tests.flowparts.tune.vertex_tuner import VertexTuner
from tests.google_service import read, written
from tests.stand_in import Answer, Request

PROJECT, LOCATION = "shop", "europe-west4"
PARENT = f"projects/{PROJECT}/locations/{LOCATION}"
_PARENT = f"/v1/{PARENT}"


@dataclass
class Operation:
    """Something that takes time: what it does in the end, or the code and message that it fails with."""

    name: str
    looks: int
    act: Callable[[], Any]
    failure: tuple[int, str] | None = None
    done: bool = False

    def look(self) -> None:
        self.looks -= 1
        if self.looks <= 0 and not self.done:
            self.done = True
            if not self.failure:
                self.act()

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"name": self.name, "done": self.done}
        if self.done and self.failure:
            told["error"] = dict(zip(("code", "message"), self.failure, strict=True))
        elif self.done:
            told["response"] = {"@type": "type.googleapis.com/google.protobuf.Empty"}
        return told


class VertexService(VertexTuner):
    """The service: what it holds, and how it behaves.

    Attributes:
        endpoints: By their paths.
        versions: By their paths with the alias, such as .../models/churn@r1.
        servers: From a model's address in the bucket to that of a model server with it.
        looks: Looks until an operation that begins now ends.
        failure: Code and message that deployments from now on fail with.
    """

    routes = (
        *VertexTuner.routes,
        ("POST", f"{_PARENT}/endpoints", "create_endpoint"),
        ("GET", f"{_PARENT}/endpoints", "list_endpoints"),
        ("GET", f"{_PARENT}/endpoints/([^/:]+)", "get_endpoint"),
        ("DELETE", f"{_PARENT}/endpoints/([^/:]+)", "delete_endpoint"),
        ("PATCH", f"{_PARENT}/endpoints/([^/:]+)", "update_endpoint"),
        ("POST", f"{_PARENT}/endpoints/([^/:]+):deployModel", "deploy_model"),
        ("POST", f"{_PARENT}/endpoints/([^/:]+):undeployModel", "undeploy_model"),
        ("POST", f"{_PARENT}/endpoints/([^/:]+):predict", "predict"),
        ("POST", f"{_PARENT}/models:upload", "upload_model"),
        ("GET", f"{_PARENT}/models/([^/:]+)", "get_model"),
        ("DELETE", f"{_PARENT}/models/([^/:]+)", "delete_model"),
        # The clients take the first of the two addresses that the service declares for operations.
        ("GET", "/(?:ui|v1)/(projects/.+)/operations", "list_operations"),
        ("GET", "/(?:ui|v1)/(projects/.+/operations/[0-9]+)", "get_operation"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.endpoints: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.operations: dict[str, Operation] = {}
        self.servers: dict[str, str] = {}
        self.looks = 2
        self.failure: tuple[int, str] | None = None
        self._numbers = itertools.count(1)
        self._asked = itertools.count(1)

    def environment(self, folder: Path) -> dict[str, str]:
        """Give what a step finds: its credentials, project and location, and the service's address."""
        return {
            "FLOWPARTS_VERTEX_ENDPOINT": self.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.credentials_file(folder)),
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "GOOGLE_CLOUD_LOCATION": LOCATION,
        }

    def writes(self) -> list[str]:
        """Return the requests that change something: method and the rest of the path."""
        return [
            f"{request.method} {request.path.removeprefix(_PARENT)}"
            for request in self.requests
            if request.method != "GET" and not request.path.endswith(("/token", ":predict"))
        ]

    def split(self, name: str) -> dict[str, int]:
        """Return every revision that is deployed to an endpoint, with its share."""
        endpoint = self.endpoints[f"{PARENT}/endpoints/{name}"]
        return {
            each.display_name: endpoint.traffic_split.get(each.id, 0) for each in endpoint.deployed_models
        }

    def finish(self) -> None:
        """Let time pass until every operation has ended."""
        for operation in self.operations.values():
            operation.looks = 0
            operation.look()

    def begin(self, resource: str, act: Callable[[], Any], failure: tuple[int, str] | None = None) -> Answer:
        name = f"{resource}/operations/{len(self.operations) + 1}"
        self.operations[name] = Operation(name, self.looks, act, failure)
        return Answer(self.operations[name].to_json())

    def busy(self, resource: str) -> bool:
        return any(
            name.startswith(f"{resource}/") and not operation.done
            for name, operation in self.operations.items()
        )

    def list_operations(self, request: Request, resource: str) -> Answer:
        found = [each for name, each in self.operations.items() if name.startswith(f"{unquote(resource)}/")]
        for operation in found:
            operation.look()
        return Answer({"operations": [operation.to_json() for operation in found]})

    def get_operation(self, request: Request, name: str) -> Answer:
        if name not in self.operations:
            return self.error(404, f"{name} is not found")
        self.operations[name].look()
        return Answer(self.operations[name].to_json())

    def create_endpoint(self, request: Request) -> Answer:
        endpoint = read(types.Endpoint, request)
        path = f"{PARENT}/endpoints/{request.query['endpointId']}"
        if path in self.endpoints or self.busy(path):
            return self.error(409, f"{path} already exists")
        endpoint.name, endpoint.etag = path, "1"
        return self.begin(path, lambda: self.endpoints.update({path: endpoint}))

    def get_endpoint(self, request: Request, name: str) -> Answer:
        path = f"{PARENT}/endpoints/{name}"
        if path not in self.endpoints:
            return self.error(404, f"{path} is not found")
        return written(self.endpoints[path])

    def list_endpoints(self, request: Request) -> Answer:
        return Answer({"endpoints": [json.loads(written(each).body) for each in self.endpoints.values()]})

    def delete_endpoint(self, request: Request, name: str) -> Answer:
        path = f"{PARENT}/endpoints/{name}"
        if path not in self.endpoints:
            return self.error(404, f"{path} is not found")
        if self.busy(path) or self.endpoints[path].deployed_models:
            return self.error(400, "the endpoint has models deployed to it, or is being changed")
        return self.begin(path, lambda: self.endpoints.pop(path))

    def delete_model(self, request: Request, name: str) -> Answer:
        path = f"{PARENT}/models/{unquote(name)}"
        deployed = [model.model for each in self.endpoints.values() for model in each.deployed_models]
        if any(each.startswith(f"{path}@") for each in deployed):
            return self.error(400, "a version of the model is deployed")

        def act() -> None:
            for version in [each for each in self.versions if each.startswith(f"{path}@")]:
                del self.versions[version]

        return self.begin(path, act)

    def update_endpoint(self, request: Request, name: str) -> Answer:
        given, endpoint = read(types.Endpoint, request), self.endpoints[f"{PARENT}/endpoints/{name}"]
        if given.etag != endpoint.etag:
            return self.error(409, "the etag is not that of the endpoint")
        assert request.query["updateMask"] == "trafficSplit,labels"
        if problem := self._wrong_split(endpoint, dict(given.traffic_split)):
            return self.error(400, problem)
        endpoint.traffic_split, endpoint.labels = dict(given.traffic_split), dict(given.labels)
        endpoint.etag += "+"
        return written(endpoint)

    def _wrong_split(self, endpoint: Any, split: dict[str, int]) -> str:
        unknown = split.keys() - {each.id for each in endpoint.deployed_models}
        if unknown or sum(split.values()) != 100:
            return f"the traffic split {split} doesn't add up to 100, or names what isn't deployed"
        return ""

    def deploy_model(self, request: Request, name: str) -> Answer:
        given, path = read(types.DeployModelRequest, request), f"{PARENT}/endpoints/{name}"
        endpoint, model = self.endpoints[path], given.deployed_model
        if self.busy(path):
            return self.error(400, "There are other operations running on the endpoint")
        if model.model not in self.versions:
            return self.error(404, f"{model.model} is not found")
        model.id = str(1000 + next(self._numbers))
        split = {model.id if key == "0" else key: share for key, share in given.traffic_split.items()}

        def act() -> None:
            endpoint.deployed_models.append(model)
            endpoint.traffic_split = split or dict(endpoint.traffic_split)
            endpoint.etag += "+"
            assert not self._wrong_split(endpoint, dict(endpoint.traffic_split))

        return self.begin(path, act, self.failure)

    def undeploy_model(self, request: Request, name: str) -> Answer:
        given, path = read(types.UndeployModelRequest, request), f"{PARENT}/endpoints/{name}"
        endpoint = self.endpoints[path]
        if self.busy(path):
            return self.error(400, "There are other operations running on the endpoint")
        split = dict(given.traffic_split) or dict(endpoint.traffic_split)
        is_last = len(endpoint.deployed_models) == 1
        if split.get(given.deployed_model_id) and not is_last:
            return self.error(400, "the model has traffic")

        def act() -> None:
            endpoint.traffic_split = {} if is_last else split
            kept = [each for each in endpoint.deployed_models if each.id != given.deployed_model_id]
            endpoint.deployed_models = kept
            endpoint.etag += "+"

        return self.begin(path, act)

    def upload_model(self, request: Request) -> Answer:
        given = read(types.UploadModelRequest, request)
        path = given.parent_model or f"{PARENT}/models/{given.model_id}"
        exists = any(version.startswith(f"{path}@") for version in self.versions)
        if given.parent_model and not exists:
            return self.error(404, f"{path} is not found")
        if not given.parent_model and (exists or self.busy(path)):
            return self.error(409, f"{path} already exists")
        (alias,) = given.model.version_aliases
        given.model.name = path
        return self.begin(path, lambda: self.versions.update({f"{path}@{alias}": given.model}))

    def get_model(self, request: Request, name: str) -> Answer:
        path = f"{PARENT}/models/{unquote(name)}"
        for version, model in self.versions.items():
            if path in (version, version.partition("@")[0]):
                return written(model)
        return self.error(404, f"{path} is not found")

    def predict(self, request: Request, name: str) -> Answer:
        read(types.PredictRequest, request)
        path = f"{PARENT}/endpoints/{name}"
        if path not in self.endpoints:
            return self.error(404, f"{path} is not found")
        endpoint = self.endpoints[path]
        # 37 and 100 share no factor: every hundred requests are split exactly, and well mixed.
        at = next(self._asked) * 37 % 100
        for model in endpoint.deployed_models:
            at -= endpoint.traffic_split.get(model.id, 0)
            if at < 0:
                break
        version = self.versions[model.model]
        url = f"{self.servers[version.artifact_uri]}{version.container_spec.predict_route}"
        headers = {"content-type": "application/json"}
        answer = urllib3.request("POST", url, body=request.body, headers=headers, retries=False)
        if answer.status != 200:
            return self.error(answer.status, answer.data.decode())
        return Answer({**answer.json(), "deployedModelId": model.id})
