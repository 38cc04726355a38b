import datetime
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from flowparts import tables
from flowparts.util import progress

MIXED = pl.DataFrame(
    {
        "count": [1, None, 3],
        "naïve name": ["x", "é", None],
        "ratio": [1.5, None, -0.0],
        "when": [datetime.datetime(2024, 1, 2, 3, 4, 5, 6), None, datetime.datetime(1969, 12, 31)],
        "day": [datetime.date(2024, 1, 2), None, datetime.date(1600, 1, 1)],
        "kind": pl.Series(["u", None, "v"], dtype=pl.Categorical),
        "flag": [True, None, False],
    }
)


def test_types_categories_timestamps_and_nulls_survive_the_round_trip(tmp_path: Path) -> None:
    metadata = tables.write(MIXED, tmp_path / "table", source="sample://mixed")
    back = tables.scan(tmp_path / "table").collect()
    polars.testing.assert_frame_equal(back, MIXED)
    assert metadata["rows"] == 3
    assert metadata["columns"] == MIXED.columns
    assert metadata["source"] == "sample://mixed"
    assert metadata["bytes"] == sum(file.stat().st_size for file in (tmp_path / "table").glob("part-0*"))


def test_nan_is_written_as_null(tmp_path: Path) -> None:
    tables.write(pl.DataFrame({"a": [1.0, float("nan"), None]}), tmp_path / "table")
    assert tables.scan(tmp_path / "table").collect()["a"].to_list() == [1.0, None, None]


def test_an_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    metadata = tables.write(MIXED.clear(), tmp_path / "table")
    assert metadata["rows"] == 0
    assert tables.scan(tmp_path / "table").collect_schema() == MIXED.schema


@pytest.mark.parametrize("make", [None, "empty", "file"])
def test_no_table_gives_a_one_line_error(tmp_path: Path, make: str | None) -> None:
    path = tmp_path / "table"
    if make == "empty":
        path.mkdir()
    elif make == "file":
        path.touch()
    with pytest.raises(ValueError, match=r"^no table at .*\.parquet file|directory of Parquet files"):
        tables.scan(path)


def in_chunks(frame: pl.LazyFrame) -> pl.DataFrame:
    return tables.in_chunks(frame, lambda rows: rows, frame.collect_schema(), "copying").pipe(tables.collect)


@pytest.mark.parametrize(
    "read",
    [
        tables.collect,
        tables.fingerprint,
        tables.write,
        in_chunks,
        lambda frame: list(tables.batches(frame, 10)),
    ],
    ids=["collect", "fingerprint", "write", "in chunks", "batches"],
)
def test_damage_behind_an_intact_footer_gives_a_one_line_error(read: Any, tmp_path: Path) -> None:
    tables.write(pl.DataFrame({"a": range(5000)}), tmp_path / "table")
    file = tmp_path / "table" / "part-00000.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:30] + bytes(range(200)) + content[230:])
    frame = tables.scan(tmp_path / "table")
    with pytest.raises(ValueError, match=r"^a file of a table .* is damaged \(.*\); run the step that wrote"):
        tables.write(frame, tmp_path / "copy") if read is tables.write else read(frame)
    assert not (tmp_path / "copy").exists()


ROWS = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1) | st.none(),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.none(),
        st.floats(allow_nan=False) | st.none(),
    ),
    min_size=1,
    max_size=20,
)
SCHEMA = {"a": pl.Int64, "b": pl.String, "c": pl.Float64}


def frame(rows: list) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


@given(rows=ROWS, cut=st.integers(0, 20))
def test_fingerprint_ignores_the_order_of_rows_and_how_they_are_stored(rows: list, cut: int) -> None:
    whole = frame(rows)
    parts = pl.concat([whole[cut:], whole[:cut]])
    assert tables.fingerprint(parts) == tables.fingerprint(whole)


@given(rows=ROWS, other=ROWS)
def test_fingerprint_differs_when_rows_differ(rows: list, other: list) -> None:
    # Zero is zero, whatever its sign.
    one, two = (frame(table).with_columns(pl.col("c") + 0.0).rows() for table in (rows, other))
    same = sorted(map(repr, one)) == sorted(map(repr, two))
    assert (tables.fingerprint(frame(rows)) == tables.fingerprint(frame(other))) == same


def test_fingerprint_sees_names_types_and_order_of_columns() -> None:
    base = pl.DataFrame({"a": [1], "b": [2]})
    others = [base.rename({"a": "c"}), base.cast({"a": pl.Float64}), base.select("b", "a"), base.select("a")]
    assert len({tables.fingerprint(table) for table in [base, *others]}) == 5


def test_row_hash_is_xxh3_of_the_same_bytes_whatever_the_version_of_polars() -> None:
    # A struct of two values: whole number 1 and text "x"; null and text "é".
    encoded = ["0d02 030101 050178", "0d02 00 0502c3a9"]
    expected = [xxhash.xxh3_64_intdigest(bytes.fromhex(row), seed=7) for row in encoded]
    for whole in (pl.Int64, pl.Int32):
        data = pl.DataFrame({"a": [1, None], "b": ["x", "é"]}, schema_overrides={"a": whole})
        assert data.select(tables.row_hash(["a", "b"], seed=7)).to_series().to_list() == expected


def test_fingerprint_is_the_same_on_every_machine() -> None:
    assert tables.fingerprint(MIXED) == "4d92a14e4615d906"


def test_a_missing_column_is_named_with_its_role_and_the_columns_there_are() -> None:
    with pytest.raises(ValueError, match=r"^label column 'price' is not in the table; columns are: a, b$"):
        tables.require_columns(pl.DataFrame({"a": [1], "b": [2]}), ["a", "price"], "label column")


def test_an_empty_table_gives_a_one_line_error() -> None:
    with pytest.raises(ValueError, match=r"^the training table has no rows, and needs at least one$"):
        tables.require_rows(MIXED.clear().lazy(), "the training table")


def test_pandas_frame_holds_what_estimators_take() -> None:
    data = tables.to_pandas(MIXED)
    assert [str(dtype) for dtype in data.dtypes] == [
        "float64",
        "object",
        "float64",
        "datetime64[us]",
        "datetime64[us]",
        "object",
        "float64",
    ]
    np.testing.assert_array_equal(data["count"], [1, np.nan, 3])
    assert data["naïve name"].tolist() == ["x", "é", None]
    assert data["flag"].tolist()[0] == 1.0
    assert data["when"].isna().tolist() == [False, True, False]


def test_chunks_are_worked_on_in_order_and_the_log_says_how_far(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tables.contract, "_CHUNK_ROWS", 10)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.01)
    sizes = []

    def double(rows: pl.DataFrame) -> pl.DataFrame:
        sizes.append(rows.height)
        time.sleep(0.02)
        return rows.select(b=pl.col("a") * 2, a="a")

    source = pl.DataFrame({"a": range(95)})
    lazy = tables.in_chunks(source.lazy(), double, {"b": pl.Int64(), "a": pl.Int64()}, "doubling")
    with caplog.at_level("INFO", "flowparts"):
        assert lazy.collect().rows() == [(2 * value, value) for value in range(95)]
    assert sum(sizes) == 95
    assert max(sizes) <= 10
    assert "doubling: " in caplog.text
    assert "of 95 rows" in caplog.text
    assert lazy.filter(pl.col("b") > 180).select("a").collect()["a"].to_list() == [91, 92, 93, 94]
    assert lazy.head(3).collect()["b"].to_list() == [0, 2, 4]


def test_a_long_pass_over_a_table_logs_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.01)
    tables.write(pl.DataFrame({"a": range(200_000), "^a$": range(200_000)}), tmp_path / "table")
    frame = tables.scan(tmp_path / "table")

    def slow(rows: pl.Series) -> pl.Series:
        time.sleep(0.05)
        return rows

    with caplog.at_level("INFO", "flowparts"), tables.with_progress(frame, "adding") as counted:
        found = counted.select(pl.col("a").map_batches(slow, is_elementwise=True).sum()).pipe(tables.collect)
        assert found.item() == 199_999 * 100_000
        assert tables.select(counted, ["^a$"]).pipe(tables.collect).columns == ["^a$"]
    assert any(re.match(r"adding: [1-9][\d,]* of 200,000 rows \(", message) for message in caplog.messages)


def test_a_table_says_in_its_files_what_it_is(tmp_path: Path) -> None:
    written = tables.write(MIXED, tmp_path / "table", source="sample://mixed")
    assert tables.description(tmp_path / "table") == written
    assert written["fingerprint"] == tables.fingerprint(MIXED)
    # Whatever reads a directory of Parquet files still does.
    assert pl.read_parquet(tmp_path / "table").height == pd.read_parquet(tmp_path / "table").shape[0] == 3


def test_a_derived_table_keeps_provenance_and_records_its_own_size(tmp_path: Path) -> None:
    split = {"split": "by group", "split_warning": "", "kept_together": ["id"], "time_column": ""}
    past = {"rows_left_out": ["2 rows without a label"], **split}
    tables.write(MIXED, tmp_path / "train", "train part of sample://mixed", past)
    assert tables.provenance(tmp_path / "train") == past
    derived = tables.write(MIXED.head(1), tmp_path / "derived", "", tables.provenance(tmp_path / "train"))
    assert derived["rows"] == 1
    assert tables.provenance(tmp_path / "derived") == past


def test_a_table_that_was_written_elsewhere_is_measured(tmp_path: Path) -> None:
    MIXED.write_parquet(tmp_path / "part-0.parquet")
    assert tables.description(tmp_path) == {
        "rows": 3,
        "columns": MIXED.columns,
        "bytes": (tmp_path / "part-0.parquet").stat().st_size,
        "fingerprint": tables.fingerprint(MIXED),
        "source": "",
    }


@pytest.mark.parametrize("content", [b"", b"PAR1"], ids=["empty", "torn"])
def test_a_damaged_description_gives_a_one_line_error(content: bytes, tmp_path: Path) -> None:
    tables.write(MIXED, tmp_path / "table")
    (tmp_path / "table" / "part-facts.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"part-facts.parquet doesn't describe its table .*again$"):
        tables.description(tmp_path / "table")
