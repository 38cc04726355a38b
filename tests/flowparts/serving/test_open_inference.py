"""The Open Inference Protocol V2 as NVIDIA's and KServe's clients for it speak it, over HTTP and gRPC."""

import json
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.grpc import service_pb2 as messages
from tritonclient.utils import InferenceServerException

from flowparts.serving import open_inference
from flowparts.serving.refusals import RequestError
from flowparts.serving.signature import Signature
from tests.flowparts.serving.conftest import Server, same, start, train, wait

TYPES = {
    "size (cm)": "FP64",
    "visits": "FP64",
    "member": "BOOL",
    "town": "BYTES",
    "at": "BYTES",
    "born": "BYTES",
}
NUMPY = {"FP64": np.float64, "FP32": np.float32, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}


@pytest.fixture(params=["http", "grpc"])
def client(server: Server, request: pytest.FixtureRequest) -> Any:
    library, port = (over_http, server.port) if request.param == "http" else (over_grpc, server.grpc_port)
    with library.InferenceServerClient(f"127.0.0.1:{port}") as found:
        yield library, found


def tensors(
    library: Any,
    records: list[dict[str, Any]],
    binary: bool = True,
    shape: tuple[int, ...] = (-1,),
    **types: str,
) -> list[Any]:
    """Return a tensor for each column; a missing number is NaN, a column with missing text is left out."""
    made = []
    for name, default in TYPES.items():
        values = [record[name] for record in records]
        datatype = types.get(name, default)
        if datatype == "BYTES" and None in values:
            continue
        array = np.array([np.nan if value is None else value for value in values], NUMPY[datatype]).reshape(
            shape
        )
        tensor = library.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, **({"binary_data": binary} if library is over_http else {}))
        made.append(tensor)
    return made


def whole(records: list[dict[str, Any]], expected: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Return the rows whose text is there."""
    kept = [index for index, record in enumerate(records) if record["town"] is not None]
    return [records[index] for index in kept], [expected[index] for index in kept]


def check(result: Any, expected: list[dict[str, Any]]) -> None:
    found = [v.decode() if isinstance(v, bytes) else v for v in result.as_numpy("prediction")]
    assert found == [row["prediction"] for row in expected]
    for name in ("probability_basic", "probability_pro"):
        np.testing.assert_allclose(result.as_numpy(name), [row[name] for row in expected], atol=1e-5)


def test_the_server_and_the_model_are_alive_and_ready(client: Any) -> None:
    _, found = client
    assert found.is_server_live()
    assert found.is_server_ready()
    assert found.is_model_ready("plans")


def test_metadata_names_the_columns(client: Any) -> None:
    library, found = client
    options = {"as_json": True} if library is over_grpc else {}
    described = found.get_model_metadata("plans", **options)
    assert {column["name"]: column["datatype"] for column in described["inputs"]} == TYPES
    assert [(column["name"], column["datatype"]) for column in described["outputs"]] == [
        ("prediction", "BYTES"), ("probability_basic", "FP64"), ("probability_pro", "FP64"),
    ]  # fmt: skip
    assert found.get_server_metadata(**options)["extensions"] == ["binary_tensor_data"]
    [version] = described["versions"]
    assert found.get_model_metadata("plans", version, **options) == described


@pytest.mark.parametrize("count", [1, 40])
def test_columns_get_the_offline_predictions(client: Any, records: Any, expected: Any, count: int) -> None:
    library, found = client
    sent, wanted = whole(records[1 : count + 1], expected[1 : count + 1])
    result = found.infer("plans", tensors(library, sent), request_id="7")
    check(result, wanted)
    response = result.get_response(**({"as_json": True} if library is over_grpc else {}))
    assert response["id"] == "7"
    assert response["model_name"] == "plans"


def test_missing_text_is_left_out_and_a_missing_number_is_nan(
    client: Any, records: Any, expected: Any
) -> None:
    library, found = client
    assert records[0]["town"] is None
    assert records[0]["size (cm)"] is None
    check(found.infer("plans", tensors(library, records[:1])), expected[:1])


@pytest.mark.parametrize("datatype", ["FP32", "INT64"])
def test_numbers_may_be_of_other_datatypes_and_columns_matrices(
    client: Any, records: Any, expected: Any, datatype: str
) -> None:
    library, found = client
    sent, wanted = whole(records, expected)
    check(found.infer("plans", tensors(library, sent, shape=(-1, 1), visits=datatype)), wanted)


def test_json_tensors_get_the_same_as_binary_ones(server: Server, records: Any, expected: Any) -> None:
    sent, wanted = whole(records, expected)
    with over_http.InferenceServerClient(f"127.0.0.1:{server.port}") as found:
        numbers = [record for record in sent if record["size (cm)"] is not None]
        kept = [row for row, record in zip(wanted, sent, strict=True) if record["size (cm)"] is not None]
        outputs = [over_http.InferRequestedOutput(name, binary_data=False) for name in kept[0]]
        check(found.infer("plans", tensors(over_http, numbers, binary=False), outputs=outputs), kept)


def test_json_may_hold_null_and_lists_of_one(server: Server, records: Any, expected: Any) -> None:
    columns = [
        {"name": name, "shape": [40, 1], "datatype": datatype, "data": [[record[name]] for record in records]}
        for name, datatype in TYPES.items()
    ]
    asked = {"inputs": columns, "outputs": [{"name": "prediction"}], "id": "x"}
    status, body, _ = server.call("/v2/models/plans/infer", asked)
    assert status == 200, body
    [output] = body["outputs"]
    assert output["data"] == [row["prediction"] for row in expected]
    assert (output["datatype"], output["shape"], body["id"]) == ("BYTES", [40], "x")


@pytest.fixture(scope="module")
def of_numbers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server of a model whose columns are all numbers."""
    model = train(tmp_path_factory.mktemp("numbers") / "m", without=["member", "town", "at", "born"])
    server = wait(start(model, "--name=plans"))
    yield server
    server.stop()


MATRIX = np.array([[1.0, 3.0], [-2.0, 7.0], [0.0, 5.0]])


@pytest.fixture(scope="module")
def of_matrix(of_numbers: Server) -> list[dict[str, Any]]:
    """Give the predictions for the rows of MATRIX."""
    rows = [dict(zip(("size (cm)", "visits"), row, strict=True)) for row in MATRIX.tolist()]
    found: list[dict[str, Any]] = of_numbers.call("/predict", {"instances": rows})[1]["predictions"]
    return found


@pytest.mark.parametrize(("datatype", "dtype"), [("FP64", "f8"), ("FP32", "f4"), ("INT32", "i4")])
@pytest.mark.parametrize("library", [over_http, over_grpc])
def test_a_numeric_matrix_is_accepted_for_all_numeric_columns(
    of_numbers: Server, of_matrix: Any, library: Any, datatype: str, dtype: str
) -> None:
    port = of_numbers.port if library is over_http else of_numbers.grpc_port
    matrix = library.InferInput("input-0", [3, 2], datatype)
    matrix.set_data_from_numpy(MATRIX.astype(dtype))
    with library.InferenceServerClient(f"127.0.0.1:{port}") as client:
        check(client.infer("plans", [matrix]), of_matrix)


@pytest.mark.parametrize("data", [MATRIX.tolist(), MATRIX.ravel().tolist()])
def test_a_matrix_may_be_json(of_numbers: Server, of_matrix: Any, data: Any) -> None:
    tensor = {"name": "input-0", "shape": [3, 2], "datatype": "FP32", "data": data}
    status, body, _ = of_numbers.call("/v2/models/plans/infer", {"inputs": [tensor]})
    assert status == 200, body
    assert body["outputs"][0]["data"] == [row["prediction"] for row in of_matrix]


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        (
            [3, 3],
            [0.0] * 9,
            "has shape [3, 3]; a column is of shape [rows] or [rows, 1], and a tensor of all",
        ),
        ([3], [0.0] * 3, "column 'visits' is missing"),
        ([], [0.0], "has shape []"),
        ([1, 1, 2], [0.0] * 2, "has shape [1, 1, 2]"),
        ([-1, 2], [], "has shape [-1, 2]"),
        ([3, 2], [0.0] * 5, "tensor 'input-0' has 5 values, but its shape asks for 6"),
        ([3, 2], [[0.0, 0.0]] * 2, "tensor 'input-0' has 4 values, but its shape asks for 6"),
        ([3, 2], [[0.0] * 3] * 2, "tensor 'input-0' holds a row of another length than its shape says: 2"),
        ([2, 2], [[0.0] * 2, [0.0]], "tensor 'input-0' holds a row of another length than its shape says: 2"),
        ([2, 2], [[0.0] * 2, 0.0, 0.0], "tensor 'input-0': [1] must be a list, not a number"),
        ([2, 2], [0.0, 0.0, [0.0] * 2], "[2] must be a number or null, not a list"),
        ([2, 2], [[0.0] * 2, []], "tensor 'input-0' holds a row of another length than its shape says: 2"),
        ([2, 2], ["1,5", "2,5", "3,5", "4,5"], "tensor 'input-0': [0] must be a number or null, not text"),
        ([2] * 100, [0.0], "tensor 'input-0' has a shape of 300 bytes; a column is of shape [rows]"),
        ("2", [0.0], "tensor 'input-0': shape must be a list, not text"),
        ([2, 2], [0.0] * 5, "tensor 'input-0' has 5 values, but its shape asks for 4"),
        ([2, 2], 0.0, "tensor 'input-0': data must be a list, not a number"),
        ([2, 2], {"a": 0.0}, "tensor 'input-0': data must be a list, not an object"),
        ([2, 2], None, "tensor 'input-0' has neither data nor binary_data_size"),
        ([20_000, 2], [0.0] * 40_000, "the request has 20000 rows"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(
    of_numbers: Server, shape: list[int], data: list[Any], message: str
) -> None:
    tensor = {"name": "input-0", "shape": shape, "datatype": "FP64", "data": data}
    status, body, _ = of_numbers.call("/v2/models/plans/infer", {"inputs": [tensor]})
    assert 400 <= status < 500
    assert message in body["error"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("size (cm)", [1.0, 2.0], "tensor 'size (cm)' has 2 values, but its shape asks for 3"),
        ("visits", [1.0] * 4, "tensor 'visits' has 4 values, but its shape asks for 3"),
        ("visits", [[1.0, 2.0, 3.0]], "tensor 'visits' holds a row of another length than its shape says: 1"),
    ],
)
def test_a_column_of_another_length_than_its_shape_says_is_refused(
    of_numbers: Server, name: str, data: list[Any], message: str
) -> None:
    inputs = [
        {"name": each, "shape": [3], "datatype": "FP64", "data": data if each == name else [1.0] * 3}
        for each in ("size (cm)", "visits")
    ]
    status, body, _ = of_numbers.call("/v2/models/plans/infer", {"inputs": inputs})
    assert (status, body["error"]) == (400, message)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_matrix_must_be_the_only_input_to_stand_for_all_columns(rows: int) -> None:
    tensor = {"name": "a", "shape": [rows, 2], "datatype": "FP64", "data": [1.0, 2.0] * rows}
    body = json.dumps({"inputs": [tensor, tensor | {"name": "b"}, tensor | {"name": "c"}]}).encode()
    signature = Signature({"x": "number", "y": "number"}, ["x", "y"], None)
    with pytest.raises(RequestError, match=rf"tensor 'a' has shape \[{rows}, 2\]; a column is of shape"):
        open_inference.rows(*open_inference.read(body, None), signature, 100)


def test_a_matrix_may_be_typed_contents(of_numbers: Server, of_matrix: Any) -> None:
    values = messages.InferTensorContents(fp64_contents=MATRIX.ravel())
    response = infer(of_numbers, {"input-0": ("FP64", [3, 2], values)})
    assert list(response.outputs[0].contents.bytes_contents) == [
        row["prediction"].encode() for row in of_matrix
    ]
    with pytest.raises(grpc.RpcError, match="tensor 'input-0' has 6 values, but its shape asks for 4"):
        infer(of_numbers, {"input-0": ("FP64", [2, 2], values)})


def test_a_matrix_may_hold_text_where_all_columns_are_text_or_times(
    serve: Callable[..., Server], tmp_path: Path, records: Any
) -> None:
    server = serve(train(tmp_path / "m", without=["size (cm)", "visits", "member"]), "--name=plans")
    rows = [[record[name] for name in ("town", "at", "born")] for record in records[:9]]
    tensor = {"name": "input-0", "shape": [9, 3], "datatype": "BYTES", "data": rows}
    status, body, _ = server.call("/v2/models/plans/infer", {"inputs": [tensor]})
    assert status == 200, body
    wanted = server.call("/predict", {"instances": rows})[1]["predictions"]
    assert body["outputs"][0]["data"] == [row["prediction"] for row in wanted]
    assert body["outputs"][1]["data"] == [row["probability_basic"] for row in wanted]
    numbers = {"name": "input-0", "shape": [1, 3], "datatype": "FP64", "data": [1.0] * 3}
    status, body, _ = server.call("/v2/models/plans/infer", {"inputs": [numbers]})
    assert (status, body["error"]) == (
        400, "tensor 'input-0' has datatype FP64; the model's columns come as: BYTES",
    )  # fmt: skip


def test_a_model_of_one_column_takes_that_column_only(serve: Callable[..., Server], tmp_path: Path) -> None:
    model = train(tmp_path / "m", without=["size (cm)", "member", "town", "at", "born"])
    server = serve(model, "--name=plans", "--unknown-fields=reject")
    wanted = server.call("/predict", {"instances": [{"visits": 1}, [8]]})[1]["predictions"]
    assert [row["prediction"] for row in wanted] == ["basic", "pro"]
    tensor = {"name": "visits", "shape": [2, 1], "datatype": "FP64", "data": [[1], [8]]}
    body = server.call("/v2/models/plans/infer", {"inputs": [tensor]})[1]
    assert body["outputs"][0]["data"] == ["basic", "pro"]
    status, body, _ = server.call("/v2/models/plans/infer", {"inputs": [tensor | {"name": "input-0"}]})
    assert (status, body["error"]) == (400, "the model has no column 'input-0'; its columns are: visits")


@pytest.mark.parametrize("form", ["raw", "typed"])
@pytest.mark.parametrize("column", ["town", "at", "born"])
def test_an_empty_value_is_a_missing_one_in_bytes(
    server: Server, records: Any, column: str, form: str
) -> None:
    sent = [record | {column: None} if index % 2 else record for index, record in enumerate(records[:8])]
    inputs, raw = {}, []
    for name, datatype in TYPES.items():
        field = {"FP64": "fp64_contents", "BOOL": "bool_contents", "BYTES": "bytes_contents"}[datatype]
        missing: Any = float("nan") if datatype == "FP64" else b""
        values = [missing if record[name] is None else record[name] for record in sent]
        if datatype == "BYTES":
            values = [value.encode() if isinstance(value, str) else value for value in values]
        contents = messages.InferTensorContents(**{field: values}) if form == "typed" else None
        inputs[name] = (datatype, [8], contents)
        raw.append(
            b"".join(struct.pack("<I", len(value)) + value for value in values)
            if datatype == "BYTES"
            else np.array(values, NUMPY[datatype]).tobytes()
        )
    response = infer(server, inputs, raw if form == "raw" else [])
    wanted = server.call("/predict", {"instances": sent})[1]["predictions"]
    if form == "raw":
        found = np.frombuffer(response.raw_output_contents[1], np.float64).tolist()
    else:
        found = list(response.outputs[1].contents.fp64_contents)
    assert found == pytest.approx([row["probability_basic"] for row in wanted], abs=1e-6)


def infer(server: Server, inputs: dict[str, tuple[str, list[int], Any]], raw: Sequence[bytes] = ()) -> Any:
    """Call ModelInfer with the datatype, shape and typed contents of each tensor."""
    request = messages.ModelInferRequest(model_name="plans", raw_input_contents=raw)
    for name, (datatype, shape, contents) in inputs.items():
        request.inputs.add(name=name, datatype=datatype, shape=shape, contents=contents)
    return call(server, "ModelInfer", request.SerializeToString())


def call(server: Server, method: str, request: bytes, seconds: float = 10) -> Any:
    """Call a method with the bytes of a message."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answer = getattr(messages, f"{method}Response").FromString
        asked = channel.unary_unary(f"/inference.GRPCInferenceService/{method}", response_deserializer=answer)
        return asked(request, timeout=seconds)


def test_a_matrix_of_columns_of_several_types_is_refused(server: Server) -> None:
    tensor = {"name": "input-0", "shape": [1, 6], "datatype": "FP64", "data": [0.0] * 6}
    status, body, _ = server.call("/v2/models/plans/infer", {"inputs": [tensor]})
    assert status == 400
    assert "they have different types; send one tensor per column" in body["error"]


def test_kserves_own_client_gets_the_offline_predictions(
    server: Server, records: Any, expected: Any, kserve_python: str
) -> None:
    sent, wanted = whole(records, expected)
    asked = {
        "url": server.url, "grpc": f"127.0.0.1:{server.grpc_port}", "model": "plans", "records": sent,
        "columns": TYPES,
    }  # fmt: skip
    script = Path(__file__).with_name("kserve_client.py")
    found = subprocess.run(
        [kserve_python, str(script)], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    answers = json.loads(found.stdout)
    assert list(answers) == ["V1", "V2, json", "V2, binary", "gRPC, binary", "gRPC, typed"]
    for rows in answers.values():
        same(rows, wanted)


def test_clients_of_typed_models_send_null_for_what_is_not_set(server: Server, records: Any) -> None:
    unset = {"id": None, "parameters": None, "outputs": None}
    columns = [
        {"name": name, "shape": [1], "datatype": datatype, "data": [records[1][name]], "parameters": None}
        for name, datatype in TYPES.items()
    ]
    status, body, _ = server.call("/v2/models/plans/infer", {"inputs": columns} | unset)
    assert status == 200, body
    assert "id" not in body
    outputs = [{"name": "prediction", "parameters": None}]
    asked = {"inputs": columns, **unset, "outputs": outputs}
    assert server.call("/v2/models/plans/infer", asked)[1]["outputs"] == body["outputs"][:1]


def test_only_the_outputs_that_are_asked_for_come(client: Any, records: Any) -> None:
    library, found = client
    sent, _ = whole(records, records)
    wanted = [library.InferRequestedOutput("probability_pro")]
    result = found.infer("plans", tensors(library, sent), outputs=wanted)
    assert result.as_numpy("probability_pro").shape == (len(sent),)
    assert result.as_numpy("prediction") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda library, inputs: inputs[1:-1], "column 'born' is missing; the model needs"),
        (lambda library, inputs: [], "no inputs"),
        (lambda library, inputs: [visits(library, "BYTES", ["a"]), *inputs[2:]], "has datatype BYTES"),
        (lambda library, inputs: [visits(library, "FP64", [1.0, 2.0]), *inputs[2:]], "1 rows, but 'visits'"),
        (lambda library, inputs: [visits(library, "FP64", [[1.0, 2.0]]), *inputs[2:]], "has shape [1, 2]"),
    ],
)  # fmt: skip
def test_an_unsuitable_input_gives_a_one_line_error(
    client: Any, records: Any, change: Any, message: str
) -> None:
    library, found = client
    inputs = tensors(library, records[1:2])
    with pytest.raises(InferenceServerException) as caught:
        found.infer("plans", change(library, inputs))
    assert message in caught.value.message()
    assert "400" in str(caught.value.status()) or "INVALID_ARGUMENT" in str(caught.value.status())


def visits(library: Any, datatype: str, values: Any) -> Any:
    array = np.array(values, NUMPY[datatype])
    tensor = library.InferInput("visits", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def test_an_unknown_model_version_or_output_is_refused(client: Any, records: Any) -> None:
    library, found = client
    inputs = tensors(library, records[1:2])
    for name, version in (("other", ""), ("plans", "9")):
        with pytest.raises(InferenceServerException, match="there is n") as caught:
            found.infer(name, inputs, model_version=version)
        assert "404" in str(caught.value.status()) or "NOT_FOUND" in str(caught.value.status())
    with pytest.raises(InferenceServerException, match="no output 'x'; the outputs are: prediction"):
        found.infer("plans", inputs, outputs=[library.InferRequestedOutput("x")])


@pytest.mark.parametrize(
    ("length", "binary", "size"),
    [("999999", b"", 8), ("-1", b"", 8), ("x", b"", 8), (None, b"12345678", 9), (None, b"123456789", 8),
     (None, b"1234567", 7), (None, b"12345678", -8), (None, b"12345678", "8")],
)  # fmt: skip
def test_bytes_that_do_not_add_up_are_refused(server: Server, length: Any, binary: bytes, size: Any) -> None:
    tensor = {"name": "visits", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(head)) if length is None else length}
    status, body, _ = server.call("/v2/models/plans/infer", head + binary, headers)
    assert status == 400
    assert isinstance(body["error"], str)


@pytest.mark.parametrize("raw", [b"", b"\x01", struct.pack("<I", 9) + b"a", struct.pack("<I", 1) + b"\xff"])
def test_text_that_does_not_add_up_is_refused(server: Server, raw: bytes) -> None:
    parameters = {"binary_data_size": len(raw)}
    tensor = {"name": "town", "shape": [1], "datatype": "BYTES", "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    status, body, _ = server.call("/v2/models/plans/infer", head + raw, headers)
    assert status == 400
    assert "tensor 'town'" in body["error"]


def test_an_invalid_protobuf_message_is_refused(serve: Callable[..., Server], model: Path) -> None:
    server = serve(model, "--name=plans")
    with pytest.raises(grpc.RpcError, match="the call's message isn't a valid ModelInferRequest") as caught:
        call(server, "ModelInfer", b"\xff")
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert b'code="400",protocol="grpc"} 1.0' in server.call("/metrics")[1]
    server.stop()
    assert not [line for line in server.lines if line["level"] != "info"]


def test_a_compressed_request_is_refused_in_binary_too(server: Server, records: Any) -> None:
    with (
        over_http.InferenceServerClient(f"127.0.0.1:{server.port}") as client,
        pytest.raises(InferenceServerException, match="the body is compressed; send it as it is"),
    ):
        client.infer("plans", tensors(over_http, records[1:2]), request_compression_algorithm="gzip")


def test_an_unknown_call_is_refused(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/Nothing")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
