"""Mutations of good input for all that reads what strangers send: a result or a sentence, nothing else.

`python tests/fuzz/mutate.py SECONDS` takes so long for each kind, with another seed each time; what fails is
kept in build/fuzz. Without seconds it tries the same few hundred mutations each time.
"""

import io
import json
import os
import random
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from google.protobuf.message import Message
from PIL import Image

from flowparts.models import mlmodel, saved_model_audit
from flowparts.serving import comma_separated, open_inference, rpc, tensors
from flowparts.serving import open_inference_pb2 as messages
from flowparts.serving.http import Connection, Request, Response
from flowparts.serving.refusals import REASONS, RequestError
from flowparts.serving.signature import Signature
from flowparts.util import images

FEW = 300
FOUND = Path("build/fuzz")
SIGNATURE = Signature(
    {"a": "number", "b": "string", "c": "boolean", "d": "date", 'e"': "integer"}, ["a", "b"], ["no", "yes"]
)
TOKENS = [
    b"", b"\0", b"\xff", b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b'"', b"'", b"{", b"}", b"[",
    b"]", b"&a", b"*a", b"!!", b"- ", b"? ", b"0", b"-1", b"1e999", b"NaN", b"null", b"9" * 30, b"\x80" * 10,
    b"x" * 3000, b"\\ud800", b"\\u0000", b"[" * 2000, b"HTTP/1.1", b"Host: x\r\n", b"chunked",
    b"Transfer-Encoding: ", b"Content-Length: 5\r\n", b"Upgrade: h2c\r\n", b"Connection: Upgrade\r\n",
    b"Expect: 100-continue\r\n", b"0\r\n\r\n",
]  # fmt: skip


def mutated(seed: bytes, chance: random.Random) -> bytes:
    content = bytearray(seed)
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        place = chance.randrange(len(content) + 1)
        if chance.random() < 0.3 and content:
            content[min(place, len(content) - 1)] = chance.randrange(256)
            continue
        taken = chance.choice([0, 0, 1, 2, 20])
        put = chance.choice(TOKENS) if chance.random() < 0.8 else chance.randbytes(3)
        if chance.random() < 0.2:
            put = bytes(content[(start := chance.randrange(len(content) + 1)) : start + 40])
        content[place : place + taken] = put
    return bytes(content)


# Targets: each takes bytes, and returns or raises what its callers expect.


class Application:
    max_body = 10_000
    draining = False

    def unwanted(self, request: Request) -> RequestError | None:
        return RequestError("not_found", "there is nothing there") if request.path == "/none" else None

    def handle(self, request: Request, done: Callable[[Response], None]) -> None:
        assert len(request.body) <= self.max_body
        done(Response(b"{}"))

    def refuse(self, refusal: RequestError, headers: Any) -> Response:
        assert refusal.reason in REASONS
        return Response(b"", refusal.status)


def http(content: bytes) -> None:
    server = mock.Mock(application=Application(), date=b"", body_bytes=0, max_body_bytes=50_000)
    later: list[Callable[[], None]] = []
    server.loop.call_soon = lambda call, *given: later.append(partial(call, *given))
    connection = Connection(server)
    connection.connection_made(mock.Mock(is_closing=lambda: False))
    size = max(1, len(content) // 3)
    for start in range(0, len(content), size):
        connection.data_received(content[start : start + size])
        while later:
            later.pop()()
    connection.connection_lost(None)
    assert server.body_bytes == 0


def rows_of_json(content: bytes) -> None:
    for row in SIGNATURE.rows_of_json(content, 100):
        assert len(row) == len(SIGNATURE.features)


def rows_of_tensors(content: bytes) -> None:
    length = str(len(content) // 2).encode() if content[:1] == b" " else None
    asked, binary = open_inference.read(content, length)
    assert len(open_inference.rows(asked, binary, SIGNATURE, 100)) <= 100


def rows_of_calls(content: bytes) -> None:
    request: Any = rpc._read(messages.ModelInferRequest, content, 100 * len(SIGNATURE.features))
    raw = request.raw_input_contents
    if len(raw) not in (0, len(request.inputs)):
        return
    inputs = [
        rpc._of_bytes(tensor, raw[place]) if raw else rpc._of_contents(tensor)
        for place, tensor in enumerate(request.inputs)
    ]
    assert len(tensors.rows(inputs, SIGNATURE, 100)) <= 100


def rows_of_csv(content: bytes) -> None:
    assert len(comma_separated.rows(content, SIGNATURE, 100)) <= 100


def description(content: bytes) -> None:
    FOUND.mkdir(parents=True, exist_ok=True)
    folder = FOUND / f"model-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    (folder / "MLmodel").write_bytes(content)
    try:
        json.dumps(mlmodel.read(folder), default=str)
    finally:
        (folder / "MLmodel").unlink()
        folder.rmdir()


def picture(content: bytes) -> None:
    images.require_affordable([content])
    if content:
        assert images.pixels([content], images.Size(8, 8, 3)).shape == (1, 8, 8, 3)


def saved_model(content: bytes) -> None:
    FOUND.mkdir(parents=True, exist_ok=True)
    folder = FOUND / f"saved-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    (folder / saved_model_audit.FILE).write_bytes(content)
    try:
        saved_model_audit.check(folder)
    finally:
        (folder / saved_model_audit.FILE).unlink()
        folder.rmdir()


# Seeds: good input of every kind.

ROW = {"a": 1.5, "b": "x", "c": True, "d": "2024-02-29", 'e"': 3}
V2 = {
    "id": "1", "parameters": {"binary_data_output": True}, "outputs": [{"name": "prediction"}],
    "inputs": [
        {"name": "a", "shape": [2], "datatype": "FP64", "data": [1.5, None]},
        {"name": "b", "shape": [2, 1], "datatype": "BYTES", "data": [["x"], ["y"]]},
        {"name": "c", "shape": [2], "datatype": "BOOL", "data": [True, False]},
        {"name": "d", "shape": [2], "datatype": "BYTES", "data": ["2024-02-29", "1999-01-01"]},
        {"name": 'e"', "shape": [2], "datatype": "INT64", "data": [1, 2]},
    ],
}  # fmt: skip
MLMODEL = {
    "model_uuid": "0" * 32, "signature": {"inputs": "[]"}, "flavors": {"onnx": {"data": "model.onnx"}},
    "metadata": {
        "framework": "onnx", "task": "regression", "label": "y", "classes": None, "features": ["a"],
        "schema": {},
    },
}  # fmt: skip


def call(*, raw: bool) -> bytes:
    sent = messages.ModelInferRequest(model_name="m", id="1")
    for each in V2["inputs"]:
        tensor: Any = sent.inputs.add(name=each["name"], datatype=each["datatype"], shape=[2])
        if raw:
            sent.raw_input_contents.append(b"\0" * 16)
        elif each["datatype"] == "BYTES":
            tensor.contents.bytes_contents.extend([b"x", b"y"])
        else:
            getattr(tensor.contents, rpc._CONTENTS[each["datatype"]]).extend([1, 0])
    message: Message = sent
    return message.SerializeToString()


def encoded(kind: str) -> bytes:
    target = io.BytesIO()
    Image.linear_gradient("L").resize((9, 7)).save(target, kind)
    return target.getvalue()


def graph() -> bytes:
    saved = saved_model_audit._messages()()
    meta = saved.meta_graphs.add()
    meta.graph_def.node.add(name="x", op="Placeholder")
    meta.graph_def.node.add(name="y", op="StatefulPartitionedCall", input=["x"]).attr["f"].func.name = "f"
    function = meta.graph_def.library.function.add()
    function.signature.name = "f"
    function.node_def.add(name="z", op="MatMul", input=["x"])
    meta.saver_def.filename_tensor_name = "saver:0"
    meta.signature_def["serving_default"].inputs["x"].name = "x:0"
    content: bytes = saved.SerializeToString()
    return content


POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "http": (http, [
        POST + b"Content-Length: 2\r\n\r\n{}" + b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nx: y\r\n\r\n",
        b"GET /none HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" * 3,
        POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde" * 2,
    ]),
    "json": (rows_of_json, [
        json.dumps({"instances": [ROW, ROW]}).encode(),
        json.dumps({"instances": [list(ROW.values())]}).encode(),
    ]),
    "tensors": (rows_of_tensors, [json.dumps(V2).encode(), b" " + json.dumps(V2).encode() * 2]),
    "calls": (rows_of_calls, [call(raw=True), call(raw=False)]),
    "csv": (rows_of_csv, [
        b'1,"x, y",true,2024-02-29,3\n2,,false,,\n',
        b'a,b,c,d,"e"""\n1,"x\ny",true,2024-02-29,3\n' * 2, b"\n" * 30,
    ]),
    "MLmodel": (description, [
        yaml.safe_dump(MLMODEL).encode(), yaml.safe_dump(MLMODEL, default_flow_style=True).encode(),
        b"a: &a {b: 1}\nc: [*a, *a]\n",
    ]),
    "images": (picture, [encoded(kind) for kind in images.FORMATS]),
    "SavedModel": (saved_model, [graph()]),
}  # fmt: skip


def mutate(name: str, seconds: float) -> int:
    """Try mutations of a kind's seeds, a fixed few where no time is given; return how many."""
    target, seeds = TARGETS[name]
    number = random.SystemRandom().randrange(1 << 32) if seconds else 0
    chance, end = random.Random(number), time.monotonic() + seconds
    tried = 0
    while time.monotonic() < end if seconds else tried < FEW:
        content = mutated(chance.choice(seeds), chance)
        tried += 1
        try:
            sentence = said(target, content)
            assert "\n" not in sentence
        except BaseException:
            FOUND.mkdir(parents=True, exist_ok=True)
            file = FOUND / f"{name}-{number}-{tried}"
            file.write_bytes(content)
            print(f"{file} is neither taken nor refused in a sentence", file=sys.stderr)
            raise
    return tried


def said(target: Callable[[bytes], None], content: bytes) -> str:
    """Return the sentence with which a step or a server ends on what a target can't take."""
    try:
        target(content)
    except RequestError:
        # It may repeat the client's own words, whatever they are.
        return ""
    except ValueError as sentence:
        return str(sentence)
    return ""


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in TARGETS:
        print(f"{name}: {mutate(name, float(sys.argv[1]) if sys.argv[1:] else 0):,} mutations")
