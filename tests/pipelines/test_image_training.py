"""Runs the pipeline end to end on real images and asserts on what comes out."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from backends.local import runner
from flowparts import tables
from flowparts.pipelines.image_training import image_training
from flowparts.register import registry

# What tests/contract runs; see examples.py there.
RUNS = [{"epochs": 3}]


def test_digits_are_read_learned_shown_and_registered_for_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_page: Any
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    record = runner.run(image_training, {}, tmp_path)
    assert record.succeeded, [(task.name, task.error) for task in record.failed] or record.problem
    outputs = {task.name: task.outputs for task in record.tasks}
    assert outputs["ingest-images"]["rows"] == 1797
    assert outputs["evaluate-model"]["test_metrics"].metadata["accuracy"] > 0.95
    assert outputs["check-serving"]["servable"] is True
    assert outputs["register-champion"]["promote"] is True
    assert registry.champion_version("image-training", f"sqlite:///{tmp_path / 'mlflow.db'}") == "1"

    parts = [tables.scan(outputs["split-table"][part].path) for part in ("train", "validation", "test")]
    shared = parts[0].join(parts[2], on="image", how="semi").select(pl.len()).collect().item()
    assert not shared, "an image is in training and test"

    page = open_page(Path(outputs["evaluate-model"]["evaluation_report"].path))
    captions = [caption.text for caption in page.find_elements("css selector", ".pictures figcaption")]
    assert 0 < len(captions) <= 20
    assert all(" taken for " in caption and "%" in caption for caption in captions)
    shown = "return [...document.querySelectorAll('.pictures img')].every(img => img.naturalWidth === 8)"
    assert page.execute_script(shown)
    assert "predicted" in page.find_element("css selector", "svg").get_attribute("outerHTML")
    curves = open_page(Path(outputs["train-keras-images"]["training_report"].path))
    axes = {text.text for text in curves.find_elements("css selector", "svg text")}
    assert {"loss", "accuracy", "epoch"} <= axes
