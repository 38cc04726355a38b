"""The hour on a circle: waves of one and two periods a day, by one table for training and for servers.

23:00 and 0:00 are neighbours there, and a linear model can have peaks in the morning and the evening.
"""

import math

WAVES = tuple(f"hour_{wave}_{periods}" for periods in (1, 2) for wave in ("sin", "cos"))


def _waves(hour: int) -> tuple[float, ...]:
    angles = [2 * math.pi * hour * periods / 24 for periods in (1, 2)]
    # Rounded, so that the mathematical libraries of any two machines agree.
    return tuple(round(wave(angle), 12) for angle in angles for wave in (math.sin, math.cos))


# For each hour of the day the values of `WAVES`.
TABLE = tuple(_waves(hour) for hour in range(24))
