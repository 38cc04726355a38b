"""Start runs of configured pipelines on HTTP requests: by a bucket, a CI job, an alert."""

import contextlib
import hashlib
import hmac
import json
import re
import socket
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from backends import catalogue, compilation, faults, parameters, submission
from flowparts.util import errors
from flowparts.util.names import unknown

TOKEN_VARIABLE = "FLOWPARTS_TRIGGER_TOKEN"  # noqa: S105 the name of a variable
MIN_TOKEN_CHARACTERS = 16
MAX_BODY_BYTES = 1_000_000
_MAX_DISCARDED_BYTES = 16_000_000
_MAX_REQUESTS = 16
_SECONDS_PER_READ = 10.0
# For the whole request: a client that trickles bytes would hold its thread for hours.
_SECONDS_TO_READ = 30.0
_MISSING = object()
# The run's name must leave room for the time and the digest of the request.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Extraction:
    """A parameter whose value comes from the request.

    Attributes:
        pointer: Where in the body, as a JSON pointer (RFC 6901) such as /Records/0/s3/object/key.
        pattern: Regular expression that the whole value must match.
        template: Text with {} for the value, such as s3://bucket/{}.
    """

    pointer: str
    pattern: str
    template: str = "{}"


@dataclass(frozen=True)
class Trigger:
    """A pipeline that requests may start.

    Attributes:
        name: The last part of its path, /triggers/NAME.
        pipeline: The pipeline, such as continuous-training.
        parameters: Parameters of every run.
        take: Parameters from the request's body.
        only_if: JSON pointers and the text that they must have for a run; other requests start none.
        at_most_every_seconds: The same parameters start at most one run in this time.
    """

    name: str
    pipeline: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    take: Mapping[str, Extraction] = field(default_factory=dict)
    only_if: Mapping[str, str] = field(default_factory=dict)
    at_most_every_seconds: int = 3600


@dataclass(frozen=True)
class Prepared:
    """A trigger with its compiled pipeline; `typed` checks the parameters of a run."""

    trigger: Trigger
    package: submission.Package
    typed: Callable[[Mapping[str, Any]], dict[str, Any]]


class Runner(Protocol):
    """The service that starts runs, such as `submission.Service`."""

    def run(self, sent: submission.Package, parameters: Mapping[str, Any], name: str) -> submission.Run:
        """Start a run; an existing run with this name is returned."""

    def find(self, name: str) -> submission.Run | None:
        """Return the run with this name."""


class RequestError(Exception):
    """A request that can't start a run.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def read(file: Path) -> list[Trigger]:
    """Return the triggers of a TOML file, one table each.

    Raises:
        ValueError: The file can't be read, lists none, or a table has an unknown key or a wrong value.
    """
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"cannot read the triggers in {file}: {error}") from None
    if not tables:
        raise ValueError(f"{file} lists no trigger; a table such as [new-data] with pipeline = ... is one")
    return [_trigger(name, table, file) for name, table in tables.items()]


def _trigger(name: str, table: Any, file: Path) -> Trigger:
    where = f"[{name}] of {file}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"trigger {name!r} of {file} must be a name of a-z, 0-9 and hyphens, at most 63")
    if not isinstance(table, dict):
        raise ValueError(f"{where} must be a table")
    shapes = {
        "pipeline": str,
        "parameters": dict,
        "take": dict,
        "only_if": dict,
        "at_most_every_seconds": int,
    }
    for key, value in table.items():
        if key not in shapes:
            raise ValueError(f"{where}: {unknown('key', key, list(shapes))}")
        if not isinstance(value, shapes[key]) or isinstance(value, bool):
            raise ValueError(f"{where}: {key} can't be {value!r}")
    if "pipeline" not in table:
        raise ValueError(f"{where} must name a pipeline")
    if table.get("at_most_every_seconds", 1) < 1:
        raise ValueError(f"{where}: at_most_every_seconds must be at least 1")
    take = {
        parameter: _extraction(where, parameter, value) for parameter, value in table.get("take", {}).items()
    }
    if both := sorted(take.keys() & table.get("parameters", {}).keys()):
        raise ValueError(f"{where} has the parameter {both[0]!r} in parameters and in take; keep one")
    for pointer, text in table.get("only_if", {}).items():
        if not pointer.startswith("/") or not isinstance(text, str):
            raise ValueError(f"{where}: only_if maps JSON pointers such as /status to texts")
    return Trigger(name, **{**table, "take": take})


def _extraction(where: str, parameter: str, table: Any) -> Extraction:
    try:
        taken = Extraction(**table)
        re.compile(taken.pattern)
        valid = taken.pointer.startswith("/") and taken.template.count("{}") == 1
    except (TypeError, AttributeError, re.error) as error:
        raise ValueError(f"{where}: {parameter} of take needs a pointer and a pattern: {error}") from None
    if not valid:
        raise ValueError(
            f"{where}: {parameter} of take needs a pointer that starts with / and a template with one {{}}"
        )
    return taken


def prepare(file: Path, backend: str, chosen: Any, embed_source: bool = False) -> list[Prepared]:
    """Read triggers, compile their pipelines and check their parameters.

    Args:
        file: The TOML file.
        backend: The backend, as `compilation.BACKENDS` has it.
        chosen: Its settings.
        embed_source: Whether the compiled pipelines embed the source of their components.

    Raises:
        ValueError: The file, a pipeline's name or a parameter is wrong.
    """
    found = []
    for trigger in read(file):
        pipeline = catalogue.pipeline(trigger.pipeline)
        text = compilation.pipeline_text(pipeline, backend, chosen, embed_source)
        sent = compilation.checked(text, backend, chosen)
        for name in trigger.take:
            parameters.known(name, sent.inputs)
        typed = partial(parameters.checked, sent.inputs, spec=sent.spec)
        if not trigger.take:
            typed(trigger.parameters)
        found.append(Prepared(trigger, sent, typed))
    return found


def start(prepared: Prepared, service: Runner, body: Any, now: float) -> dict[str, Any]:
    """Start the run for a request; return the answer.

    A run's name is derived from the trigger, the parameters and the time, so a retried request finds its run,
    whichever server it reaches.

    Args:
        prepared: The trigger.
        service: Where the run starts.
        body: The request's JSON.
        now: Seconds since 1970.

    Returns:
        run and url of the run, its state and whether it was started now; or run null and the reason.

    Raises:
        RequestError: The body lacks a value that the trigger needs.
        faults.Fault: The service didn't start it.
    """
    trigger = prepared.trigger
    for pointer, wanted in trigger.only_if.items():
        found = _at(body, pointer)
        if found != wanted:
            value = "missing" if found is _MISSING else f"{found!r}"[:100]
            return {"run": None, "reason": f"{pointer} is {value}, not {wanted!r}"}
    taken = {name: _value(body, name, how) for name, how in trigger.take.items()}
    try:
        given = prepared.typed({**trigger.parameters, **taken})
    except ValueError as error:
        raise RequestError(400, str(error)) from None
    identity = json.dumps([prepared.package.name, given], sort_keys=True).encode()
    digest = hashlib.sha256(identity).hexdigest()[:10]
    span = int(now // trigger.at_most_every_seconds)
    # A run of the previous span counts too while it is active: requests may come just before and after its
    # end.
    for number in (span, span - 1):
        run = service.find(_run_name(trigger, digest, number))
        if run and (number == span or run.in_progress):
            return {"run": run.name, "url": run.url, "state": run.state, "started": False}
    run = service.run(prepared.package, given, _run_name(trigger, digest, span))
    return {"run": run.name, "url": run.url, "state": run.state, "started": True}


def _run_name(trigger: Trigger, digest: str, span: int) -> str:
    return f"{trigger.name}-{digest}-{span}"


def _value(body: Any, name: str, how: Extraction) -> str:
    value = _at(body, how.pointer)
    if not isinstance(value, str):
        raise RequestError(400, f"the body has no text at {how.pointer}, where the parameter {name} is")
    # Argo would evaluate a template in a parameter's value.
    if not re.fullmatch(how.pattern, value) or "{{" in value:
        raise RequestError(400, f"{how.pointer} is {value[:200]!r}, which isn't allowed for {name}")
    return how.template.replace("{}", value)


def _at(body: Any, pointer: str) -> Any:
    """Return the value at a JSON pointer (RFC 6901), or _MISSING."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(body, dict) and key in body:
            body = body[key]
        elif isinstance(body, list) and re.fullmatch(r"0|[1-9][0-9]{0,5}", key) and int(key) < len(body):
            body = body[int(key)]
        else:
            return _MISSING
    return body


def server(
    prepared: list[Prepared],
    service: Runner,
    token: str,
    host: str,
    port: int,
    say: Callable[[str], None],
) -> ThreadingHTTPServer:
    """Return a bound server; POST /triggers/NAME starts a run, GET /healthz is the health check.

    Args:
        prepared: The triggers.
        service: The service that starts the runs.
        token: The bearer token that every request must send.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        say: Called with a message about each request.

    Raises:
        ValueError: The token is too short, or the server can't listen at the address.
    """
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise ValueError(
            f"set {TOKEN_VARIABLE} to a token of at least {MIN_TOKEN_CHARACTERS} characters, "
            'such as python3 -c "import secrets; print(secrets.token_urlsafe())" prints'
        )
    by_name = {each.trigger.name: each for each in prepared}
    handler = partial(_Handler, by_name, service, token, say, threading.Lock())
    try:
        return _Server((host, port), handler)
    except OSError as error:
        raise ValueError(f"the triggers can't be served at {host}:{port}: {error.strerror}") from None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Callable[..., Any]) -> None:
        super().__init__(address, handler)
        self._free = threading.BoundedSemaphore(_MAX_REQUESTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        # Each connection takes a thread; beyond the limit they wait at the socket.
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect or are too slow."""


class _Handler(BaseHTTPRequestHandler):
    # Without keep-alive, a connection holds its thread for a single request.
    protocol_version = "HTTP/1.0"
    timeout = _SECONDS_PER_READ
    server_version = "flowparts"
    sys_version = ""

    def __init__(
        self,
        triggers: Mapping[str, Prepared],
        service: Runner,
        token: str,
        say: Callable[[str], None],
        lock: threading.Lock,
        *connection: Any,
    ) -> None:
        self._triggers = triggers
        self._service = service
        self._token = token
        self._say = say
        self._lock = lock
        super().__init__(*connection)

    def setup(self) -> None:
        super().setup()
        self._deadline = threading.Timer(_SECONDS_TO_READ, self._hang_up)
        self._deadline.daemon = True
        self._deadline.start()

    def finish(self) -> None:
        self._deadline.cancel()
        with contextlib.suppress(OSError):
            super().finish()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(200, {"status": "ok"})
        else:
            self._answer(404, {"error": "POST to /triggers/NAME"})

    def do_POST(self) -> None:
        try:
            answer = self._started()
            status = 200
        except RequestError as error:
            status, answer = error.status, {"error": str(error)}
        except faults.Fault as fault:
            status, answer = 502, {"error": str(fault)}
        result = answer.get("run") or answer.get("reason") or answer.get("error")
        # Clients must not be able to inject lines into the log.
        self._say(f"{self.path[:100]!r}: {status} {json.dumps(result)}")
        self._answer(status, answer)

    def _started(self) -> dict[str, Any]:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        given, expected = token.strip().encode(), self._token.encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, expected):
            raise RequestError(401, "send the token as the header Authorization: Bearer TOKEN")
        name = self.path.removeprefix("/triggers/")
        if name not in self._triggers or name == self.path:
            raise RequestError(404, unknown("trigger", name[:100], list(self._triggers)))
        body = self._body()
        self._deadline.cancel()
        # One at a time, so that two equal requests at once find each other's run.
        with self._lock:
            try:
                return start(self._triggers[name], self._service, body, time.time())
            except (RequestError, faults.Fault):
                raise
            except Exception as error:  # otherwise it would go unnoticed
                said = f"{type(error).__name__}: {errors.first_line(error)}"
                raise RequestError(500, f"the run can't be started: {said}") from error

    def _body(self) -> Any:
        length = self.headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,9}", length):
            raise RequestError(411, "send the header Content-Length")
        if int(length) > MAX_BODY_BYTES:
            # A connection that is closed with unread data loses the answer, which the client should see.
            unread = min(int(length), _MAX_DISCARDED_BYTES)
            while unread > 0 and (part := self.rfile.read(min(unread, 1 << 16))):
                unread -= len(part)
            raise RequestError(
                413, f"the body has {int(length):,} bytes; at most {MAX_BODY_BYTES:,} are read"
            )
        try:
            return json.loads(self.rfile.read(int(length)) or b"null")
        except (ValueError, RecursionError):
            raise RequestError(400, "the body must be JSON") from None

    def _answer(self, status: int, content: Mapping[str, Any]) -> None:
        body = json.dumps(content).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status == 401:
                self.send_header("WWW-Authenticate", "Bearer")
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Do nothing: requests are reported by `say`."""
