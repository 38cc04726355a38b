"""An HTTP/1.1 server on an event loop: it passes complete requests to the application and writes answers.

With the same handlers, batching and engine, it answers 2.3 times as many one-row requests as uvicorn or
granian (decision record 39), and controls slow clients and the shutdown itself. httptools (the parser of
Node.js) reads the protocol.
"""

import asyncio
import ctypes
import re
import resource
import socket
import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from time import monotonic
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

from flowparts.serving.logs import say
from flowparts.serving.refusals import RequestError

_MAX_HEAD_BYTES = 65_536
# Maximum number of pipelined requests on a connection.
_MAX_AHEAD = 16
# Parsing a body of this size as JSON takes a millisecond or more.
_LARGE_BYTES = 1 << 16
# After a request that held the event loop longer than this, other requests get the same time, up to the
# maximum.
_LONG_SECONDS, _MAX_PAUSE_SECONDS = 0.02, 0.1
_ACCEPTED_AT_ONCE = 128
_ACCEPT_PAUSE_SECONDS = 0.1
_BACKLOG = 2048
_IDLE_SECONDS = 75.0
_ARRIVAL_SECONDS = 30.0
_LINGER_SECONDS = 2.0
# Linux' constants for attaching a packet filter to a socket, and for the instruction that returns a constant.
_SO_ATTACH_FILTER, _BPF_RETURN = 26, 0x06
# Limit for all bodies in memory, as a multiple of the maximum body size.
_BODIES_AT_ONCE = 8
# Sockets that were just taken, and files and sockets that the engine, a model and gRPC have open.
_OTHER_FILES = _ACCEPTED_AT_ONCE + 128
_MAX_CONNECTIONS = 4096
# A request line of an unsupported HTTP version; HTTP/0.9 names no version.
_OTHER_VERSION = re.compile(rb"[A-Z]+ \S+(?: HTTP/(?!1\.[01]$)\S*)?")
# Headers that must not be repeated: a proxy in front might use the other value.
_ONCE = frozenset(
    [
        b"authorization",
        b"content-length",
        b"content-type",
        b"host",
        b"transfer-encoding",
        b"x-flowparts-token",
    ]
)
_CLOSE, _KEEP_ALIVE = b"connection: close\r\n", b"connection: keep-alive\r\n"
_STATUS_LINES = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode() for status in HTTPStatus}
# Browsers must not guess the content type.
_NO_SNIFFING = b"x-content-type-options: nosniff\r\n"
JSON = b"content-type: application/json\r\n" + _NO_SNIFFING


@dataclass(slots=True)
class Request:
    """A request; header names are in lower case. `found` is the application's route for it."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: bytes
    found: Any = None


@dataclass(slots=True)
class Response:
    """A response; `head` holds its header lines, each with its line ending."""

    body: bytes
    status: int = 200
    head: bytes = JSON


class Cancellable(Protocol):
    """A request that is being answered."""

    def cancel(self) -> None:
        """Stop working on the request: the client has disconnected."""


class Application(Protocol):
    """An application that answers requests."""

    max_body: int
    draining: bool

    def unwanted(self, request: Request) -> RequestError | None:
        """Return the reason to refuse a request before its body arrives; None if it must be read."""

    def handle(self, request: Request, done: Callable[[Response], None]) -> Cancellable | None:
        """Answer a request by calling `done`, now or later; return what can be cancelled until then."""

    def refuse(self, refusal: RequestError, headers: Mapping[bytes, bytes]) -> Response:
        """Return the answer to a request that couldn't be read, given the headers that arrived."""


class Server:
    """Accepts connections on a socket.

    Args:
        application: Answers the requests.
        shared: Whether other processes accept connections on the same socket and outlive this one.
    """

    def __init__(self, application: Application, shared: bool = False) -> None:
        self.application = application
        self._shared = shared
        # In order of arrival; looking for one to close moves busy ones to the end.
        self.connections: OrderedDict[Connection, None] = OrderedDict()
        # Connections that were idle at a tick of the clock, and since when; the longest idle first. The entry
        # of one that was used again stays until it is looked at or the connection is idle once more.
        self.unused: OrderedDict[Connection, float] = OrderedDict()
        self.date = b""
        self.loop = asyncio.get_running_loop()
        self.body_bytes = 0
        self.max_body_bytes = _BODIES_AT_ONCE * application.max_body
        self._max_connections = min(_MAX_CONNECTIONS, max(_files() - _OTHER_FILES, 16))
        self._closed_for_room = 0
        self._large: deque[Connection] = deque()
        self._listener: socket.socket | None = None
        self._accepting: set[asyncio.Task[Any]] = set()
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self, listener: socket.socket) -> None:
        """Start to accept connections.

        Raises:
            OSError: Another socket is already listening at the address.
        """
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._listener = listener
        self._tick()
        self._listen()

    def _listen(self) -> None:
        if self._listener:
            self.loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Accept the pending connections.

        uvloop's own server accepts one per iteration of the loop, so a client that opens many at once, while
        iterations are long, keeps all others waiting.
        """
        assert self._listener
        for _ in range(1 if self._shared else min(_ACCEPTED_AT_ONCE, self._max_connections)):
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of file descriptors or memory: without a pause, the loop would spin on this error.
                say("can't accept connections for now", 30, error=str(error))
                self.loop.remove_reader(self._listener)
                self.loop.call_later(_ACCEPT_PAUSE_SECONDS, self._listen)
                return
            task = self.loop.create_task(self._take(client))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _take(self, client: socket.socket) -> None:
        with suppress(OSError):
            await self.loop.connect_accepted_socket(lambda: Connection(self), client)

    async def stop(self, seconds: float) -> None:
        """Stop accepting connections and answer pending requests, within a time limit in seconds."""
        if self._listener:
            listener, self._listener = self._listener, None
            self.loop.remove_reader(listener)
            await self._take_waiting(listener)
        # Read what is already in the kernel's buffers before idle connections are closed.
        await asyncio.sleep(0.1)
        deadline = monotonic() + seconds
        for connection in list(self.connections):
            connection.close_if_idle()
        while self.connections and monotonic() < deadline:
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        if self._ticker:
            self._ticker.cancel()

    async def _take_waiting(self, listener: socket.socket) -> None:
        """Accept the pending connections; closing the listener first would reset them."""
        with listener:
            if not self._shared:
                drop_new_connections(listener)
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    break
                await self._take(client)
        if self._accepting:
            await asyncio.wait(self._accepting)

    def add(self, connection: "Connection") -> None:
        """Register a connection; at the limit of file descriptors, close another one to make room.

        So health checks are answered even if many clients hold idle connections.
        """
        if len(self.connections) >= self._max_connections:
            spare = self._next_spare() or connection
            spare.abort()
            self.connections.pop(spare, None)
            self._closed_for_room += 1
            if spare is connection:
                return
        self.connections[connection] = None

    def _next_spare(self) -> "Connection | None":
        """Return a connection that may be closed: none of its requests is being answered.

        The one that has been idle for longest, if the client had time to send a request, else the oldest one.
        """
        while self.unused:
            connection, since = self.unused.popitem(last=False)
            if connection.since == since:
                return connection
        for _ in range(len(self.connections)):
            connection = next(iter(self.connections))
            if not connection.busy:
                return connection
            # So that the next look doesn't pass it again.
            self.connections.move_to_end(connection)
        return None

    def answer_in_turn(self, connection: "Connection") -> None:
        """Queue a connection's large request; one of them is handled per iteration of the event loop.

        So a small request, such as a health check, waits for at most one of them.
        """
        self._large.append(connection)
        if len(self._large) == 1:
            self.loop.call_soon(self._answer_large)

    def _answer_large(self) -> None:
        started = monotonic()
        try:
            self._large[0].answer_large()
        finally:
            self._large.popleft()
            if self._large:
                # A new connection takes several iterations to be answered; don't spend one of these in each.
                seconds = monotonic() - started
                pause = min(seconds, _MAX_PAUSE_SECONDS) if seconds > _LONG_SECONDS else 0.0
                self.loop.call_later(pause, self._answer_large)

    def _tick(self) -> None:
        if self._closed_for_room:
            say("connections were closed to make room for others", 30, closed=self._closed_for_room,
                most=self._max_connections)  # fmt: skip
            self._closed_for_room = 0
        self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"
        now = monotonic()
        for connection in list(self.connections):
            connection.check_time(now)
        self._ticker = self.loop.call_later(1, self._tick)


def drop_new_connections(listener: socket.socket) -> None:
    """Keep new connections away from a listening socket by a filter that drops all packets."""
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))
    with suppress(OSError):
        program = struct.pack("HP", 1, ctypes.addressof(nothing))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _files() -> int:
    """Raise the limit of open files to the maximum and return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else 1 << 20


class Connection(asyncio.Protocol):
    """A client's connection; requests are answered one at a time and in order.

    Args:
        server: The server that accepted it.
    """

    __slots__ = (
        "_after", "_ahead", "_answering", "_arriving", "_blocked", "_body", "_body_bytes", "_busy", "_ended",
        "_frame_bytes", "_head_bytes", "_headers", "_held", "_large", "_line_bytes", "_method", "_parser",
        "_read_paused", "_refused", "_request", "_server", "_transport", "_unread", "_url", "_version",
        "_wanted", "_work", "since",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: Any = None
        self._parser: Any = httptools.HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._ahead: deque[tuple[Request | Response, bytes]] = deque()
        self._work: Cancellable | None = None
        self._request: Any = None
        self._large: Request | None = None
        self._version = ""
        self._method, self._after = "", _CLOSE
        # Bytes of all bodies held here, and of the one being answered.
        self._held = self._answering = 0
        self._busy = self._blocked = self._read_paused = self._refused = self._ended = False
        # Whether received data is still unparsed; reading is paused until it is parsed.
        self._unread = False
        self.on_message_begin()
        self._arriving, self._head_bytes = False, -1

    # Callbacks of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self._server.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Clean up; nobody waits for an answer any more."""
        self._server.connections.pop(self, None)
        self._server.unused.pop(self, None)
        self._ahead.clear()
        self._refused = True
        if self._work:
            self._work.cancel()
        # Break the reference cycle with the parser, so that memory is freed without the garbage collector.
        self._release(self._held)
        self._answering = 0
        self._parser = self._work = self._large = None
        self._body, self._headers, self._request = [], {}, None

    def data_received(self, data: bytes) -> None:
        """Parse received data."""
        rest = self._read(data)
        if rest or len(data) >= _LARGE_BYTES:
            # Otherwise the loop would read up to 32 times more before it serves other connections.
            self._unread = True
            if not self._read_paused:
                self._transport.pause_reading()
            self._server.loop.call_soon(self._read_rest, rest)

    def _read_rest(self, data: bytes) -> None:
        """Parse on: one large part, or a few requests that ask for an upgrade, per iteration of the loop."""
        before = len(data)
        for _ in range(_MAX_AHEAD):
            if data and before - len(data) < _LARGE_BYTES:
                data = self._read(data)
        if self._parser is None:
            return
        self._unread = bool(data)
        if data:
            self._server.loop.call_soon(self._read_rest, data)
        elif not self._read_paused:
            self._transport.resume_reading()

    def _read(self, data: bytes) -> bytes:
        """Parse a part of the data, at most up to the end of a declined upgrade; return the rest."""
        if self._refused:
            return b""
        part, rest = data[:_LARGE_BYTES], data[_LARGE_BYTES:]
        size = len(part)
        self._frame_bytes += size
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            return self._decline_upgrade(part[upgrade.args[0] :]) + rest
        except httptools.HttpParserError as error:
            self._refuse(_invalid(error, part))
        if self._head_bytes >= 0:
            self._head_bytes += size if self._head_bytes else self._begun(part)
            self._check_head(self._head_bytes)
        elif self._frame_bytes > _MAX_HEAD_BYTES + size:
            self._refuse(RequestError("too_large", "a chunk's extension or the trailers are too long"))
        return rest

    def eof_received(self) -> bool:
        """Keep a half-closed connection open until its requests are answered."""
        self._ended = True
        return self._busy or bool(self._ahead)

    def pause_writing(self) -> None:
        """Pause answering until the client has read."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Resume answering."""
        self._blocked = False
        self._next()

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url = b""
        self._headers = {}
        self._body = []
        self._body_bytes = 0
        # Bytes of the body's framing since its latest data: chunk extensions or trailers.
        self._frame_bytes = 0
        self._wanted = True
        # Bytes of the headers so far: all that was read, and complete lines.
        self._head_bytes = self._line_bytes = 0
        self._arriving = True
        # Set by the next tick of the server's clock.
        self.since = 0.0

    def on_url(self, url: bytes) -> None:
        """Receive a part of the URL."""
        self._url += url
        self._line_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header; trailers are ignored."""
        if self._head_bytes >= 0:
            key, headers = name.lower(), self._headers
            if key in headers and key in _ONCE:
                self._refuse(
                    RequestError("malformed", f"the header {key.decode()} is there twice; send it once")
                )
            headers[key] = value
            self._line_bytes += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        """Refuse a body that is too large before it arrives."""
        self._head_bytes = -1
        self._check_head(self._line_bytes)
        if self._refused:
            return
        headers = self._headers
        version = self._version = self._parser.get_http_version()
        coding = headers.get(b"transfer-encoding")
        if version != "1.1" or coding or b"host" not in headers:
            refusal = _unspoken(version, headers)
            if refusal:
                self._refuse(refusal)
                return
        url = self._url
        # A client may send the absolute URL, as to a proxy.
        path = (url.partition(b"?")[0] if url[:1] == b"/" else _path(url)).decode("latin-1")
        path = unquote(path) if "%" in path else path
        self._request = Request(self._parser.get_method().decode(), path, headers, b"")
        length = int(headers.get(b"content-length", b"0"))
        if length > self._server.application.max_body:
            self._refuse(self._too_large())
            return
        unwanted = None
        if length or coding:
            unwanted = self._server.application.unwanted(self._request)
            self._wanted = unwanted is None
        if b"expect" in headers and headers[b"expect"].lower() == b"100-continue" and version == "1.1":
            if unwanted:
                self._refuse(unwanted)
            else:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        """Receive a part of the body."""
        if self._refused:
            return
        size = len(part)
        self._frame_bytes = 0
        self._body_bytes += size
        if self._body_bytes > self._server.application.max_body:
            self._refuse(self._too_large())
        elif self._wanted:
            server = self._server
            self._body.append(part)
            self._held += size
            server.body_bytes += size
            if server.body_bytes > server.max_body_bytes:
                self._refuse(
                    RequestError("busy", "the server holds too many bodies already; try again later")
                )

    def on_message_complete(self) -> None:
        """Answer the request, or queue it until those before it are answered."""
        if self._refused or self._parser.should_upgrade():
            return
        self._arriving = False
        self.since = 0.0
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        request = self._request
        request.body = body
        after = _CLOSE
        if self._parser.should_keep_alive():
            after = b"" if self._version == "1.1" else _KEEP_ALIVE
        if not self._busy and not self._blocked and not self._ahead:
            self._answer(request, after)
            return
        self._ahead.append((request, after))
        if len(self._ahead) >= _MAX_AHEAD and not self._read_paused:
            self._read_paused = True
            if not self._unread:
                self._transport.pause_reading()

    # What follows from it.

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._busy or bool(self._ahead)

    @property
    def idle(self) -> bool:
        """Whether no request is being answered or read."""
        return not (self._busy or self._ahead or self._arriving)

    def close_if_idle(self) -> None:
        """Close the connection unless a request is being answered or read."""
        if self.idle:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def check_time(self, now: float) -> None:
        """Close the connection if it is idle for too long or the client is too slow; called every second."""
        if self._busy:
            return
        if not self.since:
            self.since = now
            if self.idle:
                self._server.unused[self] = now
                self._server.unused.move_to_end(self)
        elapsed = now - self.since
        if self._blocked and elapsed > _IDLE_SECONDS:
            self.abort()
        elif self._arriving and elapsed > _ARRIVAL_SECONDS:
            self._refuse(RequestError("slow", f"the request did not arrive within {_ARRIVAL_SECONDS:g} s"))
        elif elapsed > _IDLE_SECONDS:
            self._transport.close()

    def _decline_upgrade(self, rest: bytes) -> bytes:
        """Return a request to parse again, without its offer to upgrade to HTTP/2 or WebSocket."""
        method = self._parser.get_method()
        self._parser = httptools.HttpRequestParser(self)
        if method == b"CONNECT":
            self._refuse(RequestError("malformed", "the server is not a proxy; it doesn't support CONNECT"))
            return b""
        kept = [
            b"%b: %b\r\n" % header
            for header in self._headers.items()
            if header[0] not in (b"connection", b"upgrade", b"http2-settings")
        ]
        return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, self._url, b"".join(kept), rest)

    def _begun(self, data: bytes) -> int:
        """Return how many of the bytes belong to headers that start in them and aren't complete."""
        place = data.rfind(b"%b %b" % (self._parser.get_method(), self._url))
        # The method itself may be cut off.
        return len(data) - place if place >= 0 else 1

    def _check_head(self, size: int) -> None:
        if size > _MAX_HEAD_BYTES:
            self._refuse(RequestError("too_large", f"the headers are larger than {_MAX_HEAD_BYTES} bytes"))

    def _too_large(self) -> RequestError:
        most = self._server.application.max_body / 1e6
        return RequestError("too_large", f"the body is larger than the maximum of {most:g} MB")

    def _refuse(self, refusal: RequestError) -> None:
        """Answer a request that can't be read, after those before it, and close the connection."""
        if self._refused:
            return
        self._refused = True
        # Its data isn't needed any more.
        self._release(sum(map(len, self._body)))
        self._body = []
        response = self._server.application.refuse(refusal, self._headers)
        if self._busy or self._blocked or self._ahead:
            self._ahead.append((response, _CLOSE))
        else:
            self._after = _CLOSE
            self._write(response)

    def _answer(self, request: Request, after: bytes) -> None:
        self._busy = True
        self._method = request.method
        self._after = after
        self._answering = len(request.body)
        if self._answering < _LARGE_BYTES:
            self._work = self._server.application.handle(request, self._write)
        else:
            self._large = request
            self._server.answer_in_turn(self)

    def answer_large(self) -> None:
        """Answer the large request unless the client has disconnected."""
        if self._large:
            request, self._large = self._large, None
            self._work = self._server.application.handle(request, self._write)

    def _write(self, response: Response) -> None:
        self._work = None
        self._busy = False
        if size := self._answering:
            self._answering = 0
            self._held -= size
            self._server.body_bytes -= size
        if self._transport.is_closing():
            return
        body = response.body
        last = self._server.application.draining or (self._ended and not self._ahead)
        after = _CLOSE if last else self._after
        self._transport.write(
            b"%b%b%b%bcontent-length: %d\r\n\r\n%b"
            % (
                _STATUS_LINES[response.status], response.head, self._server.date, after, len(body),
                b"" if self._method == "HEAD" else body,
            )
        )  # fmt: skip
        if after is _CLOSE:
            self._leave()
        elif self._ahead:
            self._server.loop.call_soon(self._next)

    def _release(self, size: int) -> None:
        self._held -= size
        self._server.body_bytes -= size

    def _leave(self) -> None:
        """Close after the client has had time to read; closing with unread data would discard the answer."""
        reading = self._refused and not self._ended
        self._refused = True
        if reading and self._transport.can_write_eof():
            self._transport.write_eof()
            self._server.loop.call_later(_LINGER_SECONDS, self._transport.close)
        else:
            self._transport.close()

    def _next(self) -> None:
        if not self._ahead or self._busy or self._blocked:
            return
        request, after = self._ahead.popleft()
        if self._read_paused and len(self._ahead) < _MAX_AHEAD:
            self._read_paused = False
            if not self._unread:
                self._transport.resume_reading()
        if isinstance(request, Response):
            self._after = after
            self._write(request)
        else:
            self._answer(request, after)


def _unspoken(version: str, headers: Mapping[bytes, bytes]) -> RequestError | None:
    """Return the reason to refuse an ambiguous request, which a proxy may interpret differently."""
    if version not in ("1.1", "1.0"):
        return RequestError("version", f"the server speaks HTTP/1.1, not HTTP/{version}")
    if b"host" not in headers and version == "1.1":
        return RequestError("malformed", "the request has no header Host")
    coding = headers.get(b"transfer-encoding", b"chunked").decode("latin-1")
    if coding.lower() != "chunked":
        return RequestError("not_implemented", f"the transfer coding must be chunked, not {coding!r}")
    return None


def _invalid(error: Exception, data: bytes) -> RequestError:
    """Return the refusal of data that the parser couldn't read."""
    line = data.partition(b"\n")[0].rstrip(b"\r")
    if "version" in str(error).lower() or _OTHER_VERSION.fullmatch(line):
        return RequestError("version", "the server speaks HTTP/1.1 only")
    return RequestError("malformed", f"the request is not valid HTTP: {error}")


def _path(url: bytes) -> bytes:
    try:
        path: bytes | None = httptools.parse_url(url).path
    except httptools.HttpParserInvalidURLError:
        return url
    return path or b"/"
