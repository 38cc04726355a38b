from kfp import dsl

from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.detect_drift import detect_drift
from flowparts.components.monitor.detect_skew import detect_skew
from flowparts.components.monitor.measure_performance import measure_performance
from flowparts.components.monitor.notify import notify
from flowparts.components.monitor.publish_metrics import publish_metrics
from flowparts.components.register.load_champion import load_champion


@dsl.pipeline(name="monitoring", display_name="Monitor a served model")
def monitoring(
    log: str = "sample://breast_cancer",
    model_name: str = "tabular-training",
    window_days: float = 0.0,
    since: str = "",
    until: str = "",
    false_alarm_rate: float = 0.05,
    minimum_effect: float = 0.05,
    stalled_hours: float = 24.0,
    labels: str = "",
    key: list = ["request_id", "row"],
    label_time_column: str = "",
    window_hours: float = 24.0,
    slice_columns: list = [],
    tolerance: float = 0.0,
    pushgateway: str = "",
    otlp: str = "",
    notices_uri: str = "",
    tracking_uri: str = "",
) -> None:
    """Compare a served model's requests with its training rows, and its predictions with delayed labels.

    Publishes the measurements, and notifies the channels of notify about drift, degraded performance and a
    log that has stopped growing. An alert on them can start continuous-training (docs/triggers.md).

    Args:
        log: Prediction log of the model server, or another table of rows that the model was given: a path, a
            glob, a directory, or a URI that starts with file://, s3://, gs://, https:// or sample://.
        model_name: Name of the model in the registry; its champion is the served model.
        window_days: Number of days to look at, ending with the newest row, which suits a schedule; 0 for all
            rows. With labels, it must be longer than they take to arrive.
        since: Start of the period in ISO 8601, inclusive, such as 2026-03-01T00:00; empty for all rows.
        until: End of the period in ISO 8601, exclusive; empty for all rows.
        false_alarm_rate: Fraction of windows of unchanged data in which any column may be flagged.
        minimum_effect: Fraction of rows that must have changed for a column to be flagged.
        stalled_hours: Hours without a new prediction after which the log counts as stalled; 0 for no such
            check. There is none either if until is given.
        labels: Table of labels that have arrived, with the key and the model's label; empty for none.
        key: Columns that join the log and the labels.
        label_time_column: Column of the labels with the time of each, in UTC, to detect clocks that differ;
            empty for no such check.
        window_hours: Length in hours of the windows in which performance is measured.
        slice_columns: Columns of the log to measure performance by; empty for none.
        tolerance: How much worse than on the validation rows the model may be, in the metric's unit.
        pushgateway: Address of a Prometheus Pushgateway; empty for none.
        otlp: Address of an OTLP/HTTP endpoint; empty for none.
        notices_uri: Path or URI (s3://, gs://) of a JSON file that persists between runs, so that the same
            notification is sent only once a day, and only once for the same newest row; empty to send it in
            each run.
        tracking_uri: MLflow server; empty for the environment's MLFLOW_TRACKING_URI or a local SQLite file.
    """
    champion = load_champion(model_name=model_name, tracking_uri=tracking_uri).set_caching_options(False)
    model = champion.outputs["model"]
    # Never cached: only reading the log and the labels shows whether they have grown.
    answered = (
        ingest_table(
            source=log, schema=champion.outputs["schema"], time_column="time", window_days=window_days
        )
        .set_caching_options(False)
        .outputs["table"]
    )
    window = {"since": since, "until": until}
    rule = {"false_alarm_rate": false_alarm_rate, "minimum_effect": minimum_effect}
    # Cached, it would not see that time has passed.
    drift = detect_drift(
        table=answered, model=model, stalled_hours=stalled_hours, **window, **rule
    ).set_caching_options(False)
    skew = detect_skew(log=answered, model=model, **window, **rule)
    publish_metrics(
        job=model_name,
        drift=drift.outputs["measurements"],
        skew=skew.outputs["measurements"],
        pushgateway=pushgateway,
        otlp=otlp,
    ).set_caching_options(False)
    notice = {"pipeline": model_name, "run": dsl.PIPELINE_JOB_NAME_PLACEHOLDER, "notices_uri": notices_uri}
    notify(
        state="drifted",
        message="see the page of detect-drift for the columns that drifted",
        when=drift.outputs["drifted"],
        about=drift.outputs["newest"],
        **notice,
    ).set_caching_options(False)
    notify(
        state="stalled",
        message=drift.outputs["newest"],
        when=drift.outputs["stalled"],
        about=drift.outputs["newest"],
        **notice,
    ).set_caching_options(False)
    with dsl.If(labels != "", name="performance"):
        arrived = ingest_table(source=labels, required_columns=key).set_caching_options(False)
        measured = measure_performance(
            log=answered,
            labels=arrived.outputs["table"],
            model=model,
            key=key,
            label_time_column=label_time_column,
            window_hours=window_hours,
            slice_columns=slice_columns,
            tolerance=tolerance,
            **window,
        )
        publish_metrics(
            job=model_name,
            performance=measured.outputs["measurements"],
            pushgateway=pushgateway,
            otlp=otlp,
        ).set_caching_options(False)
        notify(
            state="degraded",
            message=measured.outputs["reason"],
            when=measured.outputs["degraded"],
            **notice,
        ).set_caching_options(False)
