"""Evaluate expressions of a compiled pipeline: conditions of groups, and fields of a loop's item.

Kubeflow evaluates them with CEL. This implements the subset that the SDK writes, by the same rules: values of
different types are never equal, can't be ordered, and text isn't escaped.
"""

import json
import operator
import re
from collections.abc import Mapping
from typing import Any

from backends.strict.values import BackendError, as_text, through_json

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)"""
    r"""|(?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
    r"""|(?P<sign>==|!=|<=|>=|&&|\|\||[<>!()\[\].,-])|(?P<end>$)|(?P<odd>.))""",
    re.DOTALL,
)
_COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_LITERALS = {"true": True, "false": False, "null": None}


class ConditionSyntaxError(BackendError):
    """A condition that can't be read."""

    def __init__(self, text: str, words: str) -> None:
        super().__init__(
            f"the condition {text!r} can't be evaluated ({words.splitlines()[0]}); the SDK writes text "
            "between single quotes without escaping it, so keep ' out of what is compared",
            words,
        )


def condition(text: str, inputs: Mapping[str, Any]) -> bool:
    """Return whether a condition holds.

    Args:
        text: The condition, such as `int(inputs.parameter_values['n']) > 2`.
        inputs: The parameters of the group.

    Raises:
        ConditionSyntaxError: The condition can't be read.
        BackendError: It compares what can't be compared.
    """
    result = _evaluated(text, {"inputs": {"parameter_values": inputs}})
    if not isinstance(result, bool):
        raise _failure(text, f"evaluation error: return type is not bool, got {result!r}")
    return result


def selected(text: str, value: Any) -> Any:
    """Return the part of a parameter selected by an expression such as `parseJson(string_value)["a"]`.

    Raises:
        BackendError: The value has no such part, or the expression can't be read.
    """
    kind = {str: "string_value", bool: "bool_value", list: "list_value", dict: "struct_value"}
    fields = {kind.get(type(value), "number_value"): value, "string_value": as_text(value)}
    return through_json(_evaluated(text, fields))


def _evaluated(text: str, names: Mapping[str, Any]) -> Any:
    reader = _Reader(text, names)
    value = reader.disjunction()
    if reader.kind != "end":
        raise reader.unexpected("<EOF>")
    return value


def _failure(text: str, words: str) -> BackendError:
    return BackendError(f"the condition {text!r} can't be evaluated ({words.splitlines()[0]})", words)


class _Reader:
    """Parses an expression with one token of lookahead and computes its value."""

    def __init__(self, text: str, names: Mapping[str, Any]) -> None:
        self.text, self.names, self.position = text, names, 0
        self.next()

    def next(self) -> str:
        """Consume the next token and return it."""
        taken = getattr(self, "ahead", "")
        match = _TOKEN.match(self.text, self.position)
        assert match
        assert match.lastgroup
        self.kind, self.ahead = match.lastgroup, match[match.lastgroup]
        self.start, self.position = match.start(match.lastgroup), match.end()
        return taken

    def unexpected(self, expected: str) -> ConditionSyntaxError:
        """Return the syntax error at the next token."""
        return ConditionSyntaxError(
            self.text,
            f"ERROR: <input>:1:{self.start + 1}: Syntax error: mismatched input '{self.ahead}' "
            f"expecting {expected}",
        )

    def take(self, sign: str) -> None:
        if self.ahead != sign:
            raise self.unexpected(f"'{sign}'")
        self.next()

    def disjunction(self) -> Any:
        value = self.conjunction()
        while self.ahead == "||":
            self.next()
            other = self.conjunction()
            value = self.boolean(value) or self.boolean(other)
        return value

    def conjunction(self) -> Any:
        value = self.relation()
        while self.ahead == "&&":
            self.next()
            other = self.relation()
            value = self.boolean(value) and self.boolean(other)
        return value

    def relation(self) -> Any:
        value = self.unary()
        if self.kind == "sign" and self.ahead in ("==", "!=", *_COMPARISONS):
            sign = self.next()
            other = self.unary()
            same = _type(value) == _type(other)
            if sign in ("==", "!="):
                return (same and value == other) == (sign == "==")
            if not same or _type(value) not in ("number", "str", "bool"):
                raise _failure(self.text, "evaluation error: no such overload")
            return _COMPARISONS[sign](value, other)
        return value

    def unary(self) -> Any:
        if self.kind == "sign" and self.ahead == "!":
            self.next()
            return not self.boolean(self.unary())
        if self.kind == "sign" and self.ahead == "-":
            self.next()
            return -self.unary()
        return self.member()

    def member(self) -> Any:
        value = self.primary()
        while self.kind == "sign" and self.ahead in (".", "["):
            key: Any
            if self.next() == ".":
                key = self.next()
            else:
                key = self.disjunction()
                self.take("]")
            try:
                value = value[int(key) if isinstance(value, list) else key]
            except (KeyError, IndexError, TypeError):
                raise _failure(self.text, f"evaluation error: no such key: {key}") from None
        return value

    def primary(self) -> Any:
        kind, word = self.kind, self.ahead
        if kind == "number":
            self.next()
            return float(word) if re.search(r"[.eE]", word) else int(word)
        if kind == "text":
            self.next()
            return json.loads('"' + re.sub(r'"|\\\'', _escaped, word[1:-1]) + '"', strict=False)
        if kind == "name":
            self.next()
            if word in _LITERALS:
                return _LITERALS[word]
            return self.call(word) if self.ahead == "(" else self.named(word)
        if word == "(":
            self.next()
            value = self.disjunction()
            self.take(")")
            return value
        raise self.unexpected("an expression")

    def named(self, name: str) -> Any:
        if name not in self.names:
            raise _failure(self.text, f"undeclared reference to '{name}'")
        return self.names[name]

    def call(self, function: str) -> Any:
        self.take("(")
        argument = self.disjunction()
        self.take(")")
        try:
            if function == "int":
                return int(argument)
            if function == "double":
                return float(argument)
            if function == "string":
                return argument if isinstance(argument, str) else json.dumps(argument)
            if function == "parseJson":
                return json.loads(argument)
        except (TypeError, ValueError) as error:
            raise _failure(self.text, f"evaluation error: {error}") from None
        raise _failure(self.text, f"undeclared reference to '{function}'")

    def boolean(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise _failure(self.text, "evaluation error: no such overload")
        return value


def _escaped(match: re.Match[str]) -> str:
    return '\\"' if match[0] == '"' else "'"


def _type(value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "number" if number else type(value).__name__
