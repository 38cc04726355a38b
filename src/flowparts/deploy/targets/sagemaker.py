"""The SageMaker target: an endpoint configuration with one production variant per revision.

A variant is named after its revision, and its weight is its percentage. Archive, model and configuration are
named after their content, the configuration also after the current revision, so a retried step finds them. It
waits for a change in progress. For a new configuration SageMaker starts new servers beside the old ones, and
rolls back if they don't answer /ping; weights alone are changed in place.

The client is boto3 (https://docs.aws.amazon.com/sagemaker/latest/APIReference/). Credentials and region are
found in the same way as by Amazon's tools, and so are other addresses of the service (AWS_ENDPOINT_URL).
"""

import gzip
import hashlib
import json
import logging
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from flowparts.deploy import common
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.options import Options as CommonOptions
from flowparts.util import trees
from flowparts.util.errors import RefusedError, UnreachableError
from flowparts.util.shortening import one_line, shorten

_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", re.ASCII)
_INSTANCE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9]+")
_S3 = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
_REVISION = r"r[0-9a-f]{12}"
_KEYS = {"endpoint": "EndpointName", "endpoint_config": "EndpointConfigName", "model": "ModelName"}

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_CHANGE_SECONDS = 1800.0
_BUSY = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
# Maximum length of Amazon's message in an error; the log has all of it.
_SAID = 250
_LOG_LINES = 10
# Weights hardly compress, at any level.
_COMPRESSION = 1

_ACCESS = "give this step's account the right to"
_WAYS = {
    "AccessDenied": _ACCESS,
    "AccessDeniedException": _ACCESS,
    "403": _ACCESS,
    "NoSuchBucket": "make the bucket, or give another one as storage",
    "ResourceLimitExceeded": "have the quota raised, or take another instance_type",
    "ExpiredToken": "renew this step's credentials",
    "ExpiredTokenException": "renew this step's credentials",
    "InvalidAccessKeyId": "correct this step's credentials",
    "InvalidClientTokenId": "correct this step's credentials",
    "SignatureDoesNotMatch": "correct this step's credentials",
    "UnrecognizedClientException": "correct this step's credentials",
}

_log = logging.getLogger("flowparts")


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """The options of SageMaker.

    Attributes:
        timeout_seconds: Maximum time per change of the endpoint. A longer change continues, and a retry waits
            for it.
        role: ARN of the execution role; it must be able to read the archive and the image.
        instance_type: Instance type.
        region: AWS region; default: the environment's.
        storage: Where to upload the archive, s3://BUCKET/PREFIX; default: the model's own bucket.
    """

    timeout_seconds: float = 1800.0
    role: str
    instance_type: str = "ml.m5.large"
    region: str = ""
    storage: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _ROLE.fullmatch(self.role):
            raise ValueError(
                f"role must be the ARN of a role, arn:aws:iam::ACCOUNT:role/NAME, not {self.role!r}"
            )
        if not _INSTANCE.fullmatch(self.instance_type):
            raise ValueError(
                f"instance_type must be a type such as 'ml.m5.large', not {self.instance_type!r}"
            )


def deploy(model: str, name: str, **given: Any) -> Endpoint:
    """Deploy a model as a revision of a SageMaker endpoint.

    Args:
        model: The model directory or its URI.
        name: The endpoint.
        given: `Options` by name.

    Raises:
        ValueError: An option or the model is invalid, or SageMaker refuses or fails to deploy it; the
            previous revision keeps serving.
    """
    common.check_name(name)
    chosen = Options(**given)
    common.require_allowed("role", chosen.role)
    bucket, prefix = _place_of_archives(chosen.storage, model)
    server = common.image("serving", chosen.image)
    instances = {"InstanceType": chosen.instance_type, "InitialInstanceCount": chosen.replicas}
    with common.local_copy(model) as directory:
        revision = common.revision(directory, {"on": instances, "image": server, "as": chosen.role})
        with _refusals():
            remote = _Place(chosen.region, name)
            before = remote.state(remote.settled(chosen.timeout_seconds))
        after = Endpoint("sagemaker", name, remote.url, revision, {revision: 100}, settings=remote.settings)
        if before:
            after = before.deploying(revision, chosen.percent)
        try:
            with _refusals():
                variants = {}
                if before is None or revision not in before.traffic:
                    archive = remote.store(directory, bucket, f"{prefix}{name}/{revision}/model.tar.gz")
                    model_name = remote.create_model(revision, archive, server, chosen.role)
                    variants = {revision: {"VariantName": revision, "ModelName": model_name, **instances}}
                return remote.with_options(remote.apply(after, variants, chosen.timeout_seconds))
        except ValueError as error:
            raise common.not_deployed(name, revision, error, remote.serving) from None


def shift(endpoint: Endpoint, percent: int) -> Endpoint:
    """Route a part of the traffic to the current revision; the previous one keeps its instances.

    Raises:
        ValueError: SageMaker refuses, or the endpoint doesn't exist or has changed since.
    """
    with _refusals():
        remote = _Place(endpoint.settings["region"], endpoint.name)
        state = common.unchanged(endpoint, remote.current(), remote.where)
        return remote.with_options(remote.apply(state.with_percent(percent)))


def rollback(endpoint: Endpoint) -> Endpoint:
    """Route all traffic to the previous revision and remove the current one; idempotent.

    The traffic moves first, within seconds; SageMaker takes minutes to remove instances.

    Raises:
        ValueError: SageMaker refuses, there is no previous revision, or the endpoint doesn't exist or has
            changed since.
    """
    with _refusals():
        remote = _Place(endpoint.settings["region"], endpoint.name)
        state = remote.current()
        after = common.rolled_back(endpoint, state, remote.where)
        if state and state.previous_revision == after.revision:
            remote.apply(state.with_percent(0))
        return remote.with_options(remote.apply(after))


def endpoints(*, region: str = "") -> list[Endpoint]:
    """Return this library's serving endpoints in a region, with their options.

    Raises:
        ValueError: SageMaker refuses.
    """
    with _refusals():
        place = _Place(region, "")
        pages = place.sagemaker.get_paginator("list_endpoints").paginate(StatusEquals="InService")
        names = [each["EndpointName"] for page in pages for each in page["Endpoints"]]
        found = []
        for remote in (_Place(region, name) for name in names):
            with suppress(ValueError):  # created by something else
                if state := remote.state(remote.settled(_CHANGE_SECONDS)):
                    found.append(remote.with_options(state))
        return found


@contextmanager
def writing(name: str, *, region: str = "") -> Iterator[Endpoint | None]:
    """Yield an endpoint, None if there is none; SageMaker itself refuses concurrent changes.

    Raises:
        ValueError: SageMaker refuses, or something else created the endpoint.
    """
    with _refusals():
        remote = _Place(region, name)
        state = remote.state(remote.settled(_CHANGE_SECONDS))
        before = remote.with_options(state) if state else None
    yield before


def remove(name: str, *, region: str = "", dry_run: bool = False) -> list[str]:
    """Remove an endpoint with its configurations and models; return what was removed. Archives in S3 stay.

    Args:
        name: The endpoint.
        region: AWS region; empty for the environment's.
        dry_run: Remove nothing, and return what would be removed.

    Raises:
        ValueError: SageMaker refuses.
    """
    with _refusals():
        remote = _Place(region, name)
        described = remote.settled(_CHANGE_SECONDS)
        if described and not remote.is_own(described):
            described = None
        held = [f"endpoint {name}"] if described else []
        held += [f"{kind.replace('_', ' ')} {each}" for kind, each in remote.created()]
        if not dry_run:
            if described:
                remote.sagemaker.delete_endpoint(EndpointName=name)
                remote.settled(_CHANGE_SECONDS)
            remote.tidy(None)
        return held


def predict(endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = "") -> list[dict[str, Any]]:
    """Send rows by InvokeEndpoint and return the predictions.

    Raises:
        ValueError: There is no answer, or it isn't a prediction.
    """
    with _refusals():
        runtime = _runtime(endpoint.settings["region"], endpoint.url.partition("/endpoints/")[0])
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint.name,
            ContentType="application/json",
            Accept="application/json",
            Body=json.dumps({"instances": rows}).encode(),
            **({"TargetVariant": revision} if revision else {}),
        )
        text = answer["Body"].read()
    try:
        said = json.loads(text)
    except ValueError:
        said = text.decode(errors="replace")
    return common.predictions(said, len(rows), f"endpoint {endpoint.name!r}")


def archive(directory: Path, file: IO[bytes]) -> None:
    """Write a model directory as a tar.gz; its bytes depend only on names and contents of the files."""
    trees.files(directory)
    with (
        gzip.GzipFile("", "wb", _COMPRESSION, fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(directory.rglob("*")):
            entry = tarfile.TarInfo(path.relative_to(directory).as_posix())
            # The server's user isn't the one that unpacks the archive.
            if path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            else:
                entry.size, entry.mode = path.stat().st_size, 0o644
                with path.open("rb") as content:
                    tar.addfile(entry, content)


class _Place:
    """An endpoint in a region."""

    def __init__(self, region: str, name: str) -> None:
        from boto3.session import Session

        self._session = Session(region_name=region or os.environ.get("AWS_REGION") or None)
        if not self._session.region_name:
            raise ValueError("region must be known; give it as an option, or set AWS_REGION")
        self.name = name
        self.settings = {"region": str(self._session.region_name)}
        self.where = f"in {self.settings['region']}"
        self.serving: list[str] = []  # the revisions with traffic at the last check
        self.sagemaker = self._client("sagemaker")
        address = self._client("sagemaker-runtime").meta.endpoint_url
        self.url = f"{address}/endpoints/{name}/invocations"

    def settled(self, timeout_seconds: float) -> dict[str, Any] | None:
        """Return the endpoint's description after a change in progress; None if there is none."""
        described: dict[str, Any] | None = None

        def look() -> str:
            nonlocal described
            described = self._described("endpoint", self.name)
            status = described["EndpointStatus"] if described else ""
            return f"SageMaker says {status}" if status in _BUSY else ""

        common.wait(f"endpoint {self.name!r}", look, timeout_seconds, interruptible=False)
        return described

    def state(self, described: dict[str, Any] | None) -> Endpoint | None:
        """Return what an endpoint without a change in progress serves; None if there is none or it failed."""
        self.serving = []
        if described is None or described["EndpointStatus"] == "Failed":
            return None
        if described["EndpointStatus"] != "InService":
            raise ValueError(
                f"endpoint {self.name!r} is {described['EndpointStatus']} ({_reason(described)}); delete it "
                "and deploy again"
            )
        configuration = self.is_own(described)
        variants = described["ProductionVariants"]
        weights = {each["VariantName"]: each.get("CurrentWeight", 0) for each in variants}
        if not configuration or configuration[1] not in weights or len(weights) > 2:
            raise ValueError(
                f"endpoint {self.name!r} {self.where} was made by something else; deploy to another name"
            )
        current = configuration[1]
        percent = round(100 * weights[current] / (sum(weights.values()) or 1)) if len(weights) > 1 else 100
        previous = next((revision for revision in weights if revision != current), None)
        traffic = {current: percent, **({previous: 100 - percent} if previous else {})}
        self.serving = [revision for revision, part in traffic.items() if part]
        return Endpoint("sagemaker", self.name, self.url, current, traffic, previous, self.settings)

    def is_own(self, described: dict[str, Any]) -> re.Match[str] | None:
        """Match the configuration's name, which contains the current revision; None if it isn't ours."""
        return re.fullmatch(rf"{self.name}-({_REVISION})-[0-9a-f]+", described["EndpointConfigName"])

    def current(self) -> Endpoint | None:
        """Return what the endpoint serves, to change it; a failed endpoint can only be deployed again."""
        described = self.settled(_CHANGE_SECONDS)
        if described and described["EndpointStatus"] == "Failed":
            raise ValueError(
                f"endpoint {self.name!r} has failed ({_reason(described)}); deploy a model again"
            )
        return self.state(described)

    def store(self, directory: Path, bucket: str, key: str) -> str:
        """Return the URI of a model's archive, uploading it if necessary."""
        from botocore.exceptions import ClientError

        s3 = self._client("s3")
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            # Without permission to list a bucket, a missing object is a 403.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (403, 404):
                raise
            with tempfile.TemporaryFile() as file:
                archive(directory, file)
                _log.info("uploading %.1f MB to s3://%s/%s", file.tell() / 1e6, bucket, key)
                file.seek(0)
                s3.upload_fileobj(file, bucket, key)
        return f"s3://{bucket}/{key}"

    def create_model(self, revision: str, uri: str, image: str, role: str) -> str:
        """Return the name of a revision's model, creating it if necessary."""
        name = f"{self.name}-{revision}"
        container = {
            "Image": image,
            "ModelDataUrl": uri,
            "Environment": {"FLOWPARTS_SERVING_NAME": self.name, **common.noted_options()},
        }
        self._make("model", name, PrimaryContainer=container, ExecutionRoleArn=role)
        return name

    def with_options(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint with its current revision's options."""
        model = self._described("model", f"{self.name}-{endpoint.revision}") or {}
        return common.with_noted_options(endpoint, model.get("PrimaryContainer", {}).get("Environment", {}))

    def apply(
        self,
        after: Endpoint,
        new: Mapping[str, dict[str, Any]] | None = None,
        timeout_seconds: float = _CHANGE_SECONDS,
    ) -> Endpoint:
        """Change the endpoint, wait for it, and remove unused objects.

        Args:
            after: The requested endpoint.
            new: The variants of new revisions.
            timeout_seconds: Maximum time for the change.

        Raises:
            ValueError: SageMaker failed.
        """
        from botocore.exceptions import ClientError

        described = self.settled(timeout_seconds)
        before = self.state(described)
        if before != after:
            if described and before is None:  # a failed endpoint can't be updated
                self.sagemaker.delete_endpoint(EndpointName=self.name)
                described = self.settled(timeout_seconds)
            if before and (before.revision, before.traffic.keys()) == (after.revision, after.traffic.keys()):
                self._weigh(after)
            else:
                self._configure(after, described, new or {})
            described = self.settled(timeout_seconds)
        found = self.state(described)
        if found == after:
            self.tidy(described)
            return after
        reason = _reason(described or {})
        words = "".join(filter(None, map(self._last_words, after.traffic.keys() - set(self.serving))))
        if before is None and described:
            with suppress(ClientError, ValueError):  # the next attempt reports why
                self.sagemaker.delete_endpoint(EndpointName=self.name)
                described = self.settled(timeout_seconds)
        self.tidy(described)
        raise ValueError(f"SageMaker says: {reason}{words}")

    def _weigh(self, after: Endpoint) -> None:
        weights = [
            {"VariantName": revision, "DesiredWeight": float(percent)}
            for revision, percent in after.traffic.items()
        ]
        with _repeated():
            self.sagemaker.update_endpoint_weights_and_capacities(
                EndpointName=self.name, DesiredWeightsAndCapacities=weights
            )

    def _configure(
        self, after: Endpoint, described: dict[str, Any] | None, new: Mapping[str, dict[str, Any]]
    ) -> None:
        variants = {**self._variants(described), **new}
        wanted = [
            {**variants[revision], "InitialVariantWeight": float(percent)}
            for revision, percent in after.traffic.items()
        ]
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        # SageMaker allows 63 characters: 38 of the endpoint's name, 13 of the revision, two hyphens.
        name = f"{self.name}-{after.revision}-{digest[:8]}"
        self._make("endpoint_config", name, ProductionVariants=wanted)
        change = self.sagemaker.update_endpoint if described else self.sagemaker.create_endpoint
        with _repeated():
            change(EndpointName=self.name, EndpointConfigName=name)

    def _variants(self, described: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
        """Return the variants of an endpoint by revision, with their current number of instances."""
        if described is None:
            return {}
        configured = self._described("endpoint_config", described["EndpointConfigName"])
        if configured is None:
            raise ValueError(f"endpoint {self.name!r} has lost its configuration; delete it and deploy again")
        # A failed endpoint reports no variants.
        counts = {each["VariantName"]: each for each in described.get("ProductionVariants", [])}
        found = {}
        for variant in configured["ProductionVariants"]:
            revision = variant["VariantName"]
            count = counts.get(revision, {}).get("DesiredInstanceCount") or variant["InitialInstanceCount"]
            found[revision] = {**variant, "InitialInstanceCount": count}
        return found

    def tidy(self, described: dict[str, Any] | None) -> None:
        """Remove unused models and configurations of the endpoint; they cost nothing if they stay."""
        from botocore.exceptions import BotoCoreError, ClientError

        used = {variant["ModelName"] for variant in self._variants(described).values()}
        used |= {described["EndpointConfigName"]} if described else set()
        try:
            for kind, name in self.created():
                if name not in used:
                    _log.info("removing %s %s", kind.replace("_", " "), name)
                    getattr(self.sagemaker, f"delete_{kind}")(**{_KEYS[kind]: name})
        except (BotoCoreError, ClientError) as error:
            _log.warning("unused objects of endpoint %s stay: %s", self.name, _line(error))

    def created(self) -> list[tuple[str, str]]:
        """Return the endpoint's configurations and models, each with its kind."""
        kinds = {
            "endpoint_config": ("EndpointConfigs", rf"{_REVISION}-[0-9a-f]+"),
            "model": ("Models", _REVISION),
        }
        found = []
        for kind, (listed, pattern) in kinds.items():
            pages = self.sagemaker.get_paginator(f"list_{kind}s").paginate(NameContains=f"{self.name}-r")
            names = [each[_KEYS[kind]] for page in pages for each in page[listed]]
            found += [(kind, name) for name in names if re.fullmatch(rf"{self.name}-{pattern}", name)]
        return found

    def _make(self, kind: str, name: str, **given: Any) -> None:
        """Create an object unless it exists, and wait until it is visible."""
        key = _KEYS[kind]
        if self._described(kind, name) is not None:
            return
        with _repeated():
            getattr(self.sagemaker, f"create_{kind}")(**{key: name}, **given)

        def look() -> str:
            return "" if self._described(kind, name) else "it isn't visible yet"

        common.wait(f"{kind.replace('_', ' ')} {name}", look, _ANSWER_SECONDS)

    def _described(self, kind: str, name: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        try:
            found: dict[str, Any] = getattr(self.sagemaker, f"describe_{kind}")(**{_KEYS[kind]: name})
        except ClientError as error:
            # SageMaker has no error code for a missing object.
            if error.response["Error"].get("Message", "").startswith("Could not find"):
                return None
            raise
        return found

    def _last_words(self, revision: str) -> str:
        """Return the last log line of a revision's servers; empty if it can't be read."""
        from botocore.exceptions import BotoCoreError, ClientError

        group = {"logGroupName": f"/aws/sagemaker/Endpoints/{self.name}"}
        with suppress(BotoCoreError, ClientError):
            logs = self._client("logs")
            streams = logs.describe_log_streams(**group, logStreamNamePrefix=f"{revision}/")["logStreams"]
            newest = max(streams, key=lambda stream: stream.get("lastEventTimestamp", 0), default=None)
            if newest:
                stream = {"logStreamName": newest["logStreamName"], "limit": _LOG_LINES}
                events = logs.get_log_events(**group, **stream)["events"]
                lines = [event["message"] for event in events if event["message"].strip()]
                if lines:
                    return f"; revision {revision} has logged: {shorten(common.log_text(lines[-1]), _SAID)}"
        return ""

    def _client(self, service: str) -> Any:
        from botocore.config import Config

        patient = {"mode": "standard", "max_attempts": 5}
        config = Config(connect_timeout=_CONNECT_SECONDS, read_timeout=_ANSWER_SECONDS, retries=patient)
        return self._session.client(service, config=config)


@lru_cache(maxsize=1)
def _runtime(region: str, address: str) -> Any:
    """Return the client for predictions; creating one takes longer than a prediction.

    It doesn't retry, so that probes see every error.
    """
    from boto3.session import Session
    from botocore.config import Config

    once = {"total_max_attempts": 1}
    config = Config(connect_timeout=_CONNECT_SECONDS, read_timeout=_ANSWER_SECONDS, retries=once)
    return Session(region_name=region).client("sagemaker-runtime", endpoint_url=address, config=config)


def _place_of_archives(storage: str, model: str) -> tuple[str, str]:
    """Return the bucket and the key prefix for a model's archive."""
    place = _S3.fullmatch(storage or model)
    if place is None:
        where = f"not {storage!r}" if storage else f"because the model is not in S3 but at {model!r}"
        raise ValueError(f"storage must be s3://BUCKET/PREFIX, where the model's archive goes, {where}")
    prefix = (place[2] or "").strip("/") if storage else "sagemaker"
    return place[1], f"{prefix}/" if prefix else ""


@contextmanager
def _repeated() -> Iterator[None]:
    """Ignore errors of a retried request that had arrived; its result is checked anyway."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        again = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
        if not again or error.response["Error"].get("Code") != "ValidationException":
            raise


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn exceptions of boto3 into one-line errors."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        said = error.response.get("Error", {})
        code, message = str(said.get("Code", "")), said.get("Message", "")
        if code == "ModelError":
            original = str(error.response.get("OriginalMessage") or message)
            raise RefusedError(
                f"the model server refuses: {shorten(common.log_text(original), _SAID)}"
            ) from None
        way = f"; {_WAYS[code]}" if code in _WAYS else ""
        raise RefusedError(f"AWS refuses {error.operation_name}: {code}, {_line(message)}{way}") from None
    except NoCredentialsError:
        raise RefusedError(
            "AWS gives this step no access, because it has no credentials; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or run it with a role"
        ) from None
    except BotoCoreError as error:
        raise UnreachableError(
            f"AWS gave no answer ({_line(error)}); is the region right and the service within reach?"
        ) from None


def _reason(described: Mapping[str, Any]) -> str:
    reason = str(described.get("FailureReason") or "")
    if reason:
        _log.info("SageMaker says: %s", reason)
    return _line(reason) or "no reason given"


def _line(text: object) -> str:
    return one_line(text, _SAID)
