"""What clients send to end a server or to get past it: each is answered, and the next request as well.

Memory is bounded by limits that a test sets, not by eating the machine's.
"""

import base64
import functools
import hashlib
import io
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flowparts.serving import comma_separated, open_inference, tensors
from flowparts.serving.refusals import RequestError
from flowparts.serving.signature import Signature
from flowparts.util import images
from tests.flowparts.serving.conftest import Server
from tests.flowparts.serving.test_bad_requests import talk
from tests.flowparts.serving.test_http import answers, connected, request

# A model whose rows may leave everything out.
OPEN = Signature({f"f{n}": "number" for n in range(50)}, [f"f{n}" for n in range(50)], None)
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def guarded(model: Path) -> Iterator[Server]:
    from tests.flowparts.serving.conftest import start, wait

    running = wait(start(model, "--max-body-mb=2", environment={"FLOWPARTS_SERVING_TOKEN": "t0ken"}))
    yield running
    running.stop(signal.SIGKILL)


# Requests that are small as bytes and large as rows.


def peak(act: Callable[[], Any]) -> int:
    """Return how many bytes of Python's objects something takes at most, the second time."""
    import tracemalloc

    # What is made once, such as a decoder, doesn't count.
    with pytest.raises(RequestError):
        act()
    tracemalloc.start()
    try:
        with pytest.raises(RequestError):
            act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_unknown_tensors_take_no_memory() -> None:
    many = [tensors.Tensor(f"x{n}", "FP64", [10_000], lambda *_: []) for n in range(5000)]
    known = tensors.Tensor("f0", "FP64", [10_000], lambda *_: [])
    assert peak(lambda: tensors.rows([*many, known], OPEN, 10_000)) < 20_000_000


@pytest.mark.parametrize("row", [b"{}", b"[]", b'{"f0":1}'])
def test_rows_beyond_the_limit_are_counted_without_being_parsed(row: bytes) -> None:
    body = b'{"instances":[' + b",".join([row] * 100_000) + b"]}"
    # A row of this model takes 500 bytes.
    assert peak(lambda: OPEN.rows_of_json(body, 10_000)) < 10_000_000
    with pytest.raises(RequestError, match="more than 10000 rows; send them in several requests"):
        OPEN.rows_of_json(body, 10_000)


def test_rows_beyond_the_limit_are_not_read() -> None:
    # What follows the first row too many is no JSON, and nobody looks.
    body = b'{"instances":[' + b"{}," * 10_001 + b"?" * 100_000
    with pytest.raises(RequestError, match="more than 10000 rows"):
        OPEN.rows_of_json(body, 10_000)


def test_a_limit_of_many_rows_is_held_as_well() -> None:
    body = b'{"instances":[' + b",".join([b"{}"] * 30_000) + b"]}"
    assert len(OPEN.rows_of_json(body, 30_000)) == 30_000
    with pytest.raises(RequestError, match="more than 29999 rows"):
        OPEN.rows_of_json(body, 29_999)


def test_text_with_many_braces_is_accepted() -> None:
    signature = Signature({"a": "string"}, [], None)
    text = "{[" * 50_000
    assert signature.rows_of_json(json.dumps({"instances": [{"a": text}]}).encode(), 10) == [(text,)]


@pytest.mark.parametrize("line", [b"\n", b"1\n", b",\n"])
def test_csv_rows_beyond_the_limit_are_not_parsed(line: bytes) -> None:
    signature = Signature({"a": "number"}, [], None)
    assert peak(lambda: comma_separated.rows(line * 500_000, signature, 1000)) < 10_000_000


@pytest.mark.parametrize("header", [b"", b"f0,f1\n"])
def test_csv_fields_beyond_all_columns_are_not_parsed(header: bytes) -> None:
    signature = Signature({"f0": "number", "f1": "number"}, [], None)
    with mock.patch.object(comma_separated, "_MAX_OTHER_VALUES", 1000):
        for body in (b"," * 1_000_000, (b"," * 900 + b"\n") * 1000, (b"," * 900 + b'"\n"') * 1000):
            assert peak(lambda body=body: comma_separated.rows(header + body, signature, 10)) < 10_000_000
        with pytest.raises(RequestError, match="more than 1,020 values; send fewer rows or columns"):
            comma_separated.rows(header + b"," * 2000, signature, 10)


def test_csv_text_may_hold_any_number_of_commas() -> None:
    signature = Signature({"a": "string"}, [], None)
    with mock.patch.object(comma_separated, "_MAX_OTHER_VALUES", 1000):
        found = comma_separated.rows((b'"' + b"," * 900 + b'"\n') * 10, signature, 10)
    assert found == [("," * 900,)] * 10


V2_FLOODS = {
    "empty lists": ("data", b"[" + b"[]," * 300_000 + b"[]]"),
    "lists of nulls": ("data", b"[" + b"[null]," * 300_000 + b"[null]]"),
    "a list of nulls": ("data", b"[[" + b"null," * 300_000 + b"null]]"),
    "objects": ("data", b"[" + b"{}," * 300_000 + b"{}]"),
    "texts": ("data", b"[" + b'"",' * 300_000 + b'""]'),
    "texts that end with a backslash": ("data", b"[" + b'"\\\\",' * 300_000 + b'""]'),
    "numbers": ("data", b"[" + b"7777," * 300_000 + b"1]"),
    "parameters": ("parameters", b'{"x":[' + b"{}," * 300_000 + b"{}]}"),
    "a known parameter": ("parameters", b'{"binary_data_size":[' + b"{}," * 300_000 + b"{}]}"),
}


@pytest.mark.parametrize("kind", ["number", "string", "boolean"])
@pytest.mark.parametrize(("part", "flood"), V2_FLOODS.values(), ids=V2_FLOODS)
def test_a_tensors_values_are_counted_before_they_are_built(part: str, flood: bytes, kind: str) -> None:
    signature = Signature({"a": kind}, [], None)
    datatype = {"number": b"FP64", "string": b"BYTES", "boolean": b"BOOL"}[kind]
    body = b'{"inputs":[{"name":"a","shape":[10],"datatype":"%b","%b":%b}]}' % (
        datatype, part.encode(), flood,
    )  # fmt: skip
    read = functools.partial(open_inference.read, body, None)
    assert peak(lambda: open_inference.rows(*read(), signature, 10)) < len(body) + 3_000_000


def test_dimensions_of_a_shape_are_counted_before_they_are_built() -> None:
    body = b'{"inputs":[{"name":"f0","datatype":"FP64","shape":[' + b"300," * 300_000 + b"1]}]}"
    assert (
        peak(lambda: open_inference.rows(*open_inference.read(body, None), OPEN, 10)) < len(body) + 1_000_000
    )


def test_rows_of_many_columns_are_counted_before_they_are_built() -> None:
    signature = Signature({"a": "string", "b": "string", "c": "string"}, [], None)
    data = b"[" + b"[null]," * 300_000 + b"[null]]"
    body = b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[7000,3],"data":' + data + b"}]}"
    read = functools.partial(open_inference.read, body, None)
    assert peak(lambda: open_inference.rows(*read(), signature, 10_000)) < len(body) + 3_000_000


def test_texts_in_bytes_are_counted_before_they_are_built() -> None:
    raw = b"\1\0\0\0a" * 300_000
    assert peak(lambda: tensors.unpacked("x", "string", "BYTES", raw, 10)) < 1_000_000


@pytest.mark.parametrize("data", [b'["\xff"]', b'[["\xff"]]'])
def test_text_of_a_tensor_must_be_utf_8(data: bytes) -> None:
    body = b'{"inputs":[{"name":"a","shape":[1],"datatype":"BYTES","data":%b}]}' % data
    with pytest.raises(RequestError, match="tensor 'a' holds text that is not UTF-8"):
        open_inference.rows(*open_inference.read(body, None), Signature({"a": "string"}, [], None), 10)


def test_an_output_that_is_named_often_is_sent_once() -> None:
    signature = Signature({"a": "string"}, [], ["no", "yes"])
    names = ["prediction", "probability_no"]
    assert open_inference.wanted(names * 10_000, signature) == names


@pytest.mark.parametrize("part", [b'"inputs":[', b'"inputs":[],"outputs":['])
def test_tensors_beyond_the_limit_are_counted_without_being_parsed(part: bytes) -> None:
    body = b"{" + part + b'{"name":"","shape":[],"datatype":""},' * 100_000 + b"{}]}"
    assert peak(lambda: open_inference.read(body, None)) < 10_000_000
    with pytest.raises(RequestError, match="more than 20,000 inputs or outputs"):
        open_inference.read(body, None)


TEXTS = st.text(st.sampled_from('a,"\\[]{}nul ') | st.characters(codec="utf-8"), max_size=12)


@given(st.lists(st.just("null,null,[]") | TEXTS | st.none(), min_size=1, max_size=8), st.booleans())
def test_texts_of_a_tensor_are_read_whatever_is_in_them(texts: list[str | None], in_rows: bool) -> None:
    signature = Signature({"a": "string"}, [], None)
    data = [[text] for text in texts] if in_rows else texts
    tensor = {"name": "a", "shape": [len(texts), 1], "datatype": "BYTES", "data": data}
    for ascii_only in (True, False):
        body = json.dumps({"inputs": [tensor]}, ensure_ascii=ascii_only).encode()
        found = open_inference.rows(*open_inference.read(body, None), signature, 8)
        assert found == [(text,) for text in texts]


def call(server: Server, message: bytes) -> Any:
    """Send a message of the protocol, or anything, and return why it is refused."""
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as refused:
            infer(message, timeout=20, metadata=[("authorization", "Bearer t0ken")])
        return refused.value


def field(number: int, content: bytes) -> bytes:
    """Return a part of a protobuf message."""
    size, written = len(content), b""
    while size > 127:
        written += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + written + bytes([size]) + content


def most_memory(server: Server) -> int:
    """Return how many bytes a server has taken at most since the last time that it was asked."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def resident(server: Server) -> int:
    """Return how many bytes of memory a server has now."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def test_typed_contents_are_counted_before_they_become_objects(guarded: Server) -> None:
    column = field(1, b"member") + field(2, b"BOOL") + field(3, b"\1")
    sent = field(1, b"model") + field(5, column + field(5, field(1, b"\1" * 1_900_000)))
    most_memory(guarded)
    before = most_memory(guarded)
    refused = call(guarded, sent)
    assert re.search("more than [0-9,]+ values", refused.details())
    assert most_memory(guarded) - before < 12_000_000
    fitting = field(1, b"model") + field(5, column + field(5, field(1, b"\1" * 50_000)))
    assert "has 50000 values, but its shape asks for 1" in call(guarded, fitting).details()


def test_the_memory_of_a_calls_body_is_freed(guarded: Server) -> None:
    sent = field(1, b"model") + field(7, b"x" * 1_900_000)
    for _ in range(10):
        call(guarded, sent)
    before = resident(guarded)
    for _ in range(40):
        assert call(guarded, sent).code() == grpc.StatusCode.INVALID_ARGUMENT
    assert resident(guarded) - before < 30_000_000


@pytest.mark.parametrize("begin", [b"", b"\x78\x01", b"\x79" + b"\0" * 8, b"\x7d" + b"\0" * 4])
def test_a_message_of_many_empty_parts_is_not_read(begin: bytes, guarded: Server) -> None:
    refused = call(guarded, begin + b"\x2a\x00" * 100_000)
    assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "more than 20,000 parts" in refused.details()


NESTED = {
    "parameters of a tensor": (field(5, b"\x22\x00" * 100_000), "parts"),
    "texts of a tensor": (field(5, field(5, b"\x42\x00" * 500_000)), "values"),
    "texts in parts": (field(5, field(5, b"\x42\x00" * 10_000)) * 50, "values"),
    "numbers that aren't packed": (field(5, field(5, b"\x08\x01" * 500_000)), "values"),
    "dimensions": (field(5, field(3, b"\1" * 1_900_000)), "values"),
    "raw contents": (b"\x3a\x00" * 500_000, "values"),
}


@pytest.mark.parametrize(("sent", "what"), NESTED.values(), ids=NESTED)
def test_parts_of_parts_are_counted_before_they_are_made(sent: bytes, what: str, guarded: Server) -> None:
    refused = call(guarded, field(1, b"model") + sent)
    assert re.search(f"the message has more than [0-9,]+ {what}", refused.details())


def test_a_shape_of_many_dimensions_is_reported_in_short(guarded: Server) -> None:
    column = field(1, b"member") + field(2, b"BOOL")
    refused = call(guarded, field(1, b"model") + field(5, column + field(3, b"\1" * 30_000)))
    assert "has shape [1, 1, 1] and on" in refused.details()
    body = b'{"inputs":[{"name":"member","datatype":"BOOL","data":[],"shape":[' + b"1," * 30_000 + b"1]}]}"
    with connected(guarded) as connection:
        connection.sendall(request(body, "/v2/models/model/infer", "Authorization: Bearer t0ken\r\n"))
        ((status, told, _),) = answers(connection, 1)
    assert status == 400
    assert b"has a shape of 60,003 bytes; a column is of shape [rows]" in told
    assert len(told) < 1000


# Images.


def picture(side: int, kind: str) -> bytes:
    target = io.BytesIO()
    Image.new("L", (side, side)).save(target, kind)
    return target.getvalue()


@pytest.mark.parametrize(
    ("kind", "affordable"),
    [("PNG", 6), pytest.param("WEBP", 1, id="webp-takes-four-times-the-memory")],
)
def test_images_of_a_request_have_a_limit_in_all(kind: str, affordable: int) -> None:
    one = picture(4000, kind)
    assert len(one) < 100_000
    images.require_affordable([one] * affordable)
    with pytest.raises(ValueError, match="more than 100,000,000 pixels in total"):
        images.require_affordable([one] * (affordable + 1))


def test_values_that_are_not_images_are_not_counted() -> None:
    images.require_affordable([b"", b"x", picture(10, "WEBP")[:20]])


# HTTP.


def status_of(server: Server, raw: bytes) -> int:
    return int(talk(server, raw).split()[1])


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: identity\r\n\r\n", 501),
        (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
    ],
)
def test_requests_that_servers_in_front_may_read_otherwise_are_refused(
    server: Server, raw: bytes, status: int
) -> None:
    assert status_of(server, raw) == status
    assert server.call("/ping")[0] == 200


def test_http_1_0_needs_no_host_and_is_never_told_to_continue(server: Server, records: Any) -> None:
    body = json.dumps({"instances": records[:1]}).encode()
    head = b"POST /predict HTTP/1.0\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    answer = talk(server, head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "endless",
    [b"5;" + b"x" * 400_000, b"5\r\nhello\r\n0\r\n" + b"x: y\r\n" * 100_000, b"0\r\nx: " + b"y" * 400_000],
    ids=["extension", "trailers", "trailer"],
)
def test_chunk_extensions_and_trailers_have_a_limit(server: Server, endless: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for start in range(0, len(endless), 10_000):
                connection.sendall(endless[start : start + 10_000])
        except OSError:
            # Closed while more of it was on its way.
            pass
        assert answers(connection, 1)[0][0] == 413
    assert server.call("/ping")[0] == 200


def test_chunks_of_a_byte_each_are_read(server: Server, records: Any) -> None:
    body = json.dumps({"instances": records[:1]}).encode() + b" " * 30_000
    sent = b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in body)
    with connected(server) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + sent + b"0\r\nx: y\r\n\r\n")
        assert answers(connection, 1)[0][0] == 200


def test_offers_of_another_protocol_one_after_another_are_answered(server: Server) -> None:
    sent = request(path="/ping", headers="Connection: Upgrade\r\nUpgrade: h2c\r\n")
    with connected(server) as connection:
        connection.sendall(sent * 1500)
        assert {status for status, _, _ in answers(connection, 1500)} == {200}


# Clients without the token, and too many of them.


def test_a_body_without_the_token_is_discarded(guarded: Server) -> None:
    before = resident(guarded)
    connections = [connected(guarded) for _ in range(60)]
    for connection in connections:
        connection.sendall(HEAD + b"Content-Length: 1900000\r\n\r\n" + b" " * 1_800_000)
    assert guarded.call("/v2/health/live")[0] == 200
    assert resident(guarded) - before < 50_000_000
    for connection in connections:
        connection.close()


def test_expect_100_continue_without_the_token_is_refused(guarded: Server) -> None:
    answer = talk(guarded, HEAD + b"Content-Length: 1900000\r\nExpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")


def test_a_connection_outlives_a_refusal_of_its_body(guarded: Server) -> None:
    with connected(guarded) as connection:
        connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}" + request(path="/ping"))
        assert [status for status, _, _ in answers(connection, 2)] == [401, 200]


def test_bodies_in_flight_have_a_limit_in_all(guarded: Server) -> None:
    head = HEAD + b"Authorization: Bearer t0ken\r\nContent-Length: 1900000\r\n\r\n"
    before = resident(guarded)
    connections = [connected(guarded) for _ in range(30)]
    refused = 0
    for connection in connections:
        try:
            connection.sendall(head + b" " * 1_800_000)
        except OSError:
            refused += 1
    assert guarded.call("/v2/health/live")[0] == 200
    assert resident(guarded) - before < 50_000_000
    for connection in connections:
        connection.settimeout(0.1)
        with suppress(OSError):
            refused += connection.recv(100).startswith(b"HTTP/1.1 429 ")
        connection.close()
    assert refused >= 20
    deadline = time.monotonic() + 10
    sent = b"Authorization: Bearer t0ken\r\nConnection: close\r\nContent-Length: 17\r\n\r\n"
    sent = HEAD + sent + b'{"instances": []}'
    # What the closed ones held is free again.
    while status_of(guarded, sent) != 200:
        assert time.monotonic() < deadline


def test_closed_connections_leave_nothing_behind(guarded: Server) -> None:
    head = HEAD + b"Authorization: Bearer t0ken\r\nContent-Length: 1900000\r\n\r\n"

    def post() -> None:
        with connected(guarded) as connection:
            connection.sendall(head + b" " * 1_800_000)

    for _ in range(10):
        post()
    before = resident(guarded)
    for _ in range(60):
        post()
    assert guarded.call("/v2/health/live")[0] == 200
    assert resident(guarded) - before < 40_000_000


def test_calls_without_the_token_are_refused_before_their_message(guarded: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{guarded.grpc_port}") as channel:
        for method in ("ModelReady", "ModelInfer", "ModelMetadata", "RepositoryIndex"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            with pytest.raises(grpc.RpcError) as refused:
                # No message of the protocol: the server doesn't come to read it.
                call(b"\xff" * 100, timeout=10)
            assert isinstance(refused.value, grpc.Call)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=10) == b"\x08\x01"


def test_a_log_of_requests_says_who_asked(model: Path) -> None:
    from tests.flowparts.serving.conftest import start, wait

    environment = {"FLOWPARTS_SERVING_TOKEN": "t0ken"}
    server = wait(start(model, "--log-requests", environment=environment))
    token = {"authorization": "Bearer t0ken"}
    server.call("/v1/models", headers=token)
    server.call("/v1/models", headers={**token, "kubeflow-userid": "ann@example.com"})
    server.call("/v1/models", headers={"authorization": "Bearer guess"})
    call(server, b"\xff")
    assert server.stop() == 0
    lines = [line for line in server.say("request") if line.get("path") in ("/v1/models", None)]
    assert [(line["principal"], line["status"]) for line in lines] == [
        ("token", 200),
        ("ann@example.com", 200),
        ("anonymous", 401),
        ("token", 400),
    ]
    assert lines[-1]["method"] == "ModelInfer"
    assert "t0ken" not in json.dumps(server.lines)


def test_more_connections_than_files_leave_room_for_a_health_check(
    serve: Callable[..., Server], model: Path
) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))"
    server = serve(model, code=limited)
    held = []
    for _ in range(300):
        held.append(connected(server))
        held[-1].sendall(b"GET /pi")
    for _ in range(5):
        with connected(server) as connection:
            connection.sendall(request(path="/v2/health/live"))
            assert answers(connection, 1)[0][0] == 200
    deadline = time.monotonic() + 10
    while not server.say("connections were closed to make room for others"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for connection in held:
        connection.close()


# Models and libraries that hang or crash.

HANGS = """
import time
from flowparts.serving import served_model
predict = served_model.ServedModel.predict
calls = []
def slow(*arguments):
    calls.append(1)
    if len(calls) > 1:
        time.sleep(600)
    return predict(*arguments)
served_model.ServedModel.predict = slow
from flowparts.serving import scorer, worker
scorer._STUCK_SECONDS = scorer._CLOSE_SECONDS = 0.2
worker._SECONDS_TO_FINISH, worker.SECONDS_TO_END = 1, 2
"""


def test_a_hanging_model_fails_liveness_and_does_not_block_shutdown(
    serve: Callable[..., Server], model: Path, records: Any
) -> None:
    server = serve(model, "--timeout-seconds=0.2", code=HANGS)
    assert server.call("/predict", {"instances": records})[0] == 504
    deadline = time.monotonic() + 10
    while server.call("/v2/health/live")[0] != 503:
        assert time.monotonic() < deadline
    assert server.call("/v2/health/ready")[0] == 503
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) in (0, 1)


SLEEPS = "import time, flowparts.models.engines; flowparts.models.engines.load = lambda *_: time.sleep(600)"


def test_a_model_that_takes_too_long_to_load_gives_a_one_line_error(
    serve: Callable[..., Server], model: Path
) -> None:
    server = serve(model, "--load-seconds=0.5", code=SLEEPS, ready=False)
    assert server.process.wait(60) == 3
    server.reader.join()
    assert [line["message"] for line in server.lines] == [f"the model at {model} was not loaded within 0.5 s"]


def test_a_model_that_crashes_its_workers_ends_the_server_after_a_few_tries(
    serve: Callable[..., Server], model: Path, tmp_path: Path
) -> None:
    # Found before anything else by workers, as a model that crashes a library would.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'flowparts.serving.worker' in sys.orig_argv: os.abort()\n"
    )
    paths = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}:containers"
    server = serve(model, "--workers=2", environment={"PYTHONPATH": paths}, ready=False)
    assert server.process.wait(60) == 1
    server.reader.join()
    told = [line["message"] for line in server.lines if line["level"] == "error"]
    [sentence] = told
    assert sentence.startswith(
        "the model can't be loaded: 3 times a worker ended by signal 6 before it served; is there enough"
    )


def test_a_worker_that_hangs_is_replaced(serve: Callable[..., Server], model: Path) -> None:
    silent = "from flowparts.serving import supervisor; supervisor._SILENT_SECONDS = 2.0"
    server = serve(model, "--workers=2", code=silent)
    children = psutil.Process(server.process.pid).children()
    children[0].suspend()
    deadline = time.monotonic() + 30
    while len(server.say("serving ")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.say("worker is hanging and gets killed")
    assert server.stop() == 0


def test_a_hanging_worker_does_not_block_shutdown(serve: Callable[..., Server], model: Path) -> None:
    quick = "from flowparts.serving import worker; worker.SECONDS_TO_END = 1"
    server = serve(model, "--workers=2", code=quick)
    psutil.Process(server.process.pid).children()[0].suspend()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(15) == 0


BIG = "from flowparts.serving import limits; limits.memory_bytes = lambda: 1 << 28"


def test_a_model_larger_than_the_memory_gives_a_one_line_error(
    serve: Callable[..., Server], model: Path
) -> None:
    greedy = (
        f"{BIG}\nimport numpy; from flowparts.models import engines\n"
        "engines.load = lambda *_: numpy.ones(1 << 30)"
    )
    server = serve(model, code=greedy, ready=False)
    assert server.process.wait(60) == 1
    server.reader.join()
    assert [line["message"] for line in server.lines] == [
        f"the model at {model} takes more memory than the server has; give it more"
    ]


# Pages.


def test_pages_run_no_script_but_their_own(server: Server) -> None:
    _, page, headers = server.call("/docs")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    script = page.decode().partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]
    for path in ("/docs", "/predict", "/v2", "/nowhere"):
        assert server.call(path)[2]["x-content-type-options"] == "nosniff"
