"""The performance page: the metric over time, its changes of level, and slices."""

from typing import Any

from flowparts import reports
from flowparts.evaluate import directions
from flowparts.monitor import labels, over_time
from flowparts.monitor.over_time import Point
from flowparts.monitor.performance import Measured, Performance


def page(found: Performance, subtitle: str) -> str:
    """Return the HTML page for a result of `performance.measure`."""
    share = found.overall.rows / found.predictions
    tiles = {
        found.metric: over_time.number(found.overall.score),
        "reference": over_time.number(found.reference),
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
    points = [Point(each.name, each.score, each.low, each.high) for each in found.windows]
    levels = "; a new level begins at " + ", ".join(found.changes) if found.changes else ""
    return over_time.chart(
        found.metric, found.metric, points, f"{found.confidence:.1%}", found.reference, remark=levels
    )


def _row(each: Measured) -> dict[str, Any]:
    return {
        "which": each.name,
        "rows": each.rows,
        "score": each.score,
        "low": each.low,
        "high": each.high,
    }
