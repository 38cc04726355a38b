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
    labels: str = "",
    key: list = ["request_id", "row"],  # noqa: B006 kfp reads the default, nothing changes it
    label_time_column: str = "",
    window_hours: float = 24.0,
    slice_columns: list = [],  # noqa: B006
    tolerance: float = 0.0,
    pushgateway: str = "",
    otlp: str = "",
    notices: str = "",
    tracking_uri: str = "",
) -> None:
    """Compare what a served model is asked with its training rows, and its answers with late labels.

    It publishes what it finds, and notifies the channels of notify of drift and lost performance. An alert on
    it can start continuous-training (docs/triggers.md).

    Args:
        log: Prediction log of the model server, or another table of rows that the model was given: a path,
            a glob, a directory, or a URI that starts with file://, s3://, gs://, https:// or sample://.
        model_name: Name of the model in the registry; its champion is what serves.
        window_days: Look only at so many days up to the newest row, which suits a schedule; 0 for all rows.
            With labels it must be longer than they take to arrive.
        since: First moment to look at in ISO 8601, such as 2026-03-01T00:00; empty for all rows.
        until: First moment not to look at any more.
        false_alarm_rate: Fraction of windows of unchanged data in which any column may be flagged.
        minimum_effect: Fraction of rows that must have changed for a column to be flagged.
        labels: Table of labels that have arrived, with the key and the model's label; empty for none.
        key: Columns of log and labels that say which label is whose.
        label_time_column: Column of the labels with the time of each, in UTC, by which clocks that differ are
            found; empty to not compare the clocks.
        window_hours: Length of the windows of time that the performance is measured in.
        slice_columns: Columns of the log to measure the performance by; empty for none.
        tolerance: How much worse than on the validation rows the model may be, in the metric's unit.
        pushgateway: Address of a Prometheus Pushgateway; empty for none.
        otlp: Address of an endpoint for OTLP over HTTP; empty for none.
        notices: Path or URI (s3://, gs://) of a JSON file that outlives runs, by which people get the same
            notice once a day only; empty to send it in each run.
        tracking_uri: MLflow server; empty for the environment's MLFLOW_TRACKING_URI or a local SQLite file.
    """
    champion = load_champion(model_name=model_name, tracking_uri=tracking_uri).set_caching_options(False)
    model = champion.outputs["model"]
    # Nothing but reading them tells that log and labels have grown.
    answered = (
        ingest_table(
            source=log, schema=champion.outputs["schema"], time_column="time", window_days=window_days
        )
        .set_caching_options(False)
        .outputs["table"]
    )
    window = {"since": since, "until": until}
    rule = {"false_alarm_rate": false_alarm_rate, "minimum_effect": minimum_effect}
    drift = detect_drift(table=answered, model=model, **window, **rule)
    skew = detect_skew(log=answered, model=model, **window, **rule)
    publish_metrics(
        job=model_name,
        drift=drift.outputs["measurements"],
        skew=skew.outputs["measurements"],
        pushgateway=pushgateway,
        otlp=otlp,
    ).set_caching_options(False)
    notice = {"pipeline": model_name, "run": dsl.PIPELINE_JOB_NAME_PLACEHOLDER, "memory": notices}
    notify(
        state="drifted",
        message="the page of detect-drift shows the columns that drifted",
        when=drift.outputs["drifted"],
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
