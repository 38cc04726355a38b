"""The routes of all HTTP protocols, in front of one model or of several that are loaded on request.

A handler turns a request into a response or into rows to predict. Nothing here blocks, so a request costs a
few function calls and no task. Only loading a model takes its time.
"""

import asyncio
import hmac
import json
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from flowparts.serving import comma_separated, open_inference, openapi
from flowparts.serving.batching import Answer, Job, Outcome, Row
from flowparts.serving.http import JSON, Cancellable, Request, Response
from flowparts.serving.logs import log, say
from flowparts.serving.prediction_log import Asked
from flowparts.serving.refusals import RequestError
from flowparts.serving.scorer import Scorer
from flowparts.serving.server_metrics import Metrics
from flowparts.serving.server_settings import Settings

if TYPE_CHECKING:
    from flowparts.serving.repository import Repository

_CSV = b"content-type: text/csv; charset=utf-8\r\n"
_HTML = (
    b"content-type: text/html; charset=utf-8\r\nx-content-type-options: nosniff\r\n"
    b"content-security-policy: %b\r\nreferrer-policy: no-referrer\r\n"
) % openapi.CONTENT_POLICY
_PROMETHEUS = b"content-type: text/plain; version=1.0.0; charset=utf-8\r\n"
_CHALLENGE = b"www-authenticate: Bearer\r\n"
# Headers in which a gateway or mesh names the user; without one they aren't trustworthy.
_USERS = (b"kubeflow-userid", b"x-forwarded-user", b"x-forwarded-email")
_MAX_USER_BYTES = 200
_MAX_ID_BYTES = 128
# Suffixes of a model's V2 path.
_ENDS = ("", "/ready", "/infer")
_FAILED = "the model failed on this request; the server's log says why"


@dataclass(slots=True)
class Prediction:
    """Rows to predict, and how to render the answer."""

    scorer: Scorer
    rows: list[Row]
    render: Callable[[Answer], Response]
    request_id: str = ""
    is_json: bool = True


Handler = Callable[[Request], Response | Prediction | Coroutine[Any, Any, Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """The handler of a path and method."""

    protocol: str
    handler: Handler
    needs_token: bool


class App:
    """The application.

    Args:
        metrics: Where requests are counted.
        settings: The server's options.
        token: The bearer token that requests must send; empty for none.

    Attributes:
        scorers: The models that are served, by name.
        repository: Loads and unloads models, if the server has a model repository.
        max_body: Maximum size of a body in bytes.
        draining: Whether the server is shutting down: it still answers, but isn't ready.
    """

    def __init__(self, metrics: Metrics, settings: Settings, token: str) -> None:
        self.scorers: dict[str, Scorer] = {}
        self.repository: Repository | None = None
        self.max_body = int(settings.max_body_mb * 1e6)
        self.draining = False
        self._metrics = metrics
        self._settings = settings
        self._token = token.encode()
        self._origins = {origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()}
        self._routes: dict[str, dict[str, Route]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._add_routes()

    def unwanted(self, request: Request) -> RequestError | None:
        """Return the reason to refuse a request before its body arrives; None if it must be read."""
        try:
            request.found = self._route(request)
        except RequestError as refusal:
            return refusal
        return None

    def handle(self, request: Request, done: Callable[[Response], None]) -> Cancellable | None:
        """Answer a request by calling `done`, now or later; return what to cancel if the client leaves."""
        exchange = _Exchange(self, request, done)
        self._metrics.started()
        try:
            # A model may have been unloaded while the body arrived.
            route = request.found if request.found and not self.repository else self._route(request)
            exchange.protocol = route.protocol
            _check_encoding(request)
            asked = route.handler(request)
            if isinstance(asked, Response):
                exchange.answer(asked)
                return None
            if not isinstance(asked, Prediction):
                task = asyncio.get_running_loop().create_task(exchange.wait(asked))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return None
            exchange.prediction = asked
            if not asked.rows:
                exchange.finish(Answer(asked.scorer.model.signature.no_rows(), 0, 0))
                return None
            exchange.job = asked.scorer.predict(
                asked.rows, self._seconds(request), _asked(request, asked, route.protocol), exchange.finish
            )
        except Exception as error:
            exchange.finish(error)
            return None
        return exchange

    def serve(self, scorer: Scorer) -> None:
        """Serve a model as the only one, including by the protocols that don't name a model."""
        model, settings = scorer.model, self._settings
        predict = partial(self._predict_json, scorer)
        self._post("/predict", "predict", predict)
        self._get("/openapi.json", "other", _fixed(openapi.document(model, bool(self._token))))
        self._get("/docs", "other", partial(self._docs, openapi.page(model)), needs_token=False)
        # SageMaker.
        self._get("/ping", "sagemaker", self._ready({"status": "healthy"}), needs_token=False)
        self._post("/invocations", "sagemaker", partial(self._invoke, scorer))
        # Vertex AI prescribes its paths.
        if settings.health_route:
            self._get(settings.health_route, "vertex", self._ready({"status": "healthy"}), needs_token=False)
        if settings.predict_route:
            self._post(settings.predict_route, "vertex", predict)
        self.add(scorer)

    def add(self, scorer: Scorer) -> None:
        """Serve a model by the protocols that name the model."""
        model = scorer.model
        alive = self._ready({"name": model.name, "ready": True})
        # Deployments check here that the right model is served.
        readiness = self._ready(
            {"name": model.name, "ready": True, "version": model.version, "digest": model.digest}
        )
        self.scorers[model.name] = scorer
        self._metrics.models.append(model.facts)
        platform = f"flowparts_{model.engine.name}"
        described = open_inference.model_metadata(model.signature, model.name, model.version, platform)
        v1, v2, versioned = _addresses(scorer)
        # The V1 readiness probe.
        self._get(v1, "v1", alive, needs_token=False)
        self._post(f"{v1}:predict", "v1", partial(self._predict_json, scorer))
        for path in (v2, versioned):
            self._get(path, "v2", _fixed(described))
            self._get(f"{path}/ready", "v2", readiness, needs_token=False)
            self._post(f"{path}/infer", "v2", partial(self._infer, scorer))

    def remove(self, name: str) -> None:
        """Stop serving a model."""
        scorer = self.scorers.pop(name)
        self._metrics.models.remove(scorer.model.facts)
        v1, v2, versioned = _addresses(scorer)
        for path in (v1, f"{v1}:predict", *(f"{v}{end}" for v in (v2, versioned) for end in _ENDS)):
            del self._routes[unquote(path)]

    def refuse(self, refusal: RequestError, headers: Mapping[bytes, bytes]) -> Response:
        """Return the answer to a request that couldn't be read, given the headers that arrived."""
        response = self.rejection(refusal)
        response.head += self._cors(headers)
        return response

    def rejection(self, refusal: RequestError, request: Request | None = None) -> Response:
        """Return the answer to a request that gets no prediction, and count it."""
        self._metrics.rejected(refusal.reason)
        head = JSON
        if refusal.reason in ("busy", "draining", "stuck"):
            head += b"retry-after: 1\r\n"
        if refusal.reason == "unauthorized":
            head += _CHALLENGE
        if refusal.reason == "method" and request:
            head += b"allow: %b\r\n" % ", ".join(self._methods(request.path) or ()).encode()
        return Response(_json({"error": refusal.message}), refusal.status, head)

    def authorized(self, authorization: bytes, own: bytes = b"") -> bool:
        """Return whether a request may predict.

        Args:
            authorization: Its header Authorization.
            own: Its header X-Flowparts-Token, for proxies that use Authorization themselves, such as
                Kubernetes' API server.
        """
        scheme, _, token = (authorization if not own else b"bearer " + own).partition(b" ")
        return not self._token or (
            scheme.lower() == b"bearer" and hmac.compare_digest(token.lstrip(b" "), self._token)
        )

    def principal(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the client's identity: the user named by a gateway, else "token" or "anonymous"."""
        for name in _USERS:
            if user := headers.get(name):
                return user[:_MAX_USER_BYTES].decode("utf-8", "replace")
        own = headers.get(b"x-flowparts-token", b"")
        knows = self._token and self.authorized(headers.get(b"authorization", b""), own)
        return "token" if knows else "anonymous"

    def finished(self, request: Request, response: Response, protocol: str, seconds: float) -> None:
        """Count an answer, log it and add its CORS headers."""
        self._metrics.finished(protocol, response.status, seconds)
        if self._origins:
            response.head += self._cors(request.headers)
        if self._settings.log_requests:
            say("request", method=request.method, path=request.path, status=response.status,
                milliseconds=round(1000 * seconds, 3), protocol=protocol,
                principal=self.principal(request.headers))  # fmt: skip

    def _add_routes(self) -> None:
        self._get("/metrics", "other", self._render_metrics, needs_token=False)
        # KServe V1.
        self._get("/", "v1", _fixed({"status": "alive"}), needs_token=False)
        self._get("/v1/models", "v1", lambda _: Response(_json({"models": list(self.scorers)})))
        # Open Inference V2.
        extensions = ["model_repository"] if self._settings.repository else []
        self._get("/v2", "v2", _fixed(open_inference.server_metadata(extensions)))
        self._get("/v2/health/live", "v2", self._live, needs_token=False)
        self._get("/v2/health/ready", "v2", self._ready({"ready": True}), needs_token=False)
        if self._settings.repository:
            self._post("/v2/repository/index", "v2", self._index)

    def _get(self, path: str, protocol: str, handler: Handler, *, needs_token: bool = True) -> None:
        self._routes.setdefault(unquote(path), {})["GET"] = Route(protocol, handler, needs_token)

    def _post(self, path: str, protocol: str, handler: Handler) -> None:
        self._routes.setdefault(unquote(path), {})["POST"] = Route(protocol, handler, needs_token=True)

    def _methods(self, path: str) -> dict[str, Route] | None:
        return self._routes.get(path) or self._repository_route(path)

    def _route(self, request: Request) -> Route:
        methods = self._methods(request.path)
        if methods is None:
            listed = (
                "/openapi.json lists the paths"
                if "/openapi.json" in self._routes
                else "/v1/models lists the models"
            )
            raise RequestError("not_found", f"there is nothing at {request.path}; {listed}")
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            if request.method == "OPTIONS" and self._origins:
                return Route("other", _fixed(b""), needs_token=False)
            raise RequestError(
                "method", f"{request.path} takes {' and '.join(methods)}, not {request.method}"
            )
        if self._token and route.needs_token:
            self._authorize(request)
        return route

    def _authorize(self, request: Request) -> None:
        headers = request.headers
        if not self.authorized(headers.get(b"authorization", b""), headers.get(b"x-flowparts-token", b"")):
            raise RequestError(
                "unauthorized", "send the server's token as the header Authorization: Bearer TOKEN"
            )

    def _docs(self, page: bytes, request: Request) -> Response:
        try:
            self._authorize(request)
        except RequestError as refusal:
            # A browser sends no token on its own: this page asks the user for it and tries again.
            self._metrics.rejected(refusal.reason)
            return Response(openapi.TOKEN_PAGE, refusal.status, _HTML + _CHALLENGE)
        return Response(page, head=_HTML)

    def _repository_route(self, path: str) -> dict[str, Route] | None:
        asked = re.fullmatch("/v2/repository/models/([^/]+)/(load|unload)", path)
        if not asked or not self.repository:
            return None
        name, verb = asked.groups()
        act = self.repository.load if verb == "load" else self.repository.unload

        async def answer() -> Response:
            await act(name)
            return Response(b"{}")

        return {"POST": Route("v2", lambda _: answer(), needs_token=True)}

    def _index(self, request: Request) -> Response:
        if not self.repository:
            return Response(b"[]")
        return Response(_json(self.repository.index(open_inference.wants_ready(request.body))))

    def _seconds(self, request: Request) -> float:
        given = request.headers.get(b"x-request-timeout-ms")
        if given is None:
            return self._settings.timeout_seconds
        if not given.isdigit() or len(given) > 9:
            raise RequestError("malformed", "X-Request-Timeout-Ms must be a whole number of milliseconds")
        return min(int(given) / 1000, self._settings.timeout_seconds)

    def _ready(self, content: Any) -> Handler:
        body = _json(content)

        def answer(_: Request) -> Response:
            if self.draining:
                raise RequestError("draining", "the server is shutting down; send requests to another one")
            self._check_alive()
            return Response(body)

        return answer

    @property
    def stuck(self) -> bool:
        """Whether a model has been working on one batch for longer than any request waits."""
        return any(scorer.stuck for scorer in self.scorers.values())

    @property
    def ready(self) -> bool:
        """Whether the server takes requests."""
        return not self.draining and not self.stuck

    def _check_alive(self) -> None:
        if self.stuck:
            raise RequestError(
                "stuck", "the model has not come back from a request; the server must be restarted"
            )

    def _live(self, _: Request) -> Response:
        self._check_alive()
        return Response(_json({"live": True}))

    def _render_metrics(self, _: Request) -> Response:
        return Response(self._metrics.render(), head=_PROMETHEUS)

    def _predict_json(self, scorer: Scorer, request: Request) -> Prediction:
        signature = scorer.model.signature
        _check_json(request)
        return Prediction(
            scorer,
            signature.rows_of_json(request.body, self._settings.max_rows),
            lambda answer: Response(signature.json_of(answer)),
        )

    def _invoke(self, scorer: Scorer, request: Request) -> Prediction:
        signature = scorer.model.signature
        if _media_type(request) != b"text/csv":
            return self._predict_json(scorer, request)
        rows = comma_separated.rows(request.body, signature, self._settings.max_rows)
        if b"text/csv" in request.headers.get(b"accept", b""):
            return Prediction(
                scorer,
                rows,
                lambda answer: Response(comma_separated.write(answer, signature), head=_CSV),
                is_json=False,
            )
        return Prediction(scorer, rows, lambda answer: Response(signature.json_of(answer)), is_json=False)

    def _infer(self, scorer: Scorer, request: Request) -> Prediction:
        model, signature = scorer.model, scorer.model.signature
        length = request.headers.get(open_inference.LENGTH_HEADER)
        if length is None:
            _check_json(request)
        asked, binary = open_inference.read(request.body, length)
        rows = open_inference.rows(asked, binary, signature, self._settings.max_rows)
        # The body isn't needed any more once its rows are read.
        asked.inputs = []
        open_inference.wanted(asked.output_names, signature)

        def render(answer: Answer) -> Response:
            body, json_length = open_inference.write(asked, answer, signature, model.name, model.version)
            if json_length is None:
                return Response(body)
            head = b"content-type: application/octet-stream\r\n%b: %d\r\n"
            return Response(body, head=head % (open_inference.LENGTH_HEADER, json_length))

        return Prediction(scorer, rows, render, (asked.id or "")[:_MAX_ID_BYTES], not binary)

    def _cors(self, headers: Mapping[bytes, bytes]) -> bytes:
        origin = headers.get(b"origin", b"")
        if not origin or not ({"*", origin.decode("latin-1")} & self._origins):
            return b""
        return (
            b"access-control-allow-origin: %b\r\naccess-control-allow-methods: GET, POST\r\n"
            b"access-control-allow-headers: authorization, content-type, x-request-timeout-ms\r\n"
            b"vary: origin\r\n" % origin
        )


class _Exchange:
    """A request that is being answered."""

    __slots__ = ("_app", "_done", "_request", "_started", "job", "prediction", "protocol")

    def __init__(self, app: App, request: Request, done: Callable[[Response], None]) -> None:
        self._app = app
        self._request = request
        self._done = done
        self._started = perf_counter()
        self.protocol = "other"
        self.prediction: Prediction | None = None
        self.job: Job | None = None

    async def wait(self, coming: Coroutine[Any, Any, Response]) -> None:
        """Answer with the result of a coroutine."""
        try:
            self.answer(await coming)
        except Exception as error:
            self.finish(error)

    def finish(self, outcome: Outcome) -> None:
        """Answer with a prediction, or with what went wrong."""
        if isinstance(outcome, Answer) and self.prediction:
            try:
                response = self.prediction.render(outcome)
                # So that clients can compare servers without the network's latency.
                response.head += b"server-timing: predict;dur=%.3f\r\n" % (
                    1000 * (perf_counter() - self._started)
                )
                self.answer(response)
                return
            except Exception as error:
                outcome = error
        refusal = outcome if isinstance(outcome, RequestError) else RequestError("failed", _FAILED)
        if refusal is not outcome and isinstance(outcome, Exception):
            log.error("a request failed", exc_info=outcome, extra={"facts": {"path": self._request.path}})
        self.answer(self._app.rejection(refusal, self._request))

    def answer(self, response: Response) -> None:
        """Answer."""
        self._note(response)
        self._done(response)

    def cancel(self) -> None:
        """Cancel the prediction because the client has disconnected."""
        if self.job:
            self.job.cancel()
        self._note(self._app.rejection(RequestError("cancelled", "the client is gone")))

    def _note(self, response: Response) -> None:
        self._app.finished(self._request, response, self.protocol, perf_counter() - self._started)


def _asked(request: Request, prediction: Prediction, protocol: str) -> Asked | None:
    """Return what the prediction log records of a request; None without a log."""
    if not prediction.scorer.is_logged:
        return None
    given = request.headers.get(b"x-request-id")
    name = given[:_MAX_ID_BYTES].decode("utf-8", "replace") if given else prediction.request_id
    return Asked(protocol, name, request.body if prediction.is_json else b"")


def _addresses(scorer: Scorer) -> tuple[str, str, str]:
    """Return a model's paths: V1, V2, and V2 with its version."""
    name = quote(scorer.model.name)
    return f"/v1/models/{name}", f"/v2/models/{name}", f"/v2/models/{name}/versions/{scorer.model.version}"


def _media_type(request: Request) -> bytes:
    return request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def _check_json(request: Request) -> None:
    found = request.headers.get(b"content-type", b"")
    if found not in (b"application/json", b"") and _media_type(request) != b"application/json":
        raise RequestError(
            "content_type", f"the body's content type is {found.decode('latin-1')!r}; send application/json"
        )


def _check_encoding(request: Request) -> None:
    coding = request.headers.get(b"content-encoding")
    if coding is not None and coding.lower() != b"identity":
        raise RequestError(
            "content_type", "the body is compressed; send it as it is, without Content-Encoding"
        )


def _fixed(content: Any, head: bytes = JSON) -> Handler:
    body = content if isinstance(content, bytes) else _json(content)
    return lambda _: Response(body, head=head)


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
