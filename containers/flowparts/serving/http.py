"""HTTP/1.1 on an event loop: connections that hand whole requests to the application and write its answers.

Measured, a request through uvicorn and ASGI takes longer than scoring a row; here it takes a third, and slow
clients and shutting down are in our own hands. httptools (the parser of Node.js) reads the protocol.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from time import monotonic
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

from flowparts.serving.refusals import Refusal

_MAX_HEAD_BYTES = 65_536
# Requests that a client may send ahead on a connection before it has read the answers.
_MAX_AHEAD = 16
_BACKLOG = 2048
_IDLE_SECONDS = 75.0
_ARRIVAL_SECONDS = 30.0
_LINGER_SECONDS = 2.0
_CLOSE, _KEEP_ALIVE = b"connection: close\r\n", b"connection: keep-alive\r\n"
_STATUS_LINES = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode() for status in HTTPStatus}
JSON = b"content-type: application/json\r\n"


@dataclass(slots=True)
class Request:
    """A whole request; names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: bytes


@dataclass(slots=True)
class Response:
    """What to answer; `head` is the lines of its headers, each with its end of line."""

    body: bytes
    status: int = 200
    head: bytes = JSON


class Cancellable(Protocol):
    """A request that is being answered."""

    def cancel(self) -> None:
        """Forget it: the client is gone."""


class Application(Protocol):
    """What answers requests."""

    max_body: int
    draining: bool

    def handle(self, request: Request, done: Callable[[Response], None]) -> Cancellable | None:
        """Answer a request by calling `done`, now or later; return what can be cancelled until then."""

    def refuse(self, refusal: Refusal, headers: Mapping[bytes, bytes]) -> Response:
        """Return the answer to a request that couldn't be read, of which these headers have come."""


class Server:
    """Takes connections on a socket.

    Args:
        application: What answers requests.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self.connections: set[Connection] = set()
        self.date = b""
        self.closing = False
        self.loop = asyncio.get_running_loop()
        self._listener: asyncio.Server | None = None
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self, listener: socket.socket) -> None:
        """Take connections from now on.

        Raises:
            OSError: Another socket listens at the address by now.
        """
        # Here, because uvloop says nothing when it can't listen.
        listener.listen(_BACKLOG)
        self._tick()
        self._listener = await self.loop.create_server(
            lambda: Connection(self), sock=listener, backlog=_BACKLOG
        )

    async def stop(self, seconds: float) -> None:
        """Take no more connections, answer what has been asked, for so many seconds at most."""
        if self._listener:
            self._listener.close()
        self.closing = True
        # What lies in the kernel's buffers by now is read before connections without a request are closed.
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

    def _tick(self) -> None:
        self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"
        now = monotonic()
        for connection in list(self.connections):
            connection.check_time(now)
        self._ticker = self.loop.call_later(1, self._tick)


class Connection(asyncio.Protocol):
    """A client's connection: one request is answered at a time, in their order.

    Args:
        server: Whose connection it is.
    """

    __slots__ = (
        "_after", "_ahead", "_arriving", "_blocked", "_body", "_body_bytes", "_busy", "_ended",
        "_head_bytes", "_headers", "_line_bytes", "_method", "_parser", "_read_paused", "_refused", "_server",
        "_since", "_transport", "_url", "_work",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._ahead: deque[tuple[Request | Response, bytes]] = deque()
        self._work: Cancellable | None = None
        self._method, self._after = "", _CLOSE
        self._busy = self._blocked = self._read_paused = self._refused = self._ended = False
        self.on_message_begin()
        self._arriving, self._head_bytes = False, -1

    # What the event loop says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """End; nobody waits for an answer any more."""
        self._server.connections.discard(self)
        self._ahead.clear()
        self._refused = True
        if self._work:
            self._work.cancel()

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        if self._refused:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refuse(Refusal("malformed", f"the request is not valid HTTP: {error}"))
        if self._head_bytes >= 0:
            self._head_bytes += len(data) if self._head_bytes else self._begun(data)
            self._check_head(self._head_bytes)

    def eof_received(self) -> bool:
        """Keep the connection of a client that only listens any more until it is answered."""
        self._ended = True
        return self._busy or bool(self._ahead)

    def pause_writing(self) -> None:
        """Answer nothing more until the client has read."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Go on."""
        self._blocked = False
        self._next()

    # What the parser says.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        # Of the headers so far: all that was read, and lines that ended.
        self._head_bytes = self._line_bytes = 0
        self._arriving = True
        # The next tick of the server's clock is its beginning.
        self._since = 0.0

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        self._url += url
        self._line_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those after the body aren't asked for."""
        if self._head_bytes >= 0:
            self._headers[name.lower()] = value
            self._line_bytes += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        """Refuse a body that is too large before it comes."""
        self._head_bytes = -1
        self._check_head(self._line_bytes)
        if self._refused:
            return
        if int(self._headers.get(b"content-length", b"0")) > self._server.application.max_body:
            self._refuse(self._too_large())
        elif self._headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        """Take a part of the body."""
        if self._refused:
            return
        self._body.append(part)
        self._body_bytes += len(part)
        if self._body_bytes > self._server.application.max_body:
            self._refuse(self._too_large())

    def on_message_complete(self) -> None:
        """Answer the request, or keep it until those before it are answered."""
        if self._refused or self._parser.should_upgrade():
            return
        self._arriving = False
        self._since = 0.0
        url = self._url
        # A client may name the whole address, as it does to a proxy.
        path = (url.partition(b"?")[0] if url[:1] == b"/" else _path(url)).decode("latin-1")
        if "%" in path:
            path = unquote(path)
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = Request(self._parser.get_method().decode(), path, self._headers, body)
        after = _CLOSE
        if self._parser.should_keep_alive():
            after = b"" if self._parser.get_http_version() == "1.1" else _KEEP_ALIVE
        if not self._busy and not self._blocked:
            self._answer(request, after)
            return
        self._ahead.append((request, after))
        if len(self._ahead) >= _MAX_AHEAD and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    # What follows from it.

    def close_if_idle(self) -> None:
        """Close the connection unless a request is being answered or read."""
        if not (self._busy or self._ahead or self._arriving):
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def check_time(self, now: float) -> None:
        """Close the connection if the client has been silent, or is too slow; called every second."""
        if self._busy:
            return
        self._since = self._since or now
        elapsed = now - self._since
        if self._blocked and elapsed > _IDLE_SECONDS:
            self.abort()
        elif self._arriving and elapsed > _ARRIVAL_SECONDS:
            self._refuse(Refusal("slow", f"the request did not arrive within {_ARRIVAL_SECONDS:g} s"))
        elif elapsed > _IDLE_SECONDS:
            self._transport.close()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read a request again without its offer to speak something else, such as HTTP/2 or WebSocket."""
        method = self._parser.get_method()
        self._parser = httptools.HttpRequestParser(self)
        if method == b"CONNECT":
            self._refuse(Refusal("malformed", "the server is no proxy: it takes no CONNECT"))
            return
        kept = [
            b"%b: %b\r\n" % header
            for header in self._headers.items()
            if header[0] not in (b"connection", b"upgrade", b"http2-settings")
        ]
        self.data_received(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, self._url, b"".join(kept), rest))

    def _begun(self, data: bytes) -> int:
        """Return how much of what was read belongs to the headers that begin in it and don't end."""
        place = data.rfind(b"%b %b" % (self._parser.get_method(), self._url))
        # The method itself may be cut off.
        return len(data) - place if place >= 0 else 1

    def _check_head(self, size: int) -> None:
        if size > _MAX_HEAD_BYTES:
            self._refuse(Refusal("too_large", f"the headers are larger than {_MAX_HEAD_BYTES} bytes"))

    def _too_large(self) -> Refusal:
        most = self._server.application.max_body / 1e6
        return Refusal("too_large", f"the body is larger than the {most:g} MB that are taken")

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what can't be read, after what came before it, and close the connection."""
        if self._refused:
            return
        self._refused = True
        response = self._server.application.refuse(refusal, self._headers)
        if self._busy or self._blocked:
            self._ahead.append((response, _CLOSE))
        else:
            self._after = _CLOSE
            self._write(response)

    def _answer(self, request: Request, after: bytes) -> None:
        self._busy = True
        self._method = request.method
        self._after = after
        self._work = self._server.application.handle(request, self._write)

    def _write(self, response: Response) -> None:
        self._work = None
        self._busy = False
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

    def _leave(self) -> None:
        """Close when the client has had time to read; closing on unread data would discard the answer."""
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
            self._transport.resume_reading()
        if isinstance(request, Response):
            self._after = after
            self._write(request)
        else:
            self._answer(request, after)


def _path(url: bytes) -> bytes:
    try:
        path: bytes | None = httptools.parse_url(url).path
    except httptools.HttpParserInvalidURLError:
        return url
    return path or b"/"
