from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from components.register.register_mlflow import register_mlflow
from flowparts import models, outputs, preprocess, registry

ROWS = pl.DataFrame({"area": [30.0, 50.0, 70.0, 90.0, 110.0], "price": [100.0, 170.0, 230.0, 310.0, 370.0]})


@pytest.fixture
def ports(artifact: Callable[..., Any]) -> dict[str, dsl.Artifact]:
    """Give what the steps before it have written."""
    from sklearn.linear_model import Ridge

    found = {
        "model": artifact("model", dsl.Model),
        "metrics": artifact("metrics", dsl.Metrics),
        "evaluation_report": artifact("evaluation", dsl.HTML),
        "comparison": artifact("comparison"),
        "comparison_report": artifact("comparison report", dsl.HTML),
    }
    preprocessor, features = preprocess.fit(ROWS.lazy(), label="price", task="regression")
    models.save(
        found["model"].path,
        Ridge(alpha=0.5).fit(features.drop("price").to_numpy(), features["price"].to_numpy()),
        preprocessor=preprocessor,
        task="regression",
        label="price",
        classes=None,
        metadata={
            "estimator": "Ridge",
            "parameters": {"alpha": 0.5},
            "training_fingerprint": preprocessor.training_fingerprint,
            "git_commit": "abc123",
            "validation": {"rmse": 3.0},
        },
    )
    outputs.write_json(found["metrics"].path, {"rmse": 3.5, "rmse_low": 3.0, "slices": [{"rows": 2}]})
    outputs.write_text(found["evaluation_report"].path, "<p>evaluation</p>")
    outputs.write_text(found["comparison_report"].path, "<p>comparison</p>")
    decide(found)
    return found


def decide(ports: dict[str, dsl.Artifact], **facts: Any) -> None:
    """Write what compare_with_champion would: the model is promoted, unless the facts say otherwise."""
    comparison = {
        "promote": True,
        "reason": "promoted: first model",
        "model_name": "house prices",
        "champion_version": None,
        "model_fingerprint": registry.fingerprint(ports["model"].path),
    }
    outputs.write_json(ports["comparison"].path, {**comparison, **facts})


@pytest.mark.parametrize("where", ["database", "server"])
def test_registers_a_champion_once_for_each_run(
    where: str, request: pytest.FixtureRequest, ports: dict[str, dsl.Artifact], tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    if where == "server":
        uri = request.getfixturevalue("mlflow_server")
    options = {"model_name": "house prices", "tracking_uri": uri}
    first = register_mlflow.python_func(**ports, **options, run_id="run-1")
    assert first == ("1", "models:/house prices/1", False)
    assert register_mlflow.python_func(**ports, **options, run_id="run-1") == first
    decide(ports, champion_version="1")
    assert register_mlflow.python_func(**ports, **options, run_id="run-2")[0] == "2"

    client = MlflowClient(uri, uri)
    champion = client.get_model_version_by_alias("house prices", "champion")
    assert str(champion.version) == "2"
    assert champion.tags["pipeline_run_id"] == "run-2"
    assert champion.tags["rmse"] == "3.5"
    assert champion.tags["data_fingerprint"] == models.metadata(ports["model"].path)["training_fingerprint"]
    run = client.get_run(champion.run_id)
    assert run.data.metrics == {"rmse": 3.5, "rmse_low": 3.0}
    assert run.data.params == {"alpha": "0.5", "estimator": "Ridge"}
    reports = [entry.path for entry in client.list_artifacts(champion.run_id, "reports")]
    assert sorted(reports) == ["reports/comparison.html", "reports/evaluation.html"]


def test_an_unreachable_server_is_told(ports: dict[str, dsl.Artifact]) -> None:
    with pytest.raises(ValueError, match="no server answers there"):
        register_mlflow.python_func(**ports, model_name="house prices", tracking_uri="http://127.0.0.1:1")


def test_a_name_that_no_model_can_have_is_told(ports: dict[str, dsl.Artifact]) -> None:
    decide(ports, model_name="team/prices")
    with pytest.raises(ValueError, match="model name 'team/prices' is not one"):
        register_mlflow.python_func(**ports, model_name="team/prices")


def test_missing_metrics_are_told(ports: dict[str, dsl.Artifact], tmp_path: Path) -> None:
    Path(ports["metrics"].path).unlink()
    with pytest.raises(ValueError, match="the metrics is not there: no file at"):
        register_mlflow.python_func(
            **ports, model_name="house prices", tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}"
        )


def versions(uri: str) -> list[str]:
    from mlflow import MlflowClient

    return [str(version.version) for version in MlflowClient(uri, uri).search_model_versions()]


def test_a_model_that_lost_is_neither_registered_nor_deployed(
    ports: dict[str, dsl.Artifact], tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    decide(ports, promote=False, reason="champion stays: no improvement")
    options = {"model_name": "house prices", "tracking_uri": uri, "deploy_target": "docker"}
    assert register_mlflow.python_func(**ports, **options) == ("", "", False)
    assert not (tmp_path / "mlflow.db").exists()
    decide(ports)
    assert register_mlflow.python_func(**ports, **options)[2] is True


def test_a_champion_that_changed_since_the_comparison_is_not_replaced(
    ports: dict[str, dsl.Artifact], tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    options = {"model_name": "house prices", "tracking_uri": uri}
    register_mlflow.python_func(**ports, **options, run_id="run-1")
    with pytest.raises(ValueError, match="version 1 of model 'house prices' got the alias 'champion' after"):
        register_mlflow.python_func(**ports, **options, run_id="run-2")
    assert versions(uri) == ["1"]


def test_a_decision_about_another_model_is_refused(ports: dict[str, dsl.Artifact]) -> None:
    decide(ports, model_fingerprint="0123456789abcdef")
    with pytest.raises(ValueError, match="the comparison is about another model than"):
        register_mlflow.python_func(**ports, model_name="house prices")
    decide(ports)
    with pytest.raises(ValueError, match="with the champion of 'house prices', not of 'flat prices'"):
        register_mlflow.python_func(**ports, model_name="flat prices")


def test_in_a_container_without_a_registry_nothing_is_registered_and_the_log_says_why(
    ports: dict[str, dsl.Artifact], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_KFP_RUNTIME", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = {"model_name": "house prices", "deploy_target": "kserve"}
    assert register_mlflow.python_func(**ports, **options) == ("", "", True)
    assert "not registered: no MLflow registry is configured" in capsys.readouterr().out
