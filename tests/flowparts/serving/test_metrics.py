from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowparts.serving.server_metrics import Metrics
from tests.flowparts.serving.conftest import Server


def samples(text: str) -> dict[str, float]:
    """Return sample names with labels to values, as Prometheus reads them."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_rows_and_refusals_are_counted_over_all_workers(
    serve: Callable[..., Server], model: Path, records: Any, expected: Any, workers: int
) -> None:
    server = serve(model, f"--workers={workers}", "--name=m")
    for record in records[:20]:
        # A connection each, so that both workers get some.
        assert server.call("/predict", {"instances": [record]}, {"connection": "close"})[0] == 200
    server.call("/v1/models/m:predict", {"instances": records})
    server.call("/predict", b"{")
    server.call("/predict", {"instances": [{}]})
    server.call("/predict", b"", {"content-type": "text/plain"})
    found = samples(server.call("/metrics")[1].decode())
    assert found["flowparts_requests_total{code=200,protocol=predict}"] == 20
    assert found["flowparts_requests_total{code=200,protocol=v1}"] == 1
    assert found["flowparts_requests_total{code=400,protocol=predict}"] == 2
    assert found["flowparts_requests_total{code=415,protocol=predict}"] == 1
    assert found["flowparts_request_seconds_count{protocol=predict}"] == 23
    assert found["flowparts_request_seconds_bucket{le=+Inf,protocol=predict}"] == 23
    assert 0 < found["flowparts_request_seconds_sum{protocol=predict}"] < 20
    assert found["flowparts_rejected_total{reason=malformed}"] == 1
    assert found["flowparts_rejected_total{reason=signature}"] == 1
    assert found["flowparts_rejected_total{reason=content_type}"] == 1
    assert found["flowparts_requests_in_flight{}"] == 1
    assert found["flowparts_batch_rows_count{}"] == 21
    assert found["flowparts_batch_rows_sum{}"] == 60
    assert found["flowparts_batch_rows_bucket{le=1.0}"] == 20
    wanted = [row["prediction"] for row in (*expected[:20], *expected)]
    for name in ("basic", "pro"):
        assert found[f"flowparts_predictions_total{{class={name}}}"] == wanted.count(name)
    version = server.call("/v2/models/m")[1]["versions"][0]
    assert found[f"flowparts_model_info{{engine=onnxruntime,name=m,version={version}}}"] == 1


def test_a_new_worker_continues_the_counters_with_nothing_in_flight(tmp_path: Path) -> None:
    for _ in range(2):
        numbers = Metrics(tmp_path, 0, [True, False])
        numbers.started()
        numbers.finished("v1", 200, 0.2)
        numbers.started()
        numbers.scored(3, 0.001, [True, False, True])
    found = samples(Metrics(tmp_path, 1, [True, False]).render().decode())
    assert found["flowparts_requests_total{code=200,protocol=v1}"] == 2
    assert found["flowparts_predictions_total{class=True}"] == 4
    assert found["flowparts_requests_in_flight{}"] == 1
    assert found["flowparts_request_seconds_bucket{le=0.25,protocol=v1}"] == 2
    assert found["flowparts_request_seconds_bucket{le=0.1,protocol=v1}"] == 0


def test_rows_of_a_regression_are_counted_without_a_class(tmp_path: Path) -> None:
    numbers = Metrics(tmp_path, 0, None)
    numbers.scored(2, 0.001, [1.5, 2.5])
    assert samples(numbers.render().decode())["flowparts_predictions_total{class=}"] == 2
