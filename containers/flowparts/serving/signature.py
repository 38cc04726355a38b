"""Requests held to the model's signature: types generated once, so that checking costs no more than parsing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from flowparts.serving.batching import Answer, Columns, Row
from flowparts.serving.refusals import Refusal

# Whole numbers are numbers to a model: what is missing or fractional is the preprocessing's matter.
_TYPES: dict[str, Any] = {
    "integer": float,
    "number": float,
    "boolean": bool,
    "string": str,
    "timestamp": Annotated[str, msgspec.Meta(description="ISO 8601, in UTC where no offset is given")],
    "date": Annotated[str, msgspec.Meta(description="ISO 8601")],
}
_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives.

    Attributes:
        features: Raw column name to type, in order.
        optional: Columns that a row may leave out; their values are then missing.
        outputs: Names of the columns of a prediction, in order.
        classes: Sorted label values of a classification; None for a regression.
        categories: Text column to the values that were seen in training, where known.
        unknown_fields: "ignore" or "reject".
        unknown_categories: "accept" or "reject".
    """

    features: dict[str, str]
    optional: Sequence[str]
    outputs: Sequence[str]
    classes: Sequence[Any] | None
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unknown_fields: str = "ignore"
    unknown_categories: str = "accept"

    def __post_init__(self) -> None:
        """Make the types."""
        names = [f"f{index}" for index in range(len(self.features))]
        columns = []
        for name, (feature, kind) in zip(names, self.features.items(), strict=True):
            optional = (None,) if feature in self.optional else ()
            columns.append((name, _TYPES[kind] | None, *optional))
        make = object.__setattr__
        row = msgspec.defstruct(
            "Row",
            columns,
            rename=dict(zip(names, self.features, strict=True)),
            kw_only=True,
            gc=False,
            forbid_unknown_fields=self.unknown_fields == "reject",
        )
        prediction = msgspec.defstruct(
            "Prediction",
            [
                ("p0", float if self.classes is None else type(self.classes[0])),
                *((f"p{index}", float) for index in range(1, len(self.outputs))),
            ],
            rename={f"p{index}": name for index, name in enumerate(self.outputs)},
            gc=False,
        )
        make(self, "request_type", msgspec.defstruct("Request", [("instances", list[row])]))
        make(self, "response_type", msgspec.defstruct("Response", [("predictions", list[prediction])]))
        make(self, "_prediction_type", prediction)
        make(self, "_request", msgspec.json.Decoder(self.request_type))  # type: ignore[attr-defined]
        make(self, "_encode", msgspec.json.Encoder().encode)
        # Of one attribute it returns the value instead of a tuple.
        getter = attrgetter(*names)
        make(self, "_values", getter if len(names) > 1 else lambda row: (getter(row),))
        known = {name: frozenset(self.categories[name]) for name in self.features if name in self.categories}
        rejected = known if self.unknown_categories == "reject" else {}
        make(self, "_known", [(list(self.features).index(name), values) for name, values in rejected.items()])

    def rows_of_json(self, body: bytes) -> list[Row]:
        """Return the rows of a body `{"instances": [{"column": value, …}, …]}`, values in the order of features.

        Raises:
            Refusal: It isn't JSON, or a row doesn't fit the signature.
        """
        request = decoded(self._request, body)  # type: ignore[attr-defined]
        return self.checked([self._values(row) for row in request.instances])  # type: ignore[attr-defined]

    def rows_of_columns(self, columns: Mapping[str, Sequence[Any]], count: int) -> list[Row]:
        """Return the rows of columns of values of the right types.

        Raises:
            Refusal: A column that must be there is missing, or one is unknown or of another length.
        """
        for name, values in columns.items():
            if name not in self.features and self.unknown_fields == "reject":
                raise Refusal(
                    "signature", f"the model has no column {name!r}; its columns are: {self._listed()}"
                )
            if len(values) != count:
                raise Refusal(
                    "signature", f"column {name!r} has {len(values)} values, but the first one has {count}"
                )
        ordered = []
        for name in self.features:
            if name not in columns and name not in self.optional:
                raise Refusal("signature", f"column {name!r} is missing; the model needs: {self._listed()}")
            ordered.append(columns.get(name) or [None] * count)
        return self.checked(list(zip(*ordered, strict=True)))

    def checked(self, rows: list[Row]) -> list[Row]:
        """Return the rows; refuse text that wasn't seen in training where the server was told to."""
        for position, known in self._known:  # type: ignore[attr-defined]
            for number, row in enumerate(rows):
                if row[position] is not None and row[position] not in known:
                    name = list(self.features)[position]
                    raise Refusal(
                        "signature",
                        f"instances[{number}]: {name!r} is {row[position]!r}, which was not seen in training; "
                        f"known values are: {', '.join(sorted(known)[:20])}",
                    )
        return rows

    def json_of(self, answer: Answer) -> bytes:
        """Return the body `{"predictions": [{"prediction": …, "probability_<class>": …}, …]}`."""
        columns = [answer.column(name) for name in self.outputs]
        rows = map(self._prediction_type, *columns)  # type: ignore[attr-defined]
        return self._encode(self.response_type(list(rows)))  # type: ignore[attr-defined,no-any-return]

    def no_rows(self) -> Columns:
        """Return the columns of an answer to a request without rows."""
        return {name: [] for name in self.outputs}

    def _listed(self) -> str:
        names = list(self.features)
        return ", ".join(names[:10]) + (f", … ({len(names)} in all)" if len(names) > 10 else "")


def decoded(decoder: Any, body: bytes) -> Any:
    """Return what a body holds.

    Raises:
        Refusal: It isn't JSON, or not of the decoder's type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal("signature", sentence(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal("malformed", f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise Refusal("malformed", "the body is nested too deeply") from None


def sentence(message: str) -> str:
    """Say in words what msgspec found, such as "instances[0].age must be a number or null, not text"."""
    problem, _, place = message.partition(" - at `$")
    where = place.rstrip("`").lstrip(".") or "the body"
    if found := re.fullmatch(r"Expected `(.+)`, got `(.+)`", problem):
        wanted, got = (
            " or ".join(_WORDS.get(kind, kind) for kind in text.split(" | ")) for text in found.groups()
        )
        return f"{where} must be {wanted}, not {got}"
    if found := re.fullmatch(r"Object missing required field `(.*)`", problem, re.DOTALL):
        return f"{where} lacks the field {found[1]!r}"
    if found := re.fullmatch(r"Object contains unknown field `(.*)`", problem, re.DOTALL):
        return f"{where} has a field that the model doesn't know: {found[1]!r}"
    return f"{where}: {problem[:1].lower()}{problem[1:]}"
