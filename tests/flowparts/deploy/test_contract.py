"""What every deployment target does, held to one set of tests: each runs against all of them.

What a target does in its own way is tested beside its name. Clusters and clouds are stand-ins on this
machine, Docker is the real one.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from flowparts import deploy
from flowparts.deploy import operations
from flowparts.deploy.endpoint import Endpoint
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.deploy.sagemaker_service import ROLE

ON_CLUSTERS = {"image": "registry.example/flowparts-serving:0.1.0", "timeout_seconds": 5.0}
ON_VERTEX = {
    "image": "europe-west4-docker.pkg.dev/shop/flowparts/flowparts-serving:1.0",
    "timeout_seconds": 20.0,
}
ON_SAGEMAKER = {
    "image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/flowparts-serving:1.0",
    "role": ROLE,
    "timeout_seconds": 20.0,
}


@dataclass
class Platform:
    """A target on a platform that is there.

    Attributes:
        target: The target.
        models: Addresses of two models.
        options: What to deploy them with.
        written: Tells all that was written there, to compare.
        name: The endpoint.
    """

    target: str
    models: tuple[str, str]
    options: dict[str, Any]
    written: Callable[[], object]
    name: str = "churn"

    @property
    def module(self) -> deploy.Target:
        return deploy.target(self.target)

    def bring(self, number: int, traffic_fraction: float = 1.0, **given: Any) -> Endpoint:
        """Deploy a model as a step does."""
        return operations.deployed(
            self.target, self.models[number], self.name, traffic_fraction, {**self.options, **given}
        )

    def found(self) -> list[Endpoint]:
        """Return the endpoints of the platform with the test's name."""
        return [each for each in self.module.endpoints() if each.name == self.name]


@pytest.fixture(params=deploy.target_names())
def platform(request: pytest.FixtureRequest) -> Platform:
    ask = request.getfixturevalue
    if request.param == "docker":
        new_endpoint: Callable[[str], str] = ask("new_endpoint")
        name = new_endpoint("wine")

        def containers() -> list[str]:
            from docker.client import DockerClient

            with contextlib.closing(DockerClient.from_env()) as engine:
                found = engine.containers.list(all=True, filters={"label": f"flowparts.endpoint={name}"})
                return sorted(each.id for each in found)

        return Platform("docker", ask("wine_models"), {"memory": "512Mi"}, containers, name)
    if request.param in ("vertex", "sagemaker"):
        writes = ask(f"{request.param}_ai").writes
        first, second = ask("served")
        if request.param == "vertex":
            return Platform("vertex", (first.gs, second.gs), ON_VERTEX, writes)
        return Platform("sagemaker", (first.s3, second.s3), ON_SAGEMAKER, writes)
    api: KubernetesApi = ask("api")
    models = ("s3://models/churn/1", "s3://models/churn/2")
    return Platform(request.param, models, ON_CLUSTERS, api.versions)


@pytest.fixture(scope="module")
def wine_models(
    tmp_path_factory: pytest.TempPathFactory, save_model: Callable[..., dict[str, Any]]
) -> tuple[str, ...]:
    wine = pl.read_parquet("src/flowparts/samples/wine.parquet")
    folders = {strength: tmp_path_factory.mktemp("model") / "model" for strength in (1.0, 0.1)}
    for strength, folder in folders.items():
        save_model(folder, wine, "target", LogisticRegression(C=strength, max_iter=1000))
    return tuple(map(str, folders.values()))


def test_a_first_revision_gets_all_requests_whatever_is_asked_for(platform: Platform) -> None:
    made = platform.bring(0, traffic_fraction=0.1)
    assert (made.target, made.name) == (platform.target, platform.name)
    assert made.traffic == {made.revision: 100}
    assert made.previous_revision is None
    assert made.url.startswith("http")


def test_deploying_the_same_again_changes_nothing(platform: Platform) -> None:
    made = platform.bring(0)
    written = platform.written()
    assert platform.bring(0) == made
    assert platform.written() == written
    tried = platform.bring(1, traffic_fraction=0.5)
    written = platform.written()
    assert platform.bring(1, traffic_fraction=0.5) == tried
    assert platform.written() == written


def test_a_second_revision_gets_its_traffic_is_promoted_and_rolled_back(platform: Platform) -> None:
    first = platform.bring(0)
    tried = platform.bring(1, traffic_fraction=0.5)
    assert tried.traffic == {tried.revision: 50, first.revision: 50}
    assert tried.previous_revision == first.revision
    promoted = platform.module.shift(tried, 100)
    assert promoted.traffic == {tried.revision: 100, first.revision: 0}
    # Once is enough: a step that is tried again finds it so.
    assert platform.module.shift(promoted, 100).traffic == promoted.traffic
    back = platform.module.rollback(promoted)
    assert (back.revision, back.traffic) == (first.revision, {first.revision: 100})
    assert platform.module.rollback(promoted).traffic == back.traffic


def test_a_traffic_percentage_needs_a_previous_revision(platform: Platform) -> None:
    made = platform.bring(0)
    with pytest.raises(ValueError, match="percent must be a whole number from 0 to 100, not 101"):
        platform.module.shift(made, 101)
    with pytest.raises(ValueError, match="has no previous revision to take the other 50 %"):
        platform.module.shift(made, 50)
    with pytest.raises(ValueError, match="has no previous revision to roll back to; it keeps serving"):
        platform.module.rollback(made)


def test_an_endpoint_that_has_changed_since_is_left_alone(platform: Platform) -> None:
    first = platform.bring(0)
    second = platform.bring(1, traffic_fraction=0.5)
    # The endpoint as the step before saw it.
    with pytest.raises(ValueError, match=r"has been changed since: its revision is .*; use the endpoint"):
        platform.module.shift(first, 100)
    with pytest.raises(ValueError, match=r"has been changed since"):
        platform.module.rollback(replace(second, revision="r000000000000", traffic=others(second)))
    (found,) = platform.found()
    assert found.traffic == second.traffic


def test_a_missing_endpoint_is_refused(platform: Platform) -> None:
    made = platform.bring(0)
    operations.remove(platform.target, platform.name, {}, even_if_serving=True)
    with pytest.raises(ValueError, match=f"there is no endpoint '{platform.name}' .*; deploy a model first"):
        platform.module.shift(made, 100)
    assert platform.found() == []


def test_an_endpoint_keeps_the_options_that_a_deployment_does_not_name(platform: Platform) -> None:
    kept = {name: value for name, value in platform.options.items() if name != "timeout_seconds"}
    first = platform.bring(0)
    assert first.settings["options"] == kept
    tried = operations.deployed(
        platform.target, platform.models[1], platform.name, 0.5, {"replicas": 3, **needed(platform)}
    )
    assert tried.settings["options"] == {**kept, "replicas": 3}
    assert platform.module.rollback(tried).settings["options"] == kept
    again = platform.bring(1, 0.5, reset=True)
    assert again.settings["options"] == kept


def others(endpoint: Endpoint) -> dict[str, int]:
    """Return the shares of an endpoint with another current revision."""
    assert endpoint.previous_revision
    return {"r000000000000": endpoint.percent, endpoint.previous_revision: 100 - endpoint.percent}


def needed(platform: Platform) -> dict[str, Any]:
    """Return the options without which a target takes none, and the time to wait."""
    return {name: platform.options[name] for name in ("role", "timeout_seconds") if name in platform.options}


def test_an_endpoint_is_listed_as_it_is(platform: Platform) -> None:
    platform.bring(0)
    tried = platform.bring(1, traffic_fraction=0.5)
    (found,) = platform.found()
    assert found.traffic == tried.traffic
    assert found.settings["options"] == tried.settings["options"]


def test_an_endpoint_that_serves_is_removed_only_on_purpose(platform: Platform) -> None:
    platform.bring(0)
    tried = platform.bring(1, traffic_fraction=0.5)
    with pytest.raises(ValueError, match=rf"endpoint '{platform.name}' serves \(.* 50 %.*\); set even_if"):
        operations.remove(platform.target, platform.name, {})
    held = operations.remove(platform.target, platform.name, {}, dry_run=True)
    assert [each.traffic for each in platform.found()] == [tried.traffic]
    removed = operations.remove(platform.target, platform.name, {}, even_if_serving=True)
    assert sorted(removed) == sorted(held)
    with pytest.raises(
        operations.NoEndpointError, match=f"no endpoint '{platform.name}' on {platform.target}"
    ):
        operations.remove(platform.target, platform.name, {})
