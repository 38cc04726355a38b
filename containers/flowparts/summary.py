"""One page about a training run: what was decided and why, the numbers, where data and model come from."""

from collections.abc import Mapping, Sequence
from typing import Any

from flowparts import champion, report


def summary_page(
    *,
    comparison: Mapping[str, Any],
    version: str | None,
    table: Mapping[str, Any],
    anomalies: Sequence[Mapping[str, Any]],
    model: Mapping[str, Any],
    serving: Mapping[str, Any],
) -> str:
    """Return the page as an HTML document.

    Args:
        comparison: What compare_with_champion wrote.
        version: The registered version; None when nothing was registered.
        table: What `tables.description` says of the ingested table.
        anomalies: What validation found.
        model: The model's metadata; `candidates` is there if it was chosen among several.
        serving: The numbers of the serving check.
    """
    return report.page(
        "Training run",
        _decision(comparison, version),
        _scores(comparison),
        _candidates(model),
        report.section(
            "Lineage",
            report.grid(
                _list("data", _data(table, anomalies, model, comparison)),
                _list("model", _model(model, comparison, version)),
                _list("serving", _serving(comparison, serving)),
            ),
        ),
        subtitle=f"{comparison['model_name']}: {comparison['task']} of {comparison['label']}",
    )


def _decision(comparison: Mapping[str, Any], version: str | None) -> report.Block:
    old = comparison["champion_version"]
    if version:
        headline, level = f"Promoted as version {version}", "good"
    elif comparison["promote"] and not comparison["registry"]:
        headline, level = "Good enough, but not registered: there is no MLflow registry", "note"
    elif comparison["promote"]:
        headline, level = "To be promoted, not registered", "note"
    else:
        headline = f"Champion stays: version {old}" if old else "Not promoted, and there is no champion"
        level = "note" if comparison["servable"] else "bad"
    tiles: dict[str, object] = {comparison["metric"]: champion.score(comparison, "challenger")}
    if comparison["champion"]:
        tiles[f"champion, version {old}"] = champion.score(comparison, "champion")
        tiles["improvement"] = comparison["improvement"]["value"]
    tiles["estimator"] = comparison["challenger"]["estimator"]
    text = report.Block("<strong>{}</strong><br>{}").format(headline, comparison["reason"])
    blocks = [report.callout(text, level), report.facts(tiles), *champion.missing_registry(comparison)]
    if comparison["champion_problem"]:
        problem = f"Champion version {old} could not be compared: {comparison['champion_problem']}"
        blocks.append(report.callout(problem, "bad"))
    return report.Block("\n").join(blocks)


def _scores(comparison: Mapping[str, Any]) -> report.Block:
    return report.section(
        f"Scores on the {comparison['rows']:,} test rows",
        champion.scores_chart(comparison),
        champion.metrics_table(comparison),
    )


def _candidates(model: Mapping[str, Any]) -> report.Block:
    if candidates := model.get("candidates"):
        rows: list[Mapping[str, object]] = [
            {
                "estimator": candidate["estimator"],
                f"{candidate['metric']} (validation)": candidate["score"],
                "parameters": _pairs(candidate.get("parameters") or {}),
            }
            for candidate in candidates
        ]
        return report.section("Candidates, best first", report.table(rows))
    measured = [{"metric": name, "value": value} for name, value in model["validation"].items()]
    return report.section("Chosen on the validation table", report.table(measured))


def _data(
    table: Mapping[str, Any],
    anomalies: Sequence[Mapping[str, Any]],
    model: Mapping[str, Any],
    comparison: Mapping[str, Any],
) -> list[tuple[str, object]]:
    return [
        ("source", table["source"]),
        ("rows", table["rows"]),
        ("columns", len(table["columns"])),
        ("fingerprint", table["fingerprint"]),
        ("training rows", model.get("training_rows", "unknown")),
        ("training fingerprint", model["training_fingerprint"]),
        ("test rows", comparison["rows"]),
        ("test fingerprint", comparison["test_fingerprint"]),
        ("validation", _anomalies(anomalies)),
    ]


def _anomalies(anomalies: Sequence[Mapping[str, Any]]) -> str:
    if not anomalies:
        return "no anomalies"
    shown = [f"{each['column']}: {each['rule']}, {each['count']:,} rows" for each in anomalies[:3]]
    more = [f"{len(anomalies) - 3} more"] if len(anomalies) > 3 else []
    count = "1 anomaly" if len(anomalies) == 1 else f"{len(anomalies)} anomalies"
    return f"{count}: {'; '.join([*shown, *more])}"


def _model(
    model: Mapping[str, Any], comparison: Mapping[str, Any], version: str | None
) -> list[tuple[str, object]]:
    facts = [
        ("estimator", model["estimator"]),
        ("framework", model["framework"]),
        ("parameters", _pairs(model["parameters"]) or "defaults"),
        ("features", len(model["features"])),
        ("git commit", model["git_commit"]),
    ]
    if version:
        facts.append(("registered as", f"models:/{comparison['model_name']}/{version}"))
    return facts


def _serving(comparison: Mapping[str, Any], serving: Mapping[str, Any]) -> list[tuple[str, object]]:
    measured = [(name.replace("_", " "), value) for name, value in serving.items() if name != "servable"]
    return [("servable", "yes" if comparison["servable"] else "no"), *measured]


def _list(heading: str, facts: Sequence[tuple[str, object]]) -> report.Block:
    # One column holds words and numbers: numbers are made text here, so that it stays aligned left.
    rows = [
        {heading: name, "value": report.format_number(value) if isinstance(value, int | float) else value}
        for name, value in facts
    ]
    return report.table(rows)


def _pairs(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items())
