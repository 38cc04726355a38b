from pathlib import Path

import polars as pl

from backends.local import runner
from flowparts.pipelines.batch_prediction import batch_prediction

# What tests/contract runs; see examples.py there.
AFTER = ["tabular_training"]
RUNS = [{"destination": "{outside}/predictions.csv"}]
ON_A_CLUSTER = RUNS[0]


def test_the_champion_scores_a_file_into_another(runs: Path, tmp_path: Path) -> None:
    wine = pl.read_parquet(Path("src/flowparts/samples/wine.parquet"))
    source, destination = tmp_path / "bottles.csv", tmp_path / "predictions.csv"
    # A feature that happens to be whole in all rows stays so in what is exported.
    proline = wine["proline"].cast(pl.Int64)
    wine.drop("target").with_columns(proline).with_row_index("bottle").write_csv(source)
    parameters = {
        "source": str(source),
        "destination": str(destination),
        "key_columns": ["bottle", "proline"],
    }
    record = runner.run(batch_prediction, parameters, runs)
    assert record.succeeded
    predicted = pl.read_csv(destination)
    assert predicted["bottle"].to_list() == list(range(wine.height))
    assert predicted["proline"].to_list() == proline.to_list()
    assert predicted.schema["proline"] == pl.Int64
    assert (predicted["prediction"] == wine["target"]).mean() > 0.9


def test_a_table_that_breaks_the_models_schema_is_not_scored(runs: Path, tmp_path: Path) -> None:
    source = tmp_path / "bottles.csv"
    pl.read_parquet("src/flowparts/samples/wine.parquet").drop("alcohol").write_csv(source)
    record = runner.run(batch_prediction, {"source": str(source)}, runs)
    assert [task.name for task in record.failed] == ["validate-table"]
    assert "'alcohol': missing_column" in record.failed[0].error
    assert "batch-predict" not in [task.name for task in record.tasks]


def test_without_a_champion_the_error_says_what_to_do(runs: Path) -> None:
    record = runner.run(batch_prediction, {"model_name": "beer"}, runs)
    (failed,) = record.failed
    assert failed.error.startswith("model 'beer' has no version with the alias 'champion'")
    assert "train and register one first" in failed.error
