from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from scipy import spatial, stats

from flowparts.monitor import drift
from flowparts.monitor.drift import ColumnDrift
from flowparts.tables import summary


def compared(before: pl.DataFrame, now: pl.DataFrame, **options: float) -> dict[str, ColumnDrift]:
    first, second = summary.summarise(before.lazy()), summary.summarise(now.lazy())
    return {found.name: found for found in drift.compare(first, second, drift.Rule(**options))}


def one(before: object, now: object, **options: float) -> ColumnDrift:
    return compared(pl.DataFrame({"x": before}), pl.DataFrame({"x": now}), **options)["x"]


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda random, rows: random.normal(0, 1, rows),
    "shifted": lambda random, rows: random.normal(5_000.2, 1, rows),
    "skewed": lambda random, rows: random.lognormal(0.1, 1.5, rows),
    "counts": lambda random, rows: random.poisson(3, rows),
    "half zero": lambda random, rows: np.where(random.random(rows) < 0.5, 0, random.normal(0, 1, rows)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("rows", [(900, 400), (30_000, 20_000)], ids=["exact", "bucketed"])
def test_numbers_are_measured_as_scipy_measures_them(name: str, rows: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    first = DISTRIBUTIONS[name](random, rows[0])
    second = DISTRIBUTIONS[name](random, rows[1]) * 1.02
    found = one(first, second)
    expected = stats.ks_2samp(first, second, method="asymp")
    exact = rows[0] < summary.MAX_BUCKETS
    assert found.measures["ks"] == pytest.approx(expected.statistic, abs=1e-12 if exact else 0.002)
    adjusted = min(1.0, 2 * 1.5 * expected.pvalue)  # two tests, values and missing values, by Yekutieli
    if exact:
        assert found.p_value == pytest.approx(adjusted, rel=1e-6)
    else:  # a distance that is seen between buckets only is a little smaller
        assert adjusted - 1e-9 <= found.p_value <= adjusted + 0.15
    distance = stats.wasserstein_distance(first, second)
    assert found.measures["wasserstein"] == pytest.approx(distance, rel=1e-9 if exact else 0.05)


def test_categories_are_measured_as_scipy_measures_them() -> None:
    first = ["a"] * 500 + ["b"] * 300 + ["c"] * 200
    second = ["a"] * 200 + ["b"] * 150 + ["c"] * 100 + ["d"] * 50
    found = one(first, second)
    table = [[500, 300, 200, 0], [200, 150, 100, 50]]
    expected = stats.chi2_contingency(table, correction=False)
    assert found.measures["chi_square"] == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(2 * 1.5 * expected.pvalue)
    shares = [np.array(row) / sum(row) for row in table]
    assert found.measures["jensen_shannon"] == pytest.approx(spatial.distance.jensenshannon(*shares, base=2))
    assert found.measures["total_variation"] == pytest.approx(np.abs(shares[0] - shares[1]).sum() / 2)
    assert found.measures["new_fraction"] == 0.1
    assert "10.0% have new values ('d')" in found.reasons[0]


def test_psi_is_that_of_its_definition_over_tenths_of_the_baseline() -> None:
    random = np.random.default_rng(2)
    first, second = random.normal(0, 1, 20_000), random.normal(0.5, 1, 20_000)
    edges = np.quantile(first, np.arange(1, 10) / 10)
    shares = [
        np.bincount(np.searchsorted(edges, values), minlength=10) / 20_000 for values in (first, second)
    ]
    expected = sum((b - a) * np.log(b / a) for a, b in zip(*shares, strict=True))
    measures = one(first, second).measures
    assert measures["psi"] == pytest.approx(expected, rel=0.03)
    divergence = spatial.distance.jensenshannon(*shares, base=2)
    assert measures["jensen_shannon"] == pytest.approx(divergence, rel=0.03)
    assert drift.psi(np.array([10, 0]), np.array([10, 0])) == 0


def test_missing_values_are_compared_as_fractions() -> None:
    first, second = [1.0] * 900 + [None] * 100, [1.0] * 350 + [None] * 150
    found = one(first, second)
    expected = stats.chi2_contingency([[900, 100], [350, 150]], correction=False).pvalue
    assert found.p_value == pytest.approx(2 * 1.5 * expected)
    assert (found.measures["null_rate_before"], found.measures["null_rate"]) == (0.1, 0.3)
    assert found.reasons == ["30.0% of the values are missing, 10.0% before"]
    few = one([1.0] * 19 + [None], [1.0] * 12 + [None] * 8)
    assert few.p_value == pytest.approx(2 * 1.5 * stats.fisher_exact([[1, 19], [8, 12]]).pvalue)


def test_infinity_counts_as_missing_as_in_models() -> None:
    found = one([1.0, 2.0] * 500, [1.0, float("inf")] * 500)
    assert found.measures["null_rate"] == 0.5
    assert found.drifted


def test_p_values_are_adjusted_as_scipy_adjusts_them() -> None:
    p_values = np.random.default_rng(3).random(50) ** 4
    expected = stats.false_discovery_control(p_values, method="by")
    assert drift.adjust(p_values.tolist()) == pytest.approx(expected.tolist())


def test_equal_tables_have_not_drifted() -> None:
    rows = pl.DataFrame({"x": [1.0, 2.0, None], "text": ["a", None, "b"], "nothing": [None] * 3})
    for found in compared(rows, rows).values():
        assert not found.drifted
        assert found.effect == 0
        assert found.p_value == 1
        assert not found.reasons


def test_a_significant_but_tiny_change_of_many_rows_is_not_reported() -> None:
    random = np.random.default_rng(4)
    first, second = random.normal(0, 1, 200_000), random.normal(0.03, 1, 200_000)
    found = one(first, second)
    assert found.p_value < 1e-6
    assert not found.drifted
    assert one(first, second, minimum_effect=0.005).drifted


def test_a_large_difference_on_few_rows_may_be_chance() -> None:
    found = one([1.0, 2.0, 3.0, 4.0], [2.5, 3.5, 4.5, 5.5])
    assert found.effect == 0.5
    assert not found.drifted


def mixed(random: np.random.Generator, rows: int) -> pl.DataFrame:
    """Draw columns that depend on each other, some with missing values."""
    base = random.normal(0, 1, rows)
    columns: dict[str, object] = {}
    for number in range(8):
        values = base * (number % 3) + random.normal(0, 1, rows)
        columns[f"n{number}"] = pl.Series(
            np.where(random.random(rows) < 0.02 * number, np.nan, values)
        ).fill_nan(None)
    for number in range(4):
        weights = 1 / np.arange(1, 3 + 8 * number + 1)
        columns[f"c{number}"] = random.choice(len(weights), rows, p=weights / weights.sum()).astype(str)
    return pl.DataFrame(columns)


def test_unchanged_data_is_flagged_at_most_as_often_as_stated() -> None:
    """Without a least effect, so that the tests alone keep the rate."""
    random = np.random.default_rng(5)
    flagged = sum(
        any(
            found.drifted
            for found in compared(mixed(random, 900), mixed(random, 300), minimum_effect=0).values()
        )
        for _ in range(200)
    )
    # Of 200 windows 5 % are 10; more than 18 would be seen once in 200 times.
    assert flagged <= 18


@pytest.mark.parametrize(
    ("change", "column", "words"),
    [
        (pl.col("n0") + 0.5, "n0", "the values moved up"),
        (pl.col("n0") * 2, "n0", "the values moved"),
        (pl.col("n0") + 100, "n0", "100.0% out of the range seen before"),
        (
            pl.when(pl.int_range(pl.len()) % 5 == 0).then(None).otherwise("n0").alias("n0"),
            "n0",
            "are missing",
        ),
        (pl.lit(None, pl.Float64).alias("n0"), "n0", "100.0% of the values are missing"),
        (
            pl.when(pl.col("c0") == "0").then(pl.lit("z")).otherwise("c0").alias("c0"),
            "c0",
            "no longer occur ('0')",
        ),
    ],
    ids=["mean", "variance", "out of range", "nulls", "all null", "categories"],
)
def test_one_column_of_many_that_drifted_is_reported_and_comes_first(
    change: pl.Expr, column: str, words: str
) -> None:
    random = np.random.default_rng(6)
    before, now = mixed(random, 3_000), mixed(random, 3_000).with_columns(change)
    found = compared(before, now)
    assert [name for name, each in found.items() if each.drifted] == [column]
    assert next(iter(found)) == column
    assert words in found[column].reasons[0]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_thousands_of_categories_are_compared_by_groups(share: float) -> None:
    random = np.random.default_rng(7)
    first, second = (random.integers(0, 20_000, rows) for rows in (100_000, 50_000))
    second = np.where(random.random(50_000) < share, random.integers(20_000, 30_000, 50_000), second)
    found = one(first.astype(str), second.astype(str))
    assert found.drifted == (share > 0)
    assert found.measures["new_fraction"] == pytest.approx(share, abs=0.06)


def test_times_are_compared_in_days() -> None:
    days = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 12, 30), "1h", eager=True)
    found = one(days, days.dt.offset_by("30d"))
    assert found.measures["wasserstein"] == pytest.approx(30, rel=0.01)
    assert found.measures["out_of_range"] == pytest.approx(30 / 364, rel=0.05)


@pytest.mark.parametrize(
    ("before", "now", "sentence"),
    [
        ({"x": [1]}, {"y": [1]}, "the table has none of the baseline's columns; they are: x"),
        (
            {"x": [1]},
            {"x": ["a"]},
            "column 'x' holds integer values in the baseline and string values in the",
        ),
    ],
)
def test_tables_that_cannot_be_compared_give_a_one_line_error(
    before: dict[str, list[object]], now: dict[str, list[object]], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        compared(pl.DataFrame(before), pl.DataFrame(now))


def test_options_out_of_range_give_a_one_line_error() -> None:
    with pytest.raises(ValueError, match="minimum_effect must be at least 0 and less than 1, not 1"):
        one([1], [1], minimum_effect=1)
