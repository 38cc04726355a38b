"""Rows as CSV, which SageMaker's clients send."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from flowparts.serving import tensors
from flowparts.serving.batching import Answer, Row
from flowparts.serving.refusals import RequestError
from flowparts.serving.signature import Signature
from flowparts.util import text_types
from flowparts.util.names import listed

# Maximum number of values beyond those of the model's own columns.
_MAX_OTHER_VALUES = 1_000_000
_MISSING = frozenset(text_types.MISSING)
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def rows(body: bytes, signature: Signature, max_rows: int) -> list[Row]:
    """Return the rows of CSV text (UTF-8), with a header or with the columns in the model's order.

    The first line is a header if it names only columns of the model, or all of them and others. A missing
    value is an empty field or one of `text_types.MISSING`, as in the files that a model is trained on, and a
    blank line where there is one column.

    Raises:
        RequestError: It isn't CSV, a line has another number of fields, or a value is of another type.
    """
    names = list(signature.features)
    lines = _lines(body, max_rows + 2, max_rows * len(names) + _MAX_OTHER_VALUES)
    first = 1
    begin = next((line for line in lines if line), [])
    # A lone value may equal a column's name.
    if begin and (set(begin) <= set(names) or set(begin) >= set(names)):
        if len(set(begin)) < len(begin):
            raise RequestError("signature", "the first line names a column twice")
        names, lines, first = begin, lines[lines.index(begin) + 1 :], 2
    lines = [line or [""] for line in lines] if len(names) == 1 else [line for line in lines if line]
    if len(lines) > max_rows:
        raise RequestError(
            "too_many_rows", f"the request has more than {max_rows} rows; send them in several requests"
        )
    for number, line in enumerate(lines, first):
        if len(line) != len(names):
            raise RequestError(
                "signature",
                f"line {number} has {len(line)} fields; expected are {len(names)}: {listed(names, 10)}",
            )
    columns: dict[str, list[Any]] = {}
    for position, name in enumerate(names):
        kind = signature.features.get(name, "string")
        columns[name] = _values(name, kind, [line[position] for line in lines], first)
    return signature.rows_of_columns(columns, len(lines))


def _lines(body: bytes, max_lines: int, max_values: int) -> list[list[str]]:
    """Return the values of the first lines.

    Parsing all lines, or values without end, could take a hundred times the memory of the body.

    Raises:
        RequestError: It isn't CSV, or the lines have too many values.
    """
    commas = values = 0

    def limited(text: Iterable[str]) -> Iterator[str]:
        # A record may have several lines of text, in quotes, and isn't split before all are there.
        nonlocal commas
        for part in text:
            commas += part.count(",")
            if commas > max_values:
                raise _too_many(max_values)
            yield part

    lines: list[list[str]] = []
    try:
        text = io.StringIO(body.decode("utf-8-sig"), newline="")
        for line in islice(csv.reader(limited(text), strict=True), max_lines):
            commas = 0
            values += len(line)
            if values > max_values:
                raise _too_many(max_values)
            lines.append(line)
    except (UnicodeDecodeError, csv.Error) as error:
        raise RequestError("malformed", f"the body is not valid CSV: {error}") from None
    return lines


def _too_many(max_values: int) -> RequestError:
    return RequestError(
        "malformed", f"the body has more than {max_values:,} values; send fewer rows or columns"
    )


def write(answer: Answer, signature: Signature) -> bytes:
    """Return a line for each row: the prediction and its probabilities, in the order of the outputs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(zip(*(answer.column(name) for name in signature.outputs), strict=True))
    return text.getvalue().encode()


def _values(name: str, kind: str, texts: list[str], first: int) -> list[Any]:
    """Return the values of a column; `first` is the line of the first one."""
    if kind in ("integer", "number"):
        joined = "".join(texts)
        # Three times as fast as one by one, which says what is wrong with which of them.
        if joined.isascii() and "_" not in joined:
            with suppress(ValueError):
                return tensors.finite([None if text in _MISSING else float(text) for text in texts])
    return [_value(name, kind, text, line) for line, text in enumerate(texts, first)]


def _value(name: str, kind: str, text: str, line: int) -> Any:
    if text in _MISSING:
        return None
    if kind in ("integer", "number"):
        try:
            # Python's float also accepts underscores between digits, and digits of other scripts.
            number = float(text if text.isascii() and "_" not in text else "no number")
        except ValueError:
            raise RequestError("signature", f"line {line}: {name!r} must be a number, not {text!r}") from None
        return number if math.isfinite(number) else None
    if kind == "boolean":
        if text.lower() not in _TRUTH:
            raise RequestError("signature", f"line {line}: {name!r} must be true or false, not {text!r}")
        return _TRUTH[text.lower()]
    return text
