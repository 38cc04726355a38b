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

    The estimate shows whether the rows have become harder for the model; only labels show concept drift. The
    model has degraded if the newest window's interval, widened by the mean error of past estimates, is worse
    than the reference score by more than the tolerance.

    Args:
        log: Prediction log of the model server.
        model: Classifier that answered; rows of other versions are left out.
        estimate: Results as JSON: every metric with intervals in each window, the expected confusion matrix,
            past estimates beside measured metrics, and the verdict.
        estimate_report: HTML page with the same results.
        measurements: Measurements for publish_metrics.
        reference: Labelled predictions to calibrate on: labelled test rows scored by batch_predict. Default:
            the older half of the labelled windows.
        labels: Table with the model's label column and the key, to check past estimates against.
        key: Columns that join the log and the labels.
        metric: Metric for the verdict; default: the one that the model was selected by.
        time_column: Column of the log with the time of each prediction, in UTC; default: time if the log has
            it, otherwise all rows are one window.
        since: Start of the period in ISO 8601, inclusive; default: all rows.
        until: End of the period in ISO 8601, exclusive.
        window_hours: Length of a window in hours.
        minimum_rows: Minimum number of rows in a window.
        reference_score: Score to compare the estimate with; default: the score on the validation rows.
        tolerance: How much worse than the reference score is acceptable, in the metric's unit.
        confidence: Confidence level of the verdict and the intervals, such as 0.95.
        seed: Seed of the random draws.

    Returns:
        degraded: Whether the estimate of the newest window is worse than the reference score.
        score: The estimate for the newest window; as in evaluate_model if it is undefined.
        reason: Reason for the verdict, in one sentence.
    """
    import dataclasses

    from flowparts import models, tables
    from flowparts.evaluate import directions
    from flowparts.monitor import estimation, performance, windows
    from flowparts.monitor import estimation_report as pages
    from flowparts.monitor import labels as late_labels
    from flowparts.monitor import measurements as measured
    from flowparts.util import metadata, outputs

    source = performance.source(model.path)
    estimation.require_classifier(source)
    chosen = directions.chosen(metric or models.metadata(model.path).get("metric"), source.task)
    if reference_score is not None:
        source = dataclasses.replace(source, reference={chosen: reference_score})
    rows = tables.scan(log.path)
    time_name = time_column or ("time" if "time" in rows.collect_schema().names() else None)
    rows = windows.of_model(windows.select(rows, time_name, since, until), model.path)
    past = None
    if labels:
        arrived = tables.scan(labels.path)
        requests = windows.request_columns(rows, model.path)
        past = late_labels.join(rows, arrived, source.label, key, time_name, request_columns=requests).rows
    result = estimation.estimate(
        estimation.predictions(rows, time_name), source, chosen,
        estimation.labelled(tables.scan(reference.path), source.label) if reference else None,
        past, time_name, window_hours, minimum_rows, tolerance, confidence, seed,
    )  # fmt: skip
    outputs.write_json(estimate.path, result.to_dict())
    count = sum(each.rows for each in result.windows)
    outputs.write_text(estimate_report.path, pages.page(result, f"{count:,} predictions of {log.uri}"))
    measured.write(measurements.path, estimation.measurements(result))
    newest = result.newest
    score = newest.metrics[chosen].value if newest else None
    facts = {"metric": chosen, "degraded": result.degraded, "reference_rows": result.reference_rows}
    metadata.describe(estimate, facts | ({} if score is None else {"score": score}))
    return result.degraded, directions.worst(chosen) if score is None else score, result.reason
