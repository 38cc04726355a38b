from typing import Any

import pytest

from flowparts.util import names


def test_a_near_name_is_proposed_and_a_far_one_is_not() -> None:
    known = ["docker", "kserve"]
    assert names.hint("dokcer", known) == "did you mean 'docker'? "
    assert names.hint("dokcer", known, cutoff=0.9) == ""
    assert names.unknown("target", "dokcer", known) == (
        "unknown target 'dokcer'; did you mean 'docker'? known: docker, kserve"
    )
    assert names.unknown("target", "x", known) == "unknown target 'x'; known: docker, kserve"


@pytest.mark.parametrize(
    ("values", "found"),
    [(None, []), ([], []), (["a", "no"], ["a", "no"]), ([2023, 1.0], ["2023", "1"])],
)
def test_a_list_of_texts_may_hold_whole_numbers(values: Any, found: list[str]) -> None:
    assert names.texts(values, "exclude_columns") == found


@pytest.mark.parametrize("value", [True, None, 0.5, ["a"], {"a": 1}])
def test_values_that_are_not_text_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"exclude_columns must hold texts only, not .*; put it in quotes"):
        names.texts(["a", value], "exclude_columns")


def test_a_text_is_no_list() -> None:
    with pytest.raises(
        ValueError, match=r"exclude_columns must be a list of texts, such as \['id'\], not 'id'"
    ):
        names.texts("id", "exclude_columns")


def test_a_near_name_is_found_whatever_its_case() -> None:
    assert names.near("logisticregression", ["Ridge", "LogisticRegression"]) == "LogisticRegression"
    assert names.near("x", ["Ridge"]) is None


def test_a_long_list_is_cut_and_counted() -> None:
    assert names.listed(["a", "b"]) == "a, b"
    assert names.listed(map(str, range(7)), 3) == "0, 1, 2 and 4 more"
    assert names.listed("abcde", 3, "; ") == "a; b; c; and 2 more"
