"""The HTTP of the server: what a connection may do."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest

from flowparts.serving.http import Connection, Request, Response
from flowparts.serving.http import Server as HttpServer
from flowparts.serving.refusals import RequestError
from tests.flowparts.serving.conftest import Server


def request(body: bytes = b"", path: str = "/predict", headers: str = "", version: str = "1.1") -> bytes:
    method = "POST" if body else "GET"
    head = f"{method} {path} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def answers(connection: socket.socket, count: int) -> list[tuple[int, bytes, dict[bytes, bytes]]]:
    """Read so many responses."""
    found, data = [], b""
    while len(found) < count:
        head, separator, rest = data.partition(b"\r\n\r\n")
        length = 0
        if separator:
            lines = head.split(b"\r\n")
            headers = dict(line.split(b": ", 1) for line in lines[1:])
            length = int(headers.get(b"content-length", b"0"))
        if separator and len(rest) >= length:
            found.append((int(lines[0].split()[1]), rest[:length], headers))
            data = rest[length:]
            continue
        part = connection.recv(65_536)
        assert part, f"closed after {len(found)} of {count} answers"
        data += part
    return found


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


class Answering:
    """Answers at once, but "/later" only when it is told to; remembers the order of what was asked."""

    max_body = 1_000_000
    draining = False

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.later: list[Callable[[], None]] = []

    def unwanted(self, _: Request) -> None:
        return None

    def handle(self, request: Request, done: Callable[[Response], None]) -> None:
        self.asked.append(request.path)
        answer = partial(done, Response(request.path.encode()))
        if request.path == "/later":
            self.later.append(answer)
        else:
            answer()

    def refuse(self, refusal: RequestError, _: Any) -> Response:
        return Response(b"refused", refusal.status)


def test_requests_sent_ahead_are_answered_in_their_order(server: Server, records: Any, expected: Any) -> None:
    sent = [json.dumps({"instances": [record]}).encode() for record in records]
    with connected(server) as connection:
        connection.sendall(b"".join(map(request, sent)) + request(b"{"))
        found = answers(connection, 41)
    assert [status for status, _, _ in found] == [200] * 40 + [400]
    predictions = [json.loads(body)["predictions"][0]["prediction"] for _, body, _ in found[:40]]
    assert predictions == [row["prediction"] for row in expected]


def test_a_request_may_come_byte_by_byte(server: Server, records: Any) -> None:
    with connected(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(json.dumps({"instances": records[:1]}).encode()):
            connection.send(bytes([byte]))
        assert answers(connection, 1)[0][0] == 200


def test_a_slow_client_does_not_delay_others(server: Server, records: Any) -> None:
    body = json.dumps({"instances": records[:1]}).encode()
    slow = [connected(server) for _ in range(50)]
    for each in slow:
        each.sendall(request(body)[:-10])
    started = time.monotonic()
    assert server.call("/predict", body)[0] == 200
    assert time.monotonic() - started < 5
    for each in slow:
        each.sendall(body[-10:])
        assert answers(each, 1)[0][0] == 200
        each.close()


def test_chunked_bodies_are_read(server: Server, records: Any) -> None:
    body = json.dumps({"instances": records[:1]}).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(server) as connection:
        connection.sendall((head + chunks) * 2)
        assert [status for status, _, _ in answers(connection, 2)] == [200, 200]


def test_a_half_closed_connection_is_answered(server: Server, records: Any) -> None:
    with connected(server) as connection:
        connection.sendall(request(json.dumps({"instances": records}).encode()))
        connection.shutdown(socket.SHUT_WR)
        assert answers(connection, 1)[0][0] == 200
        assert connection.recv(10) == b""


def test_requests_before_a_half_close_are_answered(server: Server, records: Any) -> None:
    sent = request(json.dumps({"instances": records}).encode()) * 30
    with connected(server) as connection:
        connection.sendall(sent + request(b"{"))
        connection.shutdown(socket.SHUT_WR)
        found = answers(connection, 31)
        assert connection.recv(10) == b""
    assert [status for status, _, _ in found] == [200] * 30 + [400]
    assert [headers.get(b"connection") for _, _, headers in found] == [None] * 30 + [b"close"]


def statuses(reads: list[bytes]) -> list[int]:
    """Return the statuses of the answers to what is read in these parts, whatever a network would make."""

    transport = mock.Mock(is_closing=lambda: False)
    server = mock.Mock(application=Answering(), date=b"", body_bytes=0, max_body_bytes=10**9)
    server.answer_in_turn = Connection.answer_large
    server.loop.call_soon = lambda function, *arguments: function(*arguments)
    connection = Connection(server)
    connection.connection_made(transport)
    for read in reads:
        connection.data_received(read)
    return [int(call.args[0].split()[1]) for call in transport.write.call_args_list]


@pytest.mark.parametrize("cut", [1, 3, 5, 8, 20, 40, 200])
def test_requests_read_with_the_beginning_of_one_are_no_part_of_its_headers(cut: int) -> None:
    sent = request(b"x" * 200, headers=f"x: {'a' * 200}\r\n")
    reads = [sent * 400 + sent[:cut], sent[cut : cut + 20], sent[cut + 20 :]]
    assert statuses(reads) == [200] * 401


def test_headers_read_at_once_have_a_limit() -> None:
    sent = request(headers="".join(f"x: {'a' * 7000}\r\n" for _ in range(10)))
    assert statuses([sent]) == [413]
    assert statuses([request(b"x" * 70_000) * 2 + sent]) == [200, 200, 413]


@pytest.mark.parametrize(("size", "status"), [(65_000, 200), (66_000, 413)])
@pytest.mark.parametrize("part", [300_000, 40_000, 5000, 1000])
def test_headers_have_a_limit_however_they_come(server: Server, size: int, status: int, part: int) -> None:
    lines = "".join(f"x: {'a' * (size // 10 - 5)}\r\n" for _ in range(10))
    sent = request(path="/ping") + request(path="/ping", headers=lines)
    with connected(server) as connection:
        for start in range(0, len(sent), part):
            connection.sendall(sent[start : start + part])
            time.sleep(0.001)
        assert [found for found, _, _ in answers(connection, 2)] == [200, status]


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nx: ", b"P", b"GET /"])
def test_headers_that_do_not_end_are_refused(server: Server, begin: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(request(path="/ping") + begin)
        assert answers(connection, 1)[0][0] == 200
        if begin == b"P":
            connection.sendall(b"OST / HTTP/1.1\r\n")
            time.sleep(0.02)
        connection.sendall(b"x" * 70_000)
        [(status, body, _)] = answers(connection, 1)
    assert status == 413
    assert b"the headers are larger than 65536 bytes" in body


def test_clients_that_go_away_do_no_harm(server: Server, records: Any) -> None:
    body = request(json.dumps({"instances": records}).encode())
    for _ in range(20):
        with connected(server) as connection:
            connection.sendall(body)
    assert server.call("/predict", {"instances": records})[0] == 200


def test_a_connection_closes_when_the_client_says_so(server: Server) -> None:
    for headers, version, stays in (
        ("Connection: close\r\n", "1.1", False),
        ("", "1.1", True),
        ("", "1.0", False),
        ("Connection: keep-alive\r\n", "1.0", True),
    ):
        with connected(server) as connection:
            connection.sendall(request(path="/ping", headers=headers, version=version))
            [(status, _, found)] = answers(connection, 1)
            assert status == 200
            assert found.get(b"connection") == (
                b"close" if not stays else b"keep-alive" if version == "1.0" else None
            )
            if stays:
                connection.sendall(request(path="/ping"))
                assert answers(connection, 1)[0][0] == 200
            else:
                assert connection.recv(10) == b""


def test_expect_100_continue_is_answered(server: Server, records: Any) -> None:
    whole = request(json.dumps({"instances": records[:1]}).encode(), headers="Expect: 100-continue\r\n")
    head, _, body = whole.partition(b"\r\n\r\n")
    with connected(server) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert answers(connection, 1)[0][0] == 100
        connection.sendall(body)
        assert answers(connection, 1)[0][0] == 200


def test_an_offer_of_http_2_is_answered_in_http_1(server: Server, records: Any) -> None:
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    body = json.dumps({"instances": records[:1]}).encode()
    with connected(server) as connection:
        connection.sendall(request(body, headers=offer) + request(path="/ping", headers=offer))
        assert [status for status, _, _ in answers(connection, 2)] == [200, 200]


def test_addresses_may_have_queries_and_escapes(server: Server) -> None:
    for path in ("/v1/models/plans?x=1", "/v1/models/pl%61ns", "http://any.example/ping"):
        with connected(server) as connection:
            connection.sendall(request(path=path))
            assert answers(connection, 1)[0][0] == 200, path


def test_connections_that_the_kernel_has_made_are_answered_when_the_server_stops() -> None:
    async def stopped_with_clients_waiting() -> list[bytes]:
        listener = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(Answering())
        await server.start(listener)
        # Nothing is awaited, so that the loop can't take them before it closes the listener.
        clients = [socket.create_connection(listener.getsockname()) for _ in range(50)]
        for client in clients:
            client.sendall(request(b"x"))
        await server.stop(5)
        found = []
        for client in clients:
            with client:
                client.settimeout(5)
                found.append(client.recv(12))
        return found

    assert set(asyncio.run(stopped_with_clients_waiting())) == {b"HTTP/1.1 200"}


def test_pipelined_requests_are_answered_in_order() -> None:
    application, transport = Answering(), mock.Mock(is_closing=lambda: False)
    server = mock.Mock(application=application, date=b"", body_bytes=0, max_body_bytes=10**9)
    connection = Connection(server)
    connection.connection_made(transport)
    connection.data_received(request(path="/later") + request(path="/second"))
    application.later.pop()()  # the second one waits for the loop's next turn
    connection.data_received(request(path="/third") + b"no HTTP\r\n\r\n")
    while server.loop.call_soon.call_args_list:
        calls, server.loop.call_soon.call_args_list = server.loop.call_soon.call_args_list, []
        for call in calls:
            call.args[0](*call.args[1:])
    written = [call.args[0].rpartition(b"\r\n\r\n")[2] for call in transport.write.call_args_list]
    assert written == [b"/later", b"/second", b"/third", b"refused"]


def test_small_requests_wait_for_at_most_one_large_request() -> None:
    application = Answering()

    async def ask() -> None:
        server = HttpServer(application)
        connections = []
        for path, body in (
            ("/1", b"x" * 100_000),
            ("/2", b"x" * 100_000),
            ("/3", b"x" * 100_000),
            ("/s", b""),
        ):
            connections.append(Connection(server))
            connections[-1].connection_made(mock.Mock(is_closing=lambda: False))
            connections[-1].data_received(request(body, path=path))
        connections[1].connection_lost(None)
        while len(application.asked) < 3:
            await asyncio.sleep(0.001)

    asyncio.run(ask())
    assert application.asked == ["/s", "/1", "/3"]


def test_offers_are_read_a_few_at_a_time_and_in_order(server: Server) -> None:
    offer = "Connection: Upgrade\r\nUpgrade: h2c\r\n"
    paths = ["/ping", "/v1/models", "/v2"] * 40
    with connected(server) as connection:
        connection.sendall(b"".join(request(path=path, headers=offer) for path in paths))
        connection.sendall(
            request(path="/v2/health/live") + request(path="/ping", headers="Connection: close\r\n")
        )
        found = [body for _, body, _ in answers(connection, len(paths) + 2)]
        assert connection.recv(10) == b""
    assert [found[0], found[1], found[2]] * 40 == found[:120]
    assert len(set(found[:3])) == 3
    assert b"live" in found[120]


def test_a_connection_that_was_just_made_is_not_closed_for_others() -> None:
    async def flood() -> list[int]:
        server = HttpServer(Answering())
        server._max_connections = 4
        transports = [mock.Mock(is_closing=lambda: False) for _ in range(8)]
        for number, transport in enumerate(transports):
            connection = Connection(server)
            connection.connection_made(transport)
            if number != 4:  # this one has had no time to ask
                connection.data_received(b"GET /pi")
        return [number for number, transport in enumerate(transports) if transport.abort.called]

    assert asyncio.run(flood()) == [0, 1, 2, 3]


def test_a_client_that_sends_much_at_once_is_read_a_part_at_a_time() -> None:
    application = Answering()

    async def send() -> list[str]:
        server = HttpServer(application)
        transport = mock.Mock(is_closing=lambda: False)
        connection = Connection(server)
        connection.connection_made(transport)
        connection.data_received(request(b"x" * 100_000, path="/large"))
        before = [call[0] for call in transport.method_calls]
        while not transport.resume_reading.called:
            await asyncio.sleep(0)
        return before

    assert asyncio.run(send()) == ["pause_reading"]
    assert application.asked == ["/large"]


def test_a_large_read_is_parsed_in_parts_across_iterations() -> None:
    async def send() -> list[int]:
        server = HttpServer(Answering())
        connection = Connection(server)
        connection.connection_made(mock.Mock(is_closing=lambda: False))
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.data_received(head + b"1\r\na\r\n" * 40_000)
        held = [server.body_bytes]
        for _ in range(5):
            await asyncio.sleep(0)
            held.append(server.body_bytes)
        return held

    first, *_, last = asyncio.run(send())
    assert 0 < first < 11_000
    assert last == 40_000


def test_the_connection_idle_for_longest_is_closed_for_others() -> None:
    async def crowd() -> list[int]:
        server = HttpServer(Answering())
        server._max_connections = 3
        closed: list[int] = []
        connections = [Connection(server) for _ in range(5)]

        def arrive(number: int) -> None:
            transport = mock.Mock(is_closing=lambda: False)
            transport.abort.side_effect = lambda: closed.append(number)
            connections[number].connection_made(transport)

        def tick(now: float) -> None:
            for connection in list(server.connections):
                connection.check_time(now)

        for number in range(3):
            arrive(number)
        tick(1.0)
        connections[0].data_received(request(path="/again"))
        tick(2.0)
        arrive(3)
        connections[2].data_received(request(path="/now"))
        arrive(4)
        return closed

    assert asyncio.run(crowd()) == [1, 0]


def test_making_room_for_a_connection_does_not_scan_all_connections() -> None:
    looked = 0

    class Half:
        """A connection of which a part of a request has arrived, or which waits for its answer."""

        def __init__(self, busy: bool) -> None:
            self._busy = busy

        def abort(self) -> None:
            pass

        @property
        def busy(self) -> bool:
            nonlocal looked
            looked += 1
            return self._busy

    async def flood() -> None:
        server = HttpServer(Answering())
        server._max_connections = 400
        for number in range(1200):
            server.add(Half(busy=number < 200))  # type: ignore[arg-type]
        assert len(server.connections) == 400

    asyncio.run(flood())
    assert looked < 20 * 1200
