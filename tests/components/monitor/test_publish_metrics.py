import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from prometheus_client.parser import text_string_to_metric_families

from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.detect_drift import detect_drift
from flowparts.components.monitor.publish_metrics import publish_metrics
from flowparts.monitor import measurements
from flowparts.monitor.measurements import Measurement
from flowparts.util import outgoing
from tests import monitoring_services
from tests.otlp_collector import Collector
from tests.stand_in import Trouble

PSI = "flowparts_drift_psi"
DRIFT = [
    Measurement(PSI, 0.31, {"column": 'größe "cm"'}, "Population stability index."),
    Measurement(PSI, 0.02, {"column": "age\n\\"}, "Population stability index."),
]


@dsl.pipeline
def example() -> None:
    """Publish how much a table differs from itself."""
    table = ingest_table(source="sample://wine").outputs["table"]
    drift = detect_drift(table=table, reference=table)
    publish_metrics(job="wine", drift=drift.outputs["measurements"], metric_labels={"model": "wine"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "PAUSES_SECONDS", (0.01, 0.01))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with monitoring_services.pushgateway(tmp_path_factory.mktemp("gateway")) as url:
        yield url


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    yield server
    server.close()


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., int]:
    def call(given: list[Measurement] = DRIFT, **arguments: Any) -> int:
        measurements.write(str(tmp_path / "measurements"), given)
        drift = dsl.Artifact(uri=str(tmp_path / "measurements"))
        exposition = dsl.Artifact(uri=str(tmp_path / "exposition"))
        (published,) = publish_metrics.python_func(
            exposition=exposition, drift=drift, **{"job": "churn", **arguments}
        )
        return int(published)

    return call


def series(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.labels.get("job", ""), sample.labels["column"]): sample.value
        for family in text_string_to_metric_families(text)
        if family.name == PSI
        for sample in family.samples
    }


def test_promtool_accepts_the_exposition(publish: Callable[..., int], tmp_path: Path) -> None:
    assert publish() == 2
    text = (tmp_path / "exposition").read_text()
    assert series(text) == {("", one.labels["column"]): one.value for one in DRIFT}
    subprocess.run(["promtool", "check", "metrics"], input=text.encode(), check=True)


def test_a_push_replaces_the_earlier_one_of_the_same_job(publish: Callable[..., int], gateway: str) -> None:
    publish(pushgateway=gateway, job="churn/eu")
    publish(pushgateway=f"{gateway}/", job="prices")
    publish(DRIFT[:1], pushgateway=gateway, job="churn/eu")
    assert series(monitoring_services.get(f"{gateway}/metrics")) == {
        ("churn/eu", 'größe "cm"'): 0.31,
        ("prices", 'größe "cm"'): 0.31,
        ("prices", "age\n\\"): 0.02,
    }


def test_a_text_file_appears_whole_for_the_node_exporter(publish: Callable[..., int], tmp_path: Path) -> None:
    file = tmp_path / "collector" / "churn.prom"
    publish(textfile=str(file))
    assert len(series(file.read_text())) == 2
    assert file.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in file.parent.iterdir()] == ["churn.prom"]


def test_an_otlp_endpoint_gets_gauges_with_their_labels(
    publish: Callable[..., int], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%2Cb, other=c")
    publish(otlp=collector.url, metric_labels={"model": "churn", "column": "all"})
    (resource,) = collector.received[0].resource_metrics
    assert resource.resource.attributes[0].value.string_value == "churn"
    (metric,) = resource.scope_metrics[0].metrics
    assert (metric.name, metric.description) == (PSI, "Population stability index.")
    points = [
        (point.as_double, {each.key: each.value.string_value for each in point.attributes})
        for point in metric.gauge.data_points
    ]
    assert points == [(one.value, {"model": "churn", **one.labels}) for one in DRIFT]
    headers = collector.requests[0].headers
    assert (headers["api-key"], headers["other"]) == ("a,b", "c")
    assert headers["content-type"] == "application/x-protobuf"


def test_many_measurements_go_in_several_requests(publish: Callable[..., int], collector: Collector) -> None:
    many = [Measurement("rows", n, {"n": str(n)}) for n in range(2_500)]
    assert publish(many, otlp=f"{collector.url}/v1/metrics") == 2_500
    assert len(collector.requests) == 3


def test_metrics_of_an_evaluation_are_published_by_name(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text(json.dumps({"rows": 50, "roc_auc": 0.9, "slices": [], "note": "x"}))
    metrics = dsl.Metrics(uri=str(tmp_path / "metrics"))
    exposition = dsl.Artifact(uri=str(tmp_path / "exposition"))
    publish_metrics.python_func(
        exposition=exposition, metrics=metrics, job="churn", metric_labels={"version": 7}
    )
    assert (tmp_path / "exposition").read_text().splitlines()[2:] == [
        'flowparts_evaluation_metric{metric="roc_auc",version="7"} 0.9',
        'flowparts_evaluation_metric{metric="rows",version="7"} 50.0',
    ]


@pytest.mark.parametrize("kind", [503, "lost"])
def test_a_transient_error_is_retried(
    kind: int | str, publish: Callable[..., int], collector: Collector
) -> None:
    collector.troubles = [Trouble(kind, "POST", "/v1/metrics", times=2)]
    publish(otlp=collector.url)
    assert len(collector.requests) == 3


def test_rejected_points_are_reported(publish: Callable[..., int], collector: Collector) -> None:
    collector.rejects = 1
    with pytest.raises(ValueError, match=r"OTLP endpoint rejected 1 of 2 measurements: too many labels$"):
        publish(otlp=collector.url)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"pushgateway": "http://127.0.0.1:9"},
            "can't reach the Pushgateway at http://127.0.0.1:9: .*onnect",
        ),
        ({"otlp": "http://127.0.0.1:9"}, "can't reach the OTLP endpoint at http://127.0.0.1:9"),
        ({"otlp": "http://169.254.169.254"}, "clouds give out credentials"),
        ({"pushgateway": "gateway:9091"}, "the Pushgateway must start with http:// or https://"),
        ({"pushgateway": "http://u:p@gateway"}, "must not hold a user or password; put credentials into"),
        ({"textfile": "churn.txt"}, "'churn.txt' must end with .prom"),
        ({"job": " "}, "the job is empty"),
        ({"metric_labels": {"instance": "a"}}, "label 'instance'"),
    ],
)
def test_an_unpublishable_value_gives_a_one_line_error(
    arguments: dict[str, Any], sentence: str, publish: Callable[..., int], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        publish(**arguments)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "exposition").exists()


def test_a_refusal_is_not_retried_and_shows_no_credential(
    publish: Callable[..., int], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret")
    collector.troubles = [Trouble(401, "POST", "/v1/metrics", message="no such key")]
    with pytest.raises(ValueError, match=r"status 401 \(.*no such key") as raised:
        publish(otlp=collector.url)
    assert "s3cret" not in str(raised.value)
    assert len(collector.requests) == 1


def test_an_address_outside_of_the_allowed_ones_is_refused(
    publish: Callable[..., int], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPARTS_ALLOWED_SOURCES", "s3://bucket/*")
    with pytest.raises(ValueError, match="is not allowed here"):
        publish(otlp=collector.url)
    assert collector.requests == []


def test_nothing_to_publish_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing to publish: give measurements or metrics"):
        publish_metrics.python_func(exposition=dsl.Artifact(uri=str(tmp_path / "exposition")), job="churn")
