from typing import Any

import polars as pl
import pytest

from flowparts.models import agreement


@pytest.mark.parametrize("value", [float("inf"), float("nan"), None])
def test_values_without_a_json_form_are_sent_as_null(value: float | None) -> None:
    assert agreement.to_records(pl.DataFrame({"x": [value]}, schema={"x": pl.Float64})) == [{"x": None}]


def test_a_sample_is_spread_over_the_table() -> None:
    frame = pl.LazyFrame({"x": range(1000)})
    assert agreement.sample(frame, 4)["x"].to_list() == [0, 250, 500, 750]
    assert agreement.sample(frame, 600)["x"].to_list() == [place * 1000 // 600 for place in range(600)]
    assert agreement.sample(frame.rename({"x": "row"}), 4)["row"].to_list() == [0, 250, 500, 750]
    assert agreement.sample(frame, 5000).height == 1000
    with pytest.raises(ValueError, match="the test table has no rows"):
        agreement.sample(frame.clear(), 4)


def frames(old: list[Any], new: list[Any]) -> tuple[pl.DataFrame, pl.DataFrame]:
    names = ["prediction", "probability_a", "probability_b"]
    return pl.DataFrame(old, schema=names, orient="row"), pl.DataFrame(new, schema=names, orient="row")


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        (("a", 0.9, 0.1), ("a", 0.9 + 1e-7, 0.1 - 1e-7), False),
        (("a", 0.9, 0.1), ("a", 0.8, 0.2), True),
        (("a", 0.9, 0.1), ("b", 0.9, 0.1), True),
        (("a", 0.5, 0.5), ("b", 0.5 - 1e-7, 0.5 + 1e-7), False),
        (("a", 0.5 + 1e-7, 0.5 - 1e-7), ("b", 0.5, 0.5), False),
        (("a", 0.5, 0.5), ("b", 0.5, 0.5), True),
        (("a", 0.9, 0.1), ("a", None, 0.1), True),
    ],
)
def test_classes_may_differ_only_where_rounding_can_explain_it(old: Any, new: Any, differs: bool) -> None:
    assert agreement.differences(*frames([old], [new]), "classification").to_list() == [differs]


@pytest.mark.parametrize(("probability", "differs"), [(0.3 - 1e-7, False), (0.29, True), (0.5, True)])
def test_a_decision_may_differ_only_next_to_its_threshold(probability: float, differs: bool) -> None:
    rows = [("a", 1 - probability, probability)], [("b", 1 - probability, probability)]
    card = {"threshold": 0.3, "positive_class": "b"}
    assert agreement.differences(*frames(*rows), "classification", card=card).to_list() == [differs]
