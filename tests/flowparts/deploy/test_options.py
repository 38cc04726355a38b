"""The options of the targets, and the components that show them as ports."""

import inspect
import re
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import docstring_parser
import pytest

from backends import catalogue
from flowparts import deploy
from flowparts.deploy import operations

# Of a step or of Docker's image alone; no user of the component needs it.
NO_OPTIONS = {"model", "endpoint", "endpoint_name", "traffic_fraction", "reset"}
NO_PORTS = {"percent", "splitter_image"}
TARGETS = deploy.target_names()


def function_of(target: str) -> Any:
    return catalogue.components()[f"deploy_{target}"].python_func


def plain(annotation: Any) -> Any:
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    (kind,) = (each for each in kinds if each is not NoneType)
    return get_origin(kind) or kind


@pytest.mark.parametrize("target", TARGETS)
def test_a_component_has_a_port_for_each_option_of_its_target(target: str) -> None:
    options = get_type_hints(deploy.target(target).Options)
    ports = inspect.signature(function_of(target)).parameters
    assert set(ports) - NO_OPTIONS == set(options) - NO_PORTS
    for name in set(ports) - NO_OPTIONS:
        assert plain(ports[name].annotation) is plain(options[name]), name


@pytest.mark.parametrize("target", TARGETS)
def test_the_default_that_a_component_tells_is_the_targets(target: str) -> None:
    described = docstring_parser.parse(inspect.getdoc(function_of(target)) or "")
    texts = {each.arg_name: " ".join((each.description or "").split()) for each in described.params}
    told = 0
    for field in fields(deploy.target(target).Options):
        if found := re.search(r"\(([\w.-]+)\)\.", texts.get(field.name, "")):
            default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
            assert found[1] == default, field.name
            told += 1
    assert told >= 3


@pytest.mark.parametrize("target", TARGETS)
def test_no_target_accepts_invalid_options(target: str) -> None:
    kind = deploy.target(target).Options
    needed = {"role": "arn:aws:iam::123456789012:role/models"} if target == "sagemaker" else {}
    for wrong, words in {
        "replicas": (0, "replicas must be from 1 to 100, not 0"),
        "percent": (101, "percent must be from 0 to 100, not 101"),
        "timeout_seconds": (0.0, "timeout_seconds must be more than 0, not 0"),
    }.items():
        value, sentence = words
        with pytest.raises(ValueError, match=sentence):
            kind(**{**needed, wrong: value})
    if "max_replicas" in get_type_hints(kind):
        with pytest.raises(ValueError, match="max_replicas must be 0 or at least the 3 replicas, not 2"):
            kind(**{"replicas": 3, "max_replicas": 2})


def test_options_get_the_types_that_the_target_takes() -> None:
    given = {"replicas": 2.0, "timeout_seconds": 60, "memory": "1Gi"}
    checked = operations.options("docker", given)
    assert checked == given
    assert {name: type(value) for name, value in checked.items()} == {
        "replicas": int,
        "timeout_seconds": float,
        "memory": str,
    }
    with pytest.raises(
        ValueError, match="unknown option of the target docker 'replica'; did you mean"
    ) as raised:
        operations.options("docker", {"replica": 2})
    assert "traffic_fraction" not in str(raised.value)
    with pytest.raises(ValueError, match="'monitor_labels' of the target kubernetes must be dict, not 'x'"):
        operations.options("kubernetes", {"monitor_labels": "x"})
    with pytest.raises(ValueError, match="the target sagemaker needs the option 'role'"):
        operations.options("sagemaker", {})
    with pytest.raises(
        ValueError, match="'traffic_fraction' isn't a target's option; pass it to the step itself"
    ):
        operations.options("docker", {"traffic_fraction": 0.1})


@pytest.mark.parametrize("target", TARGETS)
def test_invalid_options_are_refused_before_the_platform_is_contacted(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: Any, **__: Any) -> Any:
        pytest.fail("the platform was asked")

    monkeypatch.setattr(deploy.target(target), "writing", asked)
    needed = {"role": "arn:aws:iam::123456789012:role/models"} if target == "sagemaker" else {}
    for name, fraction, wrong, words in [
        ("churn", 1.0, {"replicas": 0}, "replicas must be from 1 to 100, not 0"),
        ("churn", 1.0, {"timeout_seconds": 0.0}, "timeout_seconds must be more than 0"),
        ("churn", 10, {}, "traffic_fraction must be from 0 to 1, such as 0.1 for 10 %, not 10"),
        ("churn", 0.125, {}, "traffic_fraction must be in steps of 0.01, not 0.125"),
        ("Churn", 1.0, {}, "endpoint name 'Churn' must start with a letter"),
    ]:
        with pytest.raises(ValueError, match=words):
            operations.deployed(target, "s3://models/churn", name, fraction, {**needed, **wrong})


@pytest.mark.parametrize(
    ("target", "wrong", "words"),
    [
        ("vertex", {"accelerator": "A1000"}, "unknown accelerator 'A1000'"),
        ("vertex", {"accelerator_count": 0}, "accelerator_count must be at least 1"),
        ("sagemaker", {"role": "admin"}, "role must be the ARN of a role"),
    ],
)
def test_cloud_only_options_are_refused_before_any_request(
    target: str, wrong: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy.target(target), "writing", lambda *_, **__: pytest.fail("it was asked"))
    with pytest.raises(ValueError, match=words):
        operations.deployed(target, "gs://models/churn", "churn", 1.0, wrong)
