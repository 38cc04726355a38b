import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flowparts.components.predict.export_table import export_table
from flowparts.util import sources

ROWS = pl.DataFrame(
    {"id": [1, 2], "naïve": ["é, x", None], "when": [datetime.datetime(2024, 1, 2, 3, 4, 5), None]}
)
READERS = {
    "csv": lambda file: pl.read_csv(file, try_parse_dates=True),
    "parquet": pl.read_parquet,
    "jsonl": lambda file: pl.read_ndjson(file).with_columns(pl.col("when").str.to_datetime()),
}


@pytest.mark.parametrize("suffix", READERS)
def test_the_file_holds_the_rows(table: Any, tmp_path: Path, suffix: str) -> None:
    destination = tmp_path / "out" / f"rows.{suffix}"
    assert export_table.python_func(table=table(ROWS), destination=str(destination)) == (str(destination),)
    assert READERS[suffix](destination).equals(ROWS)
    assert [file.name for file in destination.parent.iterdir()] == [destination.name]


def test_a_format_may_be_given(table: Any, tmp_path: Path) -> None:
    destination = f"file://{tmp_path}/rows.data"
    export_table.python_func(table=table(ROWS), destination=destination, file_format="parquet")
    assert pl.read_parquet(tmp_path / "rows.data").equals(ROWS)


@pytest.mark.parametrize("form", ["~/a b.csv", "file://{}/a%20b.csv", "file://localhost{}/a%20b.csv"])
def test_a_destination_accepts_the_same_addresses_as_a_source(
    form: str, table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    destination = form.format(tmp_path)
    export_table.python_func(table=table(ROWS), destination=destination)
    assert pl.read_csv(tmp_path / "a b.csv").height == 2
    assert [file.path for file in sources.fetch(destination, tmp_path)] == [tmp_path / "a b.csv"]


def test_a_directory_is_never_replaced(table: Any, tmp_path: Path) -> None:
    (tmp_path / "reports.csv" / "2024").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"reports\.csv is a directory; name the file to write in it"):
        export_table.python_func(table=table(ROWS), destination=f"{tmp_path}/reports.csv")
    assert (tmp_path / "reports.csv" / "2024").is_dir()


def test_a_failed_export_leaves_the_earlier_file(table: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("yesterday")
    lists = table(pl.DataFrame({"a": [[1, 2]]}))
    with pytest.raises(pl.exceptions.ComputeError):
        export_table.python_func(table=lists, destination=f"{tmp_path}/rows.csv")
    assert (tmp_path / "rows.csv").read_text() == "yesterday"


def test_an_object_store_gets_the_file(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_server: str
) -> None:
    import boto3

    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket="results")
    export_table.python_func(table=table(ROWS), destination="s3://results/day/rows.csv")
    boto3.client("s3", endpoint_url=s3_server).download_file(
        "results", "day/rows.csv", str(tmp_path / "rows")
    )
    assert pl.read_csv(tmp_path / "rows", try_parse_dates=True).equals(ROWS)


@pytest.mark.parametrize(
    ("destination", "sentence"),
    [
        ("rows", "can't tell the format of 'rows'"),
        ("rows.xlsx", "end it with .csv, .parquet or .jsonl"),
        ("nowhere://bucket/rows.csv", "can't write nowhere://bucket/rows.csv"),
    ],
)
def test_an_impossible_destination_gives_a_one_line_error(
    table: Any, destination: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        export_table.python_func(table=table(ROWS), destination=destination)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # botocore's own
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_unreachable_store_gives_a_one_line_error(
    table: Any, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "test")
    with pytest.raises(ValueError, match=rf"^can't write {scheme}://bucket/rows.csv: .*[Cc]onnect"):
        export_table.python_func(table=table(ROWS), destination=f"{scheme}://bucket/rows.csv")
