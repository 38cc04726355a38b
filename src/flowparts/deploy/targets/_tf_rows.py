"""Convert rows to TensorFlow Serving's REST API, and its answers to rows of `Model.predict`.

The API is described at https://www.tensorflow.org/tfx/serving/api_rest. A request in row format must have
every input and no others. Floating-point inputs take JSON numbers, with NaN for missing ones, but neither
booleans nor null. Bytes are base64 in an object, to distinguish them from text.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowparts.util import times

_SIGNATURE = "serving_default"
# If a model has this signature too, its inputs are images, which the other signature takes as files.
_PIXELS = "pixels"
_NUMBERS = ("DT_DOUBLE", "DT_FLOAT")
_EPOCH = datetime.datetime(1970, 1, 1)


@dataclass(frozen=True)
class Input:
    """An input of a model.

    Attributes:
        dtype: TensorFlow's type name, such as DT_DOUBLE.
        image: Whether it takes encoded images.
    """

    dtype: str
    image: bool


def inputs(metadata: Any) -> dict[str, Input]:
    """Return the inputs of a model from TensorFlow Serving's metadata.

    Raises:
        ValueError: There is no serving signature.
    """
    try:
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        images = signatures.get(_PIXELS, {}).get("inputs", {})
        return {
            name: Input(tensor["dtype"], name in images)
            for name, tensor in signatures[_SIGNATURE]["inputs"].items()
        }
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"the server reports no signature {_SIGNATURE!r} of its model") from None


def instances(rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, Input]) -> list[dict[str, Any]]:
    """Return rows with the values of each input; unknown columns are left out.

    Args:
        rows: Raw rows with JSON values: times as ISO 8601, images as base64, null for missing values.
        wanted: The model's inputs.

    Raises:
        ValueError: A value doesn't fit its input.
    """
    return [{name: _value(name, row.get(name), into) for name, into in wanted.items()} for row in rows]


def predictions(answers: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the rows of an answer; a model with a single output returns bare values."""
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
    """Return the microseconds since 1970 of a time or date; without an offset it is UTC."""
    moment = times.parse(text)
    if moment is None:
        raise ValueError(f"column {name!r} takes numbers or times as ISO 8601, not {text!r}")
    return float((moment - _EPOCH) // datetime.timedelta(microseconds=1))
