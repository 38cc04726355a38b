"""The page about a decision on retraining: the result of each rule, and the columns that drifted."""

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
    "deployment": "deployment",
}


def page(found: Decision, champion: Champion | None, rows: int, subtitle: str) -> str:
    """Return the HTML page for a result of `retraining.decide`.

    Args:
        found: The decision.
        champion: The model that was judged, if there is one.
        rows: Number of rows that a training would use.
        subtitle: Their source.
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
    said = "Training" if found.retrain else "Deployment" if found.deploy else "No training"
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
        reports.callout(f"{said}: {found.reason}.", "note" if found.retrain or found.deploy else "good"),
    ]
    if champion and champion.awaits_deployment and not found.deploy:
        text = f"Champion version {champion.version} isn't deployed: an earlier model serves, or none."
        blocks.append(reports.callout(text, "bad"))
    blocks.append(reports.section("Rules", reports.table(answers)))
    drifted = [each for each in found.drifts if each.drifted]
    if drifted:
        blocks.append(reports.section("Columns that drifted", drift_report.cards(drifted)))
    return reports.page("Retraining", *blocks, subtitle=subtitle)
