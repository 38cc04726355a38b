"""The pipelines that deploy, to this machine's Docker engine; what a rollout does is in test_roll_out.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from backends.local import runner
from flowparts.deploy import endpoint as endpoints
from flowparts.deploy.endpoint import Endpoint
from flowparts.pipelines.deploy_with_canary import deploy_with_canary
from flowparts.pipelines.tabular_training import tabular_training
from flowparts.register import registry

pytestmark = pytest.mark.container

CANCER = pl.read_parquet("src/flowparts/samples/breast_cancer.parquet")


# What tests/contract runs; see examples.py there.
AFTER = ["tabular_training"]
WATCH = {
    "endpoint_name": "{docker_endpoint}",
    "requests": 10,
    "seconds": 1.0,
    "deploy_options": {"memory": "512Mi"},
}
RUNS = [WATCH, {**WATCH, "model_name": "diabetes", "source": "sample://diabetes"}]
ON_A_CLUSTER = {"deploy_target": "kubernetes", "requests": 10, "seconds": 0.5, "max_slowdown": 100.0}


def result(record: runner.Run) -> dict[str, Any]:
    """Return what the rollout of a run gave."""
    assert record.succeeded, record.problem
    return next(task.outputs for task in record.tasks if task.name == "roll-out")


def served(record: runner.Run) -> Endpoint:
    return endpoints.read(result(record)["endpoint"].path)


def test_a_new_champion_is_rolled_out_beside_the_previous_one(
    tmp_path: Path,
    new_endpoint: Callable[[str], str],
    save_model: Callable[..., dict[str, Any]],
    open_page: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, uri = new_endpoint("churn"), f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    options = {"memory": "1Gi"}
    parameters = {
        "candidates": [{"estimator": "Linear", "parameters": {}}],
        "model_name": "churn",
        "deploy_target": "docker",
        "endpoint_name": name,
        "deploy_options": options,
    }
    first = runner.run(tabular_training, parameters, tmp_path)
    assert result(first)["promoted"]
    old = served(first)
    assert old.traffic == {old.revision: 100}

    save_model(tmp_path / "model", CANCER, "target", LogisticRegression(C=0.1, max_iter=5000))
    registry.register(tmp_path / "model", "churn", metrics={}, reports={}, tracking_uri=uri)
    # The model of this test is really slower: it has no ONNX graph.
    watch = {"requests": 30, "seconds": 2.0, "max_slowdown": 20.0}
    given = {"model_name": "churn", "endpoint_name": name, "deploy_options": options, **watch}
    second = runner.run(deploy_with_canary, given, tmp_path)
    assert result(second)["promoted"], result(second)["reason"]
    new = served(second)
    assert new.traffic == {new.revision: 100, old.revision: 0}
    told = f"{new.url} ({new.revision} 100 %, {old.revision} 0 %)"
    assert runner.endpoints(second) == {name: told}
    open_page(next(page for task, page in runner.reports(second).items() if task.startswith("roll-out")))
