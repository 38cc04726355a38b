from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output

from .. import runs_in


@runs_in("sklearn", memory="4Gi")
def detect_skew(
    log: Input[Dataset],
    model: Input[Model],
    skew: Output[Artifact],
    skew_report: Output[HTML],
    measurements: Output[Artifact],
    time_column: str = "time",
    since: Optional[str] = None,
    until: Optional[str] = None,
    false_alarm_rate: float = 0.05,
    minimum_effect: float = 0.05,
) -> NamedTuple("Outputs", [("skewed", bool), ("reason", str), ("columns", list)]):  # type: ignore[valid-type]
    """Compare the requests that a server got with the training rows, and its answers with batch predictions.

    It finds features with another type, missing values where training had none, unknown categories, values
    out of range and other distributions; and logged answers that the model doesn't reproduce for the same
    rows in a batch.

    Args:
        log: Prediction log, as ingest_table reads it; only the rows that the model answered are compared.
        model: Model that answered, with the baseline of its training rows.
        skew: Results as JSON: column, check, fraction of the rows and message of each finding, and the number
            of rows that were scored again.
        skew_report: HTML page with both distributions of each feature.
        measurements: Measurements for publish_metrics.
        time_column: Column of times that since and until apply to.
        since: Start of the window in ISO 8601, inclusive; default: all rows.
        until: End of the window in ISO 8601, exclusive.
        false_alarm_rate: Fraction of windows of unchanged data in which any distribution may be flagged.
        minimum_effect: Fraction of rows that must have changed for a distribution to be flagged.

    Returns:
        skewed: Whether any skew was found.
        reason: Summary of the findings, in one sentence.
        columns: Names of the affected columns, those with the most rows first.
    """
    from flowparts import tables
    from flowparts.models import baseline
    from flowparts.monitor import baselines, drift, drift_report, windows
    from flowparts.monitor import measurements as measured
    from flowparts.monitor import skew as skews
    from flowparts.util import metadata, outputs

    before = baseline.read(model.path)
    rows = windows.select(tables.scan(log.path), time_column, since, until)
    rows = windows.of_model(rows, model.path)
    odd = skews.types(rows, before)
    comparable = baselines.features(rows, before, exclude={each.column for each in odd})
    rule = drift.Rule(false_alarm_rate, minimum_effect)
    now = baselines.of_window(rows, before, comparable)
    drifts = drift.compare(before, now, rule)
    differing, replayed = ([], 0) if odd else skews.predictions(rows, model.path)
    found = [*odd, *skews.values(drifts), *differing]
    reason = skews.summary_of(found)
    columns = list(dict.fromkeys(each.column for each in sorted(found, key=lambda each: -each.share)))
    content = {"findings": [each.to_dict() for each in found], "scored_rows": replayed, "reason": reason}
    outputs.write_json(skew.path, content)
    page = drift_report.page(
        drifts, "Skew", f"{log.uri} against {model.uri}", rule, skews.blocks(found, replayed)
    )
    outputs.write_text(skew_report.path, page)
    measured.write(measurements.path, baselines.measurements(drifts, "skew"))
    metadata.describe(skew, {"skewed": bool(found), "findings": len(found), "reason": reason})
    return bool(found), reason, columns
