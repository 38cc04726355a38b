"""The hour and the day of the year on circles, by the same tables for training and for servers.

23:00 and 0:00 are neighbours there, as are December and January, and with two periods a day a linear model
can have peaks in the morning and the evening.
"""

import math

WAVES = tuple(f"hour_{wave}_{periods}" for periods in (1, 2) for wave in ("sin", "cos"))
YEAR_WAVES = ("year_sin", "year_cos")


def _waves(share: float) -> tuple[float, float]:
    angle = 2 * math.pi * share
    # Rounded, so that the mathematical libraries of any two machines agree.
    return round(math.sin(angle), 12), round(math.cos(angle), 12)


# For each hour of the day the values of `WAVES`.
TABLE = tuple((*_waves(hour / 24), *_waves(hour / 12)) for hour in range(24))
# For each day of the year, from the first of January, those of `YEAR_WAVES`.
YEAR_TABLE = tuple(_waves(day / 365.25) for day in range(366))
