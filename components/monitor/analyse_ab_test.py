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

    Interval and p-value stay valid however often the test is looked at. The new revision ships if it is
    better and every guardrail holds.

    Args:
        log: Prediction log of both revisions, or of the current one if new_log is given.
        outcome: Column of numbers or booleans whose mean is compared.
        analysis: What was found as JSON: effect with interval and p-value now and over time, the smallest
            detectable effect, guardrails, units, and the decision.
        ab_test_report: The same for people, with the effect over time.
        measurements: What publish_metrics sends.
        new_log: Prediction log of the new revision.
        labels: Table with the outcome and the key, a row for each key; default: the log has the outcome.
        new_version: The new revision, if both are in one log.
        current_version: The revision to compare with; default: the only other one in the log.
        version_column: Column of the log that says which revision answered.
        key: Columns of log and labels that say which outcome is whose.
        unit: Column of what was assigned to a revision, such as a user; default: each row by itself.
        time_column: Column of the log with the time of each prediction, in UTC; default: time where the log
            has it, else there is no effect over time.
        since: First moment of the test in ISO 8601; default: all rows.
        until: First moment after the test.
        higher_is_better: Whether a higher outcome is better.
        minimum_effect: Smallest improvement worth shipping, in the outcome's unit, set before the test;
            default: any.
        rise_tolerances: Guardrail columns, each with the most that its mean may rise.
        fall_tolerances: Guardrail columns, each with the most that its mean may fall.
        new_fraction: Planned fraction of the units that the new revision answers.
        confidence: Confidence of the intervals and the decision, such as 0.95.
        power: Power of the smallest detectable effect.

    Returns:
        decision: ship (the new revision), keep (the current one), continue (the test) or invalid (the
            assignment is broken).
        effect: Mean outcome of the new revision less that of the current one.
        p_value: Of no effect, valid at all looks together.
        reason: The decision in a sentence.
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
    moment = time_column or ("time" if "time" in rows.collect_schema() else None)
    rows = windows.select(rows, moment, since, until)
    outcomes = tables.scan(labels.path) if labels else None
    others = [name for name in (unit, moment) if name]
    columns = revisions.needed(rows, outcomes, plan.columns, key, others)
    if new_log:
        new = windows.select(tables.scan(new_log.path), moment, since, until)
        rows = revisions.two_logs(rows, new, columns)
    else:
        rows = revisions.one_log(rows, columns, version_column, new_version, current_version)
    joined = revisions.with_outcomes(rows, outcomes, plan.columns, key, moment)
    found = ab_test.analyse(joined, plan, unit, moment)
    outputs.write_json(analysis.path, found.to_dict())
    outputs.write_text(ab_test_report.path, pages.page(found, f"{len(joined):,} predictions of {log.uri}"))
    measured.write(measurements.path, ab_test.measurements(found))
    told = {"decision": found.decision, "effect": found.effect.effect, "p_value": found.effect.p_value}
    metadata.describe(analysis, told)
    return found.decision, found.effect.effect, found.effect.p_value, found.reason
