"""A stand-in for what of SageMaker moto's server lacks; the real one needs an account.

moto keeps the models, the configurations, the buckets and the logs. Its endpoints are up at once, can't be
updated and answer nothing real, so these are the stand-in's: a change takes some looks to end, is refused
while another one is under way, and when it fails leaves an endpoint that served as it was. Names that exist
already are refused too. Bodies are checked against botocore's own model of the service, patterns and lengths
included, and so are the answers. Predictions come from a real model server, which is found by the archive
that the variant's model names: one that isn't what was put in the bucket finds none.
"""

import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import urllib3
from botocore.validate import ParamValidator

from flowparts.deploy.targets import sagemaker
from tests.stand_in import Answer, Request, StandIn, Trouble

REGION, ACCOUNT = "eu-west-1", "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/service/Model-Server"
_MODEL = botocore.session.get_session().get_service_model("sagemaker")
_READS = ("Describe", "List")


@dataclass
class Refused(Trouble):
    """As `Trouble`, where `path` is an operation such as CreateModel; a message is "CODE: TEXT"."""

    method: str = "POST"
    path: str = ""

    def fits(self, request: Request) -> bool:
        return self.times > 0 and bool(re.search(self.path, operation(request)))


@dataclass
class Endpoint:
    """An endpoint, and what is being done to it: what happens in the end, after so many looks."""

    name: str
    configuration: str
    status: str
    weights: dict[str, float]
    counts: dict[str, int]
    reason: str = ""
    looks: int = 0
    end: Callable[[], Any] = lambda: None


class SageMakerService(StandIn):
    """The service: what it holds, and how it behaves.

    Attributes:
        endpoints: By their names.
        servers: From the SHA-256 of a model's archive to the address of a model server with it.
        looks: Looks until a change that begins now ends.
        failure: Why new servers don't come up from now on; empty when they do.
        goes_down: Whether an endpoint fails altogether then.
        mistakes: What was asked that the real service leaves to its users not to ask.
    """

    routes = (
        ("POST", "/", "act_on"),
        ("POST", "/endpoints/([^/]+)/invocations", "invoke"),
    )

    def __init__(self, moto: str) -> None:
        super().__init__()
        self.moto = moto
        self.endpoints: dict[str, Endpoint] = {}
        self.servers: dict[str, str] = {}
        self.looks = 2
        self.failure = ""
        self.goes_down = False
        self.mistakes: list[str] = []
        self._asked = itertools.count()
        given: Any = {"region_name": REGION, "aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self._models: Any = boto3.client("sagemaker", endpoint_url=moto, **given)
        self._s3: Any = boto3.client("s3", endpoint_url=moto, **given)
        self._logs: Any = boto3.client("logs", endpoint_url=moto, **given)

    def environment(self) -> dict[str, str]:
        """Give what a step finds: its credentials and region, and the addresses of the services."""
        return {
            "AWS_ENDPOINT_URL": self.moto,
            "AWS_ENDPOINT_URL_SAGEMAKER": self.url,
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
        }

    def serve(self, model: Path, address: str) -> None:
        """Know a model's server by the archive that the model becomes."""
        file = io.BytesIO()
        sagemaker.archive(model, file)
        self.servers[hashlib.sha256(file.getvalue()).hexdigest()] = address

    def writes(self) -> list[str]:
        """Return the operations that change something."""
        asked = [operation(request) for request in self.requests if operation(request)]
        return [name for name in asked if not name.startswith(_READS)]

    def asked(self, name: str) -> list[Any]:
        """Return the bodies of an operation's requests."""
        return [request.json for request in self.requests if operation(request) == name]

    def weights(self, name: str) -> dict[str, float]:
        return self.endpoints[name].weights

    def held(self) -> tuple[list[str], list[str]]:
        """Return the names of all configurations and all models."""
        configurations = self._models.list_endpoint_configs(MaxResults=100)["EndpointConfigs"]
        models = self._models.list_models(MaxResults=100)["Models"]
        return (
            sorted(each["EndpointConfigName"] for each in configurations),
            sorted(each["ModelName"] for each in models),
        )

    def finish(self) -> None:
        """End whatever is under way."""
        for endpoint in list(self.endpoints.values()):
            self._end(endpoint)

    def error(self, status: int, message: str) -> Answer:
        code, _, text = message.partition(": ")
        headers = {"x-amzn-errortype": code}
        return Answer({"__type": code, "message": text}, status, "application/x-amz-json-1.1", headers)

    def act_on(self, request: Request) -> Answer:
        name, given = operation(request), request.json
        shape = _MODEL.operation_model(name)
        if problems := [*_violations(shape.input_shape, given, name)]:
            return self.error(400, f"ValidationException: {'; '.join(problems)}")
        own: Callable[..., Answer] | None = getattr(self, _snake(name), None)
        answer = own(**given) if own else self._pass_on(request)
        if answer.status == 200 and shape.output_shape and own:
            report = ParamValidator().validate(answer.body, shape.output_shape)
            assert not report.has_errors(), report.generate_report()
            answer.body = json.dumps(answer.body, default=datetime.timestamp)
        return answer

    def _pass_on(self, request: Request) -> Answer:
        passed = {key: value for key, value in request.headers.items() if key not in ("host", "connection")}
        answer = urllib3.request("POST", self.moto, body=request.body, headers=passed, retries=False)
        kind = {"x-amzn-errortype": answer.headers["x-amzn-errortype"]} if answer.status >= 400 else {}
        return Answer(answer.data.decode(), answer.status, "application/x-amz-json-1.1", kind)

    def _again(self, kind: str, name: str) -> Answer:
        arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind.replace(' configuration', '-config')}/{name}"
        return self.error(400, f'ValidationException: Cannot create already existing {kind} "{arn}".')

    def _missing(self, kind: str, name: str) -> Answer:
        arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/{name}"
        return self.error(400, f'ValidationException: Could not find {kind} "{arn}".')

    def create_model(self, **given: Any) -> Answer:
        if given["ModelName"] in self.held()[1]:
            return self._again("model", given["ModelName"])
        return Answer({"ModelArn": self._models.create_model(**given)["ModelArn"]})

    def create_endpoint_config(self, **given: Any) -> Answer:
        if given["EndpointConfigName"] in self.held()[0]:
            return self._again("endpoint configuration", given["EndpointConfigName"])
        made = self._models.create_endpoint_config(**given)
        return Answer({"EndpointConfigArn": made["EndpointConfigArn"]})

    def delete_model(self, **given: Any) -> Answer:
        used = [
            variant["ModelName"]
            for endpoint in self.endpoints.values()
            for variant in self._variants(endpoint.configuration)
        ]
        if given["ModelName"] in used:
            self.mistakes.append(f"model {given['ModelName']} was deleted while it served")
        self._models.delete_model(**given)
        return Answer()

    def delete_endpoint_config(self, **given: Any) -> Answer:
        used = [endpoint.configuration for endpoint in self.endpoints.values()]
        if given["EndpointConfigName"] in used:
            self.mistakes.append(f"configuration {given['EndpointConfigName']} was deleted in use")
        self._models.delete_endpoint_config(**given)
        return Answer()

    def create_endpoint(self, **given: Any) -> Answer:
        name, configuration = given["EndpointName"], given["EndpointConfigName"]
        if name in self.endpoints:
            return self._again("endpoint", name)
        if configuration not in self.held()[0]:
            return self._missing("endpoint configuration", configuration)
        self.endpoints[name] = Endpoint(name, configuration, "Creating", *self._initial(configuration))
        return self._begin(self.endpoints[name], "Creating", configuration)

    def update_endpoint(self, **given: Any) -> Answer:
        name, configuration = given["EndpointName"], given["EndpointConfigName"]
        if refusal := self._refusal(name):
            return refusal
        if configuration not in self.held()[0]:
            return self._missing("endpoint configuration", configuration)
        if configuration == self.endpoints[name].configuration:
            text = "Cannot update endpoint with the configuration that it has"
            return self.error(400, f"ValidationException: {text}")
        return self._begin(self.endpoints[name], "Updating", configuration)

    def update_endpoint_weights_and_capacities(self, **given: Any) -> Answer:
        name = given["EndpointName"]
        if refusal := self._refusal(name):
            return refusal
        endpoint = self.endpoints[name]
        wanted = {each["VariantName"]: each["DesiredWeight"] for each in given["DesiredWeightsAndCapacities"]}
        if not wanted.keys() <= endpoint.weights.keys():
            return self.error(400, "ValidationException: The variant name(s) is/are not present")
        return self._begin(endpoint, "Updating", endpoint.configuration, wanted)

    def delete_endpoint(self, **given: Any) -> Answer:
        name = given["EndpointName"]
        if refusal := self._refusal(name, ("Failed",)):
            return refusal
        endpoint = self.endpoints[name]
        endpoint.status, endpoint.looks = "Deleting", self.looks
        endpoint.end = lambda: self.endpoints.pop(name)
        return Answer()

    def list_endpoints(self, **given: Any) -> Answer:
        assert given["StatusEquals"] == "InService"
        told = ("EndpointName", "EndpointArn", "EndpointStatus", "CreationTime", "LastModifiedTime")
        found = [self.describe_endpoint(EndpointName=name).body for name in list(self.endpoints)]
        serving = [each for each in found if each["EndpointStatus"] == "InService"]
        return Answer({"Endpoints": [{part: each[part] for part in told} for each in serving]})

    def describe_endpoint(self, **given: Any) -> Answer:
        name = given["EndpointName"]
        if name in self.endpoints:
            self._look(self.endpoints[name])
        if name not in self.endpoints:
            return self._missing("endpoint", name)
        endpoint = self.endpoints[name]
        now = datetime.now(UTC)
        described = {
            "EndpointName": name,
            "EndpointArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/{name}",
            "EndpointConfigName": endpoint.configuration,
            "EndpointStatus": endpoint.status,
            "ProductionVariants": [
                {
                    "VariantName": variant,
                    "CurrentWeight": weight,
                    "DesiredWeight": weight,
                    "CurrentInstanceCount": endpoint.counts[variant],
                    "DesiredInstanceCount": endpoint.counts[variant],
                }
                # In another order than they were given in.
                for variant, weight in sorted(endpoint.weights.items())
            ],
            "CreationTime": now,
            "LastModifiedTime": now,
        }
        return Answer(described | ({"FailureReason": endpoint.reason} if endpoint.reason else {}))

    def invoke(self, request: Request, name: str) -> Answer:
        endpoint = self.endpoints.get(name)
        if endpoint is None or endpoint.status == "Creating":
            return self.error(400, f"ValidationError: Endpoint {name} of account {ACCOUNT} not found.")
        variant = request.headers.get("x-amzn-sagemaker-target-variant") or self._drawn(endpoint)
        if variant not in endpoint.weights:
            return self.error(400, f"ValidationError: Variant {variant} of endpoint {name} not found.")
        passed = {key: request.headers[key] for key in ("content-type", "accept") if key in request.headers}
        url = f"{self._behind(endpoint.configuration, variant)}/invocations"
        answer = urllib3.request("POST", url, body=request.body, headers=passed, retries=False)
        if answer.status != 200:
            original = {"OriginalStatusCode": answer.status, "OriginalMessage": answer.data.decode()}
            refused = self.error(424, "ModelError: Received an error from primary container")
            return Answer({**refused.body, **original}, 424, headers=refused.headers)
        invoked = {"x-amzn-invoked-production-variant": variant}
        return Answer(answer.data.decode(), content_type=answer.headers["content-type"], headers=invoked)

    def _drawn(self, endpoint: Endpoint) -> str:
        # 37 and 100 share no factor: every hundred requests are split exactly, and well mixed.
        at = next(self._asked) * 37 % 100 * sum(endpoint.weights.values()) / 100
        for variant, weight in endpoint.weights.items():
            at -= weight
            if at < 0:
                return variant
        raise AssertionError("no variant has a weight")

    def _variants(self, configuration: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._models.describe_endpoint_config(EndpointConfigName=configuration)[
            "ProductionVariants"
        ]
        return found

    def _initial(self, configuration: str) -> tuple[dict[str, float], dict[str, int]]:
        variants = self._variants(configuration)
        return (
            {each["VariantName"]: each["InitialVariantWeight"] for each in variants},
            {each["VariantName"]: each["InitialInstanceCount"] for each in variants},
        )

    def _behind(self, configuration: str, variant: str) -> str:
        """Return the address of the server behind a variant; empty where the archive isn't known."""
        (model,) = [
            each["ModelName"] for each in self._variants(configuration) if each["VariantName"] == variant
        ]
        container = self._models.describe_model(ModelName=model)["PrimaryContainer"]
        bucket, _, key = container["ModelDataUrl"].removeprefix("s3://").partition("/")
        content = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return self.servers.get(hashlib.sha256(content).hexdigest(), "")

    def _pings(self, configuration: str) -> str:
        """Return why a variant's server isn't healthy; empty if all are, or not known."""
        for variant in self._initial(configuration)[0]:
            server = self._behind(configuration, variant)
            if server and urllib3.request("GET", f"{server}/ping", retries=False, timeout=2).status != 200:
                container = f"The primary container for production variant {variant}"
                return f"{container} did not pass the ping health check."
        return ""

    def _refusal(self, name: str, also: tuple[str, ...] = ()) -> Answer | None:
        if name not in self.endpoints:
            return self._missing("endpoint", name)
        status = self.endpoints[name].status
        if status == "Failed" and "Failed" not in also:
            return self.error(400, f'ValidationException: Cannot update failed endpoint "{name}".')
        if status not in ("InService", *also):
            return self.error(400, f'ValidationException: Cannot update in-progress endpoint "{name}".')
        return None

    def _begin(
        self,
        endpoint: Endpoint,
        status: str,
        configuration: str,
        weights: dict[str, float] | None = None,
    ) -> Answer:
        failure = self.failure or ("" if weights else self._pings(configuration))
        goes_down = self.goes_down or status == "Creating"
        endpoint.status, endpoint.looks = status, self.looks

        def end() -> None:
            endpoint.status, endpoint.reason = "InService", failure
            if failure and goes_down:
                endpoint.status = "Failed"
            elif not failure and weights:
                endpoint.weights.update(weights)
            elif not failure:
                endpoint.configuration = configuration
                endpoint.weights, endpoint.counts = self._initial(configuration)

        endpoint.end = end
        arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/{endpoint.name}"
        return Answer({"EndpointArn": arn})

    def _look(self, endpoint: Endpoint) -> None:
        if endpoint.status in ("Creating", "Updating", "Deleting"):
            endpoint.looks -= 1
            if endpoint.looks <= 0:
                self._end(endpoint)

    def _end(self, endpoint: Endpoint) -> None:
        if endpoint.status in ("Creating", "Updating", "Deleting"):
            endpoint.end()


def operation(request: Request) -> str:
    """Return the operation that a request asks of SageMaker; empty for a prediction."""
    return request.headers.get("x-amz-target", "").removeprefix("SageMaker.")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _violations(shape: Any, value: Any, where: str) -> Any:
    """Find what the service refuses, also what botocore's client lets pass: patterns, lengths, values."""
    report = ParamValidator().validate(value, shape)
    if report.has_errors():
        yield report.generate_report()
    elif shape.type_name == "structure":
        for key, part in value.items():
            yield from _violations(shape.members[key], part, f"{where}.{key}")
    elif shape.type_name == "list":
        if not shape.metadata.get("min", 0) <= len(value) <= shape.metadata.get("max", len(value)):
            yield f"{where} has {len(value)} members"
        for part in value:
            yield from _violations(shape.member, part, f"{where}[]")
    elif shape.type_name == "map":
        for key, part in value.items():
            yield from _violations(shape.key, key, where)
            yield from _violations(shape.value, part, f"{where}.{key}")
    elif shape.type_name == "string":
        if len(value) > shape.metadata.get("max", len(value)):
            yield f"{where} is longer than {shape.metadata['max']}"
        if (pattern := shape.metadata.get("pattern")) and not re.fullmatch(pattern, value):
            yield f"{where} {value!r} must match {pattern}"
        if shape.enum and value not in shape.enum:
            yield f"{where} {value!r} must be one of the known values"
