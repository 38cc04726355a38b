from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from flowparts import models, tables
from flowparts.models import baseline, seen
from flowparts.tables import summary


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    number = pl.int_range(300, eager=True)
    rows = pl.DataFrame(
        {
            "amount": (number * 37 % 101).cast(pl.Float64),
            "prediction": number % 7,
            "plan": (number % 3).cast(pl.String),
            "left": number % 2,
        }
    )
    for name, part in (("train", rows.head(200)), ("validation", rows.tail(100))):
        tables.write(part, tmp_path / name)
    return tmp_path / "train", tmp_path / "validation"


def test_a_model_keeps_its_training_rows_and_what_it_predicts_for_others(
    parts: tuple[Path, Path], save_model: Callable[..., Any], tmp_path: Path
) -> None:
    train, validation = parts
    model = tmp_path / "model"
    save_model(model, tables.scan(train).collect(), "left", LogisticRegression(), "classification")
    baseline.record(model, train, validation)
    found = baseline.read(model)
    rows = tables.scan(train).collect()
    expected = summary.summarise(rows.lazy()).columns
    for name in rows.columns:
        assert found.columns[name].buckets.keys.tolist() == expected[name].buckets.keys.tolist()
        assert found.columns[name].rows == 200
    predicted = models.load(model).predict(tables.scan(validation))
    # A feature has the name of the prediction, which is named as in the prediction log.
    buckets = found.columns["served_prediction"].buckets
    assert (
        buckets.counts.tolist()
        == predicted["prediction"].value_counts().sort("prediction")["count"].to_list()
    )
    assert found.columns["probability_1"].rows == 100
    assert found.columns["probability_1"].buckets.minimum == predicted["probability_1"].min()
    assert baseline.roles(found) == {
        "amount": "feature",
        "prediction": "feature",
        "plan": "feature",
        "left": "label",
        "served_prediction": "prediction",
        "probability_0": "prediction",
        "probability_1": "prediction",
    }
    assert (model / seen.FILE).is_file()


def test_a_model_without_a_baseline_gives_a_one_line_error(
    parts: tuple[Path, Path], save_model: Callable[..., Any], tmp_path: Path
) -> None:
    save_model(
        tmp_path / "model", tables.scan(parts[0]).collect(), "left", LogisticRegression(), "classification"
    )
    with pytest.raises(ValueError, match=r"has no baseline\.parquet, .*; train it again"):
        baseline.read(tmp_path / "model")
