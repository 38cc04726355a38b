import datetime
import itertools
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from flowparts import tables
from flowparts.prepare import split

SHARES = (0.7, 0.15, 0.15)


def parts(
    frame: pl.DataFrame, fractions: tuple[float, float, float] = SHARES, **options: Any
) -> list[pl.DataFrame]:
    assigned = split.assign(frame.lazy(), fractions, **options)
    return [split.part(frame.lazy(), assigned, name).collect() for name in split.PARTS]


def people(rows: int = 2000, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    start = datetime.datetime(2024, 1, 1)
    return pl.DataFrame(
        {
            "id": np.arange(rows),
            "patient": rng.integers(0, 300, rows),
            "label": rng.choice(["a", "b", "c"], rows, p=[0.9, 0.08, 0.02]),
            "income": rng.lognormal(size=rows),
            "at": [start + datetime.timedelta(hours=int(h)) for h in rng.integers(0, 500, rows)],
        }
    ).with_columns(pl.when(pl.col("id") % 11 == 0).then(None).otherwise(pl.col("label")).alias("label"))


OPTIONS: list[dict[str, Any]] = [
    {},
    {"key": ["id"]},
    {"stratify_by": "label"},
    {"stratify_by": "income"},
    {"key": ["id"], "stratify_by": "label"},
    {"group_by": "patient"},
    {"time_column": "at"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_row_is_lost_or_repeated_and_fractions_are_close(options: dict[str, Any]) -> None:
    frame = people()
    divided = parts(frame, **options)
    assert_frame_equal(pl.concat(divided).sort("id"), frame)
    for piece, share in zip(divided, SHARES, strict=True):
        assert abs(piece.height / frame.height - share) < 0.05


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_order_of_the_rows_changes_nothing(options: dict[str, Any]) -> None:
    frame = people()
    shuffled = frame.sample(fraction=1, shuffle=True, seed=7)
    for piece, other in zip(parts(frame, seed=3, **options), parts(shuffled, seed=3, **options), strict=True):
        assert_frame_equal(piece, other.sort("id"))


@pytest.mark.parametrize("options", [o for o in OPTIONS if "time_column" not in o], ids=str)
def test_another_seed_gives_another_split(options: dict[str, Any]) -> None:
    one, other = parts(people(), seed=1, **options)[2], parts(people(), seed=2, **options)[2]
    assert set(one["id"]) != set(other["id"])


def test_rows_keep_their_order() -> None:
    assert all(piece["id"].is_sorted() for piece in parts(people(), key=["id"]))


def test_more_rows_move_none_of_the_earlier() -> None:
    frame = people()
    before, after = parts(frame.head(1000), key=["id"]), parts(frame, key=["id"])
    for early, late in zip(before, after, strict=True):
        assert set(early["id"]) <= set(late["id"])


def passengers(rows: int = 2000, seed: int = 0) -> pl.DataFrame:
    """Make rows of few different values, whose label depends on them in part."""
    rng = np.random.default_rng(seed)
    level, adult = rng.integers(0, 4, rows), rng.random(rows) < 0.9
    survived = rng.random(rows) < 0.2 + 0.15 * level
    return pl.DataFrame({"class": level, "adult": adult, "survived": pl.Series(survived).cast(pl.Int64)})


def roc_auc(train: pl.DataFrame, test: pl.DataFrame) -> float:
    from sklearn.metrics import roc_auc_score

    rates = train.group_by("class", "adult").agg(pl.col("survived").mean().alias("rate"))
    scored = test.join(rates, on=["class", "adult"], how="left")
    return float(roc_auc_score(scored["survived"], scored["rate"].fill_null(0.5)))


@pytest.mark.parametrize("stratify_by", [None, "survived"])
def test_equal_rows_are_spread_whatever_their_label(stratify_by: str | None) -> None:
    frame = passengers()
    divided = parts(frame, stratify_by=stratify_by)
    cut = 7 * frame.height // 10
    by_chance = roc_auc(frame[:cut], frame[cut:])
    assert roc_auc(divided[0], divided[2]) == pytest.approx(by_chance, abs=0.08)
    assert by_chance > 0.6
    for piece, share in zip(divided, SHARES, strict=True):
        assert abs(piece.height / frame.height - share) < 0.05
        assert piece.unique().height == pytest.approx(frame.unique().height, abs=3)


@pytest.mark.parametrize("options", [{}, {"stratify_by": "survived"}, {"exclude_columns": ["id"]}], ids=str)
def test_where_equal_rows_go_does_not_depend_on_their_order(options: dict[str, Any]) -> None:
    frame = passengers().with_row_index("id")
    shuffled = frame.sample(fraction=1, shuffle=True, seed=7)
    for columns in (["class", "adult", "survived"], frame.columns):
        pairs = zip(
            parts(frame.select(columns), **options if "id" in columns else {}),
            parts(shuffled.select(columns), **options if "id" in columns else {}),
            strict=True,
        )
        for piece, other in pairs:
            assert_frame_equal(piece.sort(columns), other.sort(columns))


def test_more_equal_rows_move_none_of_the_earlier() -> None:
    frame = passengers().drop("survived")
    before, after = parts(frame.head(1000)), parts(frame)
    for early, late in zip(before, after, strict=True):
        assert not Counter(early.rows()) - Counter(late.rows())


def test_copies_of_a_row_under_another_identifier_stay_together() -> None:
    frame = people().drop("patient", "at").with_columns(pl.col("label").fill_null("none"))
    copies = frame.sample(500, seed=1).with_columns(pl.col("id") + 10_000)
    options: dict[str, Any] = {"stratify_by": "label", "exclude_columns": ["id"]}
    divided = parts(pl.concat([frame, copies]), **options)
    seen = [set(piece["income"]) for piece in divided]
    assert sum(map(len, seen)) == len(set.union(*seen))
    spread = parts(pl.concat([frame, copies]), repeated_rows="spread", **options)
    assert set(spread[0]["income"]) & set(spread[2]["income"])


def test_excluded_columns_do_not_affect_the_split() -> None:
    frame = people().with_columns(pl.col("label").fill_null("none"))
    renumbered = frame.with_columns(pl.col("id").reverse())
    choices: list[dict[str, Any]] = [{}, {"stratify_by": "label"}]
    for options in choices:
        pairs = zip(
            parts(frame, exclude_columns=["id"], **options),
            parts(renumbered, exclude_columns=["id"], **options),
            strict=True,
        )
        for piece, other in pairs:
            assert_frame_equal(piece.drop("id"), other.drop("id"))


@pytest.mark.parametrize(("copies", "stay"), [(2, True), (10, True), (11, False)])
def test_equal_rows_of_one_label_are_copies_unless_each_occurs_often(copies: int, stay: bool) -> None:
    frame = pl.DataFrame({"x": np.arange(300), "label": np.arange(300) % 2})
    frame = pl.concat([frame] * copies)
    seen = [set(piece["x"]) for piece in parts(frame, stratify_by="label")]
    assert (sum(map(len, seen)) == 300) is stay


@pytest.mark.parametrize(("copies", "warned"), [(4, False), (5, True), (9, False), (10, True)])
def test_near_copies_are_warned_of_from_five_rows_and_one_percent_on(copies: int, warned: bool) -> None:
    others = 100 if copies < 9 else 1_000
    values = np.arange(1, others + 1) / 7
    train = pl.DataFrame({"x": values})
    rest = pl.DataFrame({"x": np.concatenate([values[:copies] * (1 + 1e-9), values[copies:] + 1e6])})
    assigned = pl.Series("part", [0] * others + [1] * others, dtype=pl.UInt8)
    said = split.near_copies(pl.concat([train, rest]).lazy(), assigned, ["x"])
    assert said.startswith(f"at least {copies} of the {others:,} rows") is warned


@pytest.mark.parametrize("differs", [True, False])
def test_near_copies_are_alike_in_every_column(differs: bool) -> None:
    values = np.arange(1, 101) / 7
    train = pl.DataFrame({"town": ["Paris"] * 100, **{f"x{place}": values + place for place in range(6)}})
    rest = train.with_columns(town=pl.lit(" PARIS "), x5=pl.col("x5") + (1000 if differs else 0))
    assigned = pl.Series("part", [0] * 100 + [1] * 100, dtype=pl.UInt8)
    said = split.near_copies(pl.concat([train, rest]).lazy(), assigned, train.columns)
    assert said.startswith("at least 100 of the 100 rows") is not differs


def test_equal_rows_stay_together_on_demand_even_if_their_labels_differ() -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"x": rng.integers(0, 300, 2000), "label": rng.choice(["a", "b"], 2000)})
    divided = parts(frame, stratify_by="label", repeated_rows="together")
    seen = [set(piece["x"]) for piece in divided]
    assert sum(map(len, seen)) == len(set.union(*seen)) == frame["x"].n_unique()
    for piece, share in zip(divided, SHARES, strict=True):
        assert abs(piece.height / frame.height - share) < 0.05


def test_columns_of_few_values_that_determine_the_label_are_split_by_row() -> None:
    frame = pl.DataFrame({"a": [0, 0, 1, 1] * 50, "b": [0, 1, 0, 1] * 50})
    frame = frame.with_columns(label=pl.col("a") ^ pl.col("b"))
    assert [piece.height for piece in parts(frame, stratify_by="label")] == [140, 30, 30]
    with pytest.raises(ValueError, match="the table has too few rows with different features"):
        parts(frame, stratify_by="label", repeated_rows="together")


def test_equal_rows_are_spread_across_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = passengers()
    expected = split.assign(frame.lazy(), SHARES, stratify_by="survived")
    monkeypatch.setattr(split, "_BUCKET_ROWS", 100)
    assert split.assign(frame.lazy(), SHARES, stratify_by="survived").equals(expected)


def test_rows_with_equal_keys_stay_together() -> None:
    seen = [set(piece["patient"]) for piece in parts(people(), key=["patient"])]
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_groups_stay_together_and_missing_is_one_group() -> None:
    frame = people().with_columns(
        pl.when(pl.col("id") < 50).then(None).otherwise(pl.col("patient")).alias("patient")
    )
    seen = [set(piece["patient"].to_list()) for piece in parts(frame, group_by="patient")]
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_each_stratum_is_split_exactly_to_the_row() -> None:
    frame = people()
    divided = parts(frame, stratify_by="label")
    total = Counter(frame["label"].to_list())
    assert None in total
    for value, count in total.items():
        cuts = [0, round(count * 0.7), round(count * 0.85), count]
        found = [Counter(piece["label"].to_list())[value] for piece in divided]
        assert found == [high - low for low, high in itertools.pairwise(cuts)]


@settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.sampled_from(["a", "b", None]), min_size=4, max_size=60),
    keys=st.integers(1, 60),
    cuts=st.tuples(st.integers(1, 99), st.integers(0, 99)),
)
def test_each_stratum_is_cut_where_the_ranks_of_its_hashes_say(
    labels: list[str | None], keys: int, cuts: tuple[int, int]
) -> None:
    fractions = (
        cuts[0] / 100,
        cuts[1] * (100 - cuts[0]) / 10_000,
        (100 - cuts[1]) * (100 - cuts[0]) / 10_000,
    )
    # Few keys, so that many rows have the same hash and belong to the same part.
    frame = pl.DataFrame({"label": labels}, schema={"label": pl.String}).with_columns(
        key=pl.format("{}{}", pl.col("label").fill_null("missing"), pl.int_range(pl.len()) % keys)
    )
    rank, rows = tables.row_hash(["key"]).rank("min").over("label"), pl.len().over("label")
    train, validation = ((rows * share).round() for share in (fractions[0], fractions[0] + fractions[1]))
    in_validation = pl.lit(fractions[2] == 0) | (rank <= validation)
    expected = frame.select(pl.when(rank <= train).then(0).when(in_validation).then(1).otherwise(2))
    try:
        found = split.assign(frame.lazy(), fractions, stratify_by="label", repeated_rows="together")
    except ValueError as error:
        assert "would be empty" in str(error) or "too many" in str(error)  # noqa: PT017 - a small table may
        return
    assert found.to_list() == expected.to_series().to_list()


def test_a_stratum_of_many_rows_is_cut_where_the_ranks_of_its_hashes_say() -> None:
    frame = people(100_000)
    rank, rows = (
        tables.row_hash(frame.drop("label").columns).rank("min").over("label"),
        pl.len().over("label"),
    )
    expected = frame.select(
        pl.when(rank <= (rows * 0.7).round()).then(0).when(rank <= (rows * 0.85).round()).then(1).otherwise(2)
    )
    found = split.assign(frame.lazy(), SHARES, stratify_by="label")
    assert found.to_list() == expected.to_series().to_list()


def test_numbers_are_stratified_by_decile() -> None:
    frame = people()
    decile = pl.Series(np.searchsorted(np.quantile(frame["income"], np.arange(0.1, 1, 0.1)), frame["income"]))
    for piece, share in zip(parts(frame, stratify_by="income"), SHARES, strict=True):
        for value in range(10):
            members = frame.filter(decile == value)["id"].is_in(piece["id"].to_list()).sum()
            assert abs(members - 200 * share) <= 2


def test_a_split_by_time_keeps_order_and_ties_together() -> None:
    train, validation, test = parts(people(), time_column="at")
    assert train["at"].max() < validation["at"].min()  # type: ignore[operator]
    assert validation["at"].max() < test["at"].min()  # type: ignore[operator]


@pytest.mark.parametrize("option", [{"group_by": "patient"}, {"time_column": "at"}], ids=str)
def test_strata_have_no_say_in_a_split_by_group_or_time(option: dict[str, str]) -> None:
    plain = split.assign(people().lazy(), SHARES, **option)  # type: ignore[arg-type]
    assert split.assign(people().lazy(), SHARES, **option, stratify_by="label").equals(plain)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.tuples(st.one_of(st.none(), st.text(max_size=3)), st.integers(-5, 5)), min_size=12),
    seed=st.integers(0, 2**32),
)
def test_any_table_comes_out_whole(values: list[tuple[str | None, int]], seed: int) -> None:
    frame = pl.DataFrame(values, schema={"text": pl.String, "number": pl.Int64}, orient="row")
    try:
        divided = parts(frame, (0.5, 0.3, 0.2), seed=seed)
    except ValueError as error:
        assert "would be empty" in str(error)  # noqa: PT017 - a small table may well leave a part empty
        return
    assert Counter(pl.concat(divided).rows()) == Counter(frame.rows())


def test_a_part_with_fraction_zero_gets_no_rows() -> None:
    assert [piece.height > 0 for piece in parts(people(), (0.8, 0.2, 0.0), key=["id"])] == [True, True, False]
    assert [piece.height > 0 for piece in parts(people(), (0.8, 0.0, 0.2), key=["id"])] == [True, False, True]
    assert parts(people(), (0.7, 0.3, 0.0), stratify_by="label")[2].is_empty()


def test_a_column_named_part_is_kept() -> None:
    frame = pl.DataFrame({"part": range(100)})
    assert sorted(pl.concat(parts(frame))["part"].to_list()) == list(range(100))


@pytest.mark.parametrize(
    ("fractions", "options", "message"),
    [
        ((0.7, 0.2, 0.2), {}, r"must add up to 1, not 0\.7 \+ 0\.2 \+ 0\.2 = 1\.1"),
        ((1.2, -0.1, -0.1), {}, "train_fraction must be at least 0 and less than 1, not 1.2"),
        ((0.0, 0.5, 0.5), {}, "train_fraction must be above 0"),
        ((float("nan"), 0.5, 0.5), {}, "train_fraction must be at least 0"),
        (SHARES, {"key": []}, "key must not be an empty list"),
        (SHARES, {"key": ["identity"]}, "key column 'identity' is not in the table; columns are: id, "),
        (SHARES, {"stratify_by": "x"}, "stratify_by column 'x' is not in the table"),
        (SHARES, {"group_by": "x"}, "group_by column 'x' is not in the table"),
        (SHARES, {"time_column": "x"}, "time column 'x' is not in the table"),
        (SHARES, {"exclude_columns": ["x"]}, "excluded column 'x' is not in the table"),
        (SHARES, {"repeated_rows": "join"}, "repeated_rows is 'join'; use one of: auto, spread, together"),
        (
            SHARES,
            {"group_by": "patient", "time_column": "at"},
            "group_by and time_column contradict each other",
        ),
        (SHARES, {"group_by": "patient", "key": ["id"]}, "key and group_by contradict each other"),
        (SHARES, {"time_column": "label"}, "time column 'label' must hold timestamps, dates or numbers"),
        (SHARES, {"key": ["patient"], "stratify_by": "label"}, "keys have rows with different values"),
        (
            SHARES,
            {"key": ["one"]},
            "part .* of 2000 rows.* would be empty: column 'one' has too few distinct",
        ),
        (SHARES, {"time_column": "one"}, "column 'one' has too few distinct values"),
    ],
)
def test_a_wrong_option_gives_a_one_line_error(
    fractions: tuple[float, float, float], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        split.assign(people().lazy().with_columns(one=1), fractions, **options)


def test_a_missing_time_gives_a_one_line_error() -> None:
    frame = people().with_columns(pl.when(pl.col("id") > 3).then(pl.col("at")).alias("at"))
    with pytest.raises(ValueError, match="time column 'at' is missing in 4 rows"):
        split.assign(frame.lazy(), SHARES, time_column="at")


def test_a_stratum_for_each_row_gives_a_one_line_error() -> None:
    frame = people().with_columns(pl.col("id").cast(pl.String))
    with pytest.raises(ValueError, match="'id' has 2000 distinct values in 2000 rows, such as '0', too many"):
        split.assign(frame.lazy(), SHARES, stratify_by="id")


def test_too_few_rows_give_a_one_line_error() -> None:
    with pytest.raises(
        ValueError, match=r"part \(0.15 of 1 rows\) would be empty: the table has too few rows"
    ):
        split.assign(pl.LazyFrame({"a": [1]}), (0.7, 0.15, 0.15))
    with pytest.raises(ValueError, match="has no rows"):
        split.assign(pl.LazyFrame({"a": []}), (0.7, 0.15, 0.15))


def ordered(rows: int = 400, **more: Any) -> pl.LazyFrame:
    """Give rows in the order of "at", but for a few minutes, with a birthday in none."""
    rng = np.random.default_rng(3)
    start = datetime.datetime(2024, 1, 1)
    minutes = np.arange(rows) * 60 + rng.integers(0, 100, rows)
    return pl.LazyFrame(
        {
            "at": [start + datetime.timedelta(minutes=int(each)) for each in minutes],
            "born": [
                datetime.date(1950, 1, 1) + datetime.timedelta(int(d)) for d in rng.integers(0, 9000, rows)
            ],
            "label": rng.choice(["a", "b"], rows),
        }
    ).with_columns(**more)


def test_rows_in_the_order_of_a_timestamp_are_split_by_time() -> None:
    for frame in (ordered(), ordered().reverse()):
        strategy = split.choose(frame, SHARES, time_column="auto", label="label")
        assert strategy.time_column == "at"
        assert strategy.described.startswith("by time (at), because the rows are ordered by 'at'")
        assert not strategy.warning
    facts = strategy.facts([])
    assert (facts["kept_together"], facts["time_column"]) == ([], "at")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ordered().drop("at"), id="a birthday"),
        pytest.param(ordered().sort(pl.col("at").hash(1)), id="shuffled"),
        pytest.param(ordered(90), id="few rows"),
        pytest.param(ordered(at=pl.col("at").dt.truncate("1y")), id="one time"),
    ],
)
def test_rows_in_no_order_are_split_at_random(frame: pl.LazyFrame) -> None:
    strategy = split.choose(frame, SHARES, time_column="auto", label="label")
    assert strategy == split.Strategy(None, "at random, by hash")


def test_rows_grouped_by_entity_are_split_by_time_with_a_warning() -> None:
    start = datetime.datetime(2024, 1, 1)
    days = [start + datetime.timedelta(days=day) for day in range(200)]
    panel = pl.LazyFrame(
        {
            "shop": [f"shop {shop}" for shop in range(10) for _ in days],
            "country": [["de", "fr"][shop // 5] for shop in range(10) for _ in days],
            "at": days * 10,
            "label": ["a", "b"] * 1000,
        }
    )
    strategy = split.choose(panel, SHARES, time_column="auto", label="label")
    assert strategy.time_column == "at"
    assert strategy.described.startswith("by time (at), because the rows of each 'shop' are ordered by it")
    assert strategy.warning.endswith("how good the model is for new ones; group_by=shop does")
    # A month is a block of rows too, but the next one begins where it ends.
    log = ordered().with_columns(month=pl.col("at").dt.month().cast(pl.Int64))
    assert not split.choose(log, SHARES, time_column="auto", label="label").warning


def test_a_key_wins_over_time_order_with_a_warning() -> None:
    strategy = split.choose(ordered(), SHARES, key=["born"], time_column="auto", label="label")
    assert (strategy.time_column, strategy.described) == (None, "by born, by hash")
    assert "the rows are ordered by 'at', but split by born" in strategy.warning
    asked = split.choose(ordered(), SHARES, key=["born"], label="label")
    assert not asked.warning


def test_a_split_by_time_that_training_cannot_use_is_not_chosen() -> None:
    last = pl.when(pl.int_range(pl.len()) > 350).then(pl.lit("new")).otherwise("label")
    strategy = split.choose(ordered(label=last), SHARES, time_column="auto", label="label")
    assert strategy.time_column is None
    assert "has values of 'label' in later parts that the training part lacks" in strategy.warning
    half = pl.when(pl.int_range(pl.len()) > 250).then(pl.lit("a")).otherwise("label")
    strategy = split.choose(ordered(label=half), SHARES, time_column="auto", label="label")
    assert "leaves a part with a single value of 'label'" in strategy.warning
    two = pl.when(pl.int_range(pl.len()) > 30).then(datetime.datetime(2025, 1, 1)).otherwise("at")
    strategy = split.choose(ordered(at=two), SHARES, time_column="auto")
    assert strategy.time_column is None


def labels(**counts: int) -> pl.LazyFrame:
    values = [name for name, rows in counts.items() for _ in range(rows)]
    return pl.LazyFrame({"^y$": [*values, None], "x": range(len(values) + 1)})


def test_rows_of_classes_that_hardly_occur_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    frame = labels(a=50, b=40, c=3, d=2, e=1)
    kept, said = split.without_rare_classes(frame, "^y$")
    assert said == [
        "1 row of class 'e' (fewer than min_class_rows=3)",
        "2 rows of class 'd' (fewer than min_class_rows=3)",
    ]
    assert "label column '^y$': left out 1 row of class 'e'" in caplog.text
    assert kept.collect()["x"].to_list() == [*range(93), 96], "a missing label is no rare class"
    kept, said = split.without_rare_classes(frame, "^y$", 1)
    assert kept.collect().height == 97
    assert said == []
    many, said = split.without_rare_classes(labels(a=50, b=40, **{f"typo {n}": 1 for n in range(9)}), "^y$")
    assert many.collect().height == 91
    assert said[-1] == "6 rows of 6 more such classes (fewer than min_class_rows=3)"


def test_a_rare_class_that_would_leave_a_single_one_stops_the_run() -> None:
    with pytest.raises(
        ValueError, match=r"only 2 rows of class 'b', too few to learn from, .* min_class_rows=1"
    ):
        split.without_rare_classes(labels(a=50, b=2), "^y$")
    with pytest.raises(ValueError, match="min_class_rows must be at least 1, not 0; 1 keeps every class"):
        split.without_rare_classes(labels(a=50, b=2), "^y$", 0)


def test_a_label_of_mostly_rare_values_is_left_to_the_split() -> None:
    frame = labels(a=4, **{f"id {number}": 1 for number in range(40)})
    assert split.without_rare_classes(frame, "^y$")[0].collect().height == 45
