"""Key values that clients send beside the features, such as order numbers, to identify their rows."""

from collections.abc import Sequence
from typing import Any

import msgspec

_Values = dict[str, list[str | None]]


class _Tensor(msgspec.Struct):
    name: str
    data: list[Any] = []


class _Body(msgspec.Struct):
    """A request of any JSON protocol: rows, or the columns of the Open Inference Protocol."""

    instances: list[Any] = []
    inputs: list[_Tensor] = []


_decoder = msgspec.json.Decoder(_Body)


def of_body(body: bytes, keys: Sequence[str], rows: int) -> _Values:
    """Return the keys of a request's rows as text.

    Args:
        body: The request as JSON; empty for other formats.
        keys: Fields of its rows, or tensors.
        rows: Number of its rows.

    Returns:
        Key to one value per row; None if it is missing or neither text nor a number.
    """
    found: _Values = {name: [None] * rows for name in keys}
    if not body or not keys:
        return found
    try:
        request = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return found
    for place, row in enumerate(request.instances[:rows]):
        if isinstance(row, dict):
            for name in keys:
                found[name][place] = _text(row.get(name))
    for tensor in request.inputs:
        if tensor.name in found and len(flat := _flat(tensor.data)) == rows:
            found[tensor.name] = [_text(value) for value in flat]
    return found


def _flat(values: list[Any]) -> list[Any]:
    return [value[0] if isinstance(value, list) and len(value) == 1 else value for value in values]


def _text(value: Any) -> str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
