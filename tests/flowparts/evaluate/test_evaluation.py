import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression

from flowparts import models
from flowparts.evaluate import evaluation, evaluation_report
from flowparts.prepare import preprocess


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., models.Model]:
    """Train a model of column "label": `trained(rows, LogisticRegression())`."""

    def make(rows: pl.DataFrame, estimator: Any, task: str = "classification") -> models.Model:
        preprocessor, features = preprocess.fit(rows.lazy(), label="label", task=task)
        estimator.fit(features.drop("label").to_numpy(), features["label"].to_numpy())
        models.save(
            tmp_path / "model",
            estimator,
            preprocessor=preprocessor,
            task=task,
            label="label",
            classes=preprocessor.classes,
            metadata={"estimator": type(estimator).__name__},
        )
        return models.load(tmp_path / "model")

    return make


def names(column: pl.Series) -> list[str]:
    return [name for name, _ in evaluation.groups(column)]


def sizes(column: pl.Series) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in evaluation.groups(column)}


def test_texts_are_grouped_by_value_with_the_most_frequent_first() -> None:
    assert sizes(pl.Series("c", ["b", "a", "b", None, "c"])) == {"b": 2, "a": 1, "c": 1, "(missing)": 1}
    assert names(pl.Series("c", ["b", "a", "b"], dtype=pl.Categorical)) == ["b", "a"]
    assert names(pl.Series("c", [True, False, True])) == ["true", "false"]


def test_the_rarer_ones_of_many_texts_are_put_together() -> None:
    texts = [f"city{number:02}" for number in range(30) for _ in range(40 - number)]
    found = sizes(pl.Series("c", [*texts, None]))
    assert list(found)[:2] == ["city00", "city01"]
    assert found["(10 other values)"] == sum(40 - number for number in range(20, 30))
    assert found["(missing)"] == 1


def test_few_numbers_are_grouped_by_value_and_many_in_quartiles() -> None:
    assert names(pl.Series("c", [3, 1, 2, 1, 10])) == ["1", "2", "3", "10"]
    assert sizes(pl.Series("c", range(100))) == {
        "up to 24": 25,
        "24 to 49": 25,
        "49 to 74": 25,
        "above 74": 25,
    }


def test_equal_quartiles_make_fewer_groups() -> None:
    mostly_zero = pl.Series("c", [0.0] * 90 + [float(number) for number in range(1, 12)])
    assert sizes(mostly_zero) == {"up to 0": 90, "above 0": 11}


def test_moments_are_grouped_by_month_and_past_two_years_by_year() -> None:
    days = pl.Series("c", [datetime(2024, 1, 31) + timedelta(days=number) for number in range(3)])
    assert sizes(days) == {"2024-01": 1, "2024-02": 2}
    assert sizes(days.cast(pl.Date)) == {"2024-01": 1, "2024-02": 2}
    years = pl.Series("c", [datetime(2020, 1, 1) + timedelta(days=30 * number) for number in range(40)])
    assert names(years) == ["2020", "2021", "2022", "2023"]


@settings(max_examples=60, deadline=None)
@given(
    values=st.one_of(
        st.lists(st.none() | st.floats(allow_nan=False), min_size=1, max_size=60),
        st.lists(st.none() | st.integers(-(2**62), 2**62), min_size=1, max_size=60),
        st.lists(st.none() | st.text(max_size=3), min_size=1, max_size=60),
        st.lists(st.none() | st.booleans(), min_size=1, max_size=10),
        st.lists(st.none() | st.dates(), min_size=1, max_size=60),
        st.lists(st.none() | st.datetimes(), min_size=1, max_size=60),
    )
)
def test_every_row_is_in_exactly_one_group_and_no_group_is_empty(values: list[Any]) -> None:
    masks = np.array([mask for _, mask in evaluation.groups(pl.Series("c", values))])
    assert (masks.sum(axis=0) == 1).all()
    assert masks.any(axis=1).all()


def rows(count: int, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    x = random.normal(size=count)
    label = np.where(random.random(count) < 1 / (1 + np.exp(-4 * x)), "yes", "no")
    return pl.DataFrame({"x": x, "label": label})


def test_a_slice_that_is_small_is_shown_but_not_called_the_worst(trained: Any) -> None:
    test = rows(300)
    where = ["tiny"] * 10 + ["left", "right"] * 145
    wrong = {"yes": "no", "no": "yes"}
    test = test.with_columns(where=pl.Series(where)).with_columns(
        pl.when(pl.col("where") == "tiny")
        .then(pl.col("label").replace(wrong))
        .otherwise("label")
        .alias("label")
    )
    model = trained(rows(300, seed=1), LogisticRegression())
    found = evaluation.evaluate(model, test.lazy(), ["where"], samples=50)
    by_value = {each.value: each for each in found.slices}
    assert by_value["tiny"].metrics["accuracy"] < min(
        by_value[v].metrics["accuracy"] for v in ("left", "right")
    )
    assert found.worst is not None
    assert found.worst.slice.value in ("left", "right")
    assert found.worst.compared == 2
    assert not found.worst.worse
    page = evaluation_report.classification_page(found)
    assert "Chance alone could make the worst slice look like this." in page
    assert "too few rows to judge" in page


def test_the_worst_of_many_slices_of_equal_quality_is_not_called_worse(trained: Any) -> None:
    count, slices = 60, 20
    test = rows(count * slices, seed=5).with_columns(
        where=pl.Series([f"s{i % slices:02}" for i in range(count * slices)])
    )
    model = trained(rows(300, seed=1), LogisticRegression())
    found = evaluation.evaluate(model, test.lazy(), ["where"], samples=4_000)
    worst = found.worst
    assert worst is not None
    assert worst.compared == slices
    # An interval for one slice alone calls it worse: by chance one of so many is.
    own = test.filter(where=worst.slice.value)
    hits = (model.predict(own)["prediction"] == own["label"]).to_numpy()
    draws = hits[np.random.default_rng(0).integers(0, count, (4_000, count))].mean(axis=1)
    for_one, for_all = (np.quantile(draws, 1 - share / 2) for share in (0.05, 0.05 / slices))
    overall = found.metrics["accuracy"]
    assert for_one < overall <= for_all
    assert worst.interval[1] == pytest.approx(for_all, abs=1.5 / count)
    assert not worst.worse


def test_the_metrics_of_a_slice_are_those_of_its_rows(trained: Any) -> None:
    test = rows(200).with_columns(side=pl.col("x") > 0)
    model = trained(rows(200, seed=1), LogisticRegression())
    found = evaluation.evaluate(model, test.lazy(), ["side"], samples=20)
    right = test.filter("side")
    alone = evaluation.evaluate(model, right.lazy(), samples=20)
    assert {each.value: each.metrics for each in found.slices}["true"] == alone.metrics


def test_slices_may_use_the_label_or_repeat_a_column(trained: Any) -> None:
    model = trained(rows(200, seed=1), LogisticRegression())
    found = evaluation.evaluate(model, rows(100).lazy(), ["label", "x", "x"], samples=20)
    assert [each.column for each in found.slices] == ["label"] * 2 + ["x"] * 4


def test_the_examples_are_the_most_confident_mistakes_and_say_where_they_stand(trained: Any) -> None:
    test = rows(200).with_columns(id=pl.format("id{}", pl.int_range(pl.len())))
    model = trained(rows(200, seed=1), LogisticRegression())
    found = evaluation.evaluate(model, test.lazy(), samples=20)
    assert len(found.examples) == 10
    surest = [example["probability"] for example in found.examples]
    assert surest == sorted(surest, reverse=True)
    for example in found.examples:
        assert example["actual"] == test["label"][example["row"]] != example["predicted"]
        assert example["id"] == f"id{example['row']}"


def test_columns_named_like_what_is_measured_overwrite_nothing(trained: Any) -> None:
    taken = {name: pl.lit("mine") for name in ("row", "actual", "predicted", "probability")}
    test = rows(200).with_columns(**taken)
    model = trained(rows(200, seed=1), LogisticRegression())
    for example in evaluation.evaluate(model, test.lazy(), samples=20).examples:
        assert example["actual"] == test["label"][example["row"]] != example["predicted"]
        assert 0.5 <= example["probability"] <= 1
        assert {example[f"column {name}"] for name in taken} == {"mine"}


def test_many_classes_show_the_most_frequent_ones(trained: Any) -> None:
    codes = [number for number in range(40) for _ in range(5 + number)]
    random = np.random.default_rng(0)
    many = pl.DataFrame({"x": np.array(codes) + random.normal(0, 1, len(codes)), "label": codes})
    found = evaluation.evaluate(trained(many, LogisticRegression()), many.lazy(), samples=20)
    curves = evaluation.curves(found)
    assert curves["classes"] == [str(number) for number in range(10, 40)]
    assert np.array(curves["confusion_matrix"]).shape == (30, 30)
    assert len(curves["roc"]) == 30
    json.dumps(curves, allow_nan=False)
    page = evaluation_report.classification_page(found)
    assert "Shown are the 30 most frequent of 40 classes." in page
    assert page.count("Shown are the 8 most frequent of 30 classes with a curve.") == 2


def test_a_perfect_model_shows_no_mistakes(trained: Any, open_page: Any, tmp_path: Path) -> None:
    clear = pl.DataFrame({"x": [-3.0, 3.0] * 40, "label": [False, True] * 40})
    found = evaluation.evaluate(trained(clear, LogisticRegression()), clear.lazy(), samples=20)
    assert found.examples == []
    page = tmp_path / "perfect.html"
    page.write_text(evaluation_report.classification_page(found))
    assert "All 80 predictions are correct; up to 3.8 % wrong ones could go unnoticed." in page.read_text()
    assert "No test row was taken for another class." in open_page(page).page_source


def test_honest_probabilities_are_trusted_and_exaggerated_ones_are_not(trained: Any) -> None:
    test, train = rows(3000), rows(3000, seed=1)
    honest = trained(train, LogisticRegression())
    found = evaluation.evaluate(honest, test.lazy(), samples=20)
    assert "Its probabilities can be trusted" in evaluation_report.classification_page(found)
    honest.pipeline[-1].coef_ *= 5
    found = evaluation.evaluate(honest, test.lazy(), samples=20)
    assert "They are too " in evaluation_report.classification_page(found)


def test_a_large_regression_gets_a_light_page_that_says_where_it_errs(
    trained: Any, open_page: Any, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(0, 10, 6000)
    many = pl.DataFrame({"x": x, "label": x**2 + random.normal(0, 1, 6000) * x})
    model = trained(many.head(2000), RandomForestRegressor(10, max_depth=5, random_state=0), "regression")
    found = evaluation.evaluate(model, many.tail(4000).lazy(), ["x"], samples=20)
    page = tmp_path / "regression.html"
    page.write_text(evaluation_report.regression_page(found))
    assert page.stat().st_size < 1_000_000
    source = open_page(page).page_source
    assert "It errs most where the actual value is in decile 10: " in source
    assert "The worst slice: x = above" in source


def test_a_biased_regression_is_called_so(trained: Any) -> None:
    x = np.linspace(0, 10, 200)
    model = trained(
        pl.DataFrame({"x": x, "label": x}), RandomForestRegressor(5, random_state=0), "regression"
    )
    shifted = pl.DataFrame({"x": x, "label": x - 3})
    found = evaluation.evaluate(model, shifted.lazy(), samples=20)
    assert "Predictions are too high by 3 on average, more than chance." in evaluation_report.regression_page(
        found
    )


def test_a_model_that_finds_no_positive_is_not_marked_good(trained: Any) -> None:
    random = np.random.default_rng(0)
    rows = pl.DataFrame(
        {"x": random.normal(size=1_500), "label": np.where(np.arange(1_500) % 60 == 0, "yes", "no")}
    )
    found = evaluation.evaluate(trained(rows.tail(1_200), LogisticRegression()), rows.head(300).lazy())
    page = evaluation_report.page(found, "average_precision")
    assert "The model finds no row of class &#39;yes&#39; (5 rows)." in page
    assert "The model isn&#39;t better than that by more than chance." in page
    assert "These rows can&#39;t tell whether its probabilities can be trusted" in page
    assert 'class="callout good"' not in page


def test_probabilities_of_rare_classes_are_judged_relative_to_their_rarity(trained: Any) -> None:
    random = np.random.default_rng(1)
    rows = pl.DataFrame(
        {"x": random.normal(size=40_000), "label": np.where(random.random(40_000) < 0.02, "yes", "no")}
    )
    fewer = rows.filter((pl.col("label") == "no") | (pl.int_range(pl.len()) % 2 == 0))
    found = evaluation.evaluate(trained(fewer, LogisticRegression()), rows.lazy(), samples=20)
    page = evaluation_report.page(found, "roc_auc")
    # Half of what happens: one percentage point, which is close only where something happens often.
    assert "Its probabilities can&#39;t be taken at their word" in page
    assert "They are too low" in page
