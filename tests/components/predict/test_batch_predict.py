from typing import Any

import polars as pl
import pytest
from kfp import dsl
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge

from flowparts import models, tables
from flowparts.components.predict.batch_predict import batch_predict


@pytest.fixture
def wine(sklearn_rows: Any) -> pl.DataFrame:
    return sklearn_rows("wine", "class")[1]


@pytest.fixture
def model(trained: Any, sklearn_rows: Any) -> dsl.Model:
    return trained(sklearn_rows("wine", "class")[0], "class", RandomForestClassifier(5, random_state=0))


@pytest.fixture
def predict(table: Any, artifact: Any, model: dsl.Model) -> Any:
    def run(frame: pl.DataFrame, model: dsl.Model = model, **options: Any) -> tuple[int, dsl.Dataset]:
        predictions = artifact("predictions", dsl.Dataset)
        rows = table(frame, "rows")
        (count,) = batch_predict.python_func(table=rows, model=model, predictions=predictions, **options)
        return count, predictions

    return run


def test_predictions_are_listed_beside_the_keys_in_row_order(
    predict: Any, model: dsl.Model, wine: pl.DataFrame
) -> None:
    rows = wine.with_row_index("id").sample(fraction=1, shuffle=True, seed=0)
    count, predictions = predict(rows, key_columns=["id"])
    written = tables.scan(predictions.path).collect()
    expected = models.load(model.path).predict(rows)
    assert count == rows.height == predictions.metadata["rows"]
    assert written.columns == ["id", *expected.columns]
    assert written["id"].equals(rows["id"])
    assert written.drop("id").equals(expected)


def test_many_chunks_give_what_one_gives(predict: Any, model: dsl.Model, wine: pl.DataFrame) -> None:
    rows = pl.concat([wine] * 5000).with_row_index("id")
    _, predictions = predict(rows, key_columns=["id"])
    written = tables.scan(predictions.path).collect()
    assert written["id"].to_list() == list(range(rows.height))
    one = models.load(model.path).predict(wine)["prediction"].to_list()
    assert written["prediction"].to_list() == one * 5000


def test_all_columns_are_kept_unless_keys_are_named(predict: Any, wine: pl.DataFrame) -> None:
    _, predictions = predict(wine)
    assert tables.scan(predictions.path).collect().select(wine.columns).equals(wine)


def test_a_regression_gets_one_number_a_row(predict: Any, trained: Any, sklearn_rows: Any) -> None:
    train, rows = sklearn_rows("diabetes", "progression")
    regressor = trained(train, "progression", Ridge(), task="regression", name="regressor")
    _, predictions = predict(rows, regressor, key_columns=["age"])
    assert tables.scan(predictions.path).collect_schema() == {"age": pl.Float64, "prediction": pl.Float64}


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda rows: rows.drop("alcohol"), {}, "'alcohol': missing_column"),
        (lambda rows: rows.with_columns(alcohol=pl.lit("strong")), {}, "'alcohol': type"),
        (lambda rows: rows.clear(), {}, "the table to score has no rows"),
        (lambda rows: rows, {"key_columns": ["id"]}, "key column 'id' is not in the table"),
        (lambda rows: rows.with_columns(prediction=1), {}, "'prediction' is named like a prediction"),
    ],
    ids=["column vanished", "wrong type", "empty", "no such key", "name taken"],
)
def test_a_table_that_does_not_fit_gives_a_one_line_error_and_nothing_is_written(
    predict: Any, wine: pl.DataFrame, tmp_path: Any, change: Any, options: dict, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        predict(change(wine), **options)
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"model", "rows"}


def test_missing_values_are_scored(predict: Any, wine: pl.DataFrame) -> None:
    rows = wine.with_columns(alcohol=pl.lit(None, dtype=pl.Float64))
    count, predictions = predict(rows)
    assert tables.scan(predictions.path).collect()["prediction"].null_count() == 0
    assert count == rows.height
