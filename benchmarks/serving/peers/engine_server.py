"""Our handlers, batching and engine behind a maintained HTTP server: only the server differs."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from flowparts.serving import served_model
from flowparts.serving.app import App
from flowparts.serving.http import Request, Response
from flowparts.serving.scorer import Scorer
from flowparts.serving.server_metrics import Metrics
from flowparts.serving.server_settings import Settings

_apps: list[App] = []


def _app() -> App:
    """Load the model in the process that serves, on its event loop, when the first request comes."""
    if not _apps:
        settings = Settings(model=os.environ["MODEL"])
        model = served_model.load(Path(settings.model), settings)
        metrics = Metrics(Path(tempfile.mkdtemp()), 0, model.signature.classes)
        app = App(metrics, settings, "")
        app.serve(Scorer(model, settings, metrics))
        _apps.append(app)
    return _apps[0]


async def _answer(method: str, path: str, headers: dict[bytes, bytes], body: bytes) -> Response:
    answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    _app().handle(Request(method, path, headers, body), answered.set_result)
    return await answered


def _headers(response: Response) -> list[tuple[bytes, bytes]]:
    lines = [line.partition(b": ")[::2] for line in response.head.splitlines()]
    return [*lines, (b"content-length", b"%d" % len(response.body))]


async def asgi(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    response = await _answer(scope["method"], scope["path"], dict(scope["headers"]), b"".join(parts))
    await send({"type": "http.response.start", "status": response.status, "headers": _headers(response)})
    await send({"type": "http.response.body", "body": response.body})


async def rsgi(scope: Any, protocol: Any) -> None:
    headers = {name.encode("latin-1"): value.encode("latin-1") for name, value in scope.headers.items()}
    response = await _answer(scope.method, scope.path, headers, await protocol())
    written = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in _headers(response)]
    protocol.response_bytes(response.status, written, response.body)


def main(server: str, model: str, port: int) -> None:
    os.environ["MODEL"] = model
    # As our own server does for its engine.
    sys.setswitchinterval(0.0005)
    if server == "uvicorn":
        import uvicorn

        uvicorn.run(
            asgi,
            host="127.0.0.1",
            port=port,
            loop="uvloop",
            http="httptools",
            log_level="warning",
            access_log=False,
        )
        return
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, Loops

    interface = {"granian": Interfaces.RSGI, "granian-asgi": Interfaces.ASGI}[server]
    name = f"engine_server:{interface.value}"
    Granian(
        name, address="127.0.0.1", port=port, interface=interface, workers=1, loop=Loops.uvloop,
        http=HTTPModes.http1, log_access=False, websockets=False,
    ).serve()  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
