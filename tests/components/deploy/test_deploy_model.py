from collections.abc import Callable
from typing import Any

import pytest
from kfp import dsl

from flowparts.components.deploy.deploy_model import deploy_model
from flowparts.deploy import endpoint as endpoints


@pytest.mark.container
def test_a_model_goes_to_the_target_of_that_name_with_its_options(
    wine_model: Callable[[float], dsl.Model],
    new_endpoint: Callable[[str], str],
    artifact: Callable[..., Any],
) -> None:
    endpoint = artifact("endpoint")
    # Numbers inside a dict are floats in a pipeline.
    url, revision, fraction = deploy_model.python_func(
        model=wine_model(1.0),
        endpoint=endpoint,
        deploy_target="docker",
        endpoint_name=new_endpoint("wine"),
        deploy_options={"memory": "512Mi", "replicas": 1.0},
    )
    made = endpoints.read(endpoint.path)
    assert (made.target, made.url, made.traffic, fraction) == ("docker", url, {revision: 100}, 1.0)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "target": ({"deploy_target": "dokcer"}, "unknown deployment target 'dokcer'; did you mean 'docker'"),
    "option": (
        {"deploy_options": {"replica": 2}},
        "unknown option of the target docker 'replica'; did you mean",
    ),
    "type": (
        {"deploy_options": {"memory": 512}},
        "option 'memory' of the target docker must be str, not 512",
    ),
    "fraction": ({"deploy_options": {"replicas": 1.5}}, "option 'replicas' of the target docker must be int"),
    "required": ({"deploy_target": "sagemaker"}, "the target sagemaker needs the option 'role'"),
    "own port": (
        {"deploy_options": {"traffic_fraction": 0.05}},
        "'traffic_fraction' isn't a target's option",
    ),
}


@pytest.mark.parametrize(("given", "words"), WRONG.values(), ids=WRONG)
def test_an_option_that_the_target_lacks_is_refused(
    given: dict[str, Any],
    words: str,
    wine_model: Callable[[float], dsl.Model],
    artifact: Callable[..., Any],
) -> None:
    with pytest.raises(ValueError, match=words):
        deploy_model.python_func(
            model=wine_model(1.0),
            endpoint=artifact("endpoint"),
            **{"endpoint_name": "wine", "deploy_target": "docker", **given},
        )
