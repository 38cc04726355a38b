"""An HTTP server on this machine in a service's place, which can be told to fail."""

import json
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def parts(self) -> dict[str, bytes]:
        """The parts of a form by name."""
        message = message_from_bytes(
            b"Content-Type: " + self.headers["content-type"].encode() + b"\n\n" + self.body
        )
        return {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in message.get_payload()
        }


@dataclass
class Answer:
    body: Any = field(default_factory=dict)
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Trouble:
    """What goes wrong with the next requests that fit.

    `kind` is a status; "cut" (the request is acted on, then the connection is cut), "lost" (the connection is
    cut before anything is done), "late" (acted on, and the answer comes after the client has given up), or
    "log in" (the page of an OIDC log-in).
    """

    kind: int | str
    method: str
    path: str
    times: int = 1
    message: str = ""

    def fits(self, request: Request) -> bool:
        return self.times > 0 and request.method == self.method and bool(re.search(self.path, request.path))


class StandIn:
    """Serves `routes`, by method and pattern of the path, with the name of what answers."""

    routes: tuple[tuple[str, str, str], ...] = ()

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.troubles: list[Trouble] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sent(self, method: str, path: str) -> list[Request]:
        return [
            request for request in self.requests if request.method == method and re.search(path, request.path)
        ]

    def error(self, status: int, message: str) -> Answer:
        return Answer({"error": message, "message": message}, status)

    def act(self, request: Request) -> Answer:
        for method, pattern, name in self.routes:
            match = re.fullmatch(pattern, request.path)
            if match and method == request.method:
                act: Callable[..., Answer] = getattr(self, name)
                return act(request, *match.groups())
        return self.error(404, f"no route {request.method} {request.path}")

    def _handler(stand_in) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # the body would wait for the acknowledgement of the head

            def answer(self) -> None:
                split = urlsplit(self.path)
                request = Request(
                    self.command,
                    split.path,
                    {key: values[0] for key, values in parse_qs(split.query).items()},
                    {key.lower(): value for key, value in self.headers.items()},
                    self.rfile.read(int(self.headers.get("content-length") or 0)),
                )
                stand_in.requests.append(request)
                trouble = next((each for each in stand_in.troubles if each.fits(request)), None)
                kind = trouble.kind if trouble else ""
                if trouble:
                    trouble.times -= 1
                if kind == "lost":
                    self.close_connection = True
                    return
                if isinstance(kind, int):
                    answer = stand_in.error(kind, trouble.message)
                    if trouble.message.startswith("<"):
                        answer = Answer(trouble.message, kind, "text/html")
                elif kind == "log in":
                    answer = Answer(
                        "<html>Log in to Your Account</html>", content_type="text/html; charset=utf-8"
                    )
                else:
                    answer = stand_in.act(request)
                if kind == "cut":
                    self.close_connection = True
                    return
                if kind == "late":
                    time.sleep(1.5)
                text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
                try:
                    self.send_response(answer.status)
                    self.send_header("Content-Type", answer.content_type)
                    self.send_header("Content-Length", str(len(text.encode())))
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:  # the client has gone
                    self.close_connection = True

            do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
