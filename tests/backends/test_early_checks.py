"""What a step would refuse is refused before anything runs, by run.py and submit.py alike.

In a run that is started elsewhere, such as in Kubeflow's interface, an early step refuses it.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp import dsl

from backends import catalogue, graph, parameters
from tests.contract.test_bad_input import Call


def gather(name: str, *pairs: str) -> dict[str, Any]:
    pipeline = catalogue.pipeline(name)
    spec = json_format.MessageToDict(pipeline.pipeline_spec)
    return parameters.gather(pipeline.component_spec.inputs or {}, None, pairs, spec)


WRONG = [
    ("tabular_training", ["trainer=kears"], "unknown trainer 'kears'; did you mean 'keras'"),
    ("tabular_training", ["task=clasification"], "task must be one of classification, regression"),
    ("tabular_training", ["metric=rmse"], "metric 'rmse' does not fit classification"),
    ("tabular_training", ["candidates=[Linaer]"], "'Linaer' is unknown .*did you mean 'Linear'"),
    ("tabular_training", ["trainer=keras", "network={epoch: 1}"], "no option 'epoch'; did you mean"),
    (
        "tabular_training",
        ["exclude_columns=[target]"],
        "label column 'target' must not be in exclude_columns",
    ),
    (
        "tabular_training",
        ["exclude_columns=[true]"],
        "exclude_columns must hold texts only, not True; put it in quotes",
    ),
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
    ("tabular_training", ["min_class_rows=0"], "min_class_rows must be at least 1"),
    ("image_training", ["metric=rmse"], "metric 'rmse' does not fit classification"),
    ("image_training", ["margin=-0.5"], "margin is -0.5; it must be 0 or more"),
    ("image_training", ["deploy_target=dockr"], "unknown deployment target 'dockr'"),
    ("batch_prediction", ["destination=rows.xls"], "can't tell the format of 'rows.xls'"),
    ("continuous_training", ["trainer=kears"], "unknown trainer 'kears'; did you mean 'keras'"),
    ("continuous_training", ["reasons=[luck]"], "'luck' is no reason to train; reasons are: new_data"),
    ("continuous_training", ["min_new_rows=0"], "min_new_rows is 0; it must be at least 1"),
    ("continuous_training", ["max_age_days=-1"], "max_age_days is -1; it must be a number of days above 0"),
    ("continuous_training", ["window_days=7"], "window_days=7 needs time_column"),
    (
        "deploy_with_canary",
        ["deploy_target=dockr"],
        "unknown deployment target 'dockr'; did you mean 'docker'",
    ),
    ("deploy_with_canary", ["endpoint_name=My_Name"], "endpoint name 'My_Name' must start with a letter"),
    ("deploy_with_canary", ["deploy_options={replica: 2}"], "'replica'; did you mean 'replicas'"),
    ("deploy_with_canary", ["on_bad_rows=drop"], "on_bad_rows is 'drop'; use one of"),
    ("deploy_with_canary", ["file_format=xls"], "file_format is 'xls'; use one of"),
    ("deploy_with_canary", ["decimal=;"], "decimal is ';'"),
    (
        "deploy_with_canary",
        ["traffic_fraction=10"],
        "traffic_fraction must be from 0 to 1, such as 0.1 for 10 %, not 10",
    ),
    ("deploy_with_canary", ["requests=0"], "requests must be more than 0, not 0"),
    ("deploy_with_canary", ["seconds=-1"], "seconds must be more than 0, not -1"),
    ("deploy_with_canary", ["max_error_rate=1"], "max_error_rate must be at least 0 and below 1, not 1"),
    ("deploy_with_canary", ["max_slowdown=0.5"], "max_slowdown must be at least 1, not 0.5"),
    ("deploy_with_canary", ["warm_seconds=-1"], "warm_seconds must be at least 0, not -1"),
]
# What only the table's columns show.
WRONG_COLUMNS = [
    (
        "tabular_training",
        ["label=tagret"],
        "label column 'tagret' is not in the source; did you mean 'target'",
    ),
    ("tabular_training", ["key=[mean_radiu]"], "key column 'mean_radiu' is not in the table; did you mean"),
    (
        "tabular_training",
        ["group_by=mean_radiu"],
        "group_by column 'mean_radiu' is not in the table; did you",
    ),
    ("tabular_training", ["time_column=mean_radiu"], "time column 'mean_radiu' is not in the table; did you"),
    (
        "tabular_training",
        ["exclude_columns=[mean_radiu]"],
        "excluded column 'mean_radiu' is not in the table",
    ),
    ("tabular_training", ["slice_columns=[mean_radiu]"], "column 'mean_radiu' is not in the source; did you"),
    ("batch_prediction", ["key_columns=[mean_radiu]"], "column 'mean_radiu' is not in the source; did you"),
]
# Checked as the training begins: only its image has the estimators.
OPTIONS_OF_TRAINERS = {"candidates", "network"}
# Checked by the decision, whose other part needs a registry.
RULES_OF_TRAININGS = {"reasons", "min_new_rows", "max_age_days"}
NEED_A_REGISTRY = {"load-champion", "decide-retraining"}
# Checked by the rollout as it begins; nothing has been trained for it.
NUMBERS_OF_ROLLOUTS = {
    "traffic_fraction",
    "requests",
    "seconds",
    "max_error_rate",
    "max_slowdown",
    "warm_seconds",
}


@pytest.mark.parametrize(("pipeline", "pairs", "message"), WRONG)
def test_a_parameter_that_a_step_would_refuse_is_refused_at_once(
    pipeline: str, pairs: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gather(pipeline, *pairs)


@pytest.mark.parametrize(
    ("pipeline", "pairs", "message"),
    [
        wrong
        for wrong in WRONG + WRONG_COLUMNS
        if not NUMBERS_OF_ROLLOUTS & {pair.partition("=")[0] for pair in wrong[1]}
    ],
)
def test_a_run_that_is_started_elsewhere_fails_before_training_with_the_same_error(
    pipeline: str, pairs: list[str], message: str, tmp_path: Path
) -> None:
    inputs = catalogue.pipeline(pipeline).component_spec.inputs or {}
    given = parameters.gather(inputs, None, pairs)
    values = {name: port.default for name, port in inputs.items()} | given
    early = 3 if OPTIONS_OF_TRAINERS & given.keys() or pipeline == "batch_prediction" else 2
    skipped = NEED_A_REGISTRY
    if pipeline == "deploy_with_canary":
        early, skipped = 1, set()
    if RULES_OF_TRAININGS & given.keys():
        skipped = {"load-champion"}
    with pytest.raises(ValueError, match=message):
        run_layers(pipeline, values, early, tmp_path, skipped)


# Sources that can't be read as they are, and what an option would do about it.
UNREADABLE = {
    "rows.csv": [
        b"a,b\n1,2\n3\n",
        b"1,2\n3,4\n",
        b'a,b\n"1,234",x\n',
        b"a,b\n" + b"1,x\n" * 30 + b"unknown,y\n",
        b"a,b\n1,2\n",
    ],
    "rows.jsonl": [b'{"a": 1}\n{"a": \n', b'{"a": "1,234"}\n'],
    "rows.dat": [b"a,b\n1,2\n"],
}


@pytest.mark.parametrize("pipeline", list(catalogue.pipelines()))
@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name, contents in UNREADABLE.items() for content in contents]
)
def test_hints_about_a_source_name_only_existing_parameters(
    pipeline: str, name: str, content: bytes, tmp_path: Path
) -> None:
    ports = {port for each in catalogue.components().values() for port in each.component_spec.inputs or {}}
    inputs = catalogue.pipeline(pipeline).component_spec.inputs or {}
    (tmp_path / name).write_bytes(content)
    values = {port: spec.default for port, spec in inputs.items()} | {"source": str(tmp_path / name)}
    try:
        run_layers(pipeline, values, 2, tmp_path / "called")
    except ValueError as error:
        said = set(re.findall(r"[a-z]+(?:_[a-z]+)+|[a-z]+(?==)", str(error)))
        assert said & ports <= inputs.keys()


def run_layers(
    pipeline: str,
    values: dict[str, Any],
    count: int,
    folder: Path,
    skipped: Collection[str] = frozenset(NEED_A_REGISTRY),
) -> None:
    """Run the first layers of a pipeline's steps, all that are there on what the first one ingested.

    A step that needs a registry is skipped, but where its own checks are what is looked at.
    """
    spec = json_format.MessageToDict(catalogue.pipeline(pipeline).pipeline_spec)
    call = Call(folder)
    tasks = spec["root"]["dag"]["tasks"]
    table = None
    for step in [
        step
        for layer in graph.layers(graph.steps(spec))[:count]
        for step in sorted(layer, key=lambda each: each.name)
    ]:
        if step.name not in tasks or step.name in skipped:
            continue  # in a branch, or without a registry
        given = tasks[step.name].get("inputs", {})
        ports = {
            port: values[source["componentInputParameter"]]
            if "componentInputParameter" in source
            else source["runtimeValue"]["constant"]
            for port, source in given.get("parameters", {}).items()
        }
        component = step.name.replace("-", "_")
        needed = catalogue.components()[component].component_spec.inputs or {}
        ports |= {port: table for port in given.get("artifacts", {}) if not needed[port].optional}
        table = getattr(call, component)(**ports).get("table", table)


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
