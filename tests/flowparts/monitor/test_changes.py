import numpy as np
import pytest

from flowparts.monitor import changes


@pytest.mark.parametrize("seed", range(5))
def test_levels_are_found_where_they_begin(seed: int) -> None:
    random = np.random.default_rng(seed)
    levels = np.repeat([0.0, 4.0, 1.0], [20, 15, 25])
    assert changes.find(levels + random.normal(0, 0.5, 60)) == [20, 35]


def test_few_series_without_a_change_have_one() -> None:
    random = np.random.default_rng(1)
    found = [changes.find(random.normal(0, 1, 30), np.ones(30)) for _ in range(200)]
    assert sum(map(bool, found)) <= 6


def test_what_the_errors_allow_is_no_change() -> None:
    series = [0.0] * 10 + [1.0] * 10
    assert changes.find(series) == [10]
    assert changes.find(series, [0.01] * 20) == [10]
    assert changes.find(series, [2.0] * 20) == []


def test_short_and_constant_series_have_no_change() -> None:
    assert changes.find([0, 0, 0, 9, 9]) == []
    assert changes.find([1.0] * 30) == []
