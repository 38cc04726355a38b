"""The page about a decision to train again, or not: what each rule says, and what it judged by."""

from flowparts import reports
from flowparts.monitor import drift_report, over_time
from flowparts.monitor.retraining import Champion, Decision

_RULES = {
    "request": "request",
    "champion": "champion",
    "new_data": "new data",
    "drift": "drift",
    "performance": "performance",
    "age": "age",
}


def page(found: Decision, champion: Champion | None, rows: int, subtitle: str) -> str:
    """Return the HTML page for what `retraining.decide` found.

    Args:
        found: The decision.
        champion: The model that was judged, if there is one.
        rows: Rows that a training would use.
        subtitle: Where they come from.
    """
    tiles: dict[str, object] = {
        "training": "yes" if found.retrain else "no",
        "champion": f"version {champion.version}" if champion else "none",
        "rows": rows,
        "rows judged": found.rows or "none",
    }
    if found.score:
        tiles[found.score.metric] = over_time.number(found.score.overall.score)
        tiles["reference"] = over_time.number(found.score.reference)
    said = "Training" if found.retrain else "No training"
    answers = [
        {
            "rule": _RULES[answer.rule],
            "": reports.tag("train", "note") if answer.asks else "",
            "what it found": answer.said,
        }
        for answer in found.answers
    ]
    blocks = [
        reports.facts(tiles),
        reports.callout(f"{said}: {found.reason}.", "note" if found.retrain else "good"),
        reports.section("Rules", reports.table(answers)),
    ]
    drifted = [each for each in found.drifts if each.drifted]
    if drifted:
        blocks.append(reports.section("Columns that drifted", drift_report.cards(drifted)))
    return reports.page("Retraining", *blocks, subtitle=subtitle)
