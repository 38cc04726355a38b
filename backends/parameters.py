"""Read pipeline parameters from the command line and files, and check their types before a run."""

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kfp.dsl.structures import InputSpec

from backends import catalogue, plain_yaml
from flowparts.parameters import check
from flowparts.util.masking import masked
from flowparts.util.names import unknown

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "Integer": (int,),
    "Float": (float, int),
    "String": (str,),
    "Boolean": (bool,),
    "List": (list,),
    "Dict": (dict,),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the options `--parameter` and `--params` for `gather` to a parser."""
    parser.add_argument(
        *("-p", "--parameter"),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter; may be repeated",
    )
    parser.add_argument("--params", type=Path, metavar="FILE", help="YAML or JSON file of parameters")


def gather(
    inputs: Mapping[str, InputSpec],
    file: Path | None,
    pairs: Iterable[str],
    spec: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the given parameters, converted to the pipeline's types.

    Args:
        inputs: The pipeline's inputs by name.
        file: A YAML or JSON file that maps names to values.
        pairs: Texts such as `seed=7` or `candidates=[{estimator: Linear, parameters: {}}]`, which override
            the file; values of other than text parameters are YAML.
        spec: The compiled pipeline; with it, values are also checked by the rules of this project's steps.

    Raises:
        ValueError: A name is unknown, a value is missing, has the wrong type or is invalid, or the file can't
            be read.
    """
    given: dict[str, Any] = read(file) if file else {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise ValueError(f"parameter {pair!r} must be written name=value")
        known(name, inputs)
        given[name] = text if inputs[name].type == "String" else _parse(name, text)
    return checked(inputs, given, spec)


def checked(
    inputs: Mapping[str, InputSpec], given: Mapping[str, Any], spec: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return parameters converted to the pipeline's types; see `gather`."""
    for name in given:
        known(name, inputs)
    missing = [name for name, spec in inputs.items() if not spec.optional and name not in given]
    if missing:
        raise ValueError(f"parameter {missing[0]!r} has no default; give it as -p {missing[0]}=value")
    result = {name: typed(name, value, str(inputs[name].type)) for name, value in given.items()}
    if spec is not None:
        _check(result, {name: value.default for name, value in inputs.items()}, spec)
    return result


def _check(given: Mapping[str, Any], defaults: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
    """Raise ValueError if a step of this project would refuse a parameter that it gets."""
    for parameters, constants in _ports(spec):
        chosen = {port: given[name] for port, name in parameters.items() if name in given}
        others = {port: defaults[name] for port, name in parameters.items() if name not in given}
        check(chosen, {**constants, **others})


def _ports(spec: Mapping[str, Any]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Yield for each step of this project its name and the ports that take a pipeline parameter unchanged.

    Ports with a constant value in the pipeline are included.
    """
    known, inputs = catalogue.components(), spec["root"].get("inputDefinitions", {}).get("parameters", {})
    parts = [spec["root"], *spec["components"].values()]
    for task in (task for part in parts for task in part.get("dag", {}).get("tasks", {}).values()):
        component = re.sub(r"^comp-|-[0-9]+$", "", task["componentRef"]["name"]).replace("-", "_")
        if component not in known:
            continue
        parameters, constants = {}, {}
        for port, value in task.get("inputs", {}).get("parameters", {}).items():
            # Inside a condition a parameter has another name.
            name = value.get("componentInputParameter", "").removeprefix("pipelinechannel--")
            if name in inputs:
                parameters[port] = name
            elif "constant" in value.get("runtimeValue", {}):
                constants[port] = value["runtimeValue"]["constant"]
        yield parameters, constants


def environment(file: Path) -> dict[str, str]:
    """Return the variables of a file of KEY=VALUE lines; # starts a comment, values are taken literally.

    Raises:
        ValueError: The file can't be read, or a line is malformed; the message doesn't contain its value.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the environment in {file}: {error}") from None
    variables = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, value = line.partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z_]\w*", name.strip()):
            raise ValueError(f"line {number} of {file} must be written KEY=VALUE")
        variables[name.strip()] = value
    return variables


def known(name: str, inputs: Mapping[str, InputSpec]) -> None:
    """Raise ValueError with a suggestion unless the pipeline has such a parameter."""
    if name not in inputs:
        raise ValueError(unknown("parameter", name, list(inputs)))


def typed(name: str, value: Any, kind: str) -> Any:
    """Convert a value to the declared kfp type, or raise ValueError that names both."""
    expected = _PYTHON_TYPES[kind]
    if not isinstance(value, expected) or (isinstance(value, bool) and kind != "Boolean"):
        raise ValueError(f"parameter {name!r} takes {_describe(kind)}, not {value!r}")
    return float(value) if isinstance(value, int) and kind == "Float" else value


def without_credentials(value: Any) -> str:
    """Return a parameter as JSON for display, with credentials in URIs replaced by ***."""
    return str(masked(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))


def _describe(kind: str) -> str:
    return {
        "Integer": "a whole number",
        "Float": "a number",
        "String": "text",
        "Boolean": "true or false",
        "List": "a list such as [a, b]",
        "Dict": "a mapping such as {a: 1}",
    }[kind]


def _parse(name: str, text: str) -> Any:
    try:
        return plain_yaml.load(text)
    except ValueError as error:
        raise ValueError(f"parameter {name!r} is not valid YAML or JSON: {text}: {error}") from None


def read(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file.

    Raises:
        ValueError: It can't be read, or holds something else.
    """
    try:
        values = plain_yaml.load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the parameters in {file}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} must map parameter names to values")
    return values
