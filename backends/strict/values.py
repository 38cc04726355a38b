"""Conversions of values by Kubeflow's backend on their way from one step to the next.

Parameters are passed as JSON with doubles as numbers; metadata of artifacts also goes through ML Metadata,
which has no null, no bool and no list. Argo evaluates its own template syntax in both.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

# One argument of a program, its final zero byte included: Linux's MAX_ARG_STRLEN.
MAX_ARGUMENT_BYTES = 128 * 1024
_LARGEST_WRITTEN_WHOLE = 1e21  # from here on, Go's JSON writes a double with an exponent
_KINDS: dict[str, tuple[Any, str, str]] = {  # Python's types, and the API's words for them
    "STRING": (str, "string", "string"),
    "NUMBER_INTEGER": ((int, float), "double or integer", "number"),
    "NUMBER_DOUBLE": ((int, float), "double or integer", "number"),
    "BOOLEAN": (bool, "bool", "bool"),
    "LIST": (list, "list", "list"),
    "STRUCT": (dict, "struct", "struct"),
    "TASK_FINAL_STATUS": (dict, "TASK_FINAL_STATUS", "struct"),
}
# In values, Argo evaluates every expression and fills in the workflow's variables.
_EVALUATED = re.compile(r"\{\{=|\{\{(?:workflow\.[\w.-]+|pod\.name|node\.name)\}\}")
# In submitted documents, it also resolves its own templates' variables.
_RESOLVED = re.compile(_EVALUATED.pattern + r"|\{\{(?:inputs|outputs|tasks|steps)\.[\w.-]+\}\}")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?(NaN|Infinity)')


class BackendError(Exception):
    """A failure on the real backend.

    Attributes:
        words: The backend's own message; may be empty.
    """

    def __init__(self, sentence: str, words: str = "") -> None:
        super().__init__(sentence)
        self.words = words


class SubmissionError(BackendError, ValueError):
    """A run that the backend refuses."""


def through_json(value: Any) -> Any:
    """Convert a value like JSON with doubles: integral numbers become int, others float."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < _LARGEST_WRITTEN_WHOLE else number
    if isinstance(value, list):
        return [through_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: through_json(value[key]) for key in sorted(value)}
    return value


def written(value: Any) -> str:
    """Return a value as JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def submitted(inputs: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a pipeline's inputs, checked like the API does.

    Args:
        inputs: The root's parameters, as compiled.
        given: The values of the run.

    Raises:
        SubmissionError: A value is unknown, missing or has another type; the words are the API's.
    """
    values = {}
    for name, spec in inputs.items():
        kind = spec["parameterType"]
        types, wanted, other = _KINDS[kind]
        if name not in given:
            if "defaultValue" in spec:
                values[name] = through_json(spec["defaultValue"])
            elif spec.get("isOptional"):
                values[name] = None
            else:
                raise SubmissionError(
                    f"parameter {name!r} has no default; give it as -p {name}=value",
                    f"parameter {name} is not optional, yet has neither default value nor "
                    "user provided value",
                )
            continue
        value = given[name]
        if not _is_a(value, types):
            subject = "parameter value" if other == "number" else "input parameter"
            raise SubmissionError(
                f"parameter {name!r} takes {_described(kind)}, not {value!r}",
                f"input parameter {name} requires type {wanted}, but the {subject} is not of "
                f"{other} value type",
            )
        values[name] = through_json(value)
    if unknown := sorted(set(given) - set(inputs)):
        raise SubmissionError(
            f"unknown parameter {unknown[0]!r}; the pipeline's are: {', '.join(inputs) or 'none'}",
            f"parameter(s) provided are not required by pipeline: {', '.join(unknown)}",
        )
    for name, value in values.items():
        if found := template_in(value, _RESOLVED):
            raise SubmissionError(
                f"parameter {name!r} holds {found!r}, which Argo evaluates as a template; "
                "keep {{ out of parameters",
                f"failed to resolve {found}",
            )
    return values


def refuse_templates_in_source(executors: Mapping[str, Any]) -> None:
    """Raise SubmissionError if a command contains Argo template syntax, even in a comment."""
    for label, executor in executors.items():
        if found := template_in(executor, _RESOLVED):
            raise SubmissionError(
                f"the source of {label.removeprefix('exec-')!r} holds {found!r}, which Argo evaluates "
                "as a template, even in a comment; write it differently",
                f"failed to resolve {found}",
            )


def converted(name: str, value: Any, kind: str) -> Any:
    """Convert a step's input like its driver: text takes anything, other types only their own.

    Raises:
        BackendError: The value has another type.
    """
    if kind == "STRING":
        return value if isinstance(value, str) else as_text(value)
    types, _, _ = _KINDS[kind]
    if value is None:
        raise BackendError(
            f"input {name!r} is null; an input without a value must be optional",
            f'got null for input parameter "{name}"',
        )
    if not _is_a(value, types):
        actual = {str: "string", bool: "bool", list: "list", dict: "struct"}.get(type(value), "number")
        raise BackendError(
            f"input {name!r} takes {_described(kind)}, not {value!r}",
            f'input parameter "{name}" type mismatch: expect {kind}, got {actual}',
        )
    return value


def as_text(value: Any) -> str:
    """Return a value as text for an argument, or for an input of type string."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")  # without an exponent, whatever the size
    return written(value)


def from_text(text: str, kind: str) -> Any:
    """Return an output parameter from the file that a step wrote for it.

    Raises:
        ValueError: The text isn't a value of that type.
    """
    if kind == "STRING":
        return text
    if kind == "NUMBER_INTEGER":
        return through_json(int(text.strip()))
    if kind == "NUMBER_DOUBLE":
        return through_json(float(text.strip()))
    if kind == "BOOLEAN":
        known = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
        return known[text.strip().lower()] if text.strip().lower() in known else _no_bool(text)
    value = json.loads(text)
    if not isinstance(value, _KINDS[kind][0]):
        raise ValueError(f"{text!r} is not a {_KINDS[kind][2]}")
    return through_json(value)


def executor_output(text: str, file: str) -> dict[str, Any]:
    """Parse a step's output file like the launcher.

    Args:
        text: The file's content.
        file: Where the step wrote it.

    Raises:
        BackendError: It contains NaN or infinity, or isn't an executor output.
    """
    prefix = f'failed to execute component: failed to unmarshall ExecutorOutput in file "{file}": '
    for match in _TOKEN.finditer(text):
        if match[1]:
            line = text.count("\n", 0, match.start()) + 1
            column = match.start() - text.rfind("\n", 0, match.start())
            raise BackendError(
                f"an output parameter, metric or metadata value is {match[0]}, which the backend can't keep; "
                f"leave it out or write a number (…{text[max(0, match.start() - 40) : match.end()]})",
                f"{prefix}proto: syntax error (line {line}:{column}): invalid value {match[0]}",
            )
    try:
        content = json.loads(text)
        json_format.ParseDict(content, pipeline_spec_pb2.ExecutorOutput())
    except (json.JSONDecodeError, json_format.ParseError) as error:
        raise BackendError(f"the step's output file can't be read: {error}", f"{prefix}{error}") from None
    return {
        "parameterValues": through_json(content.get("parameterValues", {})),
        "artifacts": content.get("artifacts", {}),
    }


def stored(metadata: Mapping[str, Any], port: str, session: str) -> dict[str, dict[str, Any]]:
    """Return an artifact's metadata as ML Metadata's custom properties.

    Args:
        metadata: What the step wrote.
        port: The name of the output.
        session: JSON text about the object store.

    Raises:
        BackendError: A value is null.
    """
    properties: dict[str, dict[str, Any]] = {}
    for key in sorted(metadata):
        value = metadata[key]
        if value is None:
            raise BackendError(
                f"metadata {key!r} of output {port!r} is null, which ends the step after its work is done; "
                "leave the key out",
                f'failed to execute component: unable to produce MLMD artifact for output "{port}": '
                "failed to convert RuntimeArtifact to MLMD artifact: "
                "unknown/unsupported value type *structpb.Value_NullValue",
            )
        if isinstance(value, bool):
            properties[key] = {"int_value": int(value)}
        elif isinstance(value, (int, float)):
            properties[key] = {"double_value": float(value)}
        elif isinstance(value, list):
            properties[key] = {"struct_value": {"list": through_json(value)}}
        elif isinstance(value, Mapping):
            properties[key] = {"struct_value": {"struct": through_json(value)}}
        else:
            properties[key] = {"string_value": value}
    properties.setdefault("display_name", {"string_value": port})
    properties.setdefault("store_session_info", {"string_value": session})
    return properties


def read_back(properties: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the next step's metadata from an artifact's custom properties."""
    return {key: through_json(next(iter(properties[key].values()))) for key in sorted(properties)}


def template_in(value: Any, pattern: re.Pattern[str] = _EVALUATED) -> str:
    """Return Argo template syntax in a value, including keys; empty for none."""
    for text in _texts(value):
        if match := pattern.search(text):
            template = text[match.start() :]
            end = template.find("}}")
            return template[: end + 2] if end >= 0 else template[:40]
    return ""


def placeholders(executor_input: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, str]:
    """Return the launcher's replacement of each placeholder of a command.

    Args:
        executor_input: With the component's defaults.
        paths: Local path of every artifact by URI; URIs without one are left out.
    """
    found = {"{{$}}": written(executor_input)}
    inputs, outputs = executor_input["inputs"], executor_input["outputs"]
    for direction, ports in (("inputs", inputs.get("artifacts", {})), ("outputs", outputs["artifacts"])):
        for name, entry in ports.items():
            if entry["artifacts"]:
                uri = entry["artifacts"][0]["uri"]
                found[f"{{{{$.{direction}.artifacts['{name}'].uri}}}}"] = uri
                if uri in paths:
                    found[f"{{{{$.{direction}.artifacts['{name}'].path}}}}"] = paths[uri]
    for name, value in inputs.get("parameterValues", {}).items():
        found[f"{{{{$.inputs.parameters['{name}']}}}}"] = as_text(value)
    for name, output in outputs.get("parameters", {}).items():
        found[f"{{{{$.outputs.parameters['{name}'].output_file}}}}"] = output["outputFile"]
    return found


def arguments(words: Iterable[str], values: Mapping[str, Any], replaced: Mapping[str, str]) -> list[str]:
    """Return a command with its placeholders and optional parts resolved.

    Args:
        words: The command and its arguments, as compiled.
        values: The step's input parameters.
        replaced: Replacement of each placeholder.
    """
    line = []
    for word in words:
        if word.lstrip().startswith('{"IfPresent":'):
            choice = json.loads(word)["IfPresent"]
            chosen = choice["Then"] if values.get(choice["InputName"]) is not None else choice.get("Else", [])
            line += arguments([chosen] if isinstance(chosen, str) else chosen, values, replaced)
            continue
        for placeholder, value in replaced.items():
            word = word.replace(placeholder, value)
        line.append(word)
    return line


def _is_a(value: Any, types: Any) -> bool:
    return isinstance(value, types) and (types is bool or not isinstance(value, bool))


def _described(kind: str) -> str:
    return {
        "STRING": "text",
        "NUMBER_INTEGER": "a whole number",
        "NUMBER_DOUBLE": "a number",
        "BOOLEAN": "true or false",
        "LIST": "a list",
    }.get(kind, "a mapping")


def _no_bool(text: str) -> bool:
    raise ValueError(f"{text!r} is neither true nor false")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
