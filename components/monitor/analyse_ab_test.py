from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from .. import runs_in


@runs_in("sklearn")
def analyse_ab_test(
    log: Input[Dataset],
    outcome: str,
    analysis: Output[Artifact],
    ab_test_report: Output[HTML],
    measurements: Output[Artifact],
    new_log: Input[Dataset] = None,  # type: ignore[assignment] # kfp's form of an optional one
    labels: Input[Dataset] = None,  # type: ignore[assignment]
    new_version: Optional[str] = None,
    current_version: Optional[str] = None,
    version_column: str = "version",
    key: list[str] = ["request_id", "row"],  # noqa: B006 kfp needs a literal
    unit: Optional[str] = None,
    time_column: Optional[str] = None,
    since: Optional[str] = None,
    until: Optional[str] = None,
    higher_is_better: bool = True,
    minimum_effect: Optional[float] = None,
    rise_tolerances: Optional[dict] = None,
    fall_tolerances: Optional[dict] = None,
    new_fraction: float = 0.5,
    confidence: float = 0.95,
    power: float = 0.8,
) -> NamedTuple("Outputs", [("decision", str), ("effect", float), ("p_value", float), ("reason", str)]):  # type: ignore[valid-type]
    """Compare the outcomes of two revisions that served side by side, and decide whether to ship the new one.

    The interval and the p-value stay valid however often the test is looked at. The new revision ships if it
    is better and every guardrail holds.

    Args:
        log: Prediction log of both revisions, or of the current one if new_log is given.
        outcome: Column of numbers or booleans whose means are compared.
        analysis: Results as JSON: effect with interval and p-value, now and over time, smallest detectable
            effect, guardrails, units, and the decision.
        ab_test_report: HTML page with the results, including the effect over time.
        measurements: Measurements for publish_metrics.
        new_log: Prediction log of the new revision.
        labels: Table with the outcome and the key, one row for each key; default: the log has the outcome.
        new_version: The new revision, if one log holds both.
        current_version: The revision to compare with; default: the only other one in the log.
        version_column: Column of the log with the revision that answered.
        key: Columns that join the log and the labels.
        unit: Column with the unit of assignment, such as a user; default: each row is a unit.
        time_column: Column of the log with the time of each prediction, in UTC; default: time if the log has
            it, otherwise the effect over time is left out.
        since: Start of the test in ISO 8601, inclusive; default: all rows.
        until: End of the test in ISO 8601, exclusive.
        higher_is_better: Whether a higher outcome is better.
        minimum_effect: Smallest improvement worth shipping, in the outcome's unit, chosen before the test;
            default: any.
        rise_tolerances: Guardrail columns, each with the maximum rise of its mean.
        fall_tolerances: Guardrail columns, each with the maximum fall of its mean.
        new_fraction: Planned fraction of the units assigned to the new revision.
        confidence: Confidence level of the intervals and the decision, such as 0.95.
        power: Power for the smallest detectable effect.

    Returns:
        decision: ship (the new revision), keep (the current one), continue (the test) or invalid (the
            assignment is broken).
        effect: Mean outcome of the new revision minus that of the current one.
        p_value: p-value of no effect, valid at all looks together.
        reason: Reason for the decision, in one sentence.
    """
    from flowparts import tables
    from flowparts.monitor import ab_test, revisions, windows
    from flowparts.monitor import ab_test_report as pages
    from flowparts.monitor import measurements as measured
    from flowparts.util import metadata, outputs

    plan = ab_test.Plan(
        outcome, higher_is_better, rise_tolerances, fall_tolerances, new_fraction, minimum_effect,
        confidence, power,
    )  # fmt: skip
    rows = tables.scan(log.path)
    time_name = time_column or ("time" if "time" in rows.collect_schema() else None)
    rows = windows.select(rows, time_name, since, until)
    outcomes = tables.scan(labels.path) if labels else None
    others = [name for name in (unit, time_name) if name]
    columns = revisions.needed(rows, outcomes, plan.columns, key, others)
    if new_log:
        new = windows.select(tables.scan(new_log.path), time_name, since, until)
        rows = revisions.two_logs(rows, new, columns)
    else:
        rows = revisions.one_log(rows, columns, version_column, new_version, current_version)
    joined = revisions.with_outcomes(rows, outcomes, plan.columns, key, time_name)
    result = ab_test.analyse(joined, plan, unit, time_name)
    outputs.write_json(analysis.path, result.to_dict())
    outputs.write_text(ab_test_report.path, pages.page(result, f"{len(joined):,} predictions of {log.uri}"))
    measured.write(measurements.path, ab_test.measurements(result))
    facts = {"decision": result.decision, "effect": result.effect.effect, "p_value": result.effect.p_value}
    metadata.describe(analysis, facts)
    return result.decision, result.effect.effect, result.effect.p_value, result.reason
