"""The Open Inference Protocol V2 over gRPC; `make proto` generates its messages from open_inference.proto."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from flowparts.serving import open_inference, tensors
from flowparts.serving import open_inference_pb2 as messages
from flowparts.serving.app import App
from flowparts.serving.batching import Answer, Outcome, Row
from flowparts.serving.logs import say
from flowparts.serving.prediction_log import Asked
from flowparts.serving.refusals import RequestError
from flowparts.serving.repository import Repository
from flowparts.serving.scorer import Scorer
from flowparts.serving.served_model import ServedModel
from flowparts.serving.server_metrics import Metrics
from flowparts.serving.server_settings import Settings

_SERVICE = "inference.GRPCInferenceService"
# The field with the typed contents of each datatype.
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_CODES = {
    "INVALID_ARGUMENT": 400, "UNAUTHENTICATED": 401, "NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499, "INTERNAL": 500, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504,
}  # fmt: skip
# A client's deadline starts when it sends, so it gives up earlier than the server would.
_CLIENT_AHEAD_SECONDS = 0.1
_ARRIVAL_SECONDS = 30.0
# Maximum number of messages being received, each up to the maximum body size.
_RECEIVED_AT_ONCE = 32
# Smaller messages are cheap to parse whatever they contain.
_SMALL_BYTES = 65_536
# Maximum parts of a message, such as tensors: an empty one takes two bytes on the wire and a hundred parsed.
_MAX_PARTS = 20_000
# A varint.
_MAX_VALUE_BYTES = 10
_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
# Protobuf's other wire types.
_WITH_LENGTH, _FIXED_BYTES = 2, {1: 8, 5: 4}


class Service:
    """Answers the protocol's calls with the application's models.

    Args:
        app: Holds the models, the token and whether the server is shutting down.
        metrics: Where calls are counted.
        settings: The server's options.
    """

    def __init__(self, app: App, metrics: Metrics, settings: Settings) -> None:
        self._app = app
        self._metrics = metrics
        self._settings = settings
        self._receiving = asyncio.Semaphore(_RECEIVED_AT_ONCE)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers of the service."""
        calls: dict[str, tuple[Callable[[Any, Any], Awaitable[Any]], bool]] = {
            "ServerLive": (self._server_live, True),
            "ServerReady": (self._server_ready, True),
            "ModelReady": (self._model_ready, False),
            "ServerMetadata": (self._server_metadata, False),
            "ModelMetadata": (self._model_metadata, False),
            "ModelInfer": (self._infer, False),
            "RepositoryIndex": (self._index, False),
            "RepositoryModelLoad": (self._load, False),
            "RepositoryModelUnload": (self._unload, False),
        }
        found: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                # Parsed inside the guard, so that a bad message is counted like any other. As a stream of one
                # message, because that is received only when it is read, after the token was checked.
                name: grpc.stream_unary_rpc_method_handler(
                    self._guarded(call, getattr(messages, f"{name}Request"), is_open),
                    response_serializer=getattr(messages, f"{name}Response").SerializeToString,
                )
                for name, (call, is_open) in calls.items()
            },
        )
        return found

    def _guarded(self, call: Callable[[Any, Any], Awaitable[Any]], message: Any, is_open: bool) -> Any:
        async def answer(sent: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            started = perf_counter()
            self._metrics.started()
            refusal = None
            try:
                if not is_open:
                    self._authorize(context)
                return await call(await self._received(message, sent), context)
            except RequestError as found:
                # The traceback's frames hold the message; without this they would stay until a garbage
                # collection.
                refusal = found.with_traceback(None)
                refusal.__context__ = None
            except asyncio.CancelledError:
                refusal = _given_up(context)
                raise
            except Exception:
                say("a call failed", 40, exc_info=True)
                refusal = RequestError(
                    "failed", "the model failed on this request; the server's log says why"
                )
            finally:
                code = _CODES[refusal.grpc_code] if refusal else 200
                seconds = perf_counter() - started
                self._metrics.finished("grpc", code, seconds)
                if self._settings.log_requests:
                    say("request", method=message.DESCRIPTOR.name.removesuffix("Request"), status=code,
                        milliseconds=round(1000 * seconds, 3), protocol="grpc",
                        principal=self._app.principal(_headers(context)))  # fmt: skip
                if refusal:
                    self._metrics.rejected(refusal.reason)
            # Raises the exception that ends the call.
            return await context.abort(getattr(grpc.StatusCode, refusal.grpc_code), refusal.message)

        return answer

    async def _received(self, message: Any, sent: AsyncIterator[bytes]) -> Any:
        """Return the message of a call; the number of messages received and parsed at once is limited.

        Raises:
            RequestError: There is no message, it doesn't arrive in time, or it is invalid.
        """
        messages_sent = aiter(sent)
        try:
            async with asyncio.timeout(_ARRIVAL_SECONDS), self._receiving:
                content = await anext(messages_sent, None)
        except TimeoutError:
            raise RequestError("slow", f"the message did not arrive within {_ARRIVAL_SECONDS:g} s") from None
        finally:
            # A stream that isn't read to its end would hold the message for ever.
            if isinstance(messages_sent, AsyncGenerator):
                await messages_sent.aclose()
        if content is None:
            raise RequestError("malformed", f"the call has no {message.DESCRIPTOR.name}")
        if len(content) <= _SMALL_BYTES:
            return _read(message, content)
        # In a thread, so that health checks are answered meanwhile.
        return await asyncio.to_thread(_read, message, content, self._most_values)

    @property
    def _most_values(self) -> int:
        """Maximum number of values in a request's tensors, for the widest model."""
        widths = [len(scorer.model.signature.features) for scorer in self._app.scorers.values()]
        return self._settings.max_rows * max(widths, default=1)

    def _authorize(self, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        if not self._app.authorized(_headers(context).get(b"authorization", b"")):
            raise RequestError(
                "unauthorized", "send the server's token as the metadata authorization: Bearer TOKEN"
            )

    async def _server_live(self, _: Any, __: Any) -> Any:
        return messages.ServerLiveResponse(live=not self._app.stuck)

    async def _server_ready(self, _: Any, __: Any) -> Any:
        return messages.ServerReadyResponse(ready=self._app.ready)

    async def _model_ready(self, request: Any, _: Any) -> Any:
        self._scorer(request.name, request.version)
        return messages.ModelReadyResponse(ready=self._app.ready)

    async def _server_metadata(self, _: Any, __: Any) -> Any:
        extensions = ["model_repository"] if self._app.repository else []
        return messages.ServerMetadataResponse(**open_inference.server_metadata(extensions))

    async def _model_metadata(self, request: Any, _: Any) -> Any:
        model = self._scorer(request.name, request.version).model
        return messages.ModelMetadataResponse(
            **open_inference.model_metadata(
                model.signature, model.name, model.version, f"flowparts_{model.engine.name}"
            )
        )

    async def _infer(self, request: Any, context: Any) -> Any:
        scorer = self._scorer(request.model_name, request.model_version)
        model, signature = scorer.model, scorer.model.signature
        names = open_inference.wanted([output.name for output in request.outputs], signature)
        rows = self._rows(request, model)
        seconds = self._settings.timeout_seconds
        if (remaining := context.time_remaining()) is not None:
            seconds = min(seconds, remaining)
        answer = (
            await _predicted(scorer, rows, seconds, request.id[:128])
            if rows
            else Answer(signature.no_rows(), 0, 0)
        )
        response = messages.ModelInferResponse(
            model_name=model.name, model_version=model.version, id=request.id
        )
        for name in names:
            values = answer.column(name)
            datatype = open_inference.output_datatype(name, signature)
            output = response.outputs.add(name=name, datatype=datatype, shape=[len(values)])
            # Answered in the same form as the request: clients that send typed contents expect them.
            if request.raw_input_contents:
                response.raw_output_contents.append(tensors.packed(datatype, values))
            else:
                contents = tensors.encoded(values) if datatype == "BYTES" else values
                getattr(output.contents, _CONTENTS[datatype]).extend(contents)
        return response

    async def _index(self, request: Any, _: Any) -> Any:
        return messages.RepositoryIndexResponse(models=self._repository().index(request.ready))

    async def _load(self, request: Any, _: Any) -> Any:
        await self._repository().load(request.model_name)
        return messages.RepositoryModelLoadResponse()

    async def _unload(self, request: Any, _: Any) -> Any:
        await self._repository().unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()

    def _repository(self) -> Repository:
        if not self._app.repository:
            raise RequestError(
                "not_found", "this server serves one model; start it with --repository to load others"
            )
        return self._app.repository

    def _rows(self, request: Any, model: ServedModel) -> list[Row]:
        raw = request.raw_input_contents
        if raw and len(raw) != len(request.inputs):
            raise RequestError(
                "malformed", f"there are {len(raw)} raw_input_contents for {len(request.inputs)} inputs"
            )
        inputs = [
            _of_bytes(tensor, raw[position]) if raw else _of_contents(tensor)
            for position, tensor in enumerate(request.inputs)
        ]
        return tensors.rows(inputs, model.signature, self._settings.max_rows)

    def _scorer(self, name: str, version: str) -> Scorer:
        scorer = self._app.scorers.get(name)
        if scorer and version in ("", scorer.model.version):
            return scorer
        asked = f"{name!r}" + (f", version {version!r}" if version else "")
        served = [scorer.model for scorer in self._app.scorers.values()]
        there = [f"{model.name!r}, version {model.version}" for model in served]
        raise RequestError("not_found", f"there is no model {asked} here, only {'; '.join(there) or 'none'}")


def _read(message: Any, content: bytes, most_values: int = 0) -> Any:
    """Parse a message; with most_values, check its size before any of it is built."""
    if most_values:
        _require_affordable(message.DESCRIPTOR, content, most_values)
    try:
        return message.FromString(content)
    except DecodeError:
        raise RequestError(
            "malformed", f"the call's message isn't a valid {message.DESCRIPTOR.name}"
        ) from None


def _require_affordable(descriptor: Any, content: bytes, most_values: int) -> None:
    """Raise a RequestError if a message holds more than any valid one, before any of it is built.

    Args:
        descriptor: Of the message.
        content: What was sent.
        most_values: Maximum values of all its unpacked tensors, and of each packed one.
    """
    parts = values = 0
    inner = [(descriptor, 0, len(content))]
    while inner:
        descriptor, place, end = inner.pop()
        while place < end:
            key, place = _varint(content, place)
            field = descriptor.fields_by_number.get(key >> 3)
            if field and field.is_repeated and not field.message_type:
                values += 1
            else:
                parts += 1
            if parts > _MAX_PARTS:
                raise RequestError("malformed", f"the message has more than {_MAX_PARTS:,} parts")
            if key & 7 in _FIXED_BYTES:
                place += _FIXED_BYTES[key & 7]
            else:
                size, place = _varint(content, place)
                if key & 7 == _WITH_LENGTH:
                    if field and field.message_type:
                        inner.append((field.message_type, place, min(place + size, end)))
                    elif field and field.type not in _TEXTS and size > most_values * _MAX_VALUE_BYTES:
                        values = most_values + 1
                    place += size
            if values > most_values:
                raise RequestError("too_many_rows", f"the message has more than {most_values:,} values")


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            break
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value, place


def _headers(context: "grpc.aio.ServicerContext[Any, Any]") -> dict[bytes, bytes]:
    """Return a call's metadata in the form of a request's headers."""
    found: dict[bytes, bytes] = {}
    for key, value in context.invocation_metadata() or ():
        found.setdefault(key.encode(), value.encode() if isinstance(value, str) else value)
    return found


def _given_up(context: "grpc.aio.ServicerContext[Any, Any]") -> RequestError:
    """Return why a call was cancelled; only used for the metrics."""
    remaining = context.time_remaining()
    if remaining is not None and remaining < _CLIENT_AHEAD_SECONDS:
        return RequestError("deadline", "the call's deadline has passed")
    return RequestError("cancelled", "the client is gone")


async def _predicted(scorer: Scorer, rows: list[Row], seconds: float, request_id: str) -> Answer:
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    job = scorer.predict(rows, seconds, Asked("grpc", request_id), future.set_result)
    try:
        outcome = await future
    except asyncio.CancelledError:
        job.cancel()
        raise
    if isinstance(outcome, Answer):
        return outcome
    raise outcome


def _of_bytes(tensor: Any, raw: bytes) -> tensors.Tensor:
    def values(kind: str, count: int, width: int) -> list[Any]:
        return tensors.unpacked(tensor.name, kind, tensor.datatype, raw, count * width)

    return tensors.Tensor(tensor.name, tensor.datatype, tensor.shape, values)


def _of_contents(tensor: Any) -> tensors.Tensor:
    def values(kind: str, count: int, width: int) -> list[Any]:
        if tensor.datatype not in _CONTENTS:
            raise RequestError(
                "signature", f"tensor {tensor.name!r}: {tensor.datatype} comes as raw contents only"
            )
        contents = getattr(tensor.contents, _CONTENTS[tensor.datatype])
        # Before they become Python objects, each eight times as large.
        tensors.require_count(tensor.name, len(contents), count * width)
        found = list(contents)
        if tensor.datatype == "BYTES":
            found = tensors.text(tensor.name, found)
        return tensors.plain(tensor.name, kind, found)

    return tensors.Tensor(tensor.name, tensor.datatype, tensor.shape, values)


def server(service: Service, address: str, max_body_mb: float, shared: bool) -> grpc.aio.Server:
    """Return a gRPC server bound to an address.

    Args:
        service: The service that answers.
        address: Host and port.
        max_body_mb: Largest message, in MB of 1,000,000 bytes.
        shared: Whether other processes listen there too.

    Raises:
        ValueError: The address can't be bound.
    """
    largest = int(max_body_mb * 1e6)
    found: grpc.aio.Server = grpc.aio.server(
        options=[("grpc.so_reuseport", int(shared)), ("grpc.max_receive_message_length", largest)]
    )
    found.add_generic_rpc_handlers((service.handlers(),))
    try:
        found.add_insecure_port(address)
    except RuntimeError:
        raise ValueError(f"the gRPC server can't listen on {address}; is the port taken?") from None
    return found
