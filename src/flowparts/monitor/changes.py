"""When a series of measurements changed its level."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_POINTS = 6
# A level lasts for so many points; the last one alone is judged by whoever asks.
_MIN_LENGTH = 2
# The Bayesian information criterion counts a level and its start for each change: 2 log n. One more log n
# finds a change in less than 2 of 100 series without any, of 6 to 100 points.
_PENALTY = 3.0


def find(values: Sequence[float], errors: Sequence[float] | None = None) -> list[int]:
    """Return the positions at which the mean of a series changes, in order.

    The changes minimise the squared deviations from the means of the segments plus a penalty for each change,
    exactly (PELT: Killick, Fearnhead & Eckley 2012, https://doi.org/10.1080/01621459.2012.737745). Deviations
    are in units of the noise: the standard errors that are given, or what differs from one point to the next,
    whichever is more.

    Args:
        values: Finite numbers in the order of time.
        errors: Standard error of each; None if they aren't known.

    Returns:
        For each change the index of the first point after it; empty for fewer than 6 points.
    """
    if len(values) < MIN_POINTS:
        return []
    from ruptures.detection.kernelcpd import KernelCPD

    series = np.asarray(values, np.float64)
    noise = _noise(series)
    if errors is not None:
        noise = np.maximum(noise, np.asarray(errors, np.float64))
    if not np.any(noise > 0):
        # Without any noise every difference is a change; equal values have none.
        return [int(place) for place in np.flatnonzero(np.diff(series)) + 1]
    noise = np.maximum(noise, np.max(noise) * 1e-9)
    # The linear kernel's cost is the squared deviation from the mean; this search is ruptures' compiled one.
    search = KernelCPD(kernel="linear", min_size=_MIN_LENGTH).fit((series / noise)[:, None])
    ends = search.predict(pen=_PENALTY * math.log(len(series)))
    return [int(end) for end in ends[:-1]]


def _noise(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviation around the level, from steps between neighbours: changes hardly move it.

    1.4826 times the median absolute deviation estimates a standard deviation (Rousseeuw & Croux 1993,
    https://doi.org/10.1080/01621459.1993.10476408); differences have twice the variance.
    """
    steps = np.abs(np.diff(series))
    return np.full(len(series), 1.4826 * float(np.median(steps)) / math.sqrt(2))
