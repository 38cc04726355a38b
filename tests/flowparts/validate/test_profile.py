import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowparts.validate import profile


def measured(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    statistics = profile.profile(frame.lazy())
    json.dumps(statistics, allow_nan=False)
    return {column["name"]: column for column in statistics["columns"]}


def warned(frame: pl.DataFrame) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for warning in profile.profile(frame.lazy())["warnings"]:
        found.setdefault(warning["column"], set()).add(warning["warning"])
    return found


def mixed(rows: int = 3000, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    start = datetime(2024, 1, 1)
    return pl.DataFrame(
        {
            "number": random.normal(5, 2, rows),
            "whole": random.integers(0, 1000, rows),
            "text": random.choice(["red", "green", "blue"], rows, p=[0.5, 0.3, 0.2]),
            "flag": random.random(rows) < 0.25,
            "moment": [start + timedelta(seconds=int(second)) for second in random.integers(0, 10**8, rows)],
        }
    ).with_columns(pl.when(pl.int_range(pl.len()) % 7 == 0).then(None).otherwise(pl.all()).name.keep())


@pytest.fixture(params=["exact", "approximate"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Take the way of small and of large columns; say whether it is the exact one."""
    if request.param == "approximate":
        monkeypatch.setattr(profile, "_MAX_COUNTED", 20)
    return bool(request.param == "exact")


def test_numbers_are_described_as_pandas_does(both_ways: bool) -> None:
    frame = mixed()
    ours = measured(frame)
    for name in ("number", "whole"):
        values = pd.Series(frame[name].drop_nulls().to_numpy())
        column = ours[name]
        assert column["exact"] is both_ways
        assert (column["count"], column["nulls"]) == (len(values), len(frame) - len(values))
        assert (column["min"], column["max"]) == (values.min(), values.max())
        assert column["mean"] == pytest.approx(values.mean())
        assert column["std"] == pytest.approx(values.std())
        assert column["skewness"] == pytest.approx(values.skew(), rel=0.01, abs=1e-3)
        assert column["distinct"] == pytest.approx(values.nunique(), rel=0 if both_ways else 0.02)
        levels = [float(level) for level in column["quantiles"]]
        assert list(column["quantiles"].values()) == pytest.approx(
            list(values.quantile(levels)), rel=1e-11 if both_ways else 0.01
        )


def test_histogram_is_the_one_of_numpy(both_ways: bool) -> None:
    values = mixed()["number"].drop_nulls()
    histogram = measured(values.to_frame())["number"]["histogram"]
    counts, edges = np.histogram(values.to_numpy(), bins=profile.HISTOGRAM_BINS)
    assert histogram["edges"] == pytest.approx(list(edges))
    assert histogram["counts"] == list(counts)


def test_few_whole_numbers_get_a_bin_each() -> None:
    histogram = measured(pl.DataFrame({"stars": [1, 1, 2, 4, 4, 4]}))["stars"]["histogram"]
    assert histogram == {"edges": [0.5, 1.5, 2.5, 3.5, 4.5], "counts": [2, 1, 0, 3]}


def test_top_values_of_text_come_with_their_counts() -> None:
    frame = mixed()
    column = measured(frame)["text"]
    expected = pd.Series(frame["text"].drop_nulls().to_list()).value_counts()
    assert {top["value"]: top["count"] for top in column["top_values"]} == expected.to_dict()
    assert (column["min_length"], column["max_length"]) == (3, 5)


def test_booleans_are_counted() -> None:
    frame = mixed()
    column = measured(frame)["flag"]
    counts = {top["value"]: top["count"] for top in column["top_values"]}
    assert counts == {True: frame["flag"].sum(), False: (~frame["flag"]).sum()}


def test_timestamps_and_dates_have_a_range_and_a_histogram(both_ways: bool) -> None:
    moments = mixed()["moment"].drop_nulls()
    ours = measured(pl.DataFrame({"moment": moments, "day": moments.dt.date()}))
    for name, values in (("moment", moments), ("day", moments.dt.date())):
        column = ours[name]
        assert (column["min"], column["max"]) == (values.min().isoformat(), values.max().isoformat())
        assert sum(column["histogram"]["counts"]) == len(values)
        edges = [datetime.fromisoformat(edge) for edge in column["histogram"]["edges"]]
        assert edges == sorted(edges)
        median = datetime.fromisoformat(column["quantiles"]["0.5"])
        assert abs(median - moments.sort()[len(moments) // 2]) < timedelta(days=10)


def test_a_frequent_value_among_very_many_is_found_with_its_exact_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profile, "_MAX_COUNTED", 20)
    texts = [f"id {number}" for number in range(50_000)] + ["unknown"] * 700 + ["n/a"] * 300
    column = measured(pl.DataFrame({"text": texts}).sample(fraction=1, shuffle=True, seed=1))["text"]
    assert column["top_values"][:2] == [{"value": "unknown", "count": 700}, {"value": "n/a", "count": 300}]
    assert all(top["count"] > 1 for top in column["top_values"])
    assert column["distinct"] == pytest.approx(50_002, rel=0.02)


@pytest.mark.parametrize(
    "values",
    [
        np.concatenate([np.random.default_rng(0).normal(0, 1, 20_000), [1e18]]),
        np.random.default_rng(0).normal(1e9, 1e-3, 20_000),
        np.exp(np.random.default_rng(0).normal(0, 6, 20_000)),
        np.where(
            np.random.default_rng(0).random(20_000) < 0.7, 0, np.random.default_rng(1).normal(size=20_000)
        ),
        np.array([-1.7e308, *np.random.default_rng(0).normal(0, 1, 20_000), 1.7e308]),
    ],
    ids=["outlier", "offset", "heavy tail", "many zeros", "whole range"],
)
def test_approximate_quantiles_hold_for_awkward_numbers(
    values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "_MAX_COUNTED", 20)
    column = measured(pl.DataFrame({"x": values}))["x"]
    order = np.sort(values)
    for level, value in column["quantiles"].items():
        # The rank of the answer is off by at most half a percent of the rows.
        low, high = (
            order[int(np.clip((float(level) + off) * len(values), 0, len(values) - 1))]
            for off in (-0.005, 0.005)
        )
        assert low <= value <= high


def test_statistics_do_not_depend_on_the_order_of_rows(both_ways: bool) -> None:
    frame = mixed()
    shuffled = frame.sample(fraction=1, shuffle=True, seed=3)
    assert profile.profile(frame.lazy()) == profile.profile(shuffled.lazy())


def test_infinite_values_are_counted_and_left_out() -> None:
    column = measured(pl.DataFrame({"x": [1.0, 2.0, float("inf"), float("-inf"), None]}))["x"]
    assert (column["infinite"], column["min"], column["max"], column["mean"]) == (2, 1.0, 2.0, 1.5)
    assert sum(column["histogram"]["counts"]) == 2


def test_columns_without_any_finite_value_are_described() -> None:
    frame = pl.DataFrame({"nothing": pl.Series([None, None], dtype=pl.Float64), "inf": [float("inf")] * 2})
    frame = frame.with_columns(untyped=None, text=pl.lit(None, dtype=pl.String))
    columns = measured(frame)
    assert {name: column["nulls"] for name, column in columns.items()} == {
        "nothing": 2,
        "inf": 0,
        "untyped": 2,
        "text": 2,
    }
    assert "histogram" not in columns["inf"]
    profile.render(profile.profile(frame.lazy()))


def test_suspicious_columns_are_named() -> None:
    rows = 500
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "fine": random.normal(size=rows),
            "empty": pl.Series([None] * rows, dtype=pl.String),
            "constant": [7] * rows,
            "almost": [1] + [0] * (rows - 1),
            "sparse": [None if row % 2 else row / 3 for row in range(rows)],
            "id": [f"row {row}" for row in range(rows)],
            "street": [f"street {row % 200}" for row in range(rows)],
            "infinite": [float("inf"), *random.normal(size=rows - 1)],
            "income": np.exp(random.normal(0, 2, rows)),
        }
    )
    assert warned(frame) == {
        "empty": {"all missing"},
        "constant": {"constant"},
        "almost": {"almost constant"},
        "sparse": {"many missing values"},
        "id": {"looks like an identifier"},
        "street": {"many categories"},
        "infinite": {"infinite values"},
        "income": {"strong skew"},
    }


def test_duplicate_rows_are_counted() -> None:
    frame = pl.DataFrame({"a": [1, 1, 2, 1], "b": ["x", "x", None, "y"]})
    assert profile.profile(frame.lazy())["duplicate_rows"] == 1


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="the table has no rows"):
        profile.profile(pl.LazyFrame({"a": []}, schema={"a": pl.Int64}))


def test_a_column_of_lists_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"column 'words' holds List\(String\)"):
        profile.profile(pl.LazyFrame({"words": [["a"]]}))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "^a.*$": st.none() | st.floats(allow_nan=False),
                "*": st.none() | st.integers(-(2**63), 2**63 - 1),
                "0": st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
                "": st.none() | st.booleans(),
                "t": st.none() | st.datetimes(),
                "d": st.none() | st.dates(),
            }
        ),
        min_size=1,
        max_size=12,
    )
)
def test_any_table_is_described_and_shown(rows: list[dict[str, Any]]) -> None:
    types = {
        "^a.*$": pl.Float64,
        "*": pl.Int64,
        "0": pl.String,
        "": pl.Boolean,
        "t": pl.Datetime("us"),
        "d": pl.Date,
    }
    statistics = profile.profile(pl.LazyFrame(rows, schema=types))
    json.dumps(statistics, allow_nan=False)
    for column in statistics["columns"]:
        values = [row[column["name"]] for row in rows if row[column["name"]] is not None]
        assert column["count"] == len(values)
        assert column["distinct"] == len(set(values))
        if "histogram" in column:
            finite = [value for value in values if isinstance(value, date) or np.isfinite(value)]
            assert sum(column["histogram"]["counts"]) == len(finite)
    assert profile.render(statistics).startswith("<!doctype html>")


def test_report_shows_a_card_for_each_column(tmp_path: Path, open_page: Callable[[Path], Any]) -> None:
    frame = (
        mixed()
        .rename({"text": "<script>", "whole": "x" * 200})
        .with_columns(empty=pl.lit(None, dtype=pl.String), id=pl.int_range(pl.len()).cast(pl.String))
    )
    file = tmp_path / "profile.html"
    file.write_text(profile.render(profile.profile(frame.lazy()), "s3://bucket/<data>.csv"), encoding="utf-8")
    driver = open_page(file)
    names = [heading.text for heading in driver.find_elements("css selector", ".cell h3")]
    assert len(names) == frame.width
    assert any(name.startswith("<script>") for name in names)
    assert "has no values" in driver.find_element("css selector", ".callout.bad").text
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_numbers_among_which_are_other_texts_are_named() -> None:
    frame = pl.DataFrame(
        {"a": [*map(str, range(95)), *["unknown"] * 5], "zip": [f"0{n:04}" for n in range(100)]}
    )
    warnings = profile.profile(frame.lazy())["warnings"]
    found = [
        (warning["column"], warning["message"]) for warning in warnings if "numbers" in warning["warning"]
    ]
    assert found == [("a", "95 of 100 values are numbers, others are not, such as 'unknown'")]


def test_images_are_distinguished_by_their_bytes() -> None:
    frame = pl.DataFrame({"image": [b"one", b"two", b"two", None], "label": ["a", "b", "b", "a"]})
    found = profile.profile(frame.lazy())
    image = found["columns"][0]
    assert (image["type"], image["count"], image["distinct"], image["top_values"]) == ("image", 3, 2, [])
    assert [each for each in found["warnings"] if each["column"] == "image"] == [
        {"column": "image", "warning": "repeated images", "message": "1 of 3 are copies of others"},
        {"column": "image", "warning": "many missing values", "message": "25% missing"},
    ]
    assert found["duplicate_rows"] == 1
    assert "Binary" not in profile.render(found)
