"""A network that PyTorch trained and exported (pytorch/make.py), held to the answers of PyTorch itself."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.datasets import load_wine

from flowparts import models
from tests.flowparts.serving.conftest import Server

FILES = Path(__file__).parent / "pytorch"
CLASSES = ["cool", "mild", "warm"]


def test_the_served_model_scores_tables_as_in_pytorch(serve: Callable[..., Server], tmp_path: Path) -> None:
    exported = (FILES / "network.onnx").read_bytes()
    wine = load_wine()
    rows = pl.DataFrame(wine.data, schema=wine.feature_names).with_columns(
        pl.when(pl.int_range(pl.len()) > 0).then(pl.col("alcohol")).alias("alcohol")
    )
    models.save_onnx(
        tmp_path / "model",
        exported,
        features=dict.fromkeys(wine.feature_names, "number"),
        example=rows.head(3),
        task="classification",
        label="region",
        classes=CLASSES,
        metadata={"framework": "pytorch", "estimator": "Network"},
    )
    expected = np.array(json.loads((FILES / "answers.json").read_text()))

    table = models.load(tmp_path / "model").predict(rows)
    np.testing.assert_allclose(table.drop("prediction"), expected, atol=1e-6)
    assert table["prediction"].to_list() == [CLASSES[place] for place in expected.argmax(1)]

    status, answer, _ = serve(tmp_path / "model").call("/predict", {"instances": rows.to_dicts()})
    assert status == 200, answer
    assert [row["prediction"] for row in answer["predictions"]] == table["prediction"].to_list()
    served = [[row[f"probability_{name}"] for name in CLASSES] for row in answer["predictions"]]
    np.testing.assert_allclose(served, expected, atol=1e-6)

    # The exporter noted where its code lies.
    assert b"make.py" in exported
    assert b"make.py" not in (tmp_path / "model" / "model.onnx").read_bytes()
