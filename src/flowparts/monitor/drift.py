"""How far the columns of a table have drifted from a baseline: tests, effect sizes, and which to flag.

Both tables are given as summaries (`flowparts.tables.summary`), so the time doesn't depend on their sizes. A
column has drifted if two things hold:

- The change is significant. The values of a column are tested (numbers and times: two-sample
  Kolmogorov-Smirnov; categories: chi-square of homogeneity), and so is its share of missing values. All these
  p-values together are adjusted by Benjamini and Yekutieli (2001, https://doi.org/10.1214/aos/1013699998).
  Unlike Benjamini and Hochberg's, their bound holds however the columns depend on each other, and columns of
  one table do. So at most the fraction `Rule.rate` of windows of unchanged data has any column flagged.
- The change is large enough to matter. With millions of rows the smallest difference is significant. The
  effect is the smallest fraction of rows that would have to change to undo it (numbers: the
  Kolmogorov-Smirnov distance; categories: the total variation distance; missing values: the difference of
  their rates) and must reach the rule's minimum. 0.05 is a shift of a normal column's mean by 0.125
  standard deviations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowparts.tables.summary import Buckets, Categories, Column, Ints, Summary
from flowparts.util.names import listed

_BINS = 10
# From this many rows on, the limiting distribution of the Kolmogorov-Smirnov distance is exact enough.
_MANY_ROWS = 1_000
# With fewer expected rows in a cell, the statistic doesn't follow the chi-square distribution.
_LEAST_EXPECTED = 5
# A category that is gone counts as vanished if at least this many rows of it were expected.
_LEAST_VANISHED = 10
_MOST_NAMED = 5
_MICROSECONDS_A_DAY = 86_400e6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """When a column is flagged.

    Attributes:
        rate: Fraction of windows of unchanged data in which any column may be flagged.
        minimum_effect: Minimum effect of a flagged column.

    Raises:
        ValueError: One is out of range.
    """

    rate: float = 0.05
    minimum_effect: float = 0.05

    def __post_init__(self) -> None:
        for name, value in (("false_alarm_rate", self.rate), ("minimum_effect", self.minimum_effect)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, not {value:g}")


DEFAULT = Rule()


@dataclass(frozen=True)
class ColumnDrift:
    """Drift of one column.

    Attributes:
        name: The column.
        role: "feature", "label" or "prediction".
        before: The column in the baseline.
        now: The column in the table.
        effect: Fraction of rows that would have to change; the larger one of values and missing values.
        p_value: Adjusted for the number of tests; the smaller one of values and missing values.
        drifted: Whether the column is flagged.
        measures: psi, ks or total_variation and chi_square, jensen_shannon, wasserstein (in the column's
            unit; days for times), null_rate_before, null_rate, out_of_range, new_fraction and
            vanished_fraction (fractions of the rows), where they apply.
        reasons: What has changed, in words, the largest change first.
    """

    name: str
    role: str
    before: Column
    now: Column
    effect: float
    p_value: float
    drifted: bool
    measures: dict[str, float]
    reasons: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return its JSON form, without the distributions."""
        return {
            "column": self.name,
            "role": self.role,
            "type": self.before.kind,
            "drifted": self.drifted,
            "effect": self.effect,
            "p_value": self.p_value,
            "rows_before": self.before.rows,
            "rows": self.now.rows,
            "reasons": self.reasons,
            **self.measures,
        }


@dataclass(frozen=True)
class _Change:
    """The change of a column's values, or of its missing values."""

    effect: float
    p_value: float
    measures: dict[str, float]
    reason: str


def compare(
    before: Summary,
    now: Summary,
    rule: Rule = DEFAULT,
    roles: Mapping[str, str] | None = None,
) -> list[ColumnDrift]:
    """Compare the columns that two summaries share.

    Args:
        before: The baseline.
        now: The summary of later rows.
        rule: When a column is flagged.
        roles: Column to role; "feature" if not named.

    Returns:
        One entry per column, the worst first: flagged columns, then by effect.

    Raises:
        ValueError: The summaries share no column, or a column holds numbers in one and text in the other.
    """
    shared = [name for name in before.columns if name in now.columns]
    if not shared:
        raise ValueError(
            f"the table has none of the baseline's columns; they are: {listed(before.columns, 20)}"
        )
    changes = []
    for name in shared:
        first, second = before.columns[name], now.columns[name]
        if first.values and second.values and first.is_ordered != second.is_ordered:
            raise ValueError(
                f"column {name!r} holds {first.kind} values in the baseline and {second.kind} values in the "
                "table; give it one type"
            )
        changes.append((_values(first, second), _missing(first, second)))
    adjusted = adjust([change.p_value for pair in changes for change in pair])
    drifts = []
    for name, pair, p_values in zip(
        shared, changes, zip(adjusted[::2], adjusted[1::2], strict=True), strict=True
    ):
        flagged = [
            change
            for change, p_value in zip(pair, p_values, strict=True)
            if p_value <= rule.rate and change.effect >= max(rule.minimum_effect, math.ulp(0.0))
        ]
        drifts.append(
            ColumnDrift(
                name,
                (roles or {}).get(name, "feature"),
                before.columns[name],
                now.columns[name],
                max(change.effect for change in pair),
                float(min(p_values)),
                bool(flagged),
                pair[0].measures | pair[1].measures,
                [change.reason for change in sorted(flagged, key=lambda change: -change.effect)],
            )
        )
    return sorted(drifts, key=lambda drift: (not drift.drifted, -drift.effect, drift.name))


def adjust(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values by Benjamini and Yekutieli: at most q means a false discovery rate of at most q."""
    count = len(p_values)
    factor = sum(1 / rank for rank in range(1, count + 1)) * count
    order = np.argsort(p_values)
    scaled = np.array(p_values)[order] * factor / np.arange(1, count + 1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return [float(value) for value in adjusted]


def aligned(first: Buckets, second: Buckets) -> tuple[Floats, Ints, Ints]:
    """Return the midpoints of all buckets of both, ascending, and the counts of the first and the second."""
    level = max(first.level, second.level)
    first, second = first.at(level), second.at(level)
    keys = np.union1d(first.keys, second.keys)
    counts = []
    for buckets in (first, second):
        tally = np.zeros(len(keys), np.int64)
        tally[np.searchsorted(keys, buckets.keys)] = buckets.counts
        counts.append(tally)
    ends = (min(first.minimum, second.minimum), max(first.maximum, second.maximum))
    low, high = Buckets(level, keys, counts[0], *ends).edges()
    return low + (high - low) / 2, counts[0], counts[1]


def _values(before: Column, now: Column) -> _Change:
    if not before.values or not now.values:
        return _Change(0.0, 1.0, {}, "")
    if before.is_ordered:
        if not before.buckets.count or not now.buckets.count:
            return _Change(0.0, 1.0, {}, "")
        return _numbers(before, now)
    return _categories(before.categories, now.categories)


def _numbers(before: Column, now: Column) -> _Change:
    middles, first, second = aligned(before.buckets, now.buckets)
    n, m = int(first.sum()), int(second.sum())
    gaps = np.cumsum(first) / n - np.cumsum(second) / m
    distance = float(np.abs(gaps).max())
    is_time = before.kind in ("timestamp", "date")
    unit = _MICROSECONDS_A_DAY if is_time else 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        wasserstein = float(np.abs(gaps[:-1]) @ np.diff(middles)) / unit
    low, high = now.buckets.edges()
    outside = now.buckets.counts[(high < before.buckets.minimum) | (low > before.buckets.maximum)].sum() / m
    binned = _binned(first, second)
    measures = {
        "ks": distance,
        "psi": psi(*binned),
        "jensen_shannon": jensen_shannon(*binned),
        "out_of_range": float(outside),
    }
    if math.isfinite(wasserstein):
        measures["wasserstein"] = wasserstein
    reason = f"the values moved {'up' if gaps[np.abs(gaps).argmax()] > 0 else 'down'}: KS {distance:.3f}"
    if outside:
        reason += f", {outside:.1%} out of the range seen before"
    return _Change(distance, _ks_p_value(distance, max(round(n * m / (n + m)), 1)), measures, reason)


def _ks_p_value(distance: float, n: int) -> float:
    """Return the p-value of a Kolmogorov-Smirnov distance of n rows; for two samples, n m / (n + m).

    For many rows it is that of the limiting distribution with a correction (Vrbik 2018, "Small-Sample
    Corrections to Kolmogorov-Smirnov Test Statistic"), off by less than 1 % of a p-value above 1e-5:
    importing scipy.stats takes longer than comparing all columns.
    """
    if n < _MANY_ROWS:
        from scipy.stats import kstwo

        return float(kstwo.sf(distance, n))
    from scipy.special import kolmogorov

    scaled = math.sqrt(n) * distance
    return float(kolmogorov(scaled + 1 / (6 * math.sqrt(n)) + (scaled - 1) / (4 * n)))


def _categories(before: Categories, now: Categories) -> _Change:
    limit = min(before.limit, now.limit)
    (hashes, first), (others, second) = (
        (part.hashes[part.hashes <= limit], part.counts[part.hashes <= limit]) for part in (before, now)
    )
    n, m = (int(part.grouped().sum()) for part in (before, now))
    is_new, is_gone = ~np.isin(others, hashes), ~np.isin(hashes, others)
    expected = first * (m / n)
    measures = {
        "new_fraction": float(second[is_new].sum() / max(second.sum(), 1)),
        "vanished_fraction": float(
            first[is_gone & (expected >= _LEAST_VANISHED)].sum() / max(first.sum(), 1)
        ),
    }
    if before.is_sampled or now.is_sampled:
        cells = before.grouped(), now.grouped()
    else:
        every = np.union1d(hashes, others)
        cells = np.zeros(len(every), np.int64), np.zeros(len(every), np.int64)
        cells[0][np.searchsorted(every, hashes)] = first
        cells[1][np.searchsorted(every, others)] = second
    pooled = _pooled(*cells)
    distance = float(np.abs(pooled[0] / n - pooled[1] / m).sum() / 2)
    statistic, p_value = _homogeneity(*pooled)
    measures |= {
        "total_variation": distance,
        "chi_square": statistic,
        "psi": psi(*pooled),
        "jensen_shannon": jensen_shannon(*pooled),
    }
    reason = f"the mix of values changed: {distance:.1%} of the rows"
    if measures["new_fraction"]:
        found = [now.texts[at] for at in np.flatnonzero(np.isin(now.hashes, others[is_new]))]
        reason += f", {measures['new_fraction']:.1%} have new values{_named(found)}"
    if measures["vanished_fraction"]:
        gone = hashes[is_gone & (expected >= _LEAST_VANISHED)]
        found = [before.texts[at] for at in np.flatnonzero(np.isin(before.hashes, gone))]
        reason += f", {measures['vanished_fraction']:.1%} had values that no longer occur{_named(found)}"
    return _Change(distance, p_value, measures, reason)


def _homogeneity(first: Ints, second: Ints) -> tuple[float, float]:
    """Return the chi-square statistic and p-value of counts in the same cells, of which none is empty."""
    from scipy.special import gammaincc

    if len(first) < 2:
        return 0.0, 1.0
    total = (first + second) / (first.sum() + second.sum())
    statistic = 0.0
    for counts in (first, second):
        expected = total * counts.sum()
        statistic += float(((counts - expected) ** 2 / expected).sum())
    return statistic, float(gammaincc((len(total) - 1) / 2, statistic / 2))


def _named(texts: Sequence[str | None]) -> str:
    known = [repr(text) for text in texts if text is not None]
    return f" ({', '.join(known[:_MOST_NAMED])}{', …' if len(known) > _MOST_NAMED else ''})" if known else ""


def _missing(before: Column, now: Column) -> _Change:
    """Compare the fractions of rows without a finite value."""
    n, m = before.rows, now.rows
    first, second = before.nulls + before.infinite, now.nulls + now.infinite
    rates = first / n, second / m
    measures = {"null_rate_before": rates[0], "null_rate": rates[1]}
    if first + second in (0, n + m):
        return _Change(0.0, 1.0, measures, "")
    table = np.array([[first, n - first], [second, m - second]])
    least = table.sum(axis=0).min() * min(n, m) / (n + m)
    if least < _LEAST_EXPECTED:
        from scipy.stats import fisher_exact

        p_value = fisher_exact(table).pvalue
    else:
        _, p_value = _homogeneity(*table)
    reason = f"{rates[1]:.1%} of the values are missing, {rates[0]:.1%} before"
    return _Change(abs(rates[0] - rates[1]), float(p_value), measures, reason)


def psi(first: Ints, second: Ints) -> float:
    """Return the population stability index of counts in the same cells, with half a row added to each."""
    shares = [(counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (first, second)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def jensen_shannon(first: Ints, second: Ints) -> float:
    """Return the Jensen-Shannon distance of counts in the same cells, from 0 to 1 (base 2)."""
    shares = first / first.sum(), second / second.sum()
    middle = (shares[0] + shares[1]) / 2
    divergence = 0.0
    for share in shares:
        there = share > 0
        divergence += float((share[there] * np.log2(share[there] / middle[there])).sum()) / 2
    return math.sqrt(max(divergence, 0.0))


def _binned(first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """Merge the buckets into about ten bins with equal numbers of baseline rows."""
    ends = np.cumsum(first) / first.sum()
    place = np.minimum(np.ceil(ends * _BINS - 1e-9).astype(int), _BINS)
    starts = np.flatnonzero(np.concatenate([[True], place[1:] != place[:-1]]))
    return np.add.reduceat(first, starts), np.add.reduceat(second, starts)


def _pooled(first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """Merge the cells with few expected rows into one."""
    n, m = first.sum(), second.sum()
    rare = (first + second) * (min(n, m) / (n + m)) < _LEAST_EXPECTED
    if not rare.any():
        return first, second
    merged = [np.append(counts[~rare], counts[rare].sum()) for counts in (first, second)]
    if merged[0][-1] + merged[1][-1] == 0:
        return merged[0][:-1], merged[1][:-1]
    return merged[0], merged[1]
