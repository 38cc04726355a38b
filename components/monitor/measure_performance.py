from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output

from .. import runs_in


@runs_in("sklearn")
def measure_performance(
    log: Input[Dataset],
    labels: Input[Dataset],
    model: Input[Model],
    performance: Output[Artifact],
    performance_report: Output[HTML],
    measurements: Output[Artifact],
    key: list[str] = ["request_id", "row"],  # noqa: B006 kfp needs a literal
    metric: Optional[str] = None,
    time_column: Optional[str] = None,
    label_time_column: Optional[str] = None,
    since: Optional[str] = None,
    until: Optional[str] = None,
    window_hours: float = 24.0,
    slice_columns: Optional[list[str]] = None,
    minimum_rows: int = 50,
    reference_score: Optional[float] = None,
    tolerance: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> NamedTuple("Outputs", [("degraded", bool), ("score", float), ("reason", str)]):  # type: ignore[valid-type]
    """Measure a served model by delayed labels: over time, by slice and against a reference score.

    The model has degraded if the interval of the newest window, or of all rows since the last change of
    level, is worse than the reference by more than the tolerance.

    Args:
        log: Prediction log of the model server.
        labels: Table with the model's label column and the key, one row for each key.
        model: Model that answered; rows of other versions are left out.
        performance: Results as JSON: the metric with intervals overall, in each window and slice, the changes
            of level, and the verdict.
        performance_report: HTML page with the same results and the metric over time.
        measurements: Measurements for publish_metrics.
        key: Columns that join the log and the labels.
        metric: Metric to measure; default: the one that the model was selected by.
        time_column: Column of the log with the time of each prediction, in UTC; default: time if the log has
            it, otherwise all rows are one window.
        label_time_column: Column of the labels with the time of each, in UTC. Labels over 5 minutes older
            than their predictions are counted on the page, and the step fails if most are; default: not
            checked.
        since: Start of the period in ISO 8601, inclusive; default: all rows.
        until: End of the period in ISO 8601, exclusive.
        window_hours: Length of a window in hours.
        slice_columns: Columns of the log or the labels to measure by; default: none.
        minimum_rows: Minimum number of labelled rows in a window or slice.
        reference_score: Score to compare the model with; default: its score on the validation rows.
        tolerance: How much worse than the reference is acceptable, in the metric's unit.
        confidence: Confidence level of the verdict and the intervals, such as 0.95.
        seed: Seed of the resampling.

    Returns:
        degraded: Whether the model is worse than its reference.
        score: The metric on all labelled rows; as in evaluate_model if it is undefined.
        reason: Reason for the verdict, in one sentence.
    """
    import dataclasses

    from flowparts import models, tables
    from flowparts.evaluate import directions
    from flowparts.monitor import labels as late_labels
    from flowparts.monitor import measurements as measured
    from flowparts.monitor import performance as performances
    from flowparts.monitor import performance_report as pages
    from flowparts.monitor import windows
    from flowparts.util import metadata, names, outputs

    source = performances.source(model.path)
    chosen = directions.chosen(metric or models.metadata(model.path).get("metric"), source.task)
    if reference_score is not None:
        source = dataclasses.replace(source, reference={chosen: reference_score})
    rows = tables.scan(log.path)
    time_name = time_column or ("time" if "time" in rows.collect_schema().names() else None)
    rows = windows.of_model(windows.select(rows, time_name, since, until), model.path)
    joined = late_labels.join(
        rows, tables.scan(labels.path), source.label, key, time_name, label_time_column,
        windows.request_columns(rows, model.path),
    )  # fmt: skip
    result = performances.measure(
        joined, source, chosen, time_name, window_hours, names.texts(slice_columns, "slice_columns"),
        minimum_rows, tolerance, confidence, seed,
    )  # fmt: skip
    outputs.write_json(performance.path, result.to_dict())
    subtitle = f"{result.predictions:,} predictions of {log.uri}"
    outputs.write_text(performance_report.path, pages.page(result, subtitle))
    measured.write(measurements.path, performances.measurements(result))
    score = result.overall.score
    facts = {"metric": chosen, "degraded": result.degraded, "labelled_rows": result.overall.rows}
    metadata.describe(performance, facts | ({} if score is None else {"score": score}))
    return result.degraded, directions.worst(chosen) if score is None else score, result.reason
