import numpy as np
import pytest
from ruptures.detection.kernelcpd import KernelCPD

from flowparts.monitor import changes


@pytest.mark.parametrize("seed", range(5))
def test_levels_are_found_where_they_begin(seed: int) -> None:
    random = np.random.default_rng(seed)
    levels = np.repeat([0.0, 4.0, 1.0], [20, 15, 25])
    assert changes.find(levels + random.normal(0, 0.5, 60)) == [20, 35]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_places_of_each_number_of_changes_are_those_of_ruptures(seed: int) -> None:
    series = np.random.default_rng(seed).normal(0, 1, 40).cumsum()
    search = KernelCPD(kernel="linear", min_size=2).fit(series[:, None])
    squares, _ = changes._segment(series, np.ones(40), 5)
    for number in range(1, 6):
        parts = np.split(series, search.predict(n_bkps=number)[:-1])
        assert squares[number] == pytest.approx(sum(np.sum((part - part.mean()) ** 2) for part in parts))


@pytest.mark.parametrize("points", [6, 12, 30])
def test_few_series_without_a_change_have_one(points: int) -> None:
    random = np.random.default_rng(1)
    found = [changes.find(random.normal(0, 1, points), np.ones(points)) for _ in range(200)]
    assert sum(map(bool, found)) <= 6


def test_windows_of_other_sizes_are_no_change() -> None:
    random = np.random.default_rng(1)
    errors = np.repeat([0.01, 0.03], 10)
    found = [changes.find(0.9 + random.normal(0, errors), errors) for _ in range(100)]
    assert sum(map(bool, found)) <= 3


def test_precise_windows_count_for_more() -> None:
    errors = [0.05] * 8 + [0.4] * 8
    values = [0.0] * 4 + [0.4] * 4 + [0.4, 0.9, 0.0, 0.7, 0.1, 0.9, 0.2, 0.5]
    assert changes.find(values, errors) == [4]


def test_persistent_noise_is_not_reported_as_changes() -> None:
    random = np.random.default_rng(1)
    series = np.zeros(100)
    for place in range(1, 100):
        series[place] = 0.5 * series[place - 1] + random.normal()
    assert len(changes.find(series)) <= 2


def test_differences_within_the_errors_are_not_changes() -> None:
    series = [0.0] * 10 + [1.0] * 10
    assert changes.find(series) == [10]
    assert changes.find(series, [0.01] * 20) == [10]
    assert changes.find(series, [0.0] * 20) == [10]
    assert changes.find(series, [2.0] * 20) == []


def test_short_and_constant_series_have_no_change() -> None:
    assert changes.find([0, 0, 0, 9, 9]) == []
    assert changes.find([1.0] * 30) == []
    assert changes.find([0.1 + 0.2] * 10 + [0.3] * 10) == []
