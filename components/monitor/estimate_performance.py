from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output

from .. import runs_in


@runs_in("sklearn")
def estimate_performance(
    log: Input[Dataset],
    model: Input[Model],
    estimate: Output[Artifact],
    estimate_report: Output[HTML],
    measurements: Output[Artifact],
    reference: Input[Dataset] = None,  # type: ignore[assignment] # kfp's form of an optional one
    labels: Input[Dataset] = None,  # type: ignore[assignment]
    key: list[str] = ["request_id", "row"],  # noqa: B006 kfp needs a literal
    metric: Optional[str] = None,
    time_column: Optional[str] = None,
    since: Optional[str] = None,
    until: Optional[str] = None,
    window_hours: float = 24.0,
    minimum_rows: int = 50,
    reference_score: Optional[float] = None,
    tolerance: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> NamedTuple("Outputs", [("degraded", bool), ("score", float), ("reason", str)]):  # type: ignore[valid-type]
    """Estimate the metrics of a served classifier before labels arrive, from calibrated probabilities.

    It sees whether the rows have become harder for the model; concept drift shows in labels only. The model
    has degraded if the newest window's interval, widened by the mean error of past estimates, is worse than
    the reference score by more than the tolerance.

    Args:
        log: Prediction log of the model server.
        model: Classifier that answered; rows of other versions are left out.
        estimate: What was found as JSON: every metric with intervals in each window, the expected confusion
            matrix, past estimates beside measured metrics, and the verdict.
        estimate_report: The same for people.
        measurements: What publish_metrics sends.
        reference: Labelled predictions to learn the calibration on: test rows with their label that
            batch_predict scored. Default: the older half of the labelled windows.
        labels: Table with the model's label column and the key, by which past estimates are checked.
        key: Columns of log and labels that say which label is whose.
        metric: Metric of the verdict; default: the one that the model was chosen by.
        time_column: Column of the log with the time of each prediction, in UTC; default: time where the log
            has it, else all rows are one window.
        since: First moment to estimate in ISO 8601; default: all rows.
        until: First moment not to estimate any more.
        window_hours: Length of a window.
        minimum_rows: Rows that a window needs.
        reference_score: Score to hold the estimate against; default: the score on the validation rows.
        tolerance: How much worse than the reference score is accepted, in the metric's unit.
        confidence: Confidence of the verdict and the intervals, such as 0.95.
        seed: Seed of the draws.

    Returns:
        degraded: Whether the estimate of the newest window is worse than the reference score.
        score: The estimate of the newest window; as in evaluate_model where it is undefined.
        reason: The verdict in a sentence.
    """
    import dataclasses

    from flowparts import models, tables
    from flowparts.evaluate import directions
    from flowparts.monitor import estimation, performance, windows
    from flowparts.monitor import estimation_report as pages
    from flowparts.monitor import labels as late_labels
    from flowparts.monitor import measurements as measured
    from flowparts.util import metadata, outputs

    of = performance.source(model.path)
    estimation.require_classifier(of)
    chosen = directions.chosen(metric or models.metadata(model.path).get("metric"), of.task)
    if reference_score is not None:
        of = dataclasses.replace(of, reference={chosen: reference_score})
    rows = tables.scan(log.path)
    moment = time_column or ("time" if "time" in rows.collect_schema().names() else None)
    rows = windows.of_model(windows.select(rows, moment, since, until), model.path)
    past = None
    if labels:
        arrived = tables.scan(labels.path)
        requests = windows.request_columns(rows, model.path)
        past = late_labels.join(rows, arrived, of.label, key, moment, request_columns=requests).rows
    found = estimation.estimate(
        estimation.predictions(rows, moment), of, chosen,
        estimation.labelled(tables.scan(reference.path), of.label) if reference else None,
        past, moment, window_hours, minimum_rows, tolerance, confidence, seed,
    )  # fmt: skip
    outputs.write_json(estimate.path, found.to_dict())
    count = sum(each.rows for each in found.windows)
    outputs.write_text(estimate_report.path, pages.page(found, f"{count:,} predictions of {log.uri}"))
    measured.write(measurements.path, estimation.measurements(found))
    newest = found.newest
    score = newest.metrics[chosen].value if newest else None
    told = {"metric": chosen, "degraded": found.degraded, "reference_rows": found.reference_rows}
    metadata.describe(estimate, told | ({} if score is None else {"score": score}))
    return found.degraded, directions.worst(chosen) if score is None else score, found.reason
