import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.preprocessing import StandardScaler

from flowparts import tables
from flowparts.prepare import preprocess
from flowparts.prepare.transformers import TimestampFeatures
from flowparts.tables import casts
from flowparts.util import weights

START = datetime.datetime(2024, 2, 28, 22)


def mixed(rows: int = 300, seed: int = 0) -> pl.DataFrame:
    """Make raw rows of every type, with missing values, a constant and an empty column."""
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "amount": rng.normal(50, 20, rows),
            "visits": rng.integers(0, 9, rows),
            "member": rng.integers(0, 2, rows).astype(bool),
            "town": rng.choice(["Köln", "Paris", "Rome"], rows),
            "shop": rng.choice([f"shop {i}" for i in range(40)], rows),
            "at": [START + datetime.timedelta(minutes=int(m)) for m in rng.integers(0, 99_999, rows)],
            "born": [
                datetime.date(1970, 1, 1) + datetime.timedelta(days=int(d))
                for d in rng.integers(0, 9999, rows)
            ],
            "weight": rng.uniform(0.5, 2, rows),
            "constant": ["x"] * rows,
            "empty": pl.Series([None] * rows, dtype=pl.Float64),
        }
    )
    gaps = [
        pl.when(pl.int_range(rows) % (5 + i) == 0).then(None).otherwise(pl.col(name)).alias(name)
        for i, name in enumerate(["amount", "visits", "member", "town", "shop", "at"])
    ]
    label = pl.when(frame["amount"] + rng.normal(0, 5, rows) > 50).then(pl.lit("yes")).otherwise(pl.lit("no"))
    return frame.with_columns(bought=label).with_columns(gaps)


def fit(frame: pl.DataFrame, **options: Any) -> tuple[preprocess.Preprocessor, pl.DataFrame]:
    return preprocess.fit(frame.lazy(), **{"label": "bought", "task": "classification", **options})


def transformed(frame: pl.DataFrame, preprocessor: preprocess.Preprocessor) -> pl.DataFrame:
    return preprocess.transform(frame.lazy(), preprocessor).collect(engine="streaming")


def test_numbers_are_imputed_by_the_median_and_standardized() -> None:
    frame = mixed()
    _, features = fit(frame)
    filled = frame["amount"].fill_null(frame["amount"].median()).to_numpy()
    expected = StandardScaler().fit_transform(filled[:, None])[:, 0]
    np.testing.assert_allclose(features["amount"], expected, rtol=1e-5, atol=1e-6)
    assert features["amount"].dtype == pl.Float32


def test_categories_get_a_column_each_and_unseen_ones_none() -> None:
    preprocessor, _ = fit(mixed())
    new = mixed(4).with_columns(town=pl.Series(["Rome", "Oslo", None, "Paris"]))
    features = transformed(new, preprocessor).select("town_Köln", "town_Paris", "town_Rome", "town_None")
    assert features.rows() == [(0, 0, 1, 0), (0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0)]


def test_timestamps_become_calendar_features() -> None:
    preprocessor, _ = fit(mixed())
    scaler = preprocessor.transformer.named_transformers_["timestamp"]
    moments = pl.DataFrame({"at": [datetime.datetime(2024, 2, 29, 23, 30)]})
    values = scaler[0].transform(tables.to_pandas(moments))[0]
    names = list(scaler[0].get_feature_names_out())
    assert dict(zip(names, values, strict=True)) == {
        "at_year": 2024,
        "at_month": 2,
        "at_day_of_week": 3,
        "at_hour": 23,
        "at_days": pytest.approx(19782 + 23.5 / 24),
        "at_hour_sin_1": pytest.approx(-0.258819),
        "at_hour_cos_1": pytest.approx(0.965926),
        "at_hour_sin_2": pytest.approx(-0.5),
        "at_hour_cos_2": pytest.approx(0.866025),
    }
    assert "born_hour" not in preprocessor.feature_names


def test_times_that_span_a_year_tell_the_season() -> None:
    learned, _ = fit(mixed())
    assert "born_year_sin" in learned.feature_names
    assert "at_year_sin" not in learned.feature_names, "70 days: the season can't be told from a trend"
    days = pl.DataFrame({"born": [datetime.date(2023, 1, 1), datetime.date(2024, 7, 1), None]})
    dates = learned.transformer.named_transformers_["date"][0]
    table = tables.to_pandas(days)
    waves = dict(zip(dates.get_feature_names_out(), dates.transform(table).T, strict=True))
    np.testing.assert_allclose(waves["born_year_sin"], [0, 0.0108, np.nan], atol=1e-3)
    np.testing.assert_allclose(waves["born_year_cos"], [1, -1, np.nan], atol=1e-3)


def test_models_saved_before_calendar_waves_make_the_same_features(tmp_path: Path) -> None:
    moments = tables.to_pandas(pl.DataFrame({"at": [START, START + datetime.timedelta(days=900), None]}))
    before = TimestampFeatures().fit(moments)
    for name in ("waves", "yearly_"):
        del vars(before)[name]
    weights.dump(before, tmp_path / "before.skops")
    loaded = weights.load(tmp_path / "before.skops")
    assert loaded.widths == [5]
    assert (*loaded.get_feature_names_out(),) == (
        "at_year",
        "at_month",
        "at_day_of_week",
        "at_hour",
        "at_days",
    )
    np.testing.assert_array_equal(loaded.transform(moments), TimestampFeatures().fit_transform(moments))


def test_numbers_that_are_often_missing_say_so() -> None:
    frame = mixed(2_000).with_columns(visits=pl.when(pl.int_range(2_000) >= 15).then(pl.lit(1)))
    frame = frame.with_columns(pay=pl.when(pl.int_range(2_000) >= 15).then(pl.int_range(2_000)))
    learned, features = fit(frame)
    marks = [name for name in learned.feature_names if name.endswith("_is_missing")]
    assert marks == ["amount_is_missing", "member_is_missing"], "15 of 2,000 are less than 1 %"
    assert features[marks[0]].to_list() == frame["amount"].is_null().cast(pl.Float32).to_list()
    assert [learned.feature_names[place] for place in learned.positions["amount"]] == ["amount", marks[0]]


def test_positions_name_the_features_of_each_column() -> None:
    learned, _ = fit(mixed())
    for column, places in learned.positions.items():
        assert all(column in learned.feature_names[place] for place in places)
    found = sorted(place for places in learned.positions.values() for place in places)
    assert found == list(range(len(learned.feature_names)))


def test_high_cardinality_is_target_encoded_without_leaking_labels() -> None:
    rng = np.random.default_rng(1)
    # Categories of two rows that say nothing: leaked, their mean label would look like a perfect feature.
    frame = pl.DataFrame({"code": [f"c{i // 2}" for i in range(2000)], "y": rng.integers(0, 2, 2000)})
    preprocessor, train = fit(frame, label="y")
    assert abs(np.corrcoef(train["code"], train["y"])[0, 1]) < 0.1
    leaky = transformed(frame, preprocessor)
    assert np.corrcoef(leaky["code"], leaky["y"])[0, 1] > 0.6


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "c"]], ids=len)
def test_target_encoding_makes_a_column_for_each_of_many_classes(classes: list[str]) -> None:
    frame = mixed().with_columns(bought=pl.Series(np.random.default_rng(0).choice(classes, 300)))
    names = [name for name in fit(frame)[0].feature_names if name.startswith("shop")]
    assert len(names) == (1 if len(classes) == 2 else 3)


def test_nothing_is_learned_from_validation_rows() -> None:
    train, other = mixed(), mixed(50, seed=5)
    preprocessor, features = fit(train)
    before = transformed(other, preprocessor)
    transformed(other.with_columns(pl.col("amount") * 1000, town=pl.lit("Oslo")), preprocessor)
    assert_frame_equal(transformed(other, preprocessor), before)
    again, same = fit(train)
    assert_frame_equal(features, same)
    assert again.feature_names == preprocessor.feature_names


def test_rows_keep_their_order_and_the_label_and_weights_stay_as_they_are() -> None:
    frame = mixed(5000)
    preprocessor, train = fit(frame, weight_column="weight")
    features = transformed(frame, preprocessor)
    assert features.columns == [*preprocessor.feature_names, "bought", "weight"]
    assert_frame_equal(features.select("bought", "weight"), frame.select("bought", "weight"))
    assert_frame_equal(features.drop("^shop.*$"), train.drop("^shop.*$"))
    assert "weight" not in preprocessor.features


def test_columns_with_nothing_to_learn_are_dropped_with_a_reason() -> None:
    preprocessor, features = fit(mixed())
    assert preprocessor.dropped == {"constant": "holds a single value", "empty": "is missing in every row"}
    assert not {"constant", "empty"} & set(features.columns)
    assert sum(features.null_count().row(0)) == 0


def test_infinity_counts_as_missing() -> None:
    frame = mixed().with_columns(amount=pl.when(pl.col("visits") == 3).then(float("inf")).otherwise("amount"))
    missing = mixed().with_columns(amount=pl.when(pl.col("visits") == 3).then(None).otherwise("amount"))
    assert_frame_equal(fit(frame)[1], fit(missing)[1])


def test_feature_names_never_clash() -> None:
    frame = pl.DataFrame(
        {"a_x": [1.0, 2.0, 3.0], "a": ["x", "y", "x"], "a_y": ["0", "1", "1"], "y": [0, 1, 0]}
    )
    preprocessor, features = fit(frame.rename({"y": "a_y_1"}), label="a_y_1")
    assert len(set(features.columns)) == len(preprocessor.feature_names) + 1


def test_it_is_unchanged_after_saving_and_loading(tmp_path: Path) -> None:
    frame = mixed()
    preprocessor, _ = fit(frame, weight_column="weight")
    preprocessor.save(tmp_path / "p")
    loaded = preprocess.load(tmp_path / "p")
    assert list(loaded.features.items()) == list(preprocessor.features.items())
    assert (loaded.label, loaded.task, loaded.classes) == ("bought", "classification", ["no", "yes"])
    assert_frame_equal(loaded.example, frame.select(*preprocessor.features).head(5))
    assert_frame_equal(transformed(frame, loaded), transformed(frame, preprocessor))


@pytest.mark.parametrize(
    "dtype", [pl.Boolean, pl.Int32, pl.String, pl.Categorical, pl.Float64, pl.Decimal(10, 2)]
)
def test_labels_of_every_type_are_taken(dtype: Any) -> None:
    values = (
        pl.Series([0, 1] * 20)
        .cast(dtype if dtype not in (pl.String, pl.Categorical) else pl.String)
        .cast(dtype)
    )
    preprocessor, features = fit(pl.DataFrame({"x": range(40), "y": values}), label="y")
    assert preprocessor.classes is not None
    assert len(preprocessor.classes) == 2
    assert features["y"].dtype == dtype


def edit(**columns: Any) -> pl.DataFrame:
    return mixed().with_columns(**columns)


SOME = pl.int_range(pl.len()) < 7
BAD: list[tuple[str, pl.DataFrame, dict[str, Any], str]] = [
    ("task", mixed(), {"task": "ranking"}, "task must be one of classification, regression, not 'ranking'"),
    ("label missing", mixed(), {"label": "x"}, "label column 'x' is not in the table; columns are: amount,"),
    ("label excluded", mixed(), {"exclude_columns": ["bought"]}, "'bought' must not be in exclude_columns"),
    ("excluded unknown", mixed(), {"exclude_columns": ["x"]}, "excluded column 'x' is not in the table"),
    ("weight unknown", mixed(), {"weight_column": "nope"}, "weight column 'nope' is not in the table"),
    ("weight is label", mixed(), {"weight_column": "bought"}, "weight_column and label must differ, but"),
    ("one hot", mixed(), {"max_one_hot_categories": 0}, "max_one_hot_categories must be at least 1, not 0"),
    ("null label", edit(bought=pl.when(~SOME).then("bought")), {}, "'bought' is missing in 7 rows"),
    ("one class", edit(bought=pl.lit("yes")), {}, "holds a single class in the training table: 'yes'"),
    ("fractions", edit(bought=pl.col("weight")), {}, r"holds fractions such as .*; use task 'regression'"),
    ("date label", edit(bought=pl.col("born")), {}, "'bought' holds Date, but a classification needs"),
    ("text", mixed(), {"task": "regression"}, "'bought' holds String, but a regression needs numbers"),
    ("infinite label", edit(bought=pl.when(SOME).then(float("inf")).otherwise(1.0)), {"task": "regression"},
     "'bought' is infinite in 7 rows"),
    ("text weights", mixed(), {"weight_column": "town"}, "'town' holds String, but weights must be numbers"),
    ("bad weights", edit(weight=pl.when(SOME).then(-1.0).otherwise("weight")), {"weight_column": "weight"},
     "weight column 'weight' is missing, negative or infinite in 7 rows of the training table"),
    ("zero weights", edit(weight=0.0), {"weight_column": "weight"}, "'weight' is 0 in every row"),
    ("no rows", mixed().clear(), {}, "the training table has no rows"),
    ("no features", mixed().select("bought", "constant"), {}, "no features are left: 'constant' holds"),
    ("only label", mixed().select("bought"), {}, "no features are left: every column is excluded"),
    ("list column", edit(town=pl.concat_list("visits")), {}, "column 'town' holds List.*leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "options", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_bad_input_gives_a_one_line_error(frame: pl.DataFrame, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(frame, **options)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (mixed(9).drop("town"), "feature column of the table 'town' is not in the table"),
        (mixed(9).drop("bought"), "label column of the table 'bought' is not in the table"),
        (mixed(9).clear(), "the table has no rows"),
        (
            mixed(9).with_columns(bought=pl.lit("maybe")),
            "has label values that the training table lacks: 'maybe'",
        ),
        (mixed(9).with_columns(bought=pl.lit(None)), "'bought' is missing in 9 rows of the table"),
    ],
)
def test_a_table_that_does_not_fit_gives_a_one_line_error(other: pl.DataFrame, message: str) -> None:
    preprocessor, _ = fit(mixed())
    with pytest.raises(ValueError, match=message):
        preprocess.transform(other.lazy(), preprocessor)


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        (
            pl.Series("x", ["1.5", "many"]),
            "number",
            "'x' must hold number values, as in training, not 'many'",
        ),
        (pl.Series("x", [datetime.date(2024, 1, 1)]), "number", "'x' must hold number values"),
        (
            pl.Series("x", ["2024-01-01", "soon"]),
            "timestamp",
            "'x' must hold timestamp values in ISO 8601 .*, not 'soon'",
        ),
        (
            pl.Series("x", [17]),
            "date",
            "'x' must hold date values in ISO 8601 .*, not 17",
        ),
        (
            pl.Series("x", [["a"]]),
            "string",
            r"'x' must hold string values, as in training, not \['a'\]",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_named(column: pl.Series, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        casts.conform(pl.DataFrame([column]), {"x": kind})


@pytest.mark.parametrize(
    "text", ["2024-02-28T22:00:00", "2024-02-28 22:00", "2024-02-28T22:00:00Z", "2024-02-29T00:00:00+02:00",
             "2024-02-28 22:00:00.000000"]
)  # fmt: skip
def test_times_are_read_from_text(text: str) -> None:
    frame = casts.conform(pl.DataFrame({"x": [text, None]}), {"x": "timestamp"})
    assert frame["x"].to_list() == [START, None]


def test_dates_are_read_from_text() -> None:
    frame = casts.conform(pl.DataFrame({"x": ["2024-02-28", None]}), {"x": "date"})
    assert frame["x"].to_list() == [datetime.datetime(2024, 2, 28), None]


def test_identifiers_and_few_texts_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    count = 100
    frame = pl.DataFrame(
        {
            "id": [f"row-{place}" for place in range(count)],
            "remark": [f"seen {place} times" if place % 20 else "" for place in range(count)],
            "town": [f"town {place % 40}" for place in range(count)],
            "x": range(count),
            "y": ["a", "b"] * 50,
        }
    )
    fitted, _ = preprocess.fit(frame.lazy(), label="y", task="classification")
    assert list(fitted.features) == ["town", "x"]
    assert fitted.dropped == dict.fromkeys(
        ["id", "remark"], "holds text whose values are nearly all distinct"
    )
    assert "their values are nearly all distinct: 'id', 'remark'" in caplog.text
