import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flowparts import models
from flowparts.models import agreement, engines
from flowparts.prepare import preprocess
from flowparts.train import estimators

ROWS = pl.DataFrame(
    {
        "size": [float(i) for i in range(60)],
        "kind": ["x", "y", None] * 20,
        "new": [True, False, None] * 20,
        "at": [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=i) for i in range(60)],
    }
).with_columns(big=pl.when(pl.col("size") > 30).then(pl.lit("yes")).otherwise(pl.lit("no")))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engines") / "model"
    learned, features = preprocess.fit(ROWS.lazy(), label="big", task="classification")
    data = estimators.examples(features.lazy(), learned)
    fitted = estimators.fit(estimators.build("Linear", "classification"), data, data)
    models.save(
        path, fitted, preprocessor=learned, task="classification", label="big", classes=learned.classes,
        metadata={},
    )  # fmt: skip
    return path


def test_columns_of_json_values_are_scored_as_the_table_is(model: Path) -> None:
    engine = engines.load(model)
    rows = agreement.to_records(ROWS.drop("big"))
    columns = {name: [row[name] for row in rows] for name in engine.features}
    found = engine.predict_columns(columns)
    expected = models.load(model).predict(ROWS)
    assert list(found) == expected.columns
    assert found["prediction"].tolist() == expected["prediction"].to_list()
    np.testing.assert_allclose(found["probability_yes"], expected["probability_yes"].to_numpy(), atol=1e-6)


def test_a_value_that_does_not_fit_gives_a_one_line_error(model: Path) -> None:
    row = {"size": [1.0], "kind": ["x"], "new": [True], "at": ["yesterday"]}
    with pytest.raises(ValueError, match=r"'at' must hold timestamp values in ISO 8601 .*, not 'yesterday'"):
        engines.load(model).predict_columns(row)
