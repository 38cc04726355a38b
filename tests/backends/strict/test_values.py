"""Holds conversions to what a real backend did; see recorded/README.md."""

import json
from pathlib import Path
from typing import Any

import pytest

from backends.strict import values
from backends.strict.values import BackendError, SubmissionError

RECORDED = Path(__file__).parents[1] / "recorded"
METADATA = json.loads((RECORDED / "metadata.json").read_text(encoding="utf-8"))
ARTIFACTS = json.loads((RECORDED / "artifacts.json").read_text(encoding="utf-8"))
STEPS = json.loads((RECORDED / "steps.json").read_text(encoding="utf-8"))
INPUTS = {
    "s": {"parameterType": "STRING"},
    "n": {"parameterType": "NUMBER_INTEGER", "defaultValue": 3.0},
    "f": {"parameterType": "NUMBER_DOUBLE", "defaultValue": 3.0},
    "b": {"parameterType": "BOOLEAN", "defaultValue": True},
    "l": {"parameterType": "LIST", "defaultValue": [1.0, "a", 2.5]},
    "d": {"parameterType": "STRUCT", "defaultValue": {}},
    "opt": {"parameterType": "STRING", "isOptional": True},
}


@pytest.mark.parametrize("key", METADATA)
def test_a_metadata_value_comes_back_as_on_the_backend(key: str) -> None:
    case = METADATA[key]
    read = values.read_back(values.stored({key: case["written"]}, "m", "session"))
    if case.get("by_sqlite"):
        assert read[key] == pytest.approx(case["read"], rel=1e-14, abs=1e-299)
    else:
        assert (read[key], type(read[key])) == (case["read"], type(case["read"]))
    assert read["display_name"] == ("mine" if key == "display_name" else "m")
    assert read["store_session_info"] == ("mine" if key == "store_session_info" else "session")


@pytest.mark.parametrize("case", ARTIFACTS, ids=lambda case: case["port"])
def test_metadata_of_whole_artifacts_comes_back_as_on_the_backend(case: dict[str, Any]) -> None:
    properties = values.stored(case["written"], case["port"], "session")
    read = values.read_back(properties)
    for found, expected in ((properties, case["in_mlmd"]), (read, case["read"])):
        assert found.keys() - expected.keys() <= {"store_session_info"}
        common = {key: found[key] for key in found if key in expected}
        assert_same(
            *(values.through_json(each) if found is properties else each for each in (common, expected))
        )


def assert_same(found: Any, expected: Any) -> None:
    """Require equality but for the digits that were lost where the record was made."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    else:
        assert type(found) is type(expected)
        assert found == (pytest.approx(expected, rel=1e-5) if isinstance(expected, float) else expected)


def test_metadata_that_is_copied_to_an_output_is_wrapped_once_more() -> None:
    once = values.read_back(values.stored({"l": [1], "d": {"a": 1}}, "m", ""))
    twice = values.read_back(values.stored(once, "copy", ""))
    assert twice["l"] == {"struct": {"list": [1]}}
    assert twice["d"] == {"struct": {"struct": {"a": 1}}}
    assert twice["display_name"] == "m"


def test_null_in_metadata_ends_the_step() -> None:
    with pytest.raises(BackendError, match="metadata 'class_weight' of output 'm' is null") as raised:
        values.stored({"class_weight": None}, "m", "")
    assert raised.value.words == (
        'failed to execute component: unable to produce MLMD artifact for output "m": failed to convert '
        "RuntimeArtifact to MLMD artifact: unknown/unsupported value type *structpb.Value_NullValue"
    )


@pytest.mark.parametrize(
    ("text", "word", "place"),
    [
        ('{"parameterValues": {"Output": NaN}}', "NaN", "1:32"),
        ('{"parameterValues": {"Output": Infinity}}', "Infinity", "1:32"),
        ('{"parameterValues": {"s": "NaN is text"},\n "artifacts": {"m": [-Infinity]}}', "-Infinity", "2:22"),
    ],
)
def test_no_output_is_nan_or_infinite(text: str, word: str, place: str) -> None:
    with pytest.raises(BackendError, match=f"is {word}, which the backend can't keep") as raised:
        values.executor_output(text, "/minio/o.json")
    assert raised.value.words == (
        'failed to execute component: failed to unmarshall ExecutorOutput in file "/minio/o.json": '
        f"proto: syntax error (line {place}): invalid value {word}"
    )


@pytest.mark.parametrize(
    ("returned", "read"),
    [
        ("a\nb\tc\r\nd ", "a\nb\tc\r\nd "),
        (9007199254740993, 9007199254740992),
        (-7, -7),
        (0.1, 0.1),
        (2.0, 2),
        (1e-300, 1e-300),
        (True, True),
        ([1, "a", 2.5, None, {"k": [True]}], [1, "a", 2.5, None, {"k": [True]}]),
        ([9007199254740993], [9007199254740992]),
        ({"n": None}, {"n": None}),
    ],
)
def test_an_output_parameter_reaches_the_next_step_as_on_the_backend(returned: Any, read: Any) -> None:
    output = values.executor_output(json.dumps({"parameterValues": {"Output": returned}}), "o.json")
    found = output["parameterValues"]["Output"]
    assert (found, type(found)) == (read, type(read))
    assert values.through_json(found) == read


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step["step"])
def test_outputs_of_recorded_steps_are_read_as_recorded(step: dict[str, Any]) -> None:
    written = step["executor_output_written_by_the_program"]
    if written is None:  # it failed
        return
    output = values.executor_output(json.dumps(written), "o.json")
    for port, artifact in step["outputs"].items():
        (item,) = output["artifacts"].get(port, {"artifacts": [{}]})["artifacts"]
        session = artifact["custom_properties"]["store_session_info"]["string_value"]
        assert values.stored(item.get("metadata", {}), port, session) == artifact["custom_properties"]


def test_omitted_parameters_have_defaults_and_whole_floats_become_ints() -> None:
    found = values.submitted(INPUTS, {"s": 'it\'s "quoted" äö {{x}}', "n": 2.5})
    assert found == {
        "s": 'it\'s "quoted" äö {{x}}',
        "n": 2.5,  # no check that it is whole
        "f": 3,
        "b": True,
        "l": [1, "a", 2.5],
        "d": {},
        "opt": None,
    }
    assert isinstance(found["f"], int)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"s": "", "nosuch": 1}, "parameter(s) provided are not required by pipeline: nosuch"),
        ({}, "parameter s is not optional, yet has neither default value nor user provided value"),
        (
            {"s": True},
            "input parameter s requires type string, but the input parameter is not of string value type",
        ),
        (
            {"s": None},
            "input parameter s requires type string, but the input parameter is not of string value type",
        ),
        (
            {"s": "", "n": "5"},
            "input parameter n requires type double or integer, but the parameter value is not of number "
            "value type",
        ),
        (
            {"s": "", "b": "true"},
            "input parameter b requires type bool, but the input parameter is not of bool value type",
        ),
        (
            {"s": "", "l": "a"},
            "input parameter l requires type list, but the input parameter is not of list value type",
        ),
        (
            {"s": "", "d": [1]},
            "input parameter d requires type struct, but the input parameter is not of struct value type",
        ),
        ({"s": "{{inputs.parameters.x}}"}, "failed to resolve {{inputs.parameters.x}}"),
    ],
    ids=["unknown", "missing", "bool for text", "null", "number", "bool", "list", "dict", "template"],
)
def test_the_submission_is_refused_with_the_words_of_the_api(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SubmissionError) as raised:
        values.submitted(INPUTS, given)
    assert raised.value.words == words
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("source", ["# {{inputs.parameters.x}}", "f('{{=1+1}}')"])
def test_source_with_a_template_of_argo_is_refused_also_in_a_comment(source: str) -> None:
    executors = {"exec-train": {"container": {"command": ["sh", "-ec", source], "args": ["{{$}}"]}}}
    with pytest.raises(SubmissionError, match="the source of 'train' holds"):
        values.refuse_templates_in_source(executors)
    executors["exec-train"]["container"]["command"][2] = "# {{x}} {{ inputs }}"
    values.refuse_templates_in_source(executors)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a {{=1+1}} b", "{{=1+1}}"),
        ("{{=", "{{="),
        ("a {{=1+}}", "{{=1+}}"),
        (["{{workflow.name}}"], "{{workflow.name}}"),
        ({"k": {"x": "{{pod.name}}"}}, "{{pod.name}}"),
        ("{{x}} {{ x }} {{$.inputs}} ${Y} $(Z) %20", ""),
        ("{{inputs.parameters.component}}", ""),
    ],
)
def test_argo_templates_in_values_are_detected(value: Any, found: str) -> None:
    assert values.template_in(value) == found


def test_a_command_gets_values_as_text() -> None:
    given = {
        "inputs": {
            "parameterValues": {"n": 3, "f": 0.5, "tiny": 1e-7, "b": True, "l": [1, "ä"], "s": "a 'b'"},
            "artifacts": {"table": {"artifacts": [{"uri": "minio://b/t"}]}},
        },
        "outputs": {
            "artifacts": {"model": {"artifacts": [{"uri": "minio://b/m"}]}},
            "parameters": {"rows": {"outputFile": "/tmp/kfp/outputs/rows"}},
        },
    }
    replaced = values.placeholders(given, {"minio://b/t": "/minio/b/t", "minio://b/m": "/minio/b/m"})
    line = values.arguments(
        [
            *(
                f"--{name}={{{{$.inputs.parameters['{name}']}}}}"
                for name in ("n", "f", "tiny", "b", "l", "s")
            ),
            "{{$.inputs.artifacts['table'].path}}",
            "{{$.outputs.artifacts['model'].uri}}",
            "{{$.outputs.parameters['rows'].output_file}}",
            '{"IfPresent": {"InputName": "n", "Then": ["--n", "{{$.inputs.parameters[\'n\']}}"]}}',
            '{"IfPresent": {"InputName": "z", "Then": ["--z"], "Else": ["--no-z"]}}',
        ],
        given["inputs"]["parameterValues"],
        replaced,
    )
    assert line == [
        *("--n=3", "--f=0.5", "--tiny=0.0000001", "--b=true", '--l=[1,"ä"]', "--s=a 'b'"),
        *("/minio/b/t", "minio://b/m", "/tmp/kfp/outputs/rows", "--n", "3", "--no-z"),
    ]
    (whole,) = values.arguments(["{{$}}"], {}, replaced)
    assert json.loads(whole) == given


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("5\n", "NUMBER_INTEGER", 5),
        ("2.0", "NUMBER_DOUBLE", 2),
        ("True", "BOOLEAN", True),
        ("[1]", "LIST", [1]),
        ('{"a": 1.0}', "STRUCT", {"a": 1}),
        (" x ", "STRING", " x "),
    ],
)
def test_an_output_file_is_read_by_its_type(text: str, kind: str, value: Any) -> None:
    assert values.from_text(text, kind) == value


@pytest.mark.parametrize(("text", "kind"), [("2.5", "NUMBER_INTEGER"), ("{}", "LIST"), ("yes", "BOOLEAN")])
def test_an_output_file_of_another_type_is_refused(text: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        values.from_text(text, kind)


def test_an_input_of_another_type_stops_the_driver_and_text_takes_anything() -> None:
    assert values.converted("x", [1, 2.5], "STRING") == "[1,2.5]"
    with pytest.raises(BackendError) as raised:
        values.converted("x", "5", "NUMBER_INTEGER")
    assert raised.value.words == 'input parameter "x" type mismatch: expect NUMBER_INTEGER, got string'
    with pytest.raises(BackendError, match="must be optional"):
        values.converted("x", None, "LIST")
