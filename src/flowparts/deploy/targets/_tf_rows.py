"""Rows as TensorFlow Serving's REST API takes them, and its answers as rows of `Model.predict`.

The API is described at https://www.tensorflow.org/tfx/serving/api_rest. A request in row format names every
input and none besides. JSON's numbers fit inputs of floating point, with NaN where one is missing; booleans
and null fit none. Bytes are base64 in an object of their own, so as not to be taken for text.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowparts.util import times

_SIGNATURE = "serving_default"
# Where a model has this signature too, what it names are images, which the other one takes as files.
_PIXELS = "pixels"
_NUMBERS = ("DT_DOUBLE", "DT_FLOAT")
_EPOCH = datetime.datetime(1970, 1, 1)


@dataclass(frozen=True)
class Input:
    """An input of a model.

    Attributes:
        dtype: TensorFlow's name of its type, such as DT_DOUBLE.
        image: Whether it takes encoded images.
    """

    dtype: str
    image: bool


def inputs(metadata: Any) -> dict[str, Input]:
    """Return the inputs of a model by what TensorFlow Serving tells of it.

    Raises:
        ValueError: It tells of no serving signature.
    """
    try:
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        images = signatures.get(_PIXELS, {}).get("inputs", {})
        return {
            name: Input(tensor["dtype"], name in images)
            for name, tensor in signatures[_SIGNATURE]["inputs"].items()
        }
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"the server tells of no signature {_SIGNATURE!r} of its model") from None


def instances(rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, Input]) -> list[dict[str, Any]]:
    """Return rows with what each input takes; columns that the model doesn't know are left out.

    Args:
        rows: Raw rows with values as JSON has them: times as ISO 8601, images as base64, null for nothing.
        wanted: The model's inputs.

    Raises:
        ValueError: A value isn't one that its input takes.
    """
    return [{name: _value(name, row.get(name), into) for name, into in wanted.items()} for row in rows]


def predictions(answers: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the rows of an answer; a model with one output answers with its bare values."""
    return [answer if isinstance(answer, dict) else {"prediction": answer} for answer in answers]


def _value(name: str, value: Any, into: Input) -> Any:
    if into.image:
        if not isinstance(value, str):
            raise ValueError(f"column {name!r} takes images as base64 text, not {value!r}")
        return {"b64": value}
    if into.dtype == "DT_STRING":
        return "" if value is None else value
    if into.dtype in _NUMBERS:
        if value is None:
            return float("nan")
        return _microseconds(name, value) if isinstance(value, str) else float(value)
    return value


def _microseconds(name: str, text: str) -> float:
    """Return the microseconds from 1970 to a time or a date; one without an offset is UTC."""
    moment = times.parse(text)
    if moment is None:
        raise ValueError(f"column {name!r} takes numbers or times as ISO 8601, not {text!r}")
    return float((moment - _EPOCH) // datetime.timedelta(microseconds=1))
