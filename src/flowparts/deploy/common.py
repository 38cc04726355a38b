"""Helpers of all deployment targets: names and sizes, revisions, waiting, requests to a server."""

import hashlib
import http.client
import inspect
import json
import logging
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from flowparts import __version__
from flowparts.deploy import _lease, server_time
from flowparts.deploy.endpoint import Endpoint
from flowparts.serving import model_files
from flowparts.util import termination, trees
from flowparts.util.errors import RefusedError, UnreachableError
from flowparts.util.shortening import shorten

# Together with a revision, a StatefulSet's name may have 52 characters: a label of its pods has eleven more.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,36}[a-z0-9])?")


_MEMORY = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T)?")


_CPU = re.compile(r"(\d+)m|(\d+(?:\.\d+)?)")


_DIGEST = re.compile(r"[0-9a-f]{16}")


_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")


_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


_MIN_MEMORY = 64 * 2**20


# Where Kubeflow and Vertex AI mount input artifacts.
_MOUNTS = {"gs": Path("/gcs"), "s3": Path("/s3"), "minio": Path("/minio")}


# Who runs pipelines chooses a deployment's options; the step's environment may hold them to lists.
_ALLOWED = {
    "image": "FLOWPARTS_ALLOWED_IMAGES",
    "namespace": "FLOWPARTS_ALLOWED_NAMESPACES",
    "environment_from": "FLOWPARTS_ALLOWED_SECRETS",
    "storage_access": "FLOWPARTS_ALLOWED_SECRETS",
    "secret of prediction_log": "FLOWPARTS_ALLOWED_SECRETS",
    "claim of prediction_log": "FLOWPARTS_ALLOWED_CLAIMS",
    "service_account": "FLOWPARTS_ALLOWED_SERVICE_ACCOUNTS",
    "role": "FLOWPARTS_ALLOWED_SERVICE_ACCOUNTS",
}


_SAY_EVERY_SECONDS = 5.0


# Long waits poll less often: the pause is this fraction of the time waited so far, up to the maximum.
_LOOK_EVERY_SECONDS = 0.5


_LOOK_EVERY_FRACTION = 0.05


_MAX_LOOK_EVERY_SECONDS = 10.0


_ANSWER_SECONDS = 30.0


# Time from the readiness of a revision until its addresses route to it.
_SERVED_SECONDS = 5.0


_log = logging.getLogger("flowparts")


class AnotherRevisionError(ValueError):
    """Another revision than the requested one answered, on a platform where clients can't choose it."""


@dataclass(frozen=True)
class Plan:
    """The traffic that a rollout would actually give.

    Attributes:
        percentages: Requested percentage of the requests to the percentage that a revision would get.
        note: Why they differ and how to avoid it, in one sentence; empty if they don't.
    """

    percentages: Mapping[int, int]
    note: str = ""

    def stages(self) -> list[int]:
        """Return the percentages to request in turn: 0 for those that give none, and no duplicates."""
        asked: list[int] = []
        for percent, given in self.percentages.items():
            if not asked or given != self.percentages.get(asked[-1], 0):
                asked.append(percent if given else 0)
        return asked


def one_writer() -> AbstractContextManager[None]:
    """Run a block as one change of an endpoint; no other step can change it meanwhile."""
    return _lease.hold_until_end()


# The variable in which servers in clouds keep the options of their revision, for lack of another record.
_DEPLOYED_WITH = "FLOWPARTS_DEPLOYED_WITH"


_kept_options: ContextVar[Mapping[str, Any] | None] = ContextVar("kept_options", default=None)


_origin: ContextVar[Mapping[str, str] | None] = ContextVar("origin", default=None)


def accepted_by(function: Callable[..., object], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a target that one of its functions takes, such as namespace or region."""
    ports = inspect.signature(function).parameters
    return {option: value for option, value in given.items() if option in ports}


@contextmanager
def deploying_with(kept: Mapping[str, Any], origin: Mapping[str, str] | None) -> Iterator[None]:
    """Set `kept_options` and `origin` for deployments in the block."""
    token, token_of_origin = _kept_options.set(kept), _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token_of_origin)
        _kept_options.reset(token)


def origin() -> dict[str, str]:
    """Return the origin of the deployment, as far as it is known: "run", "model-version"."""
    return {what: value for what, value in (_origin.get() or {}).items() if value}


def kept_options() -> dict[str, Any]:
    """Return the settings of an endpoint with the options that it is deployed with."""
    kept = _kept_options.get() or {}
    return {key: options for key, options in kept.items() if options or key == "previous_options"}


def noted_options() -> dict[str, str]:
    """Return the variable with the options that a server in a cloud is deployed with."""
    noted = kept_options().get("options")
    return {_DEPLOYED_WITH: json.dumps(noted, sort_keys=True)} if noted else {}


def with_noted_options(endpoint: Endpoint, variables: Mapping[str, str]) -> Endpoint:
    """Return an endpoint with the options in the variables of its current revision's servers."""
    noted = variables.get(_DEPLOYED_WITH)
    options = {"options": json.loads(noted)} if noted else {}
    return replace(endpoint, settings={**endpoint.settings, **options})


_dry_run: ContextVar[list[dict[str, Any]] | None] = ContextVar("dry_run", default=None)


@contextmanager
def without_changes() -> Iterator[list[dict[str, Any]]]:
    """Make the block a dry run on clusters; yield the list of what it would apply."""
    found: list[dict[str, Any]] = []
    token = _dry_run.set(found)
    try:
        yield found
    finally:
        _dry_run.reset(token)


def dry_run() -> list[dict[str, Any]] | None:
    """Return the list of what would be applied in a dry run; None outside of one."""
    return _dry_run.get()


def revision(model: str | Path, settings: Mapping[str, Any] | None = None) -> str:
    """Return a model's revision: "r" and 12 hexadecimal digits of a hash of its directory.

    Args:
        model: The directory.
        settings: Settings that also identify the revision, on platforms where other settings need other
            servers.

    Raises:
        ValueError: There is no model.
    """
    from flowparts import models
    from flowparts.register import registry

    models.metadata(model)
    content = registry.fingerprint(model)
    if settings:
        text = json.dumps([content, dict(settings)], sort_keys=True)
        content = hashlib.sha256(text.encode()).hexdigest()
    return f"r{content[:12]}"


def mounted(model: str) -> Path | None:
    """Return where the platform has mounted a model's URI; None if it hasn't.

    Raises:
        ValueError: The URI leads out of the mount.
    """
    scheme, _, rest = model.partition("://")
    mount = _MOUNTS.get(scheme)
    if mount is None or not mount.is_dir():
        return None
    folder = trees.inside(mount, rest.rstrip("/"))
    return folder if folder.is_dir() else None


@contextmanager
def local_copy(model: str) -> Iterator[Path]:
    """Yield a model's directory: the local or mounted one, or a download.

    Raises:
        ValueError: As `model_files.fetch`.
    """
    if seen := mounted(model):
        yield seen
        return
    with tempfile.TemporaryDirectory() as directory:
        yield model_files.fetch(model, Path(directory))


def digest(model: str, given: str = "") -> str:
    """Return the digest of a model's files, which pods verify.

    Args:
        model: The model's URI.
        given: The digest, if it is known: the model_fingerprint of `register_champion`.

    Returns:
        16 hexadecimal digits; empty for a cluster's volume, whose files only pods can read.

    Raises:
        ValueError: The files can't be read.
    """
    if given:
        if not _DIGEST.fullmatch(given):
            raise ValueError(f"digest must be 16 hexadecimal digits, not {given!r}")
        return given
    if model.startswith("pvc://"):
        _log.warning(
            "the files at %s are not verified by the pods; give their digest to verify them",
            model,
        )
        return ""
    try:
        with local_copy(model.replace("minio://", "s3://", 1) if mounted(model) is None else model) as files:
            return trees.digest(files)
    except ValueError as error:
        raise ValueError(
            f"the digest of the model is not known ({error}); give this step access to it, or the option "
            "digest"
        ) from None


def require_served(answer: Any, wanted: str, revision: str) -> None:
    """Raise ValueError unless a model server's readiness answer has a model's digest."""
    found = answer.get("digest") if isinstance(answer, Mapping) else None
    if not found:
        raise ValueError(
            f"servers of revision {revision} don't report the digest of their model; use an image of this "
            "release"
        )
    if found != wanted:
        raise ValueError(f"servers of revision {revision} have the model {found}, not {wanted}")


def await_served(ask: Callable[[], Any], wanted: str, revision: str) -> None:
    """Wait until the servers of a revision report that they serve a model's files.

    If they can't be reached through a mesh or network, the servers' own check must suffice.

    Args:
        ask: Requests their readiness; raises ValueError without an answer.
        wanted: The files' digest.
        revision: The revision.

    Raises:
        ValueError: They report another digest.
    """
    has_answered = False

    def look() -> str:
        nonlocal has_answered
        try:
            answer = ask()
            has_answered = True
            require_served(answer, wanted, revision)
        except ValueError as error:
            return str(error)
        return ""

    try:
        wait(f"the model of revision {revision}", look, _SERVED_SECONDS)
    except termination.TerminatedError:
        raise
    except ValueError as error:
        if has_answered:
            raise
        _log.warning("can't check which model the servers of revision %s serve: %s", revision, error)


def image(folder: str, given: str = "") -> str:
    """Return the reference of one of this project's images by its folder under containers/.

    Args:
        folder: Such as "serving".
        given: The reference, if it isn't empty. Else FLOWPARTS_SERVING_IMAGE of the environment, else that of
            the same registry and version as this step's own image, else that of `make images`.

    Raises:
        ValueError: The given one isn't allowed.
    """
    require_allowed("image", given)
    named = given or os.environ.get(f"FLOWPARTS_{folder.upper()}_IMAGE")
    registry = os.environ.get("FLOWPARTS_REGISTRY", "flowparts")
    version = os.environ.get("FLOWPARTS_IMAGE_VERSION", __version__)
    return named or f"{registry}/flowparts-{folder}:{version}"


def require_allowed(option: str, value: str) -> None:
    """Raise ValueError unless the step's environment allows a value of an option; without a list, all are.

    FLOWPARTS_ALLOWED_IMAGES, …_NAMESPACES, …_SECRETS, …_CLAIMS and …_SERVICE_ACCOUNTS hold patterns such as
    "registry.example/team/*", separated by spaces. Empty values mean the platform's default and are always
    allowed.

    Args:
        option: The option's name, such as "environment_from".
        value: Its value.
    """
    variable = _ALLOWED[option]
    patterns = os.environ.get(variable)
    if value and patterns is not None and not any(fnmatchcase(value, one) for one in patterns.split()):
        raise ValueError(
            f"{option} {value!r} is not allowed here; {variable} of the step's environment allows: "
            f"{patterns.strip() or 'none'}"
        )


def check_name(name: str) -> None:
    """Raise ValueError unless an endpoint's name is valid on every target."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"endpoint name {name!r} must start with a letter, end with a letter or digit and hold at most "
            f"38 of a-z, 0-9 and '-'"
        )


def cpus(cpu: str) -> float:
    """Parse CPUs in Kubernetes' notation: "2", "0.5" or "500m".

    Raises:
        ValueError: The notation is wrong, or the number is 0.
    """
    match = _CPU.fullmatch(cpu)
    number = float(match[1]) / 1000 if match and match[1] else float(match[2]) if match else 0.0
    if not number:
        raise ValueError(f"cpu {cpu!r} is not a number of processors such as '2', '0.5' or '500m'")
    return number


def memory_bytes(memory: str) -> int:
    """Parse a size in Kubernetes' notation, "512Mi", "2Gi" or "2G", to bytes.

    Raises:
        ValueError: The notation is wrong, or a server can't start with so little.
    """
    match = _MEMORY.fullmatch(memory)
    number = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if number < _MIN_MEMORY:
        raise ValueError(f"memory {memory!r} is not an amount such as '512Mi' or '2Gi', 64Mi at least")
    return number


def not_deployed(
    name: str,
    revision: str,
    error: ValueError,
    kept: Iterable[str],
    undo: Callable[[], object] = lambda: None,
) -> ValueError:
    """Undo a failed deployment and return its error, which says what still serves.

    Args:
        name: The endpoint.
        revision: The revision that failed.
        error: The reason.
        kept: The revisions that keep serving.
        undo: Restores the endpoint; raises ValueError if it can't. Not called if another step has taken the
            endpoint over.
    """
    termination.disarm()
    failed = f"revision {revision} of endpoint {name!r} is not deployed: {error}"
    if isinstance(error, _lease.LostError):
        return ValueError(failed)
    try:
        undo()
        serving = list(kept)
        verb = "serve" if len(serving) > 1 else "serves"
        after = f"; {' and '.join(serving)} {verb} as before" if serving else ""
    except ValueError as further:
        again = "for the same reason" if str(further) == str(error) else f": {further}"
        after = f"; and it could not be restored{' ' if again[0] == 'f' else ''}{again}"
    return ValueError(f"{failed}{after}")


def unchanged(endpoint: Endpoint, state: Endpoint | None, where: str) -> Endpoint:
    """Return the platform's state of an endpoint, which must have the known revision.

    Args:
        endpoint: The endpoint from the previous step.
        state: The platform's current state; None if it has no such endpoint.
        where: Location for the message, such as "on this Docker engine".

    Raises:
        ValueError: There is no such endpoint, or another model was deployed in the meantime.
    """
    if state is None:
        raise ValueError(f"there is no endpoint {endpoint.name!r} {where}; deploy a model first")
    if state.revision != endpoint.revision:
        raise ValueError(
            f"endpoint {endpoint.name!r} has been changed since: its revision is {state.revision}, not "
            f"{endpoint.revision}; use the endpoint of the latest step"
        )
    return state


def rolled_back(endpoint: Endpoint, state: Endpoint | None, where: str) -> Endpoint:
    """Return the endpoint after a rollback; one that is rolled back already stays unchanged.

    Args:
        endpoint: The endpoint from the previous step.
        state: The platform's current state.
        where: As for `unchanged`.

    Raises:
        ValueError: As `unchanged`, or there is no previous revision.
    """
    after = endpoint.rolled_back()
    if state is not None and (state.revision, state.percent) == (after.revision, 100):
        return state
    return unchanged(endpoint, state, where).rolled_back()


def wait(what: str, look: Callable[[], str], timeout_seconds: float, *, interruptible: bool = True) -> None:
    """Wait until something is ready, and log its state.

    Args:
        what: What to wait for, such as "revision r1 of endpoint 'churn'".
        look: Returns "" when it is ready, else its state; raises ValueError if it never will be.
        timeout_seconds: How long to wait.
        interruptible: Whether SIGTERM stops the wait; False if the platform finishes the change anyway, so
            that it can only be undone afterwards.

    Raises:
        ValueError: It isn't ready in time, or never will be.
        TerminatedError: The step got SIGTERM.
    """
    if dry_run() is not None:
        return
    start = time.monotonic()
    said = start - _SAY_EVERY_SECONDS
    while state := look():
        waited = time.monotonic() - start
        if waited >= timeout_seconds:
            raise ValueError(f"{what} is not ready after {timeout_seconds:g} s: {state}")
        if time.monotonic() - said >= _SAY_EVERY_SECONDS:
            _log.info("%s: %s, %.0f of at most %g s", what, state, waited, timeout_seconds)
            said = time.monotonic()
        pause = min(max(_LOOK_EVERY_SECONDS, waited * _LOOK_EVERY_FRACTION), _MAX_LOOK_EVERY_SECONDS)
        pause = min(pause, timeout_seconds - waited)
        if interruptible:
            termination.pause(pause)
        else:
            time.sleep(pause)


def ask(
    url: str, rows: Sequence[Mapping[str, Any]], headers: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Post rows to a model server and return its predictions.

    The body is {"instances": rows}, the answer {"predictions": [...]}, as for `/predict` and Vertex AI. If
    FLOWPARTS_SERVING_TOKEN is set, it is sent.

    Args:
        url: The URL.
        rows: Raw rows, with JSON values.
        headers: More headers.

    Raises:
        ValueError: There is no answer within 30 s, or it doesn't have one prediction per row.
    """
    return predictions(fetch(url, {"instances": list(rows)}, headers), len(rows), url)


def predictions(answer: Any, count: int, source: str) -> list[dict[str, Any]]:
    """Return the rows of a model server's answer.

    Args:
        answer: The decoded answer.
        count: Expected number of rows.
        source: Name of the server for the message.

    Raises:
        ValueError: It doesn't have one prediction per row.
    """
    found = answer.get("predictions") if isinstance(answer, dict) else None
    if not isinstance(found, list) or len(found) != count:
        raise ValueError(f"{source} answered {json.dumps(answer)[:100]} instead of {count} predictions")
    return found


def log_text(line: str) -> str:
    """Return the text of a log line; for JSON, its error or message."""
    try:
        said = json.loads(line)
        line = str(said.get("error") or said.get("message") or line)
    except (ValueError, AttributeError):
        pass
    return " ".join(line.split())


def fetch(url: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
    """Get JSON from a model server, or post JSON and return the answer.

    Raises:
        UnreachableError: There is no answer within 30 s.
        RefusedError: The answer has a status of 400 or more.
        ValueError: It isn't JSON.
    """
    token = os.environ.get("FLOWPARTS_SERVING_TOKEN")
    request = urllib.request.Request(  # noqa: S310 - an endpoint's address starts with http
        url,
        # Some servers take NaN for a missing number; the others refuse it.
        None if body is None else json.dumps(body).encode(),
        {
            "content-type": "application/json",
            **({"authorization": f"Bearer {token}"} if token else {}),
            **(headers or {}),
        },
    )
    try:
        with _opener().open(request, timeout=_ANSWER_SECONDS) as answer:
            server_time.record(answer.headers)
            return json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read(2000).decode(errors="replace")
        # A proxy's page is for browsers.
        said = log_text(_TAG.sub(" ", text) if text.lstrip().startswith("<") else text)
        raise RefusedError(f"{url} answered {error.code}: {shorten(said, 300)}") from None
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"{url} gave no answer: {error}") from None
    except ValueError:
        raise ValueError(f"{url} answered something that is not JSON") from None


def _opener() -> urllib.request.OpenerDirector:
    # Endpoints on this machine or in a cluster are not behind the environment's proxy.
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
