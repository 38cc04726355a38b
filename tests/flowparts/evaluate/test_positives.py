from typing import Any

import polars as pl
import pytest

from flowparts.evaluate import positives


def rows(counts: dict[Any, int]) -> pl.LazyFrame:
    return pl.LazyFrame({"a|b": [value for value, count in counts.items() for _ in range(count)]})


@pytest.mark.parametrize(
    ("counts", "positive"),
    [
        ({"no": 97, "yes": 3}, "yes"),
        ({"no": 3, "yes": 97}, "no"),
        ({"no": 5, "yes": 95}, "yes"),
        ({"ok": 990, "fraud": 10}, "fraud"),
        ({0: 60, 1: 40}, 1),
        ({1: 1, 0: 99}, 1),
        ({True: 2, False: 98}, True),
        ({-1: 98, 1: 2}, 1),
    ],
)
def test_positive_is_the_later_class_unless_the_earlier_one_is_rare(counts: Any, positive: Any) -> None:
    found = positives.find(rows(counts), "a|b")
    assert found == (positive, counts[positive] / sum(counts.values()))


@pytest.mark.parametrize("counts", [{"a": 9}, {"a": 1, "b": 99, "c": 99}, {1.5: 1, 2.5: 2, 3.5: 50}])
def test_without_two_classes_there_is_no_positive_class(counts: Any) -> None:
    assert positives.find(rows(counts), "a|b") is None
    facts = positives.training_facts(rows(counts), "a|b", "classification")
    assert facts == {"metric": "roc_auc", "metric_reason": "", "positive_class": None}


def test_rare_positives_are_judged_by_average_precision_and_the_reason_names_them() -> None:
    facts = positives.training_facts(rows({"ok": 990, "fraud": 10}), "a|b", "classification")
    assert facts["metric"] == "average_precision"
    assert "1.00% of the training rows are positive (class 'fraud'), less than 5%" in facts["metric_reason"]


def test_a_given_metric_needs_no_reason() -> None:
    facts = positives.training_facts(rows({"ok": 990, "fraud": 10}), "a|b", "classification", "roc_auc")
    assert facts == {"metric": "roc_auc", "metric_reason": "", "positive_class": "fraud"}


def test_at_five_percent_roc_auc_stays() -> None:
    facts = positives.training_facts(rows({"no": 95, "yes": 5}), "a|b", "classification")
    assert facts["metric"] == "roc_auc"


def test_a_regression_has_no_positives() -> None:
    facts = positives.training_facts(rows({0: 99, 1: 1}), "a|b", "regression")
    assert facts == {"metric": "rmse", "metric_reason": "", "positive_class": None}
