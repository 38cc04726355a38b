"""When a series of measurements changed its level."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_POINTS = 6
# Minimum points of a level: a single new point is left to the caller to judge.
_MIN_LENGTH = 2
# Points of the series per change: more changes than that would fit the noise.
_POINTS_PER_CHANGE = 4
# The Bayesian information criterion counts a level and its start for each change: 2 log n. One more log n
# finds a change in less than 2 of 100 series without any, of 6 to 100 points whose errors are known.
_PENALTY = 3.0


def find(values: Sequence[float], errors: Sequence[float] | None = None) -> list[int]:
    """Return the positions at which the mean of a series changes, in order.

    The best positions of each number of changes are those of the least squares, weighted by the errors, found
    exactly by dynamic programming (Auger & Lawrence 1989, https://doi.org/10.1016/S0092-8240(89)80047-3).
    The number of changes is the one with the highest likelihood, of normal noise, less a penalty for each
    change (Yao 1988, https://doi.org/10.1016/0167-7152(88)90118-6). The noise is estimated for each number;
    it is at least as large as the errors, and as the steps from one point to the next.

    Args:
        values: Finite numbers in the order of time.
        errors: Standard error of each; None if they aren't known. An error of 0 stands for an unknown one.

    Returns:
        For each change the index of the first point after it; empty for fewer than 6 points.
    """
    count = len(values)
    if count < MIN_POINTS:
        return []
    series = np.asarray(values, np.float64)
    scale, least = np.ones(count), 0.0
    if errors is not None and np.any(np.asarray(errors) > 0):
        known = np.asarray(errors, np.float64)
        # The interval of a window with hardly any mistake is too narrow by chance.
        scale, least = np.maximum(known, np.median(known[known > 0]) / 4), 1.0
    least = max(least, _step_noise(series, scale), 1e-9 * float(np.max(np.abs(series) / scale)))
    squares, starts = _segment(series, 1 / scale**2, count // _POINTS_PER_CHANGE)
    if squares[0] <= 0:
        return []
    variances = np.maximum(squares / count, least**2)
    penalties = _PENALTY * math.log(count) * np.arange(len(squares))
    best = int(np.argmin(count * np.log(variances) + squares / variances + penalties))
    places: list[int] = []
    for row in reversed(starts[:best]):
        places.insert(0, int(row[places[0] if places else count]))
    return places


def _segment(
    series: NDArray[np.float64], weights: NDArray[np.float64], most: int
) -> tuple[NDArray[np.float64], list[NDArray[np.intp]]]:
    """Return the least squares of 0, 1, … changes, and for each further change where it is, by the end."""
    centred = series - np.median(series)
    ends = np.arange(len(series) + 1)

    def between(parts: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.concatenate([[0.0], np.cumsum(parts)])
        return np.asarray(sums[None, :] - sums[:, None])

    totals = between(weights)
    cost = np.full(totals.shape, np.inf)
    long = ends[None, :] - ends[:, None] >= _MIN_LENGTH
    squares = between(weights * centred**2) - between(weights * centred) ** 2 / np.where(long, totals, 1.0)
    cost[long] = np.maximum(squares[long], 0.0)
    least, found, starts = cost[0], [cost[0, -1]], []
    for _ in range(most):
        with_one_more = least[:, None] + cost
        starts.append(np.argmin(with_one_more, axis=0))
        least = np.min(with_one_more, axis=0)
        found.append(least[-1])
    return np.asarray(found), starts


def _step_noise(series: NDArray[np.float64], scale: NDArray[np.float64]) -> float:
    """Return the noise from steps between neighbours, in units of the scale: changes hardly move it.

    1.4826 times the median absolute deviation estimates a standard deviation (Rousseeuw & Croux 1993,
    https://doi.org/10.1080/01621459.1993.10476408).
    """
    steps = np.abs(np.diff(series)) / np.sqrt(scale[1:] ** 2 + scale[:-1] ** 2)
    return 1.4826 * float(np.median(steps))
