import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kfp import dsl
from PIL import Image

from flowparts import tables
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.tables import schema


@pytest.fixture
def ingest(artifact: Callable[..., Any]) -> Callable[..., tuple[Any, Any, Any]]:
    def run(**parameters: Any) -> tuple[Any, Any, Any]:
        table, rejected = artifact("table", dsl.Dataset), artifact("rejected", dsl.Dataset)
        counts = ingest_table.python_func(table=table, rejected=rejected, **parameters)
        return table, rejected, counts

    return run


def test_default_source_is_the_real_breast_cancer_data(ingest: Callable[..., Any]) -> None:
    table, rejected, counts = ingest(data_version="1995")
    assert counts == (569, 0)
    frame = tables.scan(table.path).collect()
    assert frame["target"].value_counts().sort("target").rows() == [("benign", 357), ("malignant", 212)]
    assert table.metadata["rows"] == 569
    assert table.metadata["columns"] == 31
    assert table.metadata["source"] == "sample://breast_cancer"
    assert table.metadata["data_version"] == "1995"
    assert table.metadata["fingerprint"] == tables.fingerprint(frame)
    assert tables.scan(rejected.path).collect().height == 0


def test_files_of_a_directory_become_one_typed_table(ingest: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "2.csv").write_text("when,amount\n2024-03-01T00:00:00Z,NA\n")
    (folder / "1.csv").write_text("when,amount\n2024-01-01 10:00,1.5\n")
    table, _, counts = ingest(source=str(folder), null_values=["NA"], file_format="csv")
    assert counts == (2, 0)
    assert tables.scan(table.path).collect_schema() == {"when": pl.Datetime("us"), "amount": pl.Float64()}


def test_bad_rows_are_counted_in_quarantine_and_fail_otherwise(
    ingest: Callable[..., Any], tmp_path: Path
) -> None:
    source = tmp_path / "data.csv"
    source.write_text("a,b\n1,x\n2\nthree,y\n")
    types = {"a": "integer"}
    with pytest.raises(ValueError, match=r"2 bad rows: .*data.csv line 3 has 1 field"):
        ingest(source=str(source), column_types=types)
    assert not (tmp_path / "artifacts" / "table").exists()
    _, rejected, counts = ingest(source=str(source), column_types=types, on_bad_rows="quarantine")
    assert counts == (1, 2)
    assert rejected.metadata["rows"] == 2
    assert tables.scan(rejected.path).collect()["line"].to_list() == [3, 4]


BATCH = "id,zip,plan,flag,at,note,amount"
TYPES = ["integer", "string", "string", "string", "timestamp", "string", "number"]


@pytest.mark.parametrize("given", ["schema", "schema_uri"])
@pytest.mark.parametrize(
    "row",
    [
        "9,01234,A12,unknown,2024-05-01 10:00:00,text,0.5",
        "9,94110,77,unknown,2024-05-01 10:00:00,text,0.5",
        "9,01234,A12,true,2024-05-01 10:00:00,text,0.5",
        "9,01234,A12,unknown,2024-05-01,text,0.5",
        "9,01234,A12,unknown,2024-05-01 10:00:00,2024-01-05,3",
        "9,01234,A12,unknown,2024-05-01 10:00:00,n/a,",
        "9.0,01234,A12,unknown,2024-05-01 10:00:00,n/a,NA",
    ],
    ids=["like-training", "digits", "boolean", "midnight", "date", "missing", "whole-as-decimal"],
)
def test_a_schema_gives_the_types_of_a_small_batch(
    row: str, given: str, ingest: Callable[..., Any], artifact: Callable[..., Any], tmp_path: Path
) -> None:
    columns = [
        schema.Column(name, kind, nullable=True) for name, kind in zip(BATCH.split(","), TYPES, strict=True)
    ]
    reviewed = artifact("schema", dsl.Artifact)
    schema.write(schema.Schema([*columns, schema.Column("churned", "integer")]), reviewed.path)
    (tmp_path / "batch.csv").write_text(f"{BATCH},extra\n{row},7\n")
    table, _, _ = ingest(
        source=str(tmp_path / "batch.csv"), **{given: reviewed if given == "schema" else reviewed.path}
    )
    frame = tables.scan(table.path)
    # What a model takes may be whole; a reviewed schema is meant to the letter.
    amount = "integer" if given == "schema" and row.endswith(",3") else "number"
    assert [*schema.types_of(frame).values()] == [*TYPES[:-1], amount, "integer"]
    assert not schema.validate(frame, schema.Schema(columns, additional_columns=True))
    assert frame.collect()["id"].to_list() == [9]


def test_unknown_option_is_refused(ingest: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"on_bad_rows is 'ignore'; use one of: fail, quarantine, null"):
        ingest(on_bad_rows="ignore")


def test_rows_without_a_label_are_left_out_and_counted(
    ingest: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "data.csv"
    source.write_text("x,y\n1,a\n2,NA\n3,b\n4,\n")
    table, rejected, counts = ingest(source=str(source), label="y")
    assert counts == (2, 0)
    assert tables.scan(table.path).collect().rows() == [(1, "a"), (3, "b")]
    assert tables.description(table.path)["rows_without_label"] == table.metadata["rows_without_label"] == 2
    assert "label column 'y' is missing in 2 of 4 rows of" in caplog.text
    assert tables.description(rejected.path)["rows"] == 0


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_only_a_window_up_to_the_newest_row_is_kept(
    ingest: Callable[..., Any], tmp_path: Path, form: str
) -> None:
    days = ["2026-03-01", "2026-03-08", None, "2026-03-02T00:00:01", "2026-03-09"]
    frame = pl.DataFrame({"at": days, "y": ["a", None, "c", "d", "e"]})
    source = tmp_path / f"data.{form}"
    if form == "parquet":
        frame.with_columns(pl.col("at").str.to_datetime()).write_parquet(source)
    else:
        getattr(frame, {"csv": "write_csv", "jsonl": "write_ndjson"}[form])(source)
    window = {"source": str(source), "time_column": "at", "window_days": 7.0}
    table, _, counts = ingest(**window)
    assert counts == (3, 0)
    assert tables.scan(table.path).collect()["y"].to_list() == [None, "d", "e"]
    left_out = "2 rows outside the 7 days up to 2026-03-09 00:00:00"
    assert tables.description(table.path)["rows_left_out"] == [left_out]
    table, _, counts = ingest(**window, label="y")
    assert counts == (2, 0)
    assert tables.description(table.path)["rows_left_out"] == [left_out, "1 row without a label"]
    table, _, counts = ingest(**{**window, "window_days": 0.0})
    assert (counts, "rows_left_out" in tables.description(table.path)) == ((5, 0), False)


def test_a_row_dated_in_the_future_does_not_move_the_window(
    ingest: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "data.csv"
    source.write_text("at,y\n2026-03-01,a\n2026-03-08,b\n2099-01-01,c\n2026-03-09,d\n")
    window = {"source": str(source), "time_column": "at", "window_days": 7.0}
    table, _, counts = ingest(**window)
    assert tables.scan(table.path).collect()["y"].to_list() == ["b", "c", "d"]
    said = "a row is dated 2099-01-01 00:00:00, in the future; the window ends with 2026-03-09 00:00:00"
    assert said in caplog.text
    source.write_text("at,y\n2099-01-09,a\n2099-01-01,b\n")
    table, _, counts = ingest(**window)
    assert counts == (1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_days": -1.0, "time_column": "at"}, "window_days must be from 0 .*, not -1"),
        ({"window_days": 1e6, "time_column": "at"}, r"from 0 \(all rows\) to 36,500, not 1e\+06"),
        ({"window_days": float("nan"), "time_column": "at"}, "to 36,500, not nan"),
        ({"window_days": 7.0}, "window_days=7 needs time_column"),
        ({"window_days": 7.0, "time_column": "when"}, "time column 'when' is not in the source"),
        (
            {"window_days": 7.0, "time_column": "x"},
            "time column 'x' must hold timestamps or dates, not Int64",
        ),
        ({"window_days": 7.0, "time_column": "at"}, "time column 'at' has no values in .*; pass another"),
    ],
)
def test_an_invalid_window_gives_a_one_line_error_and_writes_nothing(
    ingest: Callable[..., Any], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    source = tmp_path / "data.csv"
    source.write_text("x,at\n1,\n2,\n")
    with pytest.raises(ValueError, match=message):
        ingest(source=str(source), column_types={"at": "timestamp"}, **options)
    assert not (tmp_path / "artifacts").exists() or not list((tmp_path / "artifacts").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "y", "on_missing_label": "fail"}, "'y' is missing in 1 of 2 .*on_missing_label='drop'"),
        ({"label": "z"}, "label column 'z' is missing in 2 of 2 rows .*nothing to learn from"),
        ({"label": "Y"}, "label column 'Y' is not in the source; .*columns are: x, y"),
        ({"required_columns": ["towm"]}, "column 'towm' is not in the source; .*columns are: x, y"),
        ({"required_columns": [True]}, "required_columns must hold texts only, not True"),
        ({"label": "y", "on_missing_label": "keep"}, "on_missing_label is 'keep'; use one of: drop, fail"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_label_unusable_for_training_is_reported_at_once(
    ingest: Callable[..., Any], tmp_path: Path, form: str, options: dict[str, Any], message: str
) -> None:
    frame = pl.DataFrame(
        {"x": [1, 2], "y": ["a", None], "z": [None, None]}, schema_overrides={"z": pl.String}
    )
    frame = frame.select("x", "y", "z") if options.get("label") == "z" else frame.select("x", "y")
    source = tmp_path / f"data.{form}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[form](source)
    with pytest.raises(ValueError, match=message):
        ingest(source=str(source), **options)


def test_names_of_columns_may_look_like_other_values(ingest: Callable[..., Any], tmp_path: Path) -> None:
    source = tmp_path / "data.csv"
    source.write_text("1,2,-999\n")
    table, _, _ = ingest(source=str(source), column_names=["no", 2023, "x"], null_values=[-999])
    assert tables.scan(table.path).collect().rows(named=True) == [{"no": 1, "2023": 2, "x": None}]


def test_images_of_a_prediction_log_are_kept_as_they_are_and_other_bytes_are_refused(
    ingest: Callable[..., Any], tmp_path: Path
) -> None:
    stream = io.BytesIO()
    Image.new("L", (4, 3), 90).save(stream, "PNG")
    frame = pl.DataFrame({"image": [None, stream.getvalue(), b"damaged"], "prediction": ["a", "b", "a"]})
    frame.write_parquet(tmp_path / "log.parquet")
    table, _, counts = ingest(source=str(tmp_path / "log.parquet"))
    assert counts == (3, 0)
    assert tables.scan(table.path).collect().equals(frame)
    frame.reverse().write_parquet(tmp_path / "log.parquet")
    with pytest.raises(ValueError, match="binary values that aren't images"):
        ingest(source=str(tmp_path / "log.parquet"))
