import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flowparts import tables
from flowparts.tables import summary
from flowparts.tables.summary import Summary

FRAMES = st.lists(
    st.tuples(
        st.none() | st.floats(allow_nan=True, allow_infinity=True),
        st.none() | st.integers(-(2**40), 2**40),
        st.none() | st.text("aäß日", max_size=3),
        st.none() | st.booleans(),
        st.none() | st.datetimes(),
    ),
    min_size=1,
    max_size=40,
).map(
    lambda rows: pl.DataFrame(
        rows,
        {
            "number": pl.Float64,
            "whole": pl.Int64,
            "text": pl.String,
            "flag": pl.Boolean,
            "moment": pl.Datetime("us"),
        },
        orient="row",
    )
)


def content(of: Summary) -> dict[str, Any]:
    """Return what a summary says, in a form that can be compared."""
    return {
        name: (
            column.kind, column.rows, column.nulls, column.infinite, column.buckets.level,
            column.buckets.minimum, column.buckets.maximum,
            *(part.tolist() for part in (
                column.buckets.keys, column.buckets.counts, column.categories.hashes,
                column.categories.counts, column.categories.groups,
            )),
            [] if column.categories.is_sampled else column.categories.texts,
        )
        for name, column in of.columns.items()
    }  # fmt: skip


def mixed(rows: int, seed: int, shift: float = 0.0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    moments = np.datetime64("2024-01-01", "us") + random.integers(0, 10**13, rows).astype("timedelta64[us]")
    return pl.DataFrame(
        {
            "normal": random.normal(shift, 1, rows),
            "far away": random.normal(1e6 + shift, 1, rows),
            "skewed": random.lognormal(shift, 2, rows),
            "heavy": random.standard_cauchy(rows) + shift,
            "count": random.poisson(4 + shift, rows),
            "spike": np.where(random.random(rows) < 0.5, 0.0, random.normal(shift, 1, rows)),
            "moment": moments,
            "plan": random.choice(["a", "b", "c"], rows),
            "product": (random.zipf(1.2, rows) % 20_000).astype(str),
        }
    )


@settings(max_examples=60, deadline=None)
@given(FRAMES, FRAMES)
def test_merging_gives_the_summary_of_both_tables(first: pl.DataFrame, second: pl.DataFrame) -> None:
    merged = summary.summarise(first.lazy()).merge(summary.summarise(second.lazy()))
    assert content(merged) == content(summary.summarise(pl.concat([first, second]).lazy()))


@pytest.mark.parametrize("cut", [1, 700, 20_000, 39_990])
def test_merging_is_exact_where_buckets_and_categories_are_too_many(cut: int) -> None:
    rows = pl.concat([mixed(20_000, 1), mixed(20_000, 2, shift=3)])
    merged = summary.summarise(rows[:cut].lazy()).merge(summary.summarise(rows[cut:].lazy()))
    assert content(merged) == content(summary.summarise(rows.lazy()))
    assert merged.columns["product"].categories.is_sampled
    assert all(len(column.buckets.keys) <= summary.MAX_BUCKETS for column in merged.columns.values())


def test_the_batches_and_the_order_of_the_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = mixed(30_000, 3)
    expected = content(summary.summarise(rows.lazy()))
    monkeypatch.setattr(summary, "_ROWS_AT_ONCE", 997)
    monkeypatch.setattr(summary, "_DENSE", 10)
    assert content(summary.summarise(rows.reverse().lazy())) == expected


def test_a_summary_is_read_as_it_was_written_and_is_small(tmp_path: Path) -> None:
    made = summary.summarise(mixed(50_000, 4).lazy())
    Summary(made.columns, {"source": "rows"}).write(tmp_path / "summary")
    read = summary.read(tmp_path / "summary")
    assert content(read) == content(made)
    assert read.facts == {"source": "rows"}
    assert (tmp_path / "summary").stat().st_size < 60_000
    assert read.columns["product"].categories.texts == [None] * summary.MAX_CATEGORIES


def test_few_values_are_counted_exactly() -> None:
    rows = pl.DataFrame({"x": [3, 1, 3, None, 2], "text": ["é", "ab", "é", None, ""], "flag": [True] * 5})
    found = summary.summarise(rows.lazy()).columns
    low, high = found["x"].buckets.edges()
    assert low.tolist() == high.tolist() == [1, 2, 3]
    assert found["x"].buckets.counts.tolist() == [1, 1, 2]
    assert (found["x"].rows, found["x"].nulls) == (5, 1)
    text = found["text"].categories
    assert dict(zip(text.texts, text.counts.tolist(), strict=True)) == {"é": 2, "ab": 1, "": 1}
    assert found["text"].buckets.edges()[0].tolist() == [0, 1, 2]
    assert found["flag"].categories.texts == ["true"]


def test_missing_and_infinite_numbers_are_counted_apart() -> None:
    rows = pl.DataFrame({"x": [1.0, None, math.nan, math.inf, -math.inf, -0.0, 0.0]})
    found = summary.summarise(rows.lazy()).columns["x"]
    assert (found.rows, found.nulls, found.infinite) == (7, 2, 2)
    assert found.buckets.counts.tolist() == [2, 1]


@pytest.mark.parametrize("name", ["normal", "far away", "skewed", "heavy", "count", "spike", "moment"])
def test_quantiles_and_the_distribution_are_those_of_the_rows(name: str) -> None:
    rows = mixed(60_000, 5)
    values = rows[name].to_physical().to_numpy().astype(float)
    buckets = summary.summarise(rows.lazy(), [name]).columns[name].buckets
    assert (buckets.minimum, buckets.maximum) == (values.min(), values.max())
    _, high = buckets.edges()
    # At the upper edge of a bucket the share of smaller values is exact.
    ranks = np.searchsorted(np.sort(values), high, side="right")
    assert ranks.tolist() == np.cumsum(buckets.counts).tolist()
    for share in (0.01, 0.25, 0.5, 0.9):
        expected = float(np.quantile(values, share))
        assert buckets.quantile(share) == pytest.approx(expected, rel=0.03, abs=0.02)


def test_the_number_of_categories_is_estimated_and_groups_hold_all_rows() -> None:
    values = pl.Series("id", [f"id {number % 30_000}" for number in range(50_000)])
    found = summary.summarise(values.to_frame().lazy()).columns["id"].categories
    assert found.distinct == pytest.approx(30_000, rel=0.1)
    assert found.groups.sum() == 50_000
    assert len(found.hashes) == summary.MAX_CATEGORIES


def picture(level: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (level, 0, 255)).save(stream, "PNG")
    return stream.getvalue()


def test_images_are_described_by_size_and_light() -> None:
    rows = pl.DataFrame({"image": [picture(0), picture(100), None], "label": ["a", "b", "a"]})
    found = summary.summarise(rows.lazy()).columns
    assert found["image.width"].buckets.edges()[0].tolist() == [40]
    assert found["image.height"].buckets.edges()[0].tolist() == [30]
    assert found["image.red"].buckets.edges()[0].tolist() == [0, 100]
    assert found["image.blue"].buckets.edges()[0].tolist() == [255]
    assert found["image.brightness"].buckets.minimum == pytest.approx(0.114 * 255)
    assert found["image.contrast"].buckets.maximum == pytest.approx(0, abs=1e-9)
    assert found["image.width"].nulls == 1
    assert found["label"].rows == 3


def test_of_many_images_those_with_the_smallest_hashes_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "_MAX_IMAGES", 5)
    rows = pl.DataFrame({"image": [picture(level) for level in range(20)]})
    found = summary.summarise(rows.lazy()).columns["image.red"]
    again = summary.summarise(rows.reverse().lazy()).columns["image.red"]
    assert found.rows == 5
    assert found.buckets.keys.tolist() == again.buckets.keys.tolist()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (pl.DataFrame({"x": []}, {"x": pl.Int64}), "the table has no rows"),
        (pl.DataFrame({"x": [[1]]}), "column 'x' holds List"),
        (pl.DataFrame({"image": [b"no picture"]}), "image column 'image': it isn't an image"),
    ],
)
def test_unmeasurable_input_gives_a_one_line_error(rows: pl.DataFrame, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        summary.summarise(rows.lazy())


def test_summaries_of_unlike_tables_are_not_merged() -> None:
    numbers, texts = (
        summary.summarise(pl.DataFrame({"x": values}).lazy()) for values in ([1, 2], ["a", "b"])
    )
    with pytest.raises(ValueError, match="column 'x' holds integer values in one table and string values"):
        numbers.merge(texts)
    with pytest.raises(ValueError, match="column 'x' is in one of the summaries only"):
        numbers.merge(summary.summarise(pl.DataFrame({"y": [1]}).lazy()))


def test_a_window_without_values_is_merged_whatever_its_type() -> None:
    numbers, nothing = (
        summary.summarise(pl.DataFrame({"x": values}).lazy()) for values in ([1.5, 2.5], [None, None])
    )
    for merged in (numbers.merge(nothing), nothing.merge(numbers)):
        assert (merged.columns["x"].kind, merged.columns["x"].rows, merged.columns["x"].nulls) == (
            "number",
            4,
            2,
        )


def test_dates_and_timestamps_are_the_same_moments() -> None:
    rows = pl.DataFrame({"x": ["2024-01-01", "2024-01-02"]}).with_columns(pl.col("x").str.to_date())
    dates, moments = (
        summary.summarise(frame.lazy()).columns["x"] for frame in (rows, rows.cast(pl.Datetime("ms")))
    )
    assert dates.buckets.keys.tolist() == moments.buckets.keys.tolist()
    assert dates.add(moments).kind == "timestamp"


def test_a_file_that_is_not_a_summary_gives_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the baseline is missing: there is no file at"):
        summary.read(tmp_path / "baseline", "the baseline")
    (tmp_path / "baseline").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ValueError, match="isn't a summary of a table") as raised:
        summary.read(tmp_path / "baseline", "the baseline")
    assert "\n" not in str(raised.value)
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "baseline")
    with pytest.raises(ValueError, match="isn't a summary of a table"):
        summary.read(tmp_path / "baseline")


def test_a_table_is_read_in_small_chunks(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    tables.write(pl.DataFrame({"a": range(30_000)}), tmp_path / "table")
    with pl.Config(verbose=True):
        found = summary.summarise(tables.scan(tmp_path / "table"))
    assert found.rows == 30_000
    # Many chunks wait for the summary, so its memory is a multiple of theirs.
    assert "ideal_morsel_size: 4000," in capfd.readouterr().err
