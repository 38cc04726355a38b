"""How often an A/B test that is looked at all the time errs, and what it finds.

.venv/bin/python benchmarks/monitoring/ab_test.py [REPETITIONS]
"""

import sys
from collections.abc import Callable

import numpy as np
from scipy import stats

from flowparts.monitor import ab_test, sequential

ROWS = 10_000
LOOKS = np.arange(250, ROWS + 1, 250)
LEVEL = 0.05
Floats = np.ndarray

Random = np.random.Generator
# Name -> values of rows whose means are raised by so much, standard deviation of a row, and rows of a user.
OUTCOMES: dict[str, tuple[Callable[[Random, Floats], Floats], float, int]] = {
    "proportion of 30 %": (lambda random, lift: (random.random(ROWS) < 0.3 + lift) * 1.0, 0.458, 1),
    "proportion of 1 %": (lambda random, lift: (random.random(ROWS) < 0.01 + lift) * 1.0, 0.0995, 1),
    "lognormal": (lambda random, lift: random.lognormal(0, 1, ROWS) + lift, 2.161, 1),
    "normal, 5 rows a user": (lambda random, lift: random.normal(0, 1, ROWS) + lift, 1.414, 5),
}


def simulate(random: Random, name: str, effect: float) -> tuple[Floats, Floats, Floats]:
    """Return estimate, half width and standard error at each look."""
    draw, deviation, often = OUTCOMES[name]
    users = ROWS // often
    # Users come back at random, so that later looks hold new rows of old users.
    user = random.permutation(ROWS) % users
    new = (random.random(users) < 0.5)[user]
    values = draw(random, effect * new)
    if often > 1:
        values += random.normal(0, 1, users)[user]
    estimates, halves, errors = [], [], []
    for look in LOOKS:
        parts = []
        for arm in (False, True):
            of = np.flatnonzero(new[:look] == arm)
            sums, counts = values[of], np.ones(len(of), int)
            if often > 1:
                counts = np.bincount(user[of], minlength=users)
                sums = np.bincount(user[of], values[of], minlength=users)[counts > 0]
                counts = counts[counts > 0]
            parts.append(ab_test.mean_of_units(sums, counts))
        variance = parts[0][1] + parts[1][1]
        estimates.append(parts[1][0] - parts[0][0])
        halves.append(sequential.half_width(variance, deviation / 10, LEVEL) if variance else np.inf)
        errors.append(np.sqrt(variance) if variance else np.inf)
    return np.array(estimates), np.array(halves), np.array(errors)


def main(repetitions: int) -> None:
    single = stats.norm.isf(LEVEL / 2)
    random = np.random.default_rng(1)
    print(f"{repetitions:,} tests of {ROWS:,} rows each, looked at {len(LOOKS)} times, at {LEVEL:.0%}\n")
    print(
        "| outcome | errs ever | z-test errs ever | z-test errs at the end "
        "| covers always, effect of 0.1 SD | finds 0.1 SD | mean rows until then |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (_, deviation, _) in OUTCOMES.items():
        errs, naive, last, covers, found, rows = 0, 0, 0, 0, 0, []
        for _ in range(repetitions):
            estimates, halves, errors = simulate(random, name, 0.0)
            errs += bool((np.abs(estimates) > halves).any())
            naive += bool((np.abs(estimates) > single * errors).any())
            last += bool(np.abs(estimates[-1]) > single * errors[-1])
            estimates, halves, errors = simulate(random, name, deviation / 10)
            covers += bool((np.abs(estimates - deviation / 10) <= halves).all())
            hits = np.flatnonzero(estimates > halves)
            if len(hits):
                found += 1
                rows.append(LOOKS[hits[0]])
        shares = [f"{count / repetitions:.1%}" for count in (errs, naive, last, covers, found)]
        print(f"| {name} | {' | '.join(shares)} | {np.mean(rows or [np.nan]):,.0f} |", flush=True)
    errs = 0
    for _ in range(repetitions):
        new = np.cumsum(random.random(ROWS) < 0.2)[LOOKS - 1]
        errs += any(
            sequential.mismatch_p_value(int(look - count), int(count), 0.2) < ab_test.MISMATCH_LEVEL
            for look, count in zip(LOOKS, new, strict=True)
        )
    print(f"\nA sound assignment (20 %) is called a mismatch in {errs / repetitions:.2%} of the tests.")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
