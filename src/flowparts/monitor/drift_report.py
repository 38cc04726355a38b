"""The drift page: which columns drifted, how far, and both distributions of each, the worst first."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from flowparts import reports
from flowparts.monitor.drift import ColumnDrift, Floats, Rule, aligned
from flowparts.tables.summary import Column
from flowparts.util.names import listed

_MOST_DRAWN = 40
_BINS = 30
_MOST_CATEGORIES = 8
_EPOCH = datetime(1970, 1, 1)
_DAY = 86_400e6


def page(
    drifts: Sequence[ColumnDrift],
    title: str,
    subtitle: str,
    rule: Rule,
    first: Sequence[reports.Block] = (),
) -> str:
    """Return the HTML page for what `drift.compare` found.

    Args:
        drifts: One entry per column, the worst first.
        title: Title of the page.
        subtitle: What was compared with what.
        rule: The rule by which columns were flagged.
        first: Further blocks above the columns.
    """
    drifted = [each.name for each in drifts if each.drifted]
    tiles = {
        "columns compared": len(drifts),
        "drifted": len(drifted) or "none",
        "rows before": max(each.before.rows for each in drifts),
        "rows now": max(each.now.rows for each in drifts),
    }
    verdict = (
        reports.callout(f"{len(drifted)} of {len(drifts)} columns drifted: {listed(drifted, 10)}", "bad")
        if drifted
        else reports.callout("No column has drifted.", "good")
    )
    said = (
        f"Flagged: an effect of at least {rule.minimum_effect:g}, and a p-value of at most "
        f"{rule.rate:g}, adjusted for all columns"
    )
    return reports.page(
        title,
        reports.facts(tiles),
        verdict,
        *first,
        reports.section("Distributions", cards(drifts)),
        reports.section("Every column", reports.table([_row(each) for each in drifts], said)),
        subtitle=subtitle,
    )


def cards(drifts: Sequence[ColumnDrift]) -> reports.Block:
    """Draw the first columns before and now."""
    return reports.grid(*(_card(each) for each in drifts[:_MOST_DRAWN]))


def _row(drift: ColumnDrift) -> dict[str, Any]:
    measures = drift.measures
    return {
        "column": drift.name,
        "role": drift.role,
        "": reports.tag("drifted", "bad") if drift.drifted else "",
        "effect": drift.effect,
        "adjusted p": drift.p_value,
        "PSI": measures.get("psi"),
        "KS": measures.get("ks"),
        "total variation": measures.get("total_variation"),
        "chi-square": measures.get("chi_square"),
        "Jensen-Shannon": measures.get("jensen_shannon"),
        "Wasserstein": measures.get("wasserstein"),
        "out of range": _percent(measures.get("out_of_range")),
        "new values": _percent(measures.get("new_fraction")),
        "vanished values": _percent(measures.get("vanished_fraction")),
        "missing before": _percent(measures["null_rate_before"]),
        "missing now": _percent(measures["null_rate"]),
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _card(drift: ColumnDrift) -> reports.Block:
    marks = reports.tag(drift.role) + (reports.tag("drifted", "bad") if drift.drifted else "")
    said = "; ".join(drift.reasons) or f"effect {drift.effect:.3f}, adjusted p {drift.p_value:.2g}"
    return reports.Block("<h3>{}{}</h3><p>{}</p>{}").format(
        drift.name, marks, said, distributions(drift.before, drift.now)
    )


def distributions(before: Column, now: Column) -> reports.Block:
    """Draw the values of a column before and now, as fractions of the rows with a value."""
    if not before.values and not now.values:
        return reports.Block('<p class="muted">No values.</p>')
    if before.is_ordered and now.is_ordered and before.buckets.count and now.buckets.count:
        return _numbers(before, now)
    return _categories(before, now)


def _numbers(before: Column, now: Column) -> reports.Block:
    middles, first, second = aligned(before.buckets, now.buckets)
    label = "value"
    if before.kind in ("timestamp", "date"):
        start = min(before.buckets.minimum, now.buckets.minimum)
        middles, label = (middles - start) / _DAY, f"days since {_moment(start)}"
    edges = _edges(middles, first, second)
    place = np.clip(np.searchsorted(edges, middles, side="right") - 1, 0, len(edges) - 2)
    # Steps: each edge twice, with the fractions of the bins on both sides.
    x = np.repeat(edges, 2)[1:-1].tolist()
    series = {}
    for name, counts in (("before", first), ("now", second)):
        shares = np.bincount(place, counts, len(edges) - 1) / counts.sum()
        series[name] = (x, np.repeat(shares, 2).tolist())
    return reports.lines(series, label, "share of rows")


def _edges(middles: Floats, first: Any, second: Any) -> Floats:
    """Return the edges of equal bins between the 0.5 % and 99.5 % quantiles of both."""
    ends = []
    for counts in (first, second):
        shares = np.cumsum(counts) / counts.sum()
        ends += [middles[np.searchsorted(shares, share)] for share in (0.005, 0.995)]
    low, high = float(min(ends)), float(max(ends))
    if not math.isfinite(high - low) or high <= low:
        low, high = low - max(abs(low) * 0.1, 0.5), low + max(abs(low) * 0.1, 0.5)
    shown = middles[(middles >= low) & (middles <= high)]
    if len(shown) <= _BINS and np.all(shown == np.round(shown)) and high - low < _BINS:
        return np.arange(low - 0.5, high + 1)
    return np.linspace(low, high, _BINS + 1)


def _categories(before: Column, now: Column) -> reports.Block:
    if before.categories.is_sampled or now.categories.is_sampled:
        counts = {
            "different values before": f"about {before.categories.distinct:,}",
            "different values now": f"about {now.categories.distinct:,}",
        }
        return reports.facts(counts)
    shares: list[dict[str, float]] = []
    for column in (before, now):
        found = column.categories
        total = max(int(found.counts.sum()), 1)
        texts = [text or "" for text in found.texts]
        shares.append({text: float(count) / total for text, count in zip(texts, found.counts, strict=True)})
    first, second = shares
    every = sorted({*first, *second}, key=lambda text: -abs(first.get(text, 0) - second.get(text, 0)))
    shown = sorted(
        every[:_MOST_CATEGORIES], key=lambda text: (-max(first.get(text, 0), second.get(text, 0)), text)
    )
    bars = {}
    for text in shown:
        bars[f"{text or 'empty'}, before"] = first.get(text, 0.0)
        bars[f"{text or 'empty'}, now"] = second.get(text, 0.0)
    return reports.bars(bars, label="share of rows")


def _moment(microseconds: float) -> str:
    return (_EPOCH + timedelta(microseconds=round(microseconds))).date().isoformat()
