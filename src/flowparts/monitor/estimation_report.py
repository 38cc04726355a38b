"""The page about estimated performance: over time, in the newest window, and the error of past estimates."""

from flowparts import reports
from flowparts.monitor import over_time
from flowparts.monitor.estimation import Estimation
from flowparts.monitor.over_time import Point


def page(found: Estimation, subtitle: str) -> str:
    """Return the HTML page for a result of `estimation.estimate`."""
    newest = found.newest
    value = newest.metrics[found.metric].value if newest else None
    tiles = {
        f"estimated {found.metric}": over_time.number(value),
        "reference": over_time.number(found.reference),
        "error of past estimates": over_time.number(found.error),
        "predictions": sum(each.rows for each in found.windows),
        "labelled rows for calibration": found.reference_rows,
        "calibration error of the model": found.calibration_error,
    }
    level = "bad" if found.degraded else "good" if found.reference is not None and newest else "note"
    blocks: list[reports.Block] = [
        reports.facts(tiles),
        reports.callout(f"{found.reason}.", level),
        reports.callout(
            "This is an estimate from calibrated probabilities, without labels. It shows whether the rows "
            "have become harder or easier for the model. It can't see concept drift, when the same row has "
            "another answer than before: only labels show that.",
            "note",
        ),
    ]
    blocks.append(reports.section(f"Estimated {found.metric} over time", _over_time(found)))
    if newest:
        rows = [
            {"metric": name, "estimate": each.value, "low": each.low, "high": each.high}
            for name, each in newest.metrics.items()
        ]
        caption = f"window {newest.name}, {newest.rows:,} predictions; intervals of {found.confidence:.0%}"
        blocks.append(reports.section("Every metric", reports.table(rows, caption)))
        matrix = reports.heatmap(found.confusion, found.classes, found.classes, "true class", "prediction")
        blocks.append(reports.section("Expected confusion matrix", matrix))
    blocks.append(reports.section("How far off past estimates were", *_checks(found)))
    windows = [
        {"window": each.name, "rows": each.rows}
        | (
            {"estimate": estimate.value, "low": estimate.low, "high": estimate.high}
            if (estimate := each.metrics.get(found.metric))
            else {"estimate": None, "low": None, "high": None}
        )
        for each in found.windows
    ]
    blocks.append(reports.section("Every window", reports.table(windows, "start of each window, in UTC")))
    return reports.page("Estimated performance", *blocks, subtitle=subtitle)


def _over_time(found: Estimation) -> reports.Block:
    points = []
    for each in found.windows:
        of = each.metrics.get(found.metric)
        points.append(Point(each.name, of.value, of.low, of.high) if of else Point(each.name))
    measured = {each.name: each.measured for each in found.checks}
    further = {"measured with labels": measured} if measured else {}
    return over_time.chart(
        found.metric, "estimate", points, f"{found.confidence:.0%}", found.reference, further
    )


def _checks(found: Estimation) -> list[reports.Block]:
    if not found.checks:
        return [
            reports.callout(
                "Unknown: no window has labels apart from those that the calibration was fitted on.", "note"
            )
        ]
    inside = sum(each.inside for each in found.checks)
    rows = [
        {
            "window": each.name,
            "labelled rows": each.rows,
            "estimate": each.estimate.value,
            "low": each.estimate.low,
            "high": each.estimate.high,
            "measured": each.measured,
            "error": each.estimate.value - each.measured,
            "inside": "yes" if each.inside else "no",
        }
        for each in found.checks
    ]
    caption = f"{inside} of {len(rows)} measured values lie in their interval of {found.confidence:.0%}"
    blocks = [reports.table(rows, caption)]
    # One in twenty is expected outside; half of them show that the relation of rows and classes has changed.
    if 2 * inside < len(rows):
        text = "Most past estimates were wrong: the calibration no longer holds. Train or calibrate again."
        blocks.insert(0, reports.callout(text, "bad"))
    return blocks
