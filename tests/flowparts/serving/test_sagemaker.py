"""SageMaker's contract: `serve`, /ping and /invocations, called by boto3."""

import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest
import urllib3

from flowparts.serving import server_settings
from tests.flowparts.serving.conftest import Server, same, train


@pytest.fixture
def runtime(server: Server) -> Iterator[Any]:
    """Give the real client of SageMaker's runtime, with a stand-in for its front end before our server.

    The front end knows an endpoint by its name, calls /invocations of its containers, and passes their errors
    on as ModelError.
    """

    class FrontEnd(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/endpoints/plans/invocations"
            body = self.rfile.read(int(self.headers["content-length"]))
            passed = {name: self.headers[name] for name in ("content-type", "accept") if name in self.headers}
            answer = urllib3.request(
                "POST", f"{server.url}/invocations", body=body, headers=passed, retries=False
            )
            status, content = answer.status, answer.data
            if status != 200:
                original = {"OriginalStatusCode": status, "OriginalMessage": content.decode()}
                status, content = 424, json.dumps({"Message": "the container refused", **original}).encode()
            self.send_response(status)
            self.send_header("content-type", answer.headers["content-type"])
            self.send_header("content-length", str(len(content)))
            if status != 200:
                self.send_header("x-amzn-errortype", "ModelError")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    front_end = ThreadingHTTPServer(("127.0.0.1", 0), FrontEnd)
    threading.Thread(target=front_end.serve_forever, daemon=True).start()
    client = boto3.client(
        "sagemaker-runtime", endpoint_url=f"http://127.0.0.1:{front_end.server_address[1]}",
        region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x",
    )  # fmt: skip
    yield client
    client.close()
    front_end.shutdown()
    front_end.server_close()


def text(records: list[dict[str, Any]], header: bool) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]))
    if header:
        writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode()


def test_json_gets_the_offline_predictions(runtime: Any, records: Any, expected: Any) -> None:
    answer = runtime.invoke_endpoint(
        EndpointName="plans", ContentType="application/json", Body=json.dumps({"instances": records})
    )
    same(json.load(answer["Body"])["predictions"], expected)


@pytest.mark.parametrize("header", [True, False])
def test_csv_gets_the_offline_predictions(runtime: Any, records: Any, expected: Any, header: bool) -> None:
    body = text(records, header)
    answer = runtime.invoke_endpoint(EndpointName="plans", ContentType="text/csv", Body=body)
    same(json.load(answer["Body"])["predictions"], expected)
    answer = runtime.invoke_endpoint(
        EndpointName="plans", ContentType="text/csv", Accept="text/csv", Body=body
    )
    lines = list(csv.reader(io.StringIO(answer["Body"].read().decode())))
    assert [line[0] for line in lines] == [row["prediction"] for row in expected]
    assert float(lines[3][2]) == pytest.approx(expected[3]["probability_pro"], abs=1e-5)


def test_named_columns_may_come_in_any_order_beside_others(
    server: Server, records: Any, expected: Any
) -> None:
    body = text([{"key": "k", **dict(reversed(record.items()))} for record in records], header=True)
    status, answer, _ = server.call("/invocations", body, {"content-type": "text/csv"})
    assert status == 200
    same(answer["predictions"], expected)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"1,2\n", "line 1 has 2 fields; expected are 6"),
        (b"a,1,true,Paris,2024-01-01,2000-01-01\n", "line 1: 'size (cm)' must be a number, not 'a'"),
        (b"1,1,maybe,Paris,2024-01-01,2000-01-01\n", "line 1: 'member' must be true or false, not 'maybe'"),
        (b"1_0,1,true,Paris,2024-01-01,2000-01-01\n", "'size (cm)' must be a number, not '1_0'"),
        (b"visits,visits\n1,2\n", "names a column twice"),
        (b"town,visits\nParis,1\n", "column 'member' is missing"),
        (b"\xff", "is not valid CSV"),
        (b'"a', "is not valid CSV"),
        (b"1,1,true,Paris,yesterday,2000-01-01\n", "'yesterday'"),
    ],
)
def test_bad_csv_gives_a_one_line_error(runtime: Any, body: bytes, message: str) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        runtime.invoke_endpoint(EndpointName="plans", ContentType="text/csv", Body=body)
    assert caught.value.response["OriginalStatusCode"] == 400
    assert message in json.loads(caught.value.response["OriginalMessage"])["error"]


def test_a_value_may_be_the_name_of_a_column(server: Server, records: Any) -> None:
    record = {**records[0], "town": "member"}
    status, answer, _ = server.call(
        "/invocations", text([record], header=False), {"content-type": "text/csv"}
    )
    assert status == 200, answer
    assert answer == server.call("/predict", {"instances": [record]})[1]


def test_words_for_missing_values_count_as_missing_as_in_files(server: Server, records: Any) -> None:
    record = {**records[0], "town": "NA", "visits": "NULL", "member": "n/a"}
    answer = server.call("/invocations", text([record], header=True), {"content-type": "text/csv"})[1]
    missing = {**records[0], "town": None, "visits": None, "member": None}
    assert answer == server.call("/predict", {"instances": [missing]})[1]


@pytest.mark.parametrize("header", ["", "visits\n", "\nvisits\n"])
def test_a_blank_line_is_a_missing_value_where_there_is_one_column(
    serve: Callable[..., Server], tmp_path: Path, header: str
) -> None:
    server = serve(train(tmp_path / "m", without=["size (cm)", "member", "town", "at", "born"]))
    status, answer, _ = server.call(
        "/invocations", f"{header}1\n\n8\n".encode(), {"content-type": "text/csv"}
    )
    assert status == 200, answer
    wanted = server.call("/predict", {"instances": [[1], [None], [8]]})[1]
    assert answer == wanted


def test_it_is_started_as_the_platform_starts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(server_settings, "MOUNTS", ("/nowhere", str(tmp_path)))
    given = server_settings.parse(["serve"], {"SAGEMAKER_BIND_TO_PORT": "9001"})
    assert (given.model, given.port) == (str(tmp_path), 9001)
    assert server_settings.parse(["serve"], {}).port == 8080
