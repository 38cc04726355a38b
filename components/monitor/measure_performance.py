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
    """Join late labels to logged predictions and measure them over time, by slice and against a reference.

    The model has degraded if the interval of the newest window, or of all rows since the last change of
    level, is worse than the reference by more than the tolerance.

    Args:
        log: Prediction log of the model server.
        labels: Table with the model's label column and the key, a row for each key.
        model: Model that answered; rows of other versions are left out.
        performance: What was found as JSON: the metric with intervals overall, in each window and slice, the
            changes of level, and the verdict.
        performance_report: The same for people, with the metric over time.
        measurements: What publish_metrics sends.
        key: Columns of both tables that say which label is whose.
        metric: Metric to measure; default: the one that the model was chosen by.
        time_column: Column of the log with the time of each prediction, in UTC; default: time where the log
            has it, else all rows are one window.
        label_time_column: Column of the labels with the time of each, in UTC. Labels that are over 5 minutes
            older than their predictions are counted on the page, and an error if most are; default: not
            checked.
        since: First moment to measure in ISO 8601; default: all rows.
        until: First moment not to measure any more.
        window_hours: Length of a window.
        slice_columns: Columns of the log or the labels to measure by; default: none.
        minimum_rows: Labelled rows that a window or slice needs to be measured.
        reference_score: Score to hold the model against; default: its score on the validation rows.
        tolerance: How much worse than the reference is accepted, in the metric's unit.
        confidence: Confidence of the verdict and the intervals, such as 0.95.
        seed: Seed of the resampling.

    Returns:
        degraded: Whether the model is worse than its reference.
        score: The metric on all rows that have a label; as in evaluate_model where it is undefined.
        reason: The verdict in a sentence.
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

    of = performances.source(model.path)
    chosen = directions.chosen(metric or models.metadata(model.path).get("metric"), of.task)
    if reference_score is not None:
        of = dataclasses.replace(of, reference={chosen: reference_score})
    rows = tables.scan(log.path)
    moment = time_column or ("time" if "time" in rows.collect_schema().names() else None)
    rows = windows.of_model(windows.select(rows, moment, since, until), model.path)
    joined = late_labels.join(
        rows, tables.scan(labels.path), of.label, key, moment, label_time_column,
        windows.request_columns(rows, model.path),
    )  # fmt: skip
    found = performances.measure(
        joined, of, chosen, moment, window_hours, names.texts(slice_columns, "slice_columns"),
        minimum_rows, tolerance, confidence, seed,
    )  # fmt: skip
    outputs.write_json(performance.path, found.to_dict())
    subtitle = f"{found.predictions:,} predictions of {log.uri}"
    outputs.write_text(performance_report.path, pages.page(found, subtitle))
    measured.write(measurements.path, performances.measurements(found))
    score = found.overall.score
    told = {"metric": chosen, "degraded": found.degraded, "labelled_rows": found.overall.rows}
    metadata.describe(performance, told | ({} if score is None else {"score": score}))
    return found.degraded, directions.worst(chosen) if score is None else score, found.reason
