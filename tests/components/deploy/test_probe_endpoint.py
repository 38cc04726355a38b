import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from flowparts.components.deploy.deploy_model import deploy_model
from flowparts.components.deploy.probe_endpoint import probe_endpoint
from flowparts.components.deploy.rollback import rollback
from flowparts.components.deploy.shift_traffic import shift_traffic
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.predict.batch_predict import batch_predict
from flowparts.components.register.load_champion import load_champion
from flowparts.deploy import endpoint as endpoints
from flowparts.deploy.targets import docker
from tests.components.deploy.conftest import WINE


@dsl.pipeline(name="example")
def example(champion: str, other_champion: str, docker_endpoint: str, tracking_uri: str) -> None:
    first = load_champion(model_name=champion, tracking_uri=tracking_uri).outputs["model"]
    model = load_champion(model_name=other_champion, tracking_uri=tracking_uri).outputs["model"]
    rows = ingest_table(source="sample://diabetes").outputs["table"]
    predictions = batch_predict(table=rows, model=model).outputs["predictions"]
    where = {
        "deploy_target": "docker",
        "endpoint_name": docker_endpoint,
        "deploy_options": {"memory": "512Mi"},
    }
    deployed = deploy_model(model=first, **where)
    again = deploy_model(model=model, traffic_fraction=0.5, **where).after(deployed)
    shifted = shift_traffic(endpoint=again.outputs["endpoint"], traffic_fraction=1.0).outputs["shifted"]
    probe_endpoint(endpoint=shifted, model=model, predictions=predictions, requests=10, seconds=1.0)


@dsl.pipeline(name="example-on-a-cluster")
def example_on_a_cluster(champion: str, s3: str, cluster_endpoint: str, tracking_uri: str) -> None:
    model = load_champion(model_name=champion, tracking_uri=tracking_uri).outputs["model"]
    rows = ingest_table(source="sample://breast_cancer").outputs["table"]
    predictions = batch_predict(table=rows, model=model).outputs["predictions"]
    deployed = deploy_model(model=model, deploy_target="kubernetes", endpoint_name=cluster_endpoint)
    imported = dsl.importer(artifact_uri=s3, artifact_class=dsl.Model).output
    again = deploy_model(
        model=imported, deploy_target="kubernetes", endpoint_name=cluster_endpoint, traffic_fraction=0.5
    ).after(deployed)
    shifted = shift_traffic(endpoint=again.outputs["endpoint"], traffic_fraction=0.75).outputs["shifted"]
    probed = probe_endpoint(
        endpoint=shifted, model=model, predictions=predictions, requests=10, seconds=0.5, max_slowdown=100.0
    )
    rollback(endpoint=shifted, reason="to see it go").after(probed)


@pytest.mark.container
def test_an_endpoint_is_healthy_while_it_predicts_what_the_model_does_offline(
    deployed: Callable[..., Any],
    wine_model: Callable[[float], dsl.Model],
    table: Callable[..., dsl.Dataset],
    artifact: Callable[..., Any],
    open_page: Callable[[Path], Any],
) -> None:
    endpoint, rows = deployed(1.0), table(WINE)

    def probe(strength: float, name: str) -> tuple[Any, dsl.Metrics, dsl.HTML]:
        model, predictions = wine_model(strength), artifact(f"predictions-{name}", dsl.Dataset)
        batch_predict.python_func(table=rows, model=model, predictions=predictions)
        metrics, report = artifact(f"metrics-{name}", dsl.Metrics), artifact(f"report-{name}", dsl.HTML)
        found = probe_endpoint.python_func(
            endpoint=endpoint,
            model=model,
            predictions=predictions,
            probe_metrics=metrics,
            probe_report=report,
            requests=40,
            seconds=2.0,
        )
        return found, metrics, report

    (healthy, reason, latency_ms, error_rate), metrics, report = probe(1.0, "good")
    assert healthy, reason
    assert latency_ms > 0
    assert error_rate == 0
    measured = json.loads(Path(metrics.path).read_text())
    assert measured["requests"] >= 10
    assert measured["latency_ms_median"] <= measured["latency_ms_p95"] <= measured["latency_ms_p99"]
    assert (
        "rows as the model does offline"
        in open_page(Path(report.path)).find_element("css selector", ".good").text
    )

    (healthy, reason, *_), metrics, report = probe(1e-4, "other")
    assert not healthy
    assert "differ from the offline ones, such as row" in reason
    assert metrics.metadata["healthy"] == 0
    open_page(Path(report.path))

    docker.remove(endpoints.read(endpoint.path).name)
    (healthy, reason, latency_ms, error_rate), _, report = probe(1.0, "gone")
    assert (healthy, latency_ms, error_rate) == (False, 0.0, 1.0)
    assert "requests without a prediction" in reason
    assert "gave no answer" in reason
    open_page(Path(report.path))
