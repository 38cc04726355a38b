from collections.abc import Callable
from typing import Any

import pytest
from kfp import dsl

from flowparts import models
from flowparts.components.deploy.deploy_docker import deploy_docker
from flowparts.components.register.load_champion import load_champion
from flowparts.deploy import endpoint as endpoints
from flowparts.deploy.targets import docker
from flowparts.models import agreement
from tests.components.deploy.conftest import WINE


@dsl.pipeline(name="example")
def example(champion: str, docker_endpoint: str, tracking_uri: str) -> None:
    loaded = load_champion(model_name=champion, tracking_uri=tracking_uri)
    deploy_docker(model=loaded.outputs["model"], endpoint_name=docker_endpoint, memory="512Mi")


@pytest.mark.container
def test_a_served_model_answers_at_the_endpoints_url(
    wine_model: Callable[[float], dsl.Model],
    new_endpoint: Callable[[str], str],
    artifact: Callable[..., Any],
) -> None:
    model, endpoint = wine_model(1.0), artifact("endpoint")
    url, revision, fraction = deploy_docker.python_func(
        model=model,
        endpoint=endpoint,
        endpoint_name=new_endpoint("wine"),
        traffic_fraction=0.1,
        memory="512Mi",
    )
    made = endpoints.read(endpoint.path)
    assert (made.target, made.url, made.traffic, fraction) == ("docker", url, {revision: 100}, 1.0)
    assert endpoint.metadata["revision"] == revision
    rows = agreement.to_records(WINE.drop("target").head(2))
    served = [row["prediction"] for row in docker.predict(made, rows)]
    assert served == models.load(model.path).predict(WINE.head(2))["prediction"].to_list()


WRONG = {
    "name": ({"endpoint_name": "Wine!"}, "endpoint name 'Wine!' must start with a letter"),
    "fraction": ({"traffic_fraction": 10}, "from 0 to 1, such as 0.1 for 10 %, not 10"),
    "replicas": ({"replicas": 0}, "from 1 to 100, not 0"),
    "cpu": ({"cpu": "two"}, "cpu 'two' is not a number of processors"),
    "memory": ({"memory": "2GB"}, "memory '2GB' is not an amount"),
    "port": ({"port": 70000}, "port must be from 1 to 65535"),
    "time": ({"timeout_seconds": 0.0}, "timeout_seconds must be more than 0"),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG)
def test_a_bad_option_is_refused_before_anything_is_deployed(
    options: dict[str, Any],
    words: str,
    wine_model: Callable[[float], dsl.Model],
    artifact: Callable[..., Any],
) -> None:
    with pytest.raises(ValueError, match=words):
        deploy_docker.python_func(
            model=wine_model(1.0), endpoint=artifact("endpoint"), **{"endpoint_name": "wine", **options}
        )
