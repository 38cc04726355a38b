"""Request validation by types that are generated once from the model's signature: as cheap as parsing."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from flowparts.serving.batching import Answer, Columns, Row
from flowparts.serving.refusals import RequestError
from flowparts.util.names import listed

# Models take integers as numbers; missing and fractional values are up to the preprocessing.
_TYPES: dict[str, Any] = {
    "integer": float,
    "number": float,
    "boolean": bool,
    "string": str,
    "timestamp": Annotated[str, msgspec.Meta(description="ISO 8601; UTC if there is no offset")],
    "date": Annotated[str, msgspec.Meta(description="ISO 8601")],
    "image": Annotated[str, msgspec.Meta(description="The bytes of an image file, base64")],
}
# Names that a field can't have: msgspec writes them unescaped, but JSON must escape these.
_ESCAPED = re.compile(r'[\x00-\x1f"\\]')
_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


class _Counted(msgspec.Struct):
    """A request with unparsed rows."""

    instances: list[msgspec.Raw]


# Maximum number of values that `exceeds_count` can count.
MAX_COUNTED = 20_000
_counted = msgspec.json.Decoder(_Counted)


class Signature:
    """A model's inputs and outputs.

    Args:
        features: Raw column name to type, in order.
        optional: Columns that a row may omit; their values are then missing.
        classes: Sorted classes of a classifier; None for a regressor.
        unknown_fields: Whether to "ignore" or "reject" fields that aren't features.
        categories: Text column to its allowed values; columns that aren't listed may have any.

    Attributes:
        features: As given.
        optional: As given.
        images: Image columns.
        classes: As given.
        outputs: Column names of a prediction, in order.
        request_type: Type of the body `{"instances": [{"column": value, ...}]}`; a row may also be the list
            of its values, in the order of the features.
        response_type: Type of the body `{"predictions": [{"prediction": ..., "probability_<class>": ...}]}`.
            Where a name can't be a field's, those of the type have other names, in the same order.
    """

    def __init__(
        self,
        features: dict[str, str],
        optional: Sequence[str],
        classes: Sequence[Any] | None,
        unknown_fields: str = "ignore",
        categories: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.features = features
        self.optional = frozenset(optional)
        self.images = [name for name, kind in features.items() if kind == "image"]
        self.classes = classes
        self.outputs = ["prediction", *(f"probability_{value}" for value in classes or [])]
        self._rejects_unknown = unknown_fields == "reject"
        # Columns can have any name, attributes can't.
        names = [f"f{index}" for index in range(len(features))]
        self._typed = _ESCAPED.search("".join(features)) is None
        row: Any = msgspec.defstruct(
            "Row",
            [
                (name, _TYPES[kind] | None, *((None,) if feature in self.optional else ()))
                for name, (feature, kind) in zip(names, features.items(), strict=True)
            ],
            rename=dict(zip(names, features, strict=True)) if self._typed else None,
            kw_only=True,
            gc=False,
            forbid_unknown_fields=self._rejects_unknown,
        )
        label = float if classes is None else type(classes[0])
        named = _ESCAPED.search("".join(self.outputs)) is None
        prediction: Any = msgspec.defstruct(
            "Prediction",
            [(f"p{index}", float if index else label) for index in range(len(self.outputs))],
            rename={f"p{index}": name for index, name in enumerate(self.outputs)} if named else None,
            gc=False,
        )
        listed: Any = tuple[tuple(_TYPES[kind] | None for kind in features.values())]  # type: ignore[misc]
        self.request_type: Any = msgspec.defstruct("Request", [("instances", list[row | listed])])
        self.response_type: Any = msgspec.defstruct("Response", [("predictions", list[prediction])])
        self._prediction: Callable[..., Any] = prediction if named else self._prediction_object
        decoded_type: Any = self.request_type
        if not self._typed:
            decoded_type = msgspec.defstruct("Request", [("instances", list[dict[str, Any] | listed])])
        self._request = msgspec.json.Decoder(decoded_type)
        self._encode = msgspec.json.Encoder().encode
        getter = attrgetter(*names)
        # For a single attribute it returns the value instead of a tuple.
        self._values: Callable[[Any], Row] = getter if len(names) > 1 else lambda row: (getter(row),)
        self._known = [
            (position, name, frozenset(categories[name]))
            for position, name in enumerate(features)
            if categories and name in categories
        ]

    def rows_of_json(self, body: bytes, max_rows: int) -> list[Row]:
        """Return the rows of a body of `request_type`, values in the order of the features.

        Raises:
            RequestError: It isn't JSON, has too many rows, or a row doesn't fit the signature.
        """
        # A row of two bytes may become hundreds of values, so rows are counted before they are built.
        if len(body) > 3 * max_rows and body.count(b"{") + body.count(b"[") > max_rows + 2:
            _require_rows(body, max_rows)
        instances = decoded(self._request, body).instances
        if not self._typed:
            return self.checked(
                [row if type(row) is tuple else self._row(row, at) for at, row in enumerate(instances)]
            )
        return self.checked([row if type(row) is tuple else self._values(row) for row in instances])

    def rows_of_columns(self, columns: Mapping[str, Sequence[Any]], count: int) -> list[Row]:
        """Return the rows of columns, which must have the right types and length.

        Raises:
            RequestError: A required column is missing, or a column is unknown.
        """
        for name in columns:
            if name not in self.features and self._rejects_unknown:
                raise RequestError(
                    "signature", f"the model has no column {name!r}; its columns are: {self._listed()}"
                )
        ordered = []
        for name in self.features:
            if name not in columns and name not in self.optional:
                raise RequestError(
                    "signature", f"column {name!r} is missing; the model needs: {self._listed()}"
                )
            ordered.append(columns.get(name) or [None] * count)
        return self.checked(list(zip(*ordered, strict=True)))

    def checked(self, rows: list[Row]) -> list[Row]:
        """Return the rows; refuse values outside the categories."""
        for position, name, known in self._known:
            for number, row in enumerate(rows):
                if row[position] is not None and row[position] not in known:
                    raise RequestError(
                        "signature",
                        f"instances[{number}].{name} is {row[position]!r}, which was not seen in training; "
                        f"known values are: {listed(sorted(known), 20)}",
                    )
        return rows

    def json_of(self, answer: Answer) -> bytes:
        """Return an answer as a body of `response_type`."""
        columns = [answer.column(name) for name in self.outputs]
        rows = map(self._prediction, *columns)
        body: bytes = self._encode(self.response_type(list(rows)))
        return body

    def no_rows(self) -> Columns:
        """Return the columns of an answer to a request without rows."""
        return {name: [] for name in self.outputs}

    def _row(self, found: Mapping[str, Any], at: int) -> Row:
        """Return the row of an object that the type couldn't check during parsing."""
        place = f"instances[{at}]"
        if self._rejects_unknown and (unknown := [name for name in found if name not in self.features]):
            raise RequestError(
                "signature", f"{place} has a field that the model doesn't know: {unknown[0]!r}"
            )
        values = []
        for name, kind in self.features.items():
            if name not in found and name not in self.optional:
                raise RequestError("signature", f"{place} lacks the field {name!r}")
            try:
                values.append(msgspec.convert(found.get(name), _TYPES[kind] | None))
            except msgspec.ValidationError as error:
                raise RequestError("signature", sentence(f"{error} - at `$.{place}.{name}`")) from None
        return tuple(values)

    def _prediction_object(self, *values: Any) -> dict[str, Any]:
        return dict(zip(self.outputs, values, strict=True))

    def _listed(self) -> str:
        return listed(self.features, 10)


def _require_rows(body: bytes, max_rows: int) -> None:
    """Refuse a body with too many rows, without building any of them.

    Raises:
        RequestError: As `decoded`, or there are too many.
    """
    if not exceeds_count(body, min(max_rows, MAX_COUNTED), "instances"):
        return
    if max_rows > MAX_COUNTED and len(decoded(_counted, body).instances) <= max_rows:
        return
    raise RequestError(
        "too_many_rows", f"the request has more than {max_rows} rows; send them in several requests"
    )


def exceeds_count(body: bytes, max_values: int, *names: str) -> bool:
    """Return whether one of an object's named lists, or without names the list itself, is too long.

    None of the values is built, and other faults are left to the parser. `max_values` is at most MAX_COUNTED.
    """
    try:
        _counter(max_values, *names).decode(body)
    except msgspec.ValidationError as error:
        return str(error).startswith("Expected `array` of at most length")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return False


@cache
def _counter(max_values: int, *names: str) -> "msgspec.json.Decoder[Any]":
    """Return a decoder that stops after a maximum number of values of a list.

    A list can have a maximum length too, but msgspec checks it after building the list: for five million
    empty rows that takes two seconds and half a gigabyte. A struct in array form ends at its last field.
    """
    fields = [(f"value{number}", msgspec.Raw, msgspec.Raw(b"")) for number in range(max_values)]
    counted: Any = msgspec.defstruct("List", fields, array_like=True, forbid_unknown_fields=True)
    if names:
        counted = msgspec.defstruct("Counted", [(name, counted | None, None) for name in names])
    return msgspec.json.Decoder(counted)


def decoded(decoder: Any, body: bytes) -> Any:
    """Return the decoded body.

    Raises:
        RequestError: It isn't JSON, or doesn't have the decoder's type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RequestError("signature", sentence(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError("malformed", f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise RequestError("malformed", "the body is nested too deeply") from None


def sentence(message: str) -> str:
    """Reword an error of msgspec, such as "instances[0].age must be a number or null, not text"."""
    problem, _, place = message.partition(" - at `$")
    where = place.rstrip("`").lstrip(".") or "the body"
    if found := re.fullmatch(r"Expected `(.+)`, got `(.+)`", problem):
        wanted, got = (
            " or ".join(_WORDS.get(kind, kind) for kind in text.split(" | ")) for text in found.groups()
        )
        return f"{where} must be {wanted}, not {got}"
    if found := re.fullmatch(r"Expected `array` of length (\d+)", problem):
        return f"{where} must have {found[1]} values, one for each column; send null where one is missing"
    if found := re.fullmatch(r"Object missing required field `(.*)`", problem, re.DOTALL):
        return f"{where} lacks the field {found[1]!r}"
    if found := re.fullmatch(r"Object contains unknown field `(.*)`", problem, re.DOTALL):
        return f"{where} has a field that the model doesn't know: {found[1]!r}"
    return f"{where}: {problem[:1].lower()}{problem[1:]}"
