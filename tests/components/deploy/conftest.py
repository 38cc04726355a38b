"""A real model for the components that deploy, on this machine's Docker engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl
from sklearn.linear_model import LogisticRegression

from flowparts import endpoint as endpoints
from flowparts.deploy import docker

WINE = pl.read_parquet("containers/flowparts/samples/wine.parquet")


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
    """Deploy models one after the other and give the endpoint's artifact: `deployed(1.0, 0.1, share=10)`."""

    def make(*strengths: float, share: int = 100) -> dsl.Artifact:
        name = new_endpoint("wine")
        for strength in strengths:
            made = docker.deploy(wine_model(strength).path, name, share=share, memory="512Mi")
        artifact = dsl.Artifact(name="endpoint", uri=str(tmp_path / "endpoint"))
        endpoints.write(made, artifact.path)
        return artifact

    return make
