"""Models of images and neural networks are monitored by the same steps: what real servers log is compared."""

import io
import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from kfp import dsl
from PIL import Image

from flowparts import tables
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.detect_drift import detect_drift
from flowparts.components.monitor.detect_skew import detect_skew
from flowparts.components.monitor.measure_performance import measure_performance
from flowparts.components.train.train_keras_images import train_keras_images
from flowparts.components.train.train_keras_tabular import train_keras_tabular
from flowparts.util import images
from tests.flowparts.serving.conftest import Server, start, wait

AT_ONCE = 40


def pictures(count: int, seed: int, light: float = 1.0) -> pl.DataFrame:
    """Noisy stripes that lie or stand."""
    random = np.random.default_rng(seed)
    contents, labels = [], []
    for index in range(count):
        pattern = np.where(np.arange(8) // 2 % 2, 200, 40)[:, None] + random.normal(0, 30, (8, 8))
        pattern = (pattern.T if index % 2 else pattern) * light
        stream = io.BytesIO()
        Image.fromarray(pattern.clip(0, 255).astype(np.uint8)).save(stream, "PNG")
        contents.append(stream.getvalue())
        labels.append("standing" if index % 2 else "lying")
    return pl.DataFrame({"image": contents, "label": labels})


def customers(count: int, seed: int, shift: float = 0.0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    amount = random.normal(shift, 1, count)
    plan = random.choice(["basic", "pro"], count)
    left = np.where(amount + (plan == "pro") + random.normal(0, 0.3, count) > 0.5, "yes", "no")
    return pl.DataFrame({"amount": amount, "plan": plan, "left": left})


def trained(
    folder: Path, train: pl.DataFrame, validation: pl.DataFrame, step: Any, **options: Any
) -> dsl.Model:
    made: dict[str, Any] = {}
    for name, frame in (("train", train), ("validation", validation)):
        tables.write(frame, folder / name)
        made[name] = dsl.Dataset(name=name, uri=str(folder / name))
    for name, kind in (
        ("model", dsl.Model),
        ("validation_metrics", dsl.Metrics),
        ("training_report", dsl.HTML),
    ):
        made[name] = kind(name=name, uri=str(folder / name))
    step.python_func(**made, **options)
    model: dsl.Model = made["model"]
    return model


class Served:
    """A model's server, and the steps on what it logs."""

    def __init__(self, folder: Path, model: dsl.Model) -> None:
        self.model, self.folder = model, folder
        self.server: Server = wait(start(model.path, f"--prediction-log={folder / 'log'}"))

    def send(self, frame: pl.DataFrame) -> datetime:
        """Send rows and return the moment after their answers."""
        for part in frame.iter_slices(AT_ONCE):
            rows = [
                {
                    name: images.to_text(value) if isinstance(value, bytes) else value
                    for name, value in row.items()
                }
                for row in part.rows(named=True)
            ]
            status, answer, _ = self.server.call("/v1/models/model:predict", {"instances": rows})
            assert status == 200, answer
        return datetime.now(UTC)

    def close(self) -> None:
        assert self.server.stop() == 0

    def log(self) -> dsl.Dataset:
        table, rejected = (
            dsl.Dataset(name=name, uri=str(self.folder / name)) for name in ("ingested", "rejected")
        )
        ingest_table.python_func(table=table, rejected=rejected, source=str(self.folder / "log"))
        return table


@pytest.fixture
def step(artifact: Callable[..., Any]) -> Callable[..., Any]:
    def run(component: Any, name: str, **given: Any) -> Any:
        made = {name: artifact(name), f"{name}_report": artifact(f"{name}_report", dsl.HTML)}
        return component.python_func(**given, **made, measurements=artifact("measurements"))

    return run


def test_darker_images_drift_and_others_do_not(
    tmp_path: Path, step: Callable[..., Any], artifact: Callable[..., Any], open_page: Callable[[Path], Any]
) -> None:
    quick = {"height": 8, "width": 8, "channels": 1, "filters": 8, "epochs": 4, "batch_size": 32}
    model = trained(tmp_path, pictures(200, 1), pictures(120, 2), train_keras_images, **quick)
    with closing(Served(tmp_path, model)) as served:
        between = served.send(pictures(160, 3).drop("label")).isoformat()
        served.send(pictures(160, 4, light=0.5).drop("label"))
    given = {"table": served.log(), "model": model}
    assert step(detect_drift, "drift", **given, until=between)[:3] == (False, 0.0, [])
    drifted, _, worst, *_ = step(detect_drift, "drift", **given, since=between)
    assert drifted
    assert {"image.brightness", "image.contrast"} <= set(worst)
    assert not {"image.width", "image.height"} & set(worst)
    main = open_page(Path(artifact("drift_report").path)).find_element("tag name", "main").text
    assert "image.brightness" in main
    # A small sample has a narrow range, which a few usual images leave.
    skewed, reason, _ = step(detect_skew, "skew", log=given["table"], model=model, until=between)
    assert not skewed, reason
    # Darker, but answered as a batch answers.
    _, reason, columns = step(detect_skew, "skew", log=given["table"], model=model)
    assert "prediction" not in columns, reason
    assert json.loads(Path(artifact("skew").path).read_text())["scored_rows"] == 320


def test_a_network_on_a_table_is_monitored_like_any_model(tmp_path: Path, step: Callable[..., Any]) -> None:
    small = {"units": 16, "layers": 1, "epochs": 10, "batch_size": 32, "learning_rate": 0.02}
    train, validation = customers(600, 1), customers(300, 2)
    model = trained(tmp_path, train, validation, train_keras_tabular, label="left", **small)
    usual, moved = customers(400, 3), customers(400, 4, shift=1.5)
    with closing(Served(tmp_path, model)) as served:
        between = served.send(usual.drop("left")).isoformat()
        served.send(moved.drop("left"))
    log = served.log()
    assert step(detect_drift, "drift", table=log, model=model, until=between)[:3] == (False, 0.0, [])
    drifted, _, worst, *_ = step(detect_drift, "drift", table=log, model=model, since=between)
    assert drifted
    assert {"amount", "prediction", "probability_yes"} <= set(worst)
    assert "plan" not in worst
    skewed, reason, columns = step(detect_skew, "skew", log=log, model=model)
    assert "prediction" not in columns, reason
    assert skewed
    found = tables.scan(log.path).select("request_id", "row").collect()
    labels = dsl.Dataset(name="labels", uri=str(tmp_path / "labels"))
    tables.write(found.with_columns(pl.concat([usual, moved])["left"]), labels.path)
    degraded, score, _ = step(measure_performance, "performance", log=log, labels=labels, model=model)
    assert score > 0.9
    assert not degraded
