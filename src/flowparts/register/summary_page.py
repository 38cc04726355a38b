"""The summary page of a training run: the decision and its reason, the numbers, and the lineage."""

from collections.abc import Mapping, Sequence
from typing import Any

from flowparts import reports
from flowparts.evaluate import directions, evaluation_report
from flowparts.evaluate.serving_check import Measures
from flowparts.models.mlmodel import Card
from flowparts.register import champion, registry
from flowparts.register.comparison import Registration, Scored


def summary_page(comparison: Registration, model: Card, serving: Measures, source: str) -> str:
    """Return the page as an HTML document.

    Args:
        comparison: The comparison and its outcome.
        model: The model's metadata, with `candidates` if it was selected from several.
        serving: The measurements of the serving check; empty if there was none.
        source: Source of the test rows.
    """
    return reports.page(
        "Training run",
        _decision(comparison),
        *evaluation_report.training_callouts(model),
        _scores(comparison),
        _candidates(model),
        _rules(comparison),
        reports.section(
            "Lineage",
            reports.grid(
                _list("data", _data(source, model, comparison)),
                _list("model", _model(model, comparison)),
                _list("serving", _serving(comparison, serving)),
            ),
        ),
        subtitle=f"{comparison['model_name']}: {comparison['task']} of {comparison['label']}",
    )


def _decision(comparison: Registration) -> reports.Block:
    old, version = comparison["champion_version"], comparison["version"]
    if version:
        headline, level = f"Promoted as version {version}", "good"
    elif comparison["promote"] and comparison["registry"]:
        headline, level = "Promoted", "good"
    elif comparison["promote"]:
        headline, level = "Good enough, but not registered: there is no MLflow registry", "note"
    else:
        headline = f"Champion stays: version {old}" if old else "Not promoted, and there is no champion"
        level = "note" if comparison["servable"] else "bad"
    tiles: dict[str, object] = {comparison["metric"]: champion.score(comparison, "challenger")}
    if comparison["champion"] and comparison["improvement"]:
        tiles[f"champion, version {old}"] = champion.score(comparison, "champion")
        tiles["improvement"] = comparison["improvement"]["value"]
        tiles["better in"] = f"{comparison['improvement']['probability_better']:.1%} of resamples"
    tiles["estimator"] = comparison["challenger"]["estimator"]
    text = reports.Block("<strong>{}</strong><br>{}").format(headline, comparison["reason"])
    blocks = [reports.callout(text, level), reports.facts(tiles), *_missing_registry(comparison)]
    if comparison["champion_problem"]:
        problem = f"Champion version {old} could not be compared: {comparison['champion_problem']}"
        blocks.append(reports.callout(problem, "bad"))
    blocks += [*_rows_scored(comparison), _against_constant(comparison)]
    return reports.Block("\n").join(blocks)


def _rows_scored(comparison: Registration) -> list[reports.Block]:
    """Note on which rows the models were compared, unless it is simply all test rows."""
    if not comparison["champion"]:
        return []
    if comparison["seen_rows"] is None:
        text = (
            f"Champion version {comparison['champion_version']} doesn't say which rows it was trained on. If "
            "test rows are among them, its score is too good."
        )
        return [reports.callout(text, "bad")]
    if not comparison["seen_rows"]:
        return []
    text = (
        f"Compared on the {comparison['rows']:,} test rows that neither model has seen in training; "
        f"{comparison['seen_rows']:,} others were left out."
    )
    return [reports.callout(text)]


def _against_constant(comparison: Registration) -> reports.Block:
    metric, gain = comparison["metric"], comparison["baseline"]
    if gain is None:
        return reports.callout(f"Too few rows to compare {metric} with a constant prediction.", "bad")
    better = gain["value"] > 0 and gain["probability_better"] >= comparison["confidence"]
    numbers = (gain["value"], gain["low"], gain["high"], gain["score"])
    ends = [reports.format_number(float(f"{number:.3g}")) for number in numbers]
    text = (
        f"Always predicting {champion.constant_answer(gain)} has {metric} {ends[3]}. The new model is better "
        f"by {ends[0]} (interval {ends[1]} to {ends[2]})"
    )
    more = "." if better else ", which may be chance."
    return reports.callout(text + more, "good" if better else "bad")


def _missing_registry(comparison: Registration) -> list[reports.Block]:
    """Return a callout if there was no registry."""
    if comparison["registry"]:
        return []
    text = (
        "There was no champion to compare with, and a promoted model is not registered but kept as an "
        f"artifact of this run only: {registry.NOT_CONFIGURED}."
    )
    return [reports.callout(text, "bad")]


def _scores(comparison: Registration) -> reports.Block:
    metric, gain = comparison["metric"], comparison["improvement"]
    charts = [_scores_chart(comparison)]
    if gain:
        interval = {"improvement": (gain["low"], gain["high"])}
        label = f"improvement in {metric}; above 0: the challenger is better"
        charts.append(reports.bars({"improvement": gain["value"]}, interval, label))
    return reports.section(
        f"Scores on the {comparison['rows']:,} test rows, with bootstrap intervals at "
        f"{comparison['confidence']:.4g}",
        reports.grid(*charts),
        _metrics_table(comparison),
    )


def _scores_chart(comparison: Registration) -> reports.Block:
    """Draw the compared metric of each model as a bar with its interval."""
    metric, better = comparison["metric"], "higher" if comparison["higher_is_better"] else "lower"
    entries = {name: each["metrics"][metric] for name, each in _sides(comparison).items()}
    intervals = {name: (entry["low"], entry["high"]) for name, entry in entries.items() if "low" in entry}
    scores = {name: entry["score"] for name, entry in entries.items()}
    return reports.bars(scores, intervals, f"{metric}, {better} is better")


def _metrics_table(comparison: Registration) -> reports.Block:
    """Tabulate every metric of each model with its interval."""
    models_by_name = _sides(comparison)
    rows = []
    for metric in directions.HIGHER_IS_BETTER[comparison["task"]]:
        if metric not in comparison["challenger"]["metrics"]:
            continue
        row: dict[str, object] = {"metric": metric}
        for name, model in models_by_name.items():
            entry = model["metrics"].get(metric)
            ends = [entry["low"], entry["high"]] if entry and "low" in entry else []
            row[name] = entry["score"] if entry else ""
            row[f"{name}, interval"] = " to ".join(map(reports.format_number, ends))
        rows.append(row)
    return reports.table(rows)


def _sides(comparison: Registration) -> dict[str, Scored]:
    found = {"challenger": comparison["challenger"]}
    if comparison["champion"]:
        found[f"champion, version {comparison['champion_version']}"] = comparison["champion"]
    return found


def _candidates(model: Card) -> reports.Block:
    if candidates := model.get("candidates"):
        rows: list[Mapping[str, object]] = [
            {
                "estimator": candidate["estimator"],
                f"{candidate['metric']} (validation)": candidate["score"],
                "parameters": _pairs(candidate.get("parameters") or {}),
            }
            for candidate in candidates
        ]
        return reports.section("Candidates, best first", reports.table(rows))
    measured = [{"metric": name, "value": value} for name, value in model["validation"].items()]
    return reports.section("Selected on the validation table", reports.table(measured))


def _rules(comparison: Registration) -> reports.Block:
    floor = comparison["floor"]
    rules: list[Mapping[str, object]] = [
        {"rule": "minimum improvement (margin)", "value": comparison["margin"]},
        {"rule": "fraction of resamples in which it must be better", "value": comparison["confidence"]},
        {
            "rule": "floor for a model without a champion to beat",
            "value": "better than a constant prediction" if floor is None else floor,
        },
    ]
    return reports.section("Rules of the comparison", reports.table(rules))


def _data(source: str, model: Card, comparison: Registration) -> list[tuple[str, object]]:
    return [
        ("training rows", model.get("training_rows", "unknown")),
        ("training fingerprint", model["training_fingerprint"]),
        ("test rows", comparison["rows"]),
        ("test rows' source", source),
        ("test fingerprint", comparison["test_fingerprint"]),
    ]


def _model(model: Card, comparison: Registration) -> list[tuple[str, object]]:
    facts = [
        ("estimator", model["estimator"]),
        ("framework", model["framework"]),
        ("parameters", _pairs(model["parameters"]) or "defaults"),
        ("features", len(model["features"])),
        ("git commit", model["git_commit"]),
    ]
    if version := comparison["version"]:
        facts.append(("registered as", f"models:/{comparison['model_name']}/{version}"))
    return facts


def _serving(comparison: Registration, serving: Measures) -> list[tuple[str, object]]:
    measured = [(name.replace("_", " "), value) for name, value in serving.items() if name != "servable"]
    checked = "yes" if comparison["servable"] else "no"
    return [("servable", checked if serving else "not checked"), *measured]


def _list(heading: str, facts: Sequence[tuple[str, object]]) -> reports.Block:
    # The column mixes words and numbers: numbers become text here, so that it stays left-aligned.
    rows = [
        {heading: name, "value": reports.format_number(value) if isinstance(value, int | float) else value}
        for name, value in facts
    ]
    return reports.table(rows)


def _pairs(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items())
