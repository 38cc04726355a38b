"""The tensors of the Open Inference Protocol V2: a column of the model each, of shape [rows] or [rows, 1].

Where all columns are of one type, a single tensor of another name and of shape [rows, columns] stands for
all, as clients of numeric models are used to.

Over REST values come as JSON or, after it, as bytes (the binary tensor data extension); over gRPC as typed or
raw contents. A number that is missing is NaN, in JSON null.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from flowparts.serving.batching import Row
from flowparts.serving.refusals import Refusal
from flowparts.serving.signature import Signature, sentence

# Datatype to NumPy's little-endian type; BYTES are a length of 4 bytes and as many bytes, for each value.
NUMPY_TYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_NUMBERS = tuple(name for name in NUMPY_TYPES if name != "BOOL")
# What a column of each type may come as, the preferred one first; and the type of its values.
_ACCEPTED = {
    "integer": (("FP64", *_NUMBERS), float),
    "number": (("FP64", *_NUMBERS), float),
    "boolean": (("BOOL",), bool),
    "string": (("BYTES",), str),
    "timestamp": (("BYTES",), str),
    "date": (("BYTES",), str),
    # Base64, as in JSON: text over REST must be UTF-8.
    "image": (("BYTES",), str),
}


def datatype(kind: str) -> str:
    """Return the datatype that a column of a type is described with."""
    return _ACCEPTED[kind][0][0]


def datatype_of(value_type: type) -> str:
    """Return the datatype of an output whose values are of a Python type."""
    return {bool: "BOOL", int: "INT64", float: "FP64"}.get(value_type, "BYTES")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request.

    Attributes:
        name: The column.
        datatype: Such as "FP64".
        shape: As the client says.
        values: Returns its values as the engine takes them, for a column's type and a number of rows.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    values: Callable[[str, int], list[Any]]


def rows(inputs: Sequence[Tensor], signature: Signature, max_rows: int) -> list[Row]:
    """Return the rows of a request.

    Raises:
        Refusal: A tensor is missing, of another datatype or shape, or holds values of another type.
    """
    if not inputs:
        raise Refusal("signature", "the request has no inputs; send one for each column of the model")
    first = inputs[0]
    width = len(signature.features)
    is_matrix = len(inputs) == 1 and first.name not in signature.features and list(first.shape[1:]) == [width]
    count = _rows(first, width if is_matrix else 1)
    if count > max_rows:
        raise Refusal("too_many_rows", f"the request has {count} rows; at most {max_rows} are taken at once")
    if is_matrix:
        return signature.rows_of_columns(_columns(first, signature, count), count)
    columns: dict[str, list[Any]] = {}
    for tensor in inputs:
        kind = signature.features.get(tensor.name)
        if kind is None:
            columns[tensor.name] = [None] * count
            continue
        found = _rows(tensor)
        if found != count:
            raise Refusal(
                "signature", f"tensor {tensor.name!r} has {found} rows, but {first.name!r} has {count}"
            )
        _check_datatype(tensor, kind)
        columns[tensor.name] = tensor.values(kind, count)
    return signature.rows_of_columns(columns, count)


def _rows(tensor: Tensor, width: int = 1) -> int:
    shape = list(tensor.shape)
    if shape[1:] not in ([], [1], [width]) or not shape or shape[0] < 0:
        raise Refusal(
            "signature",
            f"tensor {tensor.name!r} has shape {shape}; a column is of shape [rows] or [rows, 1], and a "
            "tensor of all columns of shape [rows, columns]",
        )
    return shape[0]


def _check_datatype(tensor: Tensor, kind: str) -> None:
    accepted = _ACCEPTED[kind][0]
    if tensor.datatype not in accepted:
        raise Refusal(
            "signature",
            f"tensor {tensor.name!r} has datatype {tensor.datatype}; the column is {kind}: "
            + ", ".join(dict.fromkeys(accepted)),
        )


def _columns(matrix: Tensor, signature: Signature, count: int) -> dict[str, list[Any]]:
    """Return the columns of a tensor of shape [rows, columns]."""
    kind, *others = signature.features.values()
    if any(_ACCEPTED[other] != _ACCEPTED[kind] for other in others):
        raise Refusal(
            "signature",
            f"tensor {matrix.name!r} stands for all columns, but they are of several types; send a tensor "
            "for each",
        )
    _check_datatype(matrix, kind)
    width = len(signature.features)
    values = matrix.values(kind, count * width)
    return {name: values[position::width] for position, name in enumerate(signature.features)}


def plain(name: str, kind: str, values: Sequence[Any]) -> list[Any]:
    """Return values of JSON or typed contents as the engine takes them.

    Raises:
        Refusal: A value is of another type.
    """
    if values and isinstance(values[0], list):
        # Of shape [rows, 1]; JSON may nest it.
        values = [value for part in values for value in (part if isinstance(part, list) else [part])]
    wanted = _ACCEPTED[kind][1]
    try:
        found: list[Any] = msgspec.convert(values, list[wanted | None])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise Refusal("signature", f"tensor {name!r}: {sentence(str(error))}") from None
    return _finite(found) if wanted is float else found


def unpacked(name: str, kind: str, datatype: str, raw: bytes, count: int) -> list[Any]:
    """Return the values of a tensor in its binary form.

    Raises:
        Refusal: There are more or fewer bytes than the shape says, or text isn't UTF-8.
    """
    import numpy as np

    if datatype == "BYTES":
        return _unpacked_text(name, raw, count)
    dtype = np.dtype(NUMPY_TYPES[datatype])
    if len(raw) != count * dtype.itemsize:
        raise Refusal(
            "malformed",
            f"tensor {name!r} has {len(raw)} bytes, but its shape asks for {count * dtype.itemsize}",
        )
    values = np.frombuffer(raw, dtype)
    if kind == "boolean":
        return values.tolist()  # type: ignore[no-any-return]
    return _finite(values.astype(float).tolist())


def packed(datatype: str, values: Sequence[Any]) -> bytes:
    """Return the binary form of an output."""
    import numpy as np

    if datatype == "BYTES":
        texts = [str(value).encode() for value in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.asarray(values, dtype=NUMPY_TYPES[datatype]).tobytes()


def text(name: str, values: Sequence[bytes]) -> list[str]:
    """Return BYTES as text.

    Raises:
        Refusal: They aren't UTF-8.
    """
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise Refusal("signature", f"tensor {name!r} holds text that is not UTF-8") from None


def _unpacked_text(name: str, raw: bytes, count: int) -> list[str]:
    values, place = [], 0
    while place + 4 <= len(raw):
        length = int.from_bytes(raw[place : place + 4], "little")
        values.append(raw[place + 4 : place + 4 + length])
        place += 4 + length
    if place != len(raw) or len(values) != count:
        raise Refusal(
            "malformed",
            f"tensor {name!r} is not {count} texts, each after its length in 4 bytes, in {len(raw)} bytes",
        )
    return text(name, values)


def _finite(values: list[Any]) -> list[Any]:
    return [value if value is not None and math.isfinite(value) else None for value in values]
