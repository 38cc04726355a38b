"""The page about a served model's performance: over time, where it changed, and by slice."""

import math
from typing import Any

from flowparts import reports
from flowparts.evaluate import directions
from flowparts.monitor import labels
from flowparts.monitor.performance import Measured, Performance


def page(found: Performance, subtitle: str) -> str:
    """Return the HTML page for what `performance.measure` found."""
    share = found.overall.rows / found.predictions
    tiles = {
        found.metric: _number(found.overall.score),
        "reference": _number(found.reference),
        "predictions": found.predictions,
        "with a label": f"{share:.0%}",
        "changes": len(found.changes) or "none",
    }
    level = "bad" if found.degraded else "good" if found.reference is not None else "note"
    blocks: list[reports.Block] = [reports.facts(tiles), reports.callout(f"{found.reason}.", level)]
    if share < 0.5:
        blocks.append(
            reports.callout(
                f"{share:.0%} of the predictions have a label. If labels of one kind arrive earlier than "
                "others, what is measured here is better or worse than the truth.",
                "note",
            )
        )
    if found.repeated:
        blocks.append(
            reports.callout(
                f"{found.repeated:,} rows of the log repeat a prediction (the client sent its request again) "
                "and are left out.",
                "note",
            )
        )
    if found.early_labels:
        minutes = labels.CLOCK_TOLERANCE.total_seconds() / 60
        blocks.append(
            reports.callout(
                f"{found.early_labels:,} labels are older than their predictions by more than {minutes:g} "
                "minutes; check the clocks, or whether they are labels of earlier predictions.",
                "note",
            )
        )
    blocks.append(reports.section(f"{found.metric} over time", _over_time(found)))
    for column, values in found.slices.items():
        rows = [_row(each) for each in values]
        text = f"the {'lowest' if directions.higher_is_better(found.metric) else 'highest'} first"
        blocks.append(reports.section(f"By {column}", reports.table(rows, text)))
    rows = [_row(each) | {"": "new level" if each.name in found.changes else ""} for each in found.windows]
    blocks.append(reports.section("Every window", reports.table(rows, "start of each window, in UTC")))
    return reports.page("Performance", *blocks, subtitle=subtitle)


def _over_time(found: Performance) -> reports.Block:
    numbers = list(range(1, len(found.windows) + 1))
    confidence = f"{found.confidence:.1%}"
    series: dict[str, tuple[list[float], list[float]]] = {
        found.metric: ([*map(float, numbers)], [_point(each.score) for each in found.windows]),
        f"lower end ({confidence})": ([*map(float, numbers)], [_point(each.low) for each in found.windows]),
        f"upper end ({confidence})": ([*map(float, numbers)], [_point(each.high) for each in found.windows]),
    }
    if found.reference is not None:
        series["reference"] = ([1.0, float(len(numbers))], [found.reference] * 2)
    first, last = found.windows[0].name, found.windows[-1].name
    said = f"from {first} to {last}"
    if found.changes:
        said += "; a new level begins at " + ", ".join(found.changes)
    return reports.Block("{}<p>{}</p>").format(reports.lines(series, "window", found.metric), said)


def _point(value: float | None) -> float:
    return math.nan if value is None else value


def _row(each: Measured) -> dict[str, Any]:
    return {
        "which": each.name,
        "rows": each.rows,
        "score": each.score,
        "low": each.low,
        "high": each.high,
    }


def _number(value: float | None) -> str:
    return "unknown" if value is None else reports.format_number(value)
