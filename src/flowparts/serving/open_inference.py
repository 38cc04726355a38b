"""The Open Inference Protocol V2 over REST, with the binary tensor data extension.

Optional fields may also be null, which clients with typed models send for unset fields.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

import flowparts
from flowparts.serving import tensors
from flowparts.serving.batching import Answer, Row
from flowparts.serving.refusals import RequestError
from flowparts.serving.signature import MAX_COUNTED, Signature, decoded, exceeds_count

LENGTH_HEADER = b"inference-header-content-length"
_MAX_SHAPE_BYTES = 200
_NULL = msgspec.Raw(b"null")
# So that a list or object as a parameter is refused before it is built.
_Scalar = bool | int | float | str | None


class InputParameters(msgspec.Struct, gc=False):
    """The parameters of an input tensor that the server knows."""

    binary_data_size: _Scalar = None


class OutputParameters(msgspec.Struct, gc=False):
    """The parameters of a requested output that the server knows."""

    binary_data: _Scalar = None


class RequestParameters(msgspec.Struct, gc=False):
    """The parameters of a request that the server knows."""

    binary_data_output: _Scalar = None


class InputTensor(msgspec.Struct, gc=False):
    """An input tensor; its shape and data are parsed when their sizes are known to be right."""

    name: str
    shape: msgspec.Raw
    datatype: str
    parameters: InputParameters | None = None
    data: msgspec.Raw = _NULL


class RequestedOutput(msgspec.Struct, gc=False):
    """A requested output."""

    name: str
    parameters: OutputParameters | None = None


class InferRequest(msgspec.Struct):
    """The JSON part of a request."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: RequestParameters | None = None
    outputs: list[RequestedOutput] | None = None

    @property
    def output_names(self) -> list[str]:
        """Names of the requested outputs; none for all."""
        return [output.name for output in self.outputs or []]


class OutputTensor(msgspec.Struct, omit_defaults=True):
    """An output tensor."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class InferResponse(msgspec.Struct, omit_defaults=True):
    """The JSON part of a response."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None


class IndexRequest(msgspec.Struct):
    """A request to the model repository."""

    ready: bool = False


_request = msgspec.json.Decoder(InferRequest)
_shape = msgspec.json.Decoder(list[int])
_index = msgspec.json.Decoder(IndexRequest)


def read(body: bytes, json_length: bytes | None) -> tuple[InferRequest, bytes]:
    """Return the JSON part of a body and the bytes after it.

    Args:
        body: The body.
        json_length: The header Inference-Header-Content-Length; None if there is none.

    Raises:
        RequestError: The body doesn't follow the protocol.
    """
    if json_length is None:
        return _decoded(body), b""
    if not json_length.isdigit() or len(json_length) > 18 or int(json_length) > len(body):
        raise RequestError(
            "malformed",
            f"Inference-Header-Content-Length is {json_length.decode('latin-1')!r}; it must be the length of "
            f"the JSON in a body of {len(body)} bytes",
        )
    return _decoded(body[: int(json_length)]), body[int(json_length) :]


def _decoded(body: bytes) -> InferRequest:
    if body.count(b"{") > MAX_COUNTED and exceeds_count(body, MAX_COUNTED, "inputs", "outputs"):
        raise RequestError("malformed", f"the request has more than {MAX_COUNTED:,} inputs or outputs")
    found: InferRequest = decoded(_request, body)
    return found


def rows(request: InferRequest, binary: bytes, signature: Signature, max_rows: int) -> list[Row]:
    """Return the rows of a request.

    Raises:
        RequestError: A tensor is missing or has another datatype or shape, or the number of bytes is wrong.
    """
    inputs = []
    place = unknown = 0
    for tensor in request.inputs:
        size = tensor.parameters.binary_data_size if tensor.parameters else None
        if size is None:
            if len(request.inputs) == 1 or tensor.name in signature.features:
                inputs.append(_of_json(tensor))
            elif unknown < 2:
                # Two say that there are such, and that none stands for all columns; thousands would keep the
                # loop busy.
                unknown += 1
                inputs.append(tensors.Tensor(tensor.name, tensor.datatype, _shape_of(tensor), _unread))
            continue
        left = len(binary) - place
        if type(size) is not int or not 0 <= size <= left:
            raise RequestError(
                "malformed",
                f"tensor {tensor.name!r} has binary_data_size {size!r}, but {left} bytes are left",
            )
        inputs.append(_of_bytes(tensor, binary[place : place + size]))
        place += size
    if place != len(binary):
        raise RequestError("malformed", f"{len(binary) - place} bytes after the last tensor belong to none")
    return tensors.rows(inputs, signature, max_rows)


def _shape_of(tensor: InputTensor) -> list[int]:
    """Return the shape of a tensor; one of many dimensions isn't parsed."""
    shape = bytes(tensor.shape)
    if len(shape) > _MAX_SHAPE_BYTES:
        raise tensors.other_shape(tensor.name, f"a shape of {len(shape):,} bytes")
    return tensors.decoded_part(tensor.name, "shape", _shape, shape)


def _unread(_kind: str, _count: int, _width: int) -> list[Any]:
    """Return no values, for a tensor that isn't read."""
    return []


def _of_json(tensor: InputTensor) -> tensors.Tensor:
    def values(kind: str, count: int, width: int) -> list[Any]:
        data = bytes(tensor.data)
        if data == b"null":
            raise RequestError("signature", f"tensor {tensor.name!r} has neither data nor binary_data_size")
        return tensors.of_json(tensor.name, kind, data, count, width)

    return tensors.Tensor(tensor.name, tensor.datatype, _shape_of(tensor), values)


def _of_bytes(tensor: InputTensor, raw: bytes) -> tensors.Tensor:
    def values(kind: str, count: int, width: int) -> list[Any]:
        return tensors.unpacked(tensor.name, kind, tensor.datatype, raw, count * width)

    return tensors.Tensor(tensor.name, tensor.datatype, _shape_of(tensor), values)


def wanted(requested: Sequence[str], signature: Signature) -> Sequence[str]:
    """Return the names of the outputs to send, each once: the requested ones, else all.

    Raises:
        RequestError: There is no such output.
    """
    for name in requested:
        if name not in signature.outputs:
            raise RequestError(
                "signature", f"there is no output {name!r}; the outputs are: {', '.join(signature.outputs)}"
            )
    # One that is named many times is sent once: a name costs the client less than its values cost the server.
    return list(dict.fromkeys(requested)) or signature.outputs


def write(
    request: InferRequest, answer: Answer, signature: Signature, model_name: str, version: str
) -> tuple[bytes, int | None]:
    """Return the body of a response, and the length of its JSON part if binary data follows."""
    names = wanted(request.output_names, signature)
    binary_all = request.parameters is not None and request.parameters.binary_data_output is True
    asked = {
        output.name: output.parameters.binary_data if output.parameters else None
        for output in request.outputs or []
    }
    outputs, parts = [], []
    for name in names:
        values = answer.column(name)
        output = OutputTensor(name, output_datatype(name, signature), [len(values)])
        if asked.get(name) is True or (binary_all and asked.get(name) is not False):
            parts.append(tensors.packed(output.datatype, values))
            output.parameters = {"binary_data_size": len(parts[-1])}
        else:
            output.data = values
        outputs.append(output)
    head = msgspec.json.encode(InferResponse(model_name, version, outputs, request.id))
    return head + b"".join(parts), len(head) if parts else None


def output_datatype(name: str, signature: Signature) -> str:
    """Return the datatype of an output."""
    if name != "prediction" or signature.classes is None:
        return "FP64"
    return tensors.datatype_of(type(signature.classes[0]))


def server_metadata(extensions: Sequence[str] = ()) -> dict[str, Any]:
    """Return the server's metadata, with its extensions."""
    spoken = ["binary_tensor_data", *extensions]
    return {"name": "flowparts", "version": flowparts.__version__, "extensions": spoken}


def wants_ready(body: bytes) -> bool:
    """Return whether a request for the repository's index asks for loaded models only; it may be empty.

    Raises:
        RequestError: The body is something else.
    """
    return decoded(_index, body).ready if body else False


def model_metadata(signature: Signature, model_name: str, version: str, platform: str) -> Mapping[str, Any]:
    """Return the model's metadata."""
    inputs = [
        {"name": name, "datatype": tensors.datatype(kind), "shape": [-1]}
        for name, kind in signature.features.items()
    ]
    outputs = [
        {"name": name, "datatype": output_datatype(name, signature), "shape": [-1]}
        for name in signature.outputs
    ]
    return {
        "name": model_name, "versions": [version], "platform": platform, "inputs": inputs, "outputs": outputs,
    }  # fmt: skip
