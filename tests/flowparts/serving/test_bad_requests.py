"""Every bad request gets a 4xx with a sentence, whatever the protocol."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flowparts.serving.conftest import Server

Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b'{"instances": [{"visits": NaN}]}', "is not valid JSON"),
        (b"[" * 200_000, "the body must be an object, not a list"),
        (b'{"instances": [{"x": ' + b"[" * 200_000, "nested too deeply"),
        (b"[]", "the body must be an object, not a list"),
        (b"{}", "the body lacks the field 'instances'"),
        (b'{"instances": 3}', "instances must be a list, not a whole number"),
        (b'{"instances": [1]}', "instances[0] must be an object or a list, not a whole number"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("address", ["/predict", "/v1/models/plans:predict", "/invocations"])
def test_bodies_that_are_not_requests_are_refused(
    server: Server, address: str, body: bytes, message: str
) -> None:
    status, answer, _ = server.call(address, body)
    assert status == 400
    assert message in answer["error"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {**row, "visits": "often"}, "instances[0].visits must be a number or null, not text"),
        (
            lambda row: {**row, "size (cm)": True},
            "instances[0].size (cm) must be a number or null, not true or",
        ),
        (lambda row: {**row, "member": 1}, "instances[0].member must be true or false or null, not a whole"),
        (lambda row: {**row, "town": 7}, "instances[0].town must be text or null, not a whole number"),
        (lambda row: {**row, "at": [1]}, "instances[0].at must be text or null, not a list"),
        (lambda row: {**row, "at": "yesterday"}, "'yesterday'"),
        (lambda row: {**row, "born": "2024-13-45"}, "'2024-13-45'"),
        (
            lambda row: {**row, "born": "0000-01-01"},
            "column 'born' must hold date values in ISO 8601 (years 1 to 9999), as in training, not '0000-",
        ),
        (
            lambda row: {**row, "at": "0001-01-01T00:00:00+14:00"},
            "in ISO 8601 (years 1 to 9999), as in training, not '0001-01-01T00:00:00+14:00'",
        ),
        (
            lambda row: {k: v for k, v in row.items() if k != "visits"},
            "instances[0] lacks the field 'visits'",
        ),
        (lambda row: {}, "instances[0] lacks the field"),
        (lambda row: list(row.values())[:-1], "instances[0] must have 6 values, one for each"),
        (lambda row: [*row.values(), 1], "instances[0] must have 6 values, one for each"),
        (lambda row: [[1], *list(row.values())[1:]], "instances[0][0] must be a number or null, not a list"),
        (lambda row: [], "instances[0] must have 6 values"),
    ],
    ids=[
        "text for a number",
        "boolean for a number",
        "number for a boolean",
        "number for text",
        "list for a time",
        "no time",
        "no date",
        "the year 0",
        "the year 0 in UTC",
        "a column left out",
        "nothing",
        "a list too short",
        "a list too long",
        "a list in a list",
        "an empty list",
    ],
)
def test_rows_that_do_not_fit_the_signature(
    server: Server, records: Any, change: Change, message: str
) -> None:
    status, answer, _ = server.call("/predict", {"instances": [change(records[0])]})
    assert status == 400
    assert message in answer["error"]


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + "0" * 400])
def test_numbers_beyond_floating_point(server: Server, records: Any, number: str) -> None:
    row = json.dumps(dict(records[0], visits=0)).replace('"visits": 0', f'"visits": {number}')
    status, answer, _ = server.call("/predict", f'{{"instances": [{row}]}}'.encode())
    assert status == 400
    assert "out of range" in answer["error"]


def test_a_bad_value_spoils_only_its_own_request(server: Server, records: Any, expected: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    bad = dict(records[0], at="yesterday")

    def call(number: int) -> tuple[int, Any]:
        return server.call("/predict", {"instances": [bad if number % 3 == 0 else records[number]]})[:2]

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(call, range(36)))
    for number, (status, body) in enumerate(answers):
        assert status == (400 if number % 3 == 0 else 200), body
        if status == 200:
            assert body["predictions"][0]["prediction"] == expected[number]["prediction"]


def test_other_content_types_and_compressed_bodies(server: Server, records: Any) -> None:
    body = {"instances": records[:1]}
    for headers in ({"content-type": "text/plain"}, {"content-encoding": "gzip"}):
        status, answer, _ = server.call("/predict", body, headers)
        assert status == 415
        assert "send" in answer["error"]
    assert server.call("/predict", body, {"content-type": "Application/JSON; charset=utf-8"})[0] == 200
    assert server.call("/predict", body, {"content-encoding": "Identity"})[0] == 200
    compressed = {"content-type": "text/csv", "content-encoding": "gzip"}
    assert server.call("/invocations", b"1", compressed)[0] == 415


@pytest.mark.parametrize("timeout", ["", "soon", "-1", "1.5", "9" * 10])
def test_an_invalid_deadline_is_refused(server: Server, records: Any, timeout: str) -> None:
    status, answer, _ = server.call("/predict", {"instances": records[:1]}, {"x-request-timeout-ms": timeout})
    assert status == 400
    assert "X-Request-Timeout-Ms" in answer["error"]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/nowhere", "GET", 404), ("/v2/models/other/infer", "POST", 404), ("/predict", "GET", 405),
     ("/predict", "DELETE", 405), ("/v2", "POST", 405), ("/%zz", "GET", 404), ("/predict", "OPTIONS", 405)],
)  # fmt: skip
def test_invalid_addresses_and_methods_are_refused(
    server: Server, path: str, method: str, status: int
) -> None:
    found, answer, headers = server.call(path, method=method)
    assert found == status
    assert path.split("?")[0] in answer["error"] or "%" in path
    assert ("allow" in headers) == (status == 405)


@pytest.mark.parametrize(
    "raw",
    [b"nonsense\r\n\r\n", b"POST /predict HTTP/1.1\r\nContent-Length: x\r\n\r\n",
     b"POST /predict HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
     b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
     b"POST /predict HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"],
)  # fmt: skip
def test_data_that_is_not_http_is_refused(server: Server, raw: bytes) -> None:
    answer = talk(server, raw)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer
    assert b'{"error": "the request is not valid HTTP' in answer
    assert b"connection: close\r\n" in answer


def test_proxy_requests_are_refused(server: Server) -> None:
    assert talk(server, b"CONNECT x:443 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_headers_without_end(server: Server) -> None:
    answer = talk(server, b"GET / HTTP/1.1\r\n" + b"x: " + b"a" * 70_000)
    assert b"413" in answer
    assert b"the headers are larger than 65536 bytes" in answer


def test_limits_of_rows_and_bytes(serve: Callable[..., Server], model: Path, records: Any) -> None:
    server = serve(model, "--max-rows=3", "--max-body-mb=0.01", "--unknown-fields=reject")
    assert server.call("/predict", {"instances": records[:3]})[0] == 200
    status, answer, _ = server.call("/predict", {"instances": records[:4]})
    assert (status, answer["error"]) == (
        400,
        "the request has more than 3 rows; send them in several requests",
    )
    status, answer, headers = server.call("/predict", {"instances": records * 10})
    assert (status, answer["error"]) == (413, "the body is larger than the maximum of 0.01 MB")
    assert headers["connection"] == "close"
    # Without its length being said first.
    chunk = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert talk(server, head + chunk * 3).startswith(b"HTTP/1.1 413 ")
    status, answer, _ = server.call("/predict", {"instances": [records[0] | {"Town": "Paris"}]})
    assert (status, answer["error"]) == (400, "instances[0] has a field that the model doesn't know: 'Town'")
    tensor = {"name": "visits", "shape": [4], "datatype": "FP64", "data": [1, 2, 3, 4]}
    status, answer, _ = server.call("/v2/models/model/infer", {"inputs": [tensor]})
    assert (status, answer["error"]) == (400, "the request has 4 rows; send at most 3 per request")
    extra = dict(tensor, name="other", shape=[1], data=[1])
    status, answer, _ = server.call("/v2/models/model/infer", {"inputs": [extra]})
    assert (status, answer["error"][:35]) == (400, "the model has no column 'other'; it")


def test_unseen_text_is_accepted_unless_the_server_rejects_it(
    server: Server, serve: Callable[..., Server], model: Path, records: Any
) -> None:
    body = {"instances": [records[1], records[0] | {"town": "Atlantis"}]}
    assert server.call("/predict", body)[0] == 200
    strict = serve(model, "--unknown-categories=reject")
    status, answer, _ = strict.call("/predict", body)
    assert status == 400
    assert answer["error"] == (
        "instances[1].town is 'Atlantis', which was not seen in training; known values are: Köln, Paris"
    )
    listed = list((records[0] | {"town": "Atlantis"}).values())
    status, answer, _ = strict.call("/predict", {"instances": [listed]})
    assert status == 400
    assert answer["error"].startswith("instances[0].town is 'Atlantis', which was not seen in training")
    # One that is missing is no unknown one.
    assert strict.call("/predict", {"instances": records})[0] == 200


def test_a_token_guards_predictions_and_model_metadata(
    serve: Callable[..., Server], model: Path, records: Any
) -> None:
    import tritonclient.grpc as over_grpc
    from tritonclient.utils import InferenceServerException

    server = serve(model, environment={"FLOWPARTS_SERVING_TOKEN": "geheim"})
    body = {"instances": records[:1]}
    for headers in ({}, {"authorization": "Bearer falsch"}, {"authorization": "geheim"}):
        for path in ("/predict", "/v1/models/model:predict", "/v2/models/model/infer", "/invocations"):
            status, answer, found = server.call(path, body, headers)
            assert (status, found["www-authenticate"]) == (401, "Bearer")
            assert "Authorization: Bearer TOKEN" in answer["error"]
        assert server.call("/openapi.json", headers=headers)[0] == 401
        assert server.call("/docs", headers=headers)[0] == 401
        assert server.call("/v1/models", headers=headers, method="HEAD")[0] == 401
    right = {"authorization": "Bearer geheim"}
    assert server.call("/predict", body, right)[0] == 200
    # The scheme's case doesn't matter (RFC 9110); the token's does.
    assert server.call("/predict", body, {"authorization": "bearer  geheim"})[0] == 200
    assert server.call("/predict", body, {"authorization": "Bearer Geheim"})[0] == 401
    # A proxy may need that header for itself; its own then counts alone.
    own = {"x-flowparts-token": "geheim"}
    assert server.call("/predict", body, {**own, "authorization": "Bearer of the proxy"})[0] == 200
    assert server.call("/predict", body, {**right, "x-flowparts-token": "falsch"})[0] == 401
    assert "securitySchemes" in server.call("/openapi.json", headers=right)[1]["components"]
    ready = ("/v1/models/model", "/v2/models/model/ready", "/v2/health/ready")
    for path in ("/", "/ping", "/v2/health/live", "/metrics", *ready):
        assert server.call(path)[0] == 200
    with over_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="Bearer TOKEN"):
            client.get_model_metadata("model")
        assert client.get_model_metadata("model", headers=right).name == "model"
    server.stop()
    assert "geheim" not in json.dumps(server.lines)


def test_browsers_of_other_origins_are_let_in_only_when_named(
    server: Server, serve: Callable[..., Server], model: Path, records: Any
) -> None:
    origin = {"origin": "https://good.example"}
    body = {"instances": records[:1]}
    assert "access-control-allow-origin" not in server.call("/predict", body, origin)[2]
    naming = serve(model, "--cors-origins=https://good.example, https://other.example")
    status, _, headers = naming.call("/predict", headers=origin, method="OPTIONS")
    assert (status, headers["access-control-allow-origin"]) == (200, "https://good.example")
    assert "authorization" in headers["access-control-allow-headers"]
    assert naming.call("/predict", body, origin)[2]["access-control-allow-origin"] == "https://good.example"
    bad = naming.call("/predict", body, {"origin": "https://bad.example"})
    assert bad[0] == 200
    assert "access-control-allow-origin" not in bad[2]


@pytest.mark.parametrize(
    ("request_line", "status"),
    [(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999", b"413"),
     (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked", b"400")],
)  # fmt: skip
def test_browsers_may_read_why_a_request_was_not_even_read(
    serve: Callable[..., Server], model: Path, request_line: bytes, status: bytes
) -> None:
    server = serve(model, "--cors-origins=https://good.example")
    answer = talk(server, b"%b\r\nOrigin: https://good.example\r\n\r\nzz\r\n" % request_line)
    assert answer.startswith(b"HTTP/1.1 %b " % status), answer
    assert b"access-control-allow-origin: https://good.example\r\n" in answer


def talk(server: Server, raw: bytes) -> bytes:
    """Send bytes and return all that comes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(raw)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer
