import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl

from flowparts import models, tables
from flowparts.components.evaluate.check_serving import check_serving
from flowparts.prepare import preprocess
from flowparts.train import estimators

ROWS = pl.DataFrame({"size": [float(i) for i in range(60)], "kind": ["x", "y", None] * 20}).with_columns(
    big=pl.col("size") > 30
)


@pytest.fixture
def model(artifact: Callable[..., Any]) -> dsl.Model:
    made: dsl.Model = artifact("model", dsl.Model)
    learned, features = preprocess.fit(ROWS.lazy(), label="big", task="classification")
    data = estimators.examples(features.lazy(), learned)
    fitted = estimators.fit(estimators.build("Linear", "classification"), data, data)
    models.save(
        made.path,
        fitted,
        preprocessor=learned,
        task="classification",
        label="big",
        classes=learned.classes,
        metadata={},
    )
    return made


def test_a_sound_model_is_servable(
    model: dsl.Model, table: Callable[..., Any], artifact: Callable[..., Any]
) -> None:
    metrics, predictions = artifact("serving_metrics", dsl.Metrics), artifact("predictions", dsl.Dataset)
    given = (model, table(ROWS), metrics, predictions)
    servable, reason, latency_ms = check_serving.python_func(*given, sample_rows=20)
    assert servable, reason
    sent = tables.scan(predictions.path).collect()
    assert sent.select(ROWS.columns).equals(ROWS.gather_every(3))
    assert sent.columns[3:] == ["prediction", "probability_False", "probability_True"]
    assert reason.startswith("20 rows match the offline predictions")
    written = json.loads(Path(metrics.path).read_text())
    assert written == metrics.metadata
    assert written["servable"] == 1
    assert written["latency_ms_median"] == latency_ms > 0


def test_a_broken_model_is_not_servable_and_the_step_succeeds(
    model: dsl.Model, table: Callable[..., Any], artifact: Callable[..., Any]
) -> None:
    metrics, predictions = artifact("serving_metrics", dsl.Metrics), artifact("predictions", dsl.Dataset)
    (Path(model.path) / "model.skops").unlink()
    servable, reason, latency_ms = check_serving.python_func(model, table(ROWS), metrics, predictions)
    assert tables.row_count(tables.scan(predictions.path)) == 0
    assert (servable, latency_ms) == (False, 0.0)
    assert "the weights are missing" in reason
    assert json.loads(Path(metrics.path).read_text()) == {"servable": 0}


def test_bad_options_give_a_one_line_error(
    model: dsl.Model, table: Callable[..., Any], artifact: Callable[..., Any]
) -> None:
    metrics = artifact("serving_metrics", dsl.Metrics)
    with pytest.raises(ValueError, match="sample_rows must be at least 1"):
        check_serving.python_func(model, table(ROWS), metrics, artifact("predictions"), sample_rows=0)
