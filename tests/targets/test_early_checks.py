"""What a step would refuse is refused before anything runs, by run.py and submit.py alike."""

from typing import Any

import pytest
from google.protobuf import json_format
from kfp import dsl

from targets import catalogue, parameters


def gather(name: str, *pairs: str) -> dict[str, Any]:
    pipeline = catalogue.pipeline(name)
    spec = json_format.MessageToDict(pipeline.pipeline_spec)
    return parameters.gather(pipeline.component_spec.inputs or {}, None, pairs, spec)


@pytest.mark.parametrize(
    ("pipeline", "pairs", "message"),
    [
        ("tabular_training", ["trainer=kears"], "unknown trainer 'kears'; did you mean 'keras'"),
        ("tabular_training", ["task=clasification"], "task must be one of classification, regression"),
        ("tabular_training", ["metric=rmse"], "metric 'rmse' does not fit classification"),
        ("tabular_training", ["candidates=[Linaer]"], "'Linaer' is unknown .*did you mean 'Linear'"),
        ("tabular_training", ["trainer=keras", "network={epoch: 1}"], "no option 'epoch'; did you mean"),
        ("tabular_training", ["exclude_columns=[target]"], "label column 'target' is in exclude_columns"),
        ("tabular_training", ["exclude_columns=[true]"], "exclude_columns holds True.*write it in quotes"),
        ("tabular_training", ["key=[a]", "group_by=b"], "key and group_by contradict each other"),
        ("tabular_training", ["on_bad_rows=drop"], "on_bad_rows is 'drop'; use one of"),
        ("tabular_training", ["on_missing_label=keep"], "on_missing_label is 'keep'; use one of: drop, fail"),
        ("tabular_training", ["column_types={x: int}"], "'int'; did you mean 'integer'"),
        ("tabular_training", ["margin=-1"], "margin is -1.0; it must be 0 or more"),
        ("tabular_training", ["model_name=a/b"], "model name 'a/b'"),
        (
            "tabular_training",
            ["deploy_target=dockr"],
            "unknown deployment target 'dockr'; did you mean 'docker'",
        ),
        ("tabular_training", ["endpoint_name=My_Name"], "endpoint name 'My_Name' must start with a letter"),
        (
            "tabular_training",
            ["deploy_target=docker", "deploy_options={replica: 2}"],
            "'replica'; did you mean 'replicas'",
        ),
        ("image_training", ["on_bad_images=drop"], "on_bad_images must be one of"),
        ("batch_prediction", ["destination=rows.xls"], "can't tell the format of 'rows.xls'"),
        ("deploy_with_canary", ["target=dockr"], "unknown deployment target 'dockr'"),
    ],
)
def test_a_parameter_that_a_step_would_refuse_is_refused_at_once(
    pipeline: str, pairs: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gather(pipeline, *pairs)


@pytest.mark.parametrize("name", list(catalogue.pipelines()))
def test_the_defaults_are_right(name: str) -> None:
    assert gather(name) == {}


def test_parameters_of_other_components_are_left_alone() -> None:
    @dsl.component(base_image="python:3.12")
    def aim(target: str) -> str:
        return target

    @dsl.pipeline(name="elsewhere")
    def elsewhere(target: str = "moon", metric: str = "miles") -> None:
        aim(target=target)
        aim(target=metric)

    spec = json_format.MessageToDict(elsewhere.pipeline_spec)
    given = parameters.gather(elsewhere.component_spec.inputs or {}, None, ["target=mars"], spec)
    assert given == {"target": "mars"}
