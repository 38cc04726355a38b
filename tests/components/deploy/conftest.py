"""Real models for the components that deploy, and what is done with one on every platform."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl
from sklearn.linear_model import LogisticRegression

from flowparts import models
from flowparts.components.deploy.probe_endpoint import probe_endpoint
from flowparts.components.deploy.rollback import rollback
from flowparts.components.deploy.shift_traffic import shift_traffic
from flowparts.deploy import endpoint as endpoints
from flowparts.deploy.targets import docker
from tests.flowparts.serving.conftest import rows

WINE = pl.read_parquet("src/flowparts/samples/wine.parquet")


@pytest.fixture
def wine_model(trained: Callable[..., dsl.Model]) -> Callable[[float], dsl.Model]:
    """Train on wine: `wine_model(1.0)`; another strength of regularisation makes another model."""

    def make(strength: float) -> dsl.Model:
        estimator = LogisticRegression(C=strength, max_iter=1000)
        return trained(WINE, "target", estimator, name=f"model-{strength}")

    return make


@pytest.fixture
def deployed(
    wine_model: Callable[[float], dsl.Model], new_endpoint: Callable[[str], str], tmp_path: Path
) -> Callable[..., Any]:
    """Deploy models one after the other; return the endpoint's artifact: `deployed(1.0, 0.1, percent=10)`."""

    def make(*strengths: float, percent: int = 100) -> dsl.Artifact:
        name = new_endpoint("wine")
        for strength in strengths:
            made = docker.deploy(wine_model(strength).path, name, percent=percent, memory="512Mi")
        artifact = dsl.Artifact(name="endpoint", uri=str(tmp_path / "endpoint"))
        endpoints.write(made, artifact.path)
        return artifact

    return make


@pytest.fixture
def try_canary(artifact: Callable[..., Any], table: Callable[..., dsl.Dataset]) -> Callable[..., None]:
    """Deploy a model, another one beside it, probe that, promote it and roll it back, each by its step."""

    def tried(step: Any, first: tuple[str, Path], second: tuple[str, Path], **options: Any) -> None:
        endpoint, canary, shifted, back = map(artifact, ("endpoint", "canary", "shifted", "back"))
        made = step.python_func(model=dsl.Model(uri=first[0]), endpoint=endpoint, **options)
        assert made[2] == 1.0
        url, revision, fraction = step.python_func(
            model=dsl.Model(uri=second[0]), endpoint=canary, traffic_fraction=0.1, **options
        )
        written = endpoints.read(canary.path)
        assert (written.url, written.revision, written.percent / 100) == (url, revision, fraction)
        assert written.traffic == {revision: 10, made[1]: 90}
        assert canary.metadata["traffic"] == f"{made[1]} 90 %, {revision} 10 %"

        offline = pl.concat([rows(), models.load(second[1]).predict(rows())], how="horizontal")
        (healthy, reason, latency_ms, error_rate) = probe_endpoint.python_func(
            endpoint=canary,
            model=dsl.Model(uri=str(second[1])),
            predictions=table(offline, "offline"),
            probe_metrics=artifact("metrics", dsl.Metrics),
            probe_report=artifact("report", dsl.HTML),
            requests=10,
            seconds=10.0,
        )
        assert healthy, reason
        assert latency_ms > 0
        assert error_rate == 0

        assert shift_traffic.python_func(endpoint=canary, shifted=shifted, traffic_fraction=1.0) == (1.0,)
        assert endpoints.read(shifted.path).traffic == {revision: 100, made[1]: 0}
        rollback.python_func(endpoint=shifted, restored=back, reason="it predicts otherwise")
        assert endpoints.read(back.path).traffic == {made[1]: 100}

    return tried
