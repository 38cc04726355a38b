"""A server that answers as TensorFlow Serving's REST API does, for want of its binary.

No package of Debian, PyPI or npm has the server. The requests and answers here are its own messages
(tensorflow-serving-api), the model is loaded by TensorFlow's loader as the server does, and JSON becomes
tensors by the rules of https://www.tensorflow.org/tfx/serving/api_rest, which are strict: a request in row
format names every input and no other, a value is of its input's type, and one output alone is answered bare.
"""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

SIGNATURE = "serving_default"


class RefusedError(ValueError):
    """The request is not one that the server takes."""


class TfServingServer:
    """One model of a base path, at its highest version.

    Attributes:
        requests: The messages that the requests became.
    """

    def __init__(self, name: str, base: Path):
        self.name = name
        self.version = max(int(folder.name) for folder in base.iterdir() if folder.name.isdecimal())
        self.url = ""
        self.requests: list[predict_pb2.PredictRequest] = []
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], str(base / str(self.version)))
        self.signatures = loaded.signature_def

    def respond(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        known = rf"/v1/models/{re.escape(self.name)}(?:/versions/{self.version})?"
        if method == "GET" and re.fullmatch(known, path):
            return self._status()
        if method == "GET" and re.fullmatch(f"{known}/metadata", path):
            return self._metadata()
        if method == "POST" and re.fullmatch(f"{known}:predict", path):
            return self._predict(body)
        raise RefusedError(f"Malformed request: {method} {path}")

    def _status(self) -> dict[str, Any]:
        status = get_model_status_pb2.GetModelStatusResponse()
        status.model_version_status.add(version=self.version, state="AVAILABLE")
        return MessageToDict(status, preserving_proto_field_name=True)

    def _metadata(self) -> dict[str, Any]:
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in self.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.model_spec.name, answer.model_spec.version.value = self.name, self.version
        answer.metadata["signature_def"].Pack(signatures)
        return MessageToDict(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )

    def _predict(self, body: bytes) -> dict[str, Any]:
        request = self._message(json.loads(body))
        self.requests.append(request)
        signature = self.signatures[SIGNATURE]
        feed = {
            signature.inputs[name].name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()
        }
        wanted = {name: tensor.name for name, tensor in signature.outputs.items()}
        answer = predict_pb2.PredictResponse()
        for name, values in self._session.run(wanted, feed).items():
            dtype = signature.outputs[name].dtype
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(values, dtype=tf.as_dtype(dtype)))
        return {"predictions": rows_of(answer)}

    def _message(self, content: Any) -> predict_pb2.PredictRequest:
        if not isinstance(content.get("instances"), list) or not content["instances"]:
            raise RefusedError("Missing 'inputs' or 'instances' key")
        inputs = self.signatures[SIGNATURE].inputs
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self.name, SIGNATURE
        for number, row in enumerate(content["instances"]):
            if row.keys() != set(inputs):
                raise RefusedError(
                    f"Failed to process element: {number} of 'instances' list. JSON object: {row} keys "
                    f"must be equal to: {','.join(sorted(inputs))}"
                )
        for name, tensor in inputs.items():
            dtype = tf.as_dtype(tensor.dtype)
            values = [checked(row[name], dtype) for row in content["instances"]]
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype=dtype))
        return request


def checked(value: Any, dtype: tf.DType) -> Any:
    """Return what a JSON value is in a tensor; like the server, refuse what is of another type."""
    if isinstance(value, list):
        return [checked(each, dtype) for each in value]
    if dtype == tf.string and isinstance(value, dict) and value.keys() == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        tf.string: isinstance(value, str),
        tf.bool: isinstance(value, bool),
        tf.float32: number,
        tf.float64: number,
    }.get(dtype, number and isinstance(value, int))
    if not fits:
        raise RefusedError(f"JSON Value: {json.dumps(value)} is not of expected type: {dtype.name}")
    return value


def rows_of(answer: predict_pb2.PredictResponse) -> list[Any]:
    columns = {
        name: [plain(value) for value in tf.make_ndarray(tensor)] for name, tensor in answer.outputs.items()
    }
    if len(columns) == 1:
        return next(iter(columns.values()))
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.tolist()


@contextmanager
def serving(name: str, base: Path) -> Iterator[TfServingServer]:
    """Serve the newest version of a base path on a free port of this machine."""
    model = TfServingServer(name, base)

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                code, answer = 200, model.respond(self.command, self.path, body)
            except RefusedError as error:
                code, answer = 400, {"error": str(error)}
            text = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    model.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
