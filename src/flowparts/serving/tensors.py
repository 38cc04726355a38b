"""Tensors of the Open Inference Protocol V2: one per column of the model, of shape [rows] or [rows, 1].

If several columns have the same datatype, a single tensor of another name and of shape [rows, columns] can
hold all, as usual for numeric models.

Over REST, values are JSON or binary data after it (the binary tensor data extension); over gRPC, typed or raw
contents. A missing value is null in JSON. Elsewhere a missing number is NaN, and a missing text, time, date
or image is empty, as in CSV; a boolean can't be missing there.
"""

import math
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import msgspec

from flowparts.serving.batching import Row
from flowparts.serving.refusals import RequestError
from flowparts.serving.signature import MAX_COUNTED, Signature, exceeds_count, sentence

# Datatype to NumPy's little-endian type; each value of BYTES is a length of 4 bytes and that many bytes.
NUMPY_TYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_NUMBERS = tuple(name for name in NUMPY_TYPES if name != "BOOL")
# Accepted datatypes of each column type, the preferred one first, and the type of the values.
_ACCEPTED = {
    "integer": (("FP64", *_NUMBERS), float),
    "number": (("FP64", *_NUMBERS), float),
    "boolean": (("BOOL",), bool),
    "string": (("BYTES",), str),
    "timestamp": (("BYTES",), str),
    "date": (("BYTES",), str),
    # Base64 as in JSON, because text over REST must be UTF-8.
    "image": (("BYTES",), str),
}

_IN_ROWS = re.compile(rb"\s*\[\s*\[")


def datatype(kind: str) -> str:
    """Return the datatype in the metadata for a column of a type."""
    return _ACCEPTED[kind][0][0]


def datatype_of(value_type: type) -> str:
    """Return the datatype of an output with values of a Python type."""
    return {bool: "BOOL", int: "INT64", float: "FP64"}.get(value_type, "BYTES")


# Not frozen, because creating thousands would take three times as long.
@dataclass(slots=True)
class Tensor:
    """A tensor of a request.

    Attributes:
        name: The column.
        datatype: Such as "FP64".
        shape: The client's shape.
        values: Returns its values for the engine, row by row, given a column's type and the rows and columns
            of the shape.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    values: Callable[[str, int, int], list[Any]]


def rows(inputs: Sequence[Tensor], signature: Signature, max_rows: int) -> list[Row]:
    """Return the rows of a request.

    Raises:
        RequestError: A tensor is missing, or its datatype, shape or values are wrong.
    """
    if not inputs:
        raise RequestError("signature", "the request has no inputs; send one for each column of the model")
    first = inputs[0]
    stands_for_all = len(inputs) == 1 and first.name not in signature.features
    count, width = _extent(first, (1, len(signature.features)) if stands_for_all else (1,))
    if count > max_rows:
        raise RequestError(
            "too_many_rows", f"the request has {count} rows; send at most {max_rows} per request"
        )
    if width > 1:
        return signature.rows_of_columns(_columns(first, signature, count), count)
    columns: dict[str, list[Any]] = {}
    for tensor in inputs:
        kind = signature.features.get(tensor.name)
        if kind is None:
            # Unknown tensors are detected by name; their values aren't read.
            columns[tensor.name] = []
            continue
        found, _ = _extent(tensor, (1,))
        if found != count:
            raise RequestError(
                "signature", f"tensor {tensor.name!r} has {found} rows, but {first.name!r} has {count}"
            )
        columns[tensor.name] = _values(tensor, kind, count)
    return signature.rows_of_columns(columns, count)


def _extent(tensor: Tensor, widths: Sequence[int]) -> tuple[int, int]:
    """Return the rows and columns of a tensor's shape, up to a maximum of columns."""
    # A shape can have any length; these are enough for the message.
    match shape := list(tensor.shape[:3]):
        case [count] if count >= 0:
            return count, 1
        case [count, width] if count >= 0 and width in widths:
            return count, width
    rest = " and on" if len(tensor.shape) > len(shape) else ""
    raise other_shape(tensor.name, f"shape {shape}{rest}")


def other_shape(name: str, found: str) -> RequestError:
    """Return the refusal of a tensor that has another shape than those of columns and tables."""
    return RequestError(
        "signature",
        f"tensor {name!r} has {found}; a column is of shape [rows] or [rows, 1], and a tensor of all columns "
        "of shape [rows, columns]",
    )


def _values(tensor: Tensor, kind: str, count: int, width: int = 1) -> list[Any]:
    accepted = _ACCEPTED[kind][0]
    if tensor.datatype not in accepted:
        taken = f"a column of type {kind} comes" if width == 1 else "the model's columns come"
        raise RequestError(
            "signature",
            f"tensor {tensor.name!r} has datatype {tensor.datatype}; {taken} as: "
            + ", ".join(dict.fromkeys(accepted)),
        )
    values = tensor.values(kind, count, width)
    require_count(tensor.name, len(values), count * width)
    return values


def require_count(name: str, found: int, wanted: int) -> None:
    """Raise a RequestError unless a tensor has the number of values that its shape says."""
    if found != wanted:
        raise RequestError(
            "signature", f"tensor {name!r} has {found} values, but its shape asks for {wanted}"
        )


def _columns(matrix: Tensor, signature: Signature, count: int) -> dict[str, list[Any]]:
    """Return the columns of a tensor of shape [rows, columns].

    Raises:
        RequestError: The model's columns don't share this datatype, or a value has another type.
    """
    kind, *others = signature.features.values()
    if any(_ACCEPTED[other] != _ACCEPTED[kind] for other in others):
        raise RequestError(
            "signature",
            f"tensor {matrix.name!r} holds all columns, but they have different types; send one tensor "
            "per column",
        )
    width = len(signature.features)
    values = _values(matrix, kind, count, width)
    return {name: values[position::width] for position, name in enumerate(signature.features)}


def of_json(name: str, kind: str, data: bytes, count: int, width: int) -> list[Any]:
    """Return the values of a JSON list in the engine's form; each row may be a list of its own.

    Raises:
        RequestError: It isn't such a list, has more values than the shape says, or a value has another type.
    """
    value_type = _ACCEPTED[kind][1]
    in_rows = _IN_ROWS.match(data) is not None
    _require_affordable(name, data, value_type, count * width, count if in_rows else count * width)
    try:
        found = decoded_part(name, "data", _decoder(value_type, width if in_rows else 0), data)
    except msgspec.ValidationError:
        raise RequestError(
            "signature", f"tensor {name!r} holds a row of another length than its shape says: {width}"
        ) from None
    return list(chain.from_iterable(found)) if in_rows else found


def decoded_part(name: str, part: str, decoder: Any, content: bytes) -> list[Any]:
    """Return a decoded part of a tensor.

    Raises:
        RequestError: It has another type.
        ValidationError: A list in it has another length.
    """
    try:
        found: list[Any] = decoder.decode(content)
    except UnicodeDecodeError:
        raise _not_utf8(name) from None
    except msgspec.ValidationError as error:
        if str(error).startswith("Expected `array` of length"):
            raise
        place = "" if " - at `$" in str(error) else f" - at `$.{part}`"
        raise RequestError("signature", f"tensor {name!r}: {sentence(f'{error}{place}')}") from None
    return found


def _require_affordable(name: str, data: bytes, value_type: type, wanted: int, length: int) -> None:
    """Refuse a JSON list with more values than wanted, or much longer, before any of them is built."""
    if value_type is not str:
        # The decoder stops at the first text, so only what comes before it can become values.
        quote = data.find(b'"')
        found = data.count(b",", 0, quote if quote >= 0 else len(data)) + 1
        if found > max(wanted, 1):
            require_count(name, found, wanted)
        return
    # Each text has two quotes without a backslash before them, or one if it ends with a backslash, so this
    # never counts too many.
    texts = (data.count(b'"') - data.count(b'\\"')) // 2
    too_many_nulls = data.count(b"null") > length <= MAX_COUNTED and exceeds_count(data, MAX_COUNTED)
    if texts > wanted or too_many_nulls:
        raise RequestError("signature", f"tensor {name!r} has more values than its shape asks for: {wanted}")


@cache
def _decoder(value_type: type, width: int) -> "msgspec.json.Decoder[Any]":
    """Return the decoder of a list of values, or with a width, of rows; it stops at a longer row."""
    value: Any = value_type | None
    row: Any = tuple[(value,) * width]  # type: ignore[misc]
    return msgspec.json.Decoder(list[row] if width else list[value])


def plain(name: str, kind: str, values: Sequence[Any]) -> list[Any]:
    """Return values of typed contents in the engine's form.

    Raises:
        RequestError: A value has another type.
    """
    wanted = _ACCEPTED[kind][1]
    try:
        found: list[Any] = msgspec.convert(values, list[wanted | None])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise RequestError("signature", f"tensor {name!r}: {sentence(str(error))}") from None
    return finite(found) if wanted is float else found


def unpacked(name: str, kind: str, datatype: str, raw: bytes, count: int) -> list[Any]:
    """Return the values of a tensor in its binary form.

    Raises:
        RequestError: The number of bytes doesn't match the shape, or text isn't UTF-8.
    """
    import numpy as np

    if datatype == "BYTES":
        return _unpacked_text(name, raw, count)
    dtype = np.dtype(NUMPY_TYPES[datatype])
    if len(raw) != count * dtype.itemsize:
        raise RequestError(
            "malformed",
            f"tensor {name!r} has {len(raw)} bytes, but its shape asks for {count * dtype.itemsize}",
        )
    values = np.frombuffer(raw, dtype)
    if kind == "boolean":
        return values.tolist()  # type: ignore[no-any-return]
    return finite(values.astype(float).tolist())


def packed(datatype: str, values: Sequence[Any]) -> bytes:
    """Return the binary form of an output."""
    import numpy as np

    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text)) + text for text in encoded(values))
    return np.asarray(values, dtype=NUMPY_TYPES[datatype]).tobytes()


def encoded(values: Sequence[Any]) -> list[bytes]:
    """Return the values of an output as BYTES."""
    return [str(value).encode() for value in values]


def text(name: str, values: Sequence[bytes]) -> list[str | None]:
    """Return BYTES as text; an empty value is a missing one.

    Raises:
        RequestError: They aren't UTF-8.
    """
    try:
        return [value.decode() or None for value in values]
    except UnicodeDecodeError:
        raise _not_utf8(name) from None


def _not_utf8(name: str) -> RequestError:
    return RequestError("signature", f"tensor {name!r} holds text that is not UTF-8")


def _unpacked_text(name: str, raw: bytes, count: int) -> list[str | None]:
    values: list[bytes] = []
    place = 0
    while place + 4 <= len(raw) and len(values) <= count:
        length = int.from_bytes(raw[place : place + 4], "little")
        values.append(raw[place + 4 : place + 4 + length])
        place += 4 + length
    if place != len(raw) or len(values) != count:
        raise RequestError(
            "malformed",
            f"tensor {name!r} is not {count} texts, each after its length in 4 bytes, in {len(raw)} bytes",
        )
    return text(name, values)


def finite(values: list[Any]) -> list[Any]:
    """Return numbers with None, a missing value, for those that aren't finite."""
    return [value if value is not None and math.isfinite(value) else None for value in values]
