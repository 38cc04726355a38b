"""Every HTTP protocol of the server as one ASGI application (https://asgi.readthedocs.io).

Plain ASGI: what a framework would add to a request here takes longer than scoring a row.
"""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import quote, unquote

from flowparts.serving import comma_separated, open_inference, openapi
from flowparts.serving.batching import Answer, Batcher, Row
from flowparts.serving.logs import say
from flowparts.serving.metrics import Metrics
from flowparts.serving.prediction_log import PredictionLog
from flowparts.serving.refusals import REASONS, Refusal
from flowparts.serving.served_model import ServedModel
from flowparts.serving.settings import Settings

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_SLOW_BODY_SECONDS = 30.0


@dataclass(slots=True)
class Request:
    """A request whose body has been read."""

    headers: dict[bytes, bytes]
    body: bytes


@dataclass(slots=True)
class Response:
    """What to answer."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON,)


Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """What happens at an address."""

    protocol: str
    handler: Handler
    method: bytes = b"GET"
    open: bool = False  # without a token


class App:
    """The application.

    Args:
        model: What predicts.
        batcher: How it is asked.
        metrics: Where requests are counted.
        settings: The server's options.
        token: The bearer token that requests must bring; empty for none.
        prediction_log: Where answers are written down, if anywhere.
    """

    def __init__(
        self,
        model: ServedModel,
        batcher: Batcher,
        metrics: Metrics,
        settings: Settings,
        token: str,
        prediction_log: PredictionLog | None,
    ) -> None:
        self._model = model
        self._batcher = batcher
        self._metrics = metrics
        self._settings = settings
        self._token = f"Bearer {token}".encode() if token else b""
        self._prediction_log = prediction_log
        self._max_body = int(settings.max_body_mb * 1e6)
        self._origins = {origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()}
        self._routes: dict[str, dict[str, Route]] = {}
        self._add_routes()
        self.draining = False

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            raise ValueError(f"the server speaks HTTP, not {scope['type']}")
        started = perf_counter()
        self._metrics.started()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        protocol = "other"
        try:
            route = self._route(scope["method"], scope["path"], headers)
            protocol = route.protocol
            response = await route.handler(Request(headers, await self._body(headers, receive)))
        except Refusal as refusal:
            response = self._refused(refusal, scope)
        except Exception:
            say("a request failed", 40, path=scope["path"], exc_info=True)
            response = self._refused(Refusal("failed", "the model failed on this request; the server's log says why"), scope)
        head: Headers = [*response.headers, (b"content-length", b"%d" % len(response.body))]
        if self.draining or response.status in (408, 413):
            # The client opens its next connection to a server that stays; or its body isn't read to the end.
            head.append((b"connection", b"close"))
        if self._origins:
            head += self._cors(headers)
        await send({"type": "http.response.start", "status": response.status, "headers": head})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})
        seconds = perf_counter() - started
        self._metrics.finished(protocol, response.status, seconds)
        if self._settings.log_requests:
            say("request", method=scope["method"], path=scope["path"], status=response.status,
                milliseconds=round(1000 * seconds, 3), protocol=protocol)  # fmt: skip

    async def predict(self, rows: list[Row], seconds: float, protocol: str) -> Answer:
        """Score the rows of a request.

        Raises:
            Refusal: Too many rows, too many waiting, or no answer in time.
        """
        if len(rows) > self._settings.max_rows:
            raise Refusal(
                "too_many_rows",
                f"the request has {len(rows)} rows; at most {self._settings.max_rows} are taken at once",
            )
        if not rows:
            return Answer(self._model.signature.no_rows(), 0, 0)
        answer = await self._batcher.submit(rows, seconds)
        if self._prediction_log:
            self._prediction_log.add(rows, answer, protocol)
        return answer

    def authorized(self, authorization: bytes) -> bool:
        """Say whether a request with this Authorization header may predict."""
        return not self._token or hmac.compare_digest(authorization, self._token)

    def _add_routes(self) -> None:
        model = quote(self._model.name)
        get, post = "GET", "POST"
        versions = ("", f"/versions/{self._model.version}")
        self._add(post, "/predict", "predict", self._predict_json("predict"))
        self._add(get, "/openapi.json", "other", self._fixed(openapi.document(self._model, bool(self._token))))
        self._add(get, "/docs", "other", self._fixed(openapi.page(self._model), b"text/html; charset=utf-8"))
        self._add(get, "/metrics", "other", self._render_metrics, is_open=True)
        # KServe V1.
        self._add(get, "/", "v1", self._fixed({"status": "alive"}), is_open=True)
        self._add(get, "/v1/models", "v1", self._fixed({"models": [self._model.name]}))
        self._add(get, f"/v1/models/{model}", "v1", self._ready({"name": self._model.name, "ready": True}))
        self._add(post, f"/v1/models/{model}:predict", "v1", self._predict_json("v1"))
        # Open Inference V2.
        described = open_inference.model_metadata(
            self._model.signature, self._model.name, self._model.version, f"flowparts_{self._model.engine.name}"
        )
        self._add(get, "/v2", "v2", self._fixed(open_inference.server_metadata()))
        self._add(get, "/v2/health/live", "v2", self._fixed({"live": True}), is_open=True)
        self._add(get, "/v2/health/ready", "v2", self._ready({"ready": True}), is_open=True)
        for version in versions:
            self._add(get, f"/v2/models/{model}{version}", "v2", self._fixed(described))
            self._add(get, f"/v2/models/{model}{version}/ready", "v2",
                      self._ready({"name": self._model.name, "ready": True}), is_open=True)  # fmt: skip
            self._add(post, f"/v2/models/{model}{version}/infer", "v2", self._infer)
        # SageMaker.
        self._add(get, "/ping", "sagemaker", self._ready({"status": "healthy"}), is_open=True)
        self._add(post, "/invocations", "sagemaker", self._invoke)
        # Vertex AI says which addresses it wants.
        if self._settings.health_route:
            self._add(get, self._settings.health_route, "vertex", self._ready({"status": "healthy"}), is_open=True)
        if self._settings.predict_route:
            self._add(post, self._settings.predict_route, "vertex", self._predict_json("vertex"))

    def _add(self, method: str, path: str, protocol: str, handler: Handler, *, is_open: bool = False) -> None:
        self._routes.setdefault(unquote(path), {})[method] = Route(protocol, handler, open=is_open)

    def _route(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Route:
        methods = self._routes.get(path)
        if methods is None:
            if path.startswith(("/v1/models/", "/v2/models/")):
                raise Refusal("not_found", f"there is no {path} here; the one model is {self._model.name!r}")
            raise Refusal("not_found", f"there is nothing at {path}; /openapi.json lists the addresses")
        if method == "OPTIONS" and self._origins:
            return Route("other", self._fixed(b""), open=True)
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            raise Refusal("method", f"{path} takes {' and '.join(methods)}, not {method}")
        if not route.open and not self.authorized(headers.get(b"authorization", b"")):
            raise Refusal("unauthorized", "send the server's token as the header Authorization: Bearer TOKEN")
        return route

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        length = headers.get(b"content-length", b"0")
        if len(length) > 18 or int(length) > self._max_body:
            raise self._too_large()
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return body
        parts, size = [body], len(body)
        deadline = perf_counter() + _SLOW_BODY_SECONDS
        while message.get("more_body"):
            try:
                message = await asyncio.wait_for(receive(), deadline - perf_counter())
            except TimeoutError:
                raise Refusal("slow", f"the body did not arrive within {_SLOW_BODY_SECONDS:g} s") from None
            if message["type"] == "http.disconnect":
                raise Refusal("slow", "the connection was closed before the body had arrived")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body:
                raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> Refusal:
        return Refusal("too_large", f"the body is larger than the {self._settings.max_body_mb:g} MB that are taken")

    def _refused(self, refusal: Refusal, scope: Mapping[str, Any]) -> Response:
        self._metrics.rejected(refusal.reason)
        headers = [_JSON]
        if refusal.reason in ("busy", "draining"):
            headers.append((b"retry-after", b"1"))
        if refusal.reason == "unauthorized":
            headers.append((b"www-authenticate", b"Bearer"))
        if refusal.reason == "method":
            headers.append((b"allow", ", ".join(self._routes[scope["path"]]).encode()))
        return Response(_json({"error": refusal.sentence}), refusal.status, tuple(headers))

    def _cors(self, headers: Mapping[bytes, bytes]) -> Headers:
        origin = headers.get(b"origin", b"")
        if not origin or not ({"*", origin.decode("latin-1")} & self._origins):
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"authorization, content-type, x-request-timeout-ms"),
            (b"vary", b"origin"),
        ]

    def _fixed(self, content: Any, content_type: bytes = b"application/json") -> Handler:
        body = content if isinstance(content, bytes) else _json(content)
        response = Response(body, headers=((b"content-type", content_type),))

        async def answer(_: Request) -> Response:
            return response

        return answer

    def _ready(self, content: Any) -> Handler:
        response = Response(_json(content))

        async def answer(_: Request) -> Response:
            if self.draining:
                raise Refusal("draining", "the server is shutting down; send the request to another one")
            return response

        return answer

    async def _render_metrics(self, _: Request) -> Response:
        content_type = b"text/plain; version=1.0.0; charset=utf-8"
        return Response(self._metrics.render(), headers=((b"content-type", content_type),))

    def _predict_json(self, protocol: str) -> Handler:
        signature = self._model.signature

        async def answer(request: Request) -> Response:
            _check_json(request)
            rows = signature.rows_of_json(request.body)
            answer = await self.predict(rows, self._seconds(request), protocol)
            return Response(signature.json_of(answer))

        return answer

    async def _invoke(self, request: Request) -> Response:
        signature = self._model.signature
        if _media_type(request) != b"text/csv":
            return await self._predict_json("sagemaker")(request)
        rows = comma_separated.rows(request.body, signature)
        answer = await self.predict(rows, self._seconds(request), "sagemaker")
        if b"text/csv" in request.headers.get(b"accept", b""):
            return Response(comma_separated.write(answer, signature), headers=((b"content-type", b"text/csv; charset=utf-8"),))
        return Response(signature.json_of(answer))

    async def _infer(self, request: Request) -> Response:
        length = request.headers.get(open_inference.LENGTH_HEADER.encode())
        if length is None:
            _check_json(request)
        asked, binary = open_inference.read(request.body, None if length is None else length.decode("latin-1"))
        rows = open_inference.rows(asked, binary, self._model.signature, self._settings.max_rows)
        open_inference.wanted([output.name for output in asked.outputs], self._model.signature)
        answer = await self.predict(rows, self._seconds(request), "v2")
        body, json_length = open_inference.write(
            asked, answer, self._model.signature, self._model.name, self._model.version
        )
        if json_length is None:
            return Response(body)
        return Response(
            body,
            headers=(
                (b"content-type", b"application/octet-stream"),
                (open_inference.LENGTH_HEADER.encode(), b"%d" % json_length),
            ),
        )

    def _seconds(self, request: Request) -> float:
        given = request.headers.get(b"x-request-timeout-ms")
        if given is None:
            return self._settings.timeout_seconds
        if not given.isdigit() or len(given) > 9:
            raise Refusal("malformed", "X-Request-Timeout-Ms must be a whole number of milliseconds")
        return min(int(given) / 1000, self._settings.timeout_seconds)


def _media_type(request: Request) -> bytes:
    return request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def _check_json(request: Request) -> None:
    found = _media_type(request)
    if found not in (b"application/json", b""):
        raise Refusal(
            "content_type", f"the body's content type is {found.decode('latin-1')!r}; send application/json"
        )
    if b"content-encoding" in request.headers:
        raise Refusal("content_type", "the body is compressed; send it as it is, without Content-Encoding")


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()
