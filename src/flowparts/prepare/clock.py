"""Cyclic encoding of the hour and the day of the year, from the same lookup tables in training and serving.

On a circle, 23:00 and 0:00 are neighbours, as are December and January; with two periods a day, a linear
model can have peaks in the morning and in the evening.
"""

import math

WAVES = tuple(f"hour_{wave}_{periods}" for periods in (1, 2) for wave in ("sin", "cos"))
YEAR_WAVES = ("year_sin", "year_cos")


def _waves(fraction: float) -> tuple[float, float]:
    angle = 2 * math.pi * fraction
    # Rounded, so that the math libraries of all machines agree.
    return round(math.sin(angle), 12), round(math.cos(angle), 12)


# Values of `WAVES` for each hour of the day.
TABLE = tuple((*_waves(hour / 24), *_waves(hour / 12)) for hour in range(24))
# Values of `YEAR_WAVES` for each day of the year, from January 1.
YEAR_TABLE = tuple(_waves(day / 365.25) for day in range(366))
