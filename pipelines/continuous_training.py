from kfp import dsl

from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.monitor.decide_retraining import decide_retraining
from flowparts.components.monitor.mark_data_seen import mark_data_seen
from flowparts.components.validate.validate_table import validate_table
from flowparts.pipelines._training import train_and_judge


@dsl.pipeline(name="continuous-training", display_name="Train again when needed")
def continuous_training(
    source: str = "sample://breast_cancer",
    null_values: list = [],
    on_bad_rows: str = "fail",
    file_format: str = "",
    delimiter: str = "",
    decimal: str = "",
    column_names: list = [],
    column_types: dict = {},
    schema_uri: str = "",
    label: str = "target",
    task: str = "classification",
    on_missing_label: str = "drop",
    min_class_rows: int = 3,
    exclude_columns: list = [],
    key: list = [],
    group_by: str = "",
    time_column: str = "",
    window_days: float = 0.0,
    state_uri: str = "",
    reasons: list = ["new_data", "drift", "performance", "age"],
    min_new_rows: int = 1,
    false_alarm_rate: float = 0.05,
    minimum_effect: float = 0.05,
    tolerance: float = 0.0,
    max_age_days: float = 30.0,
    request: str = "",
    trainer: str = "sklearn",
    effort: str = "quick",
    candidates: list = [],
    network: dict = {},
    metric: str = "",
    slice_columns: list = [],
    model_name: str = "continuous-training",
    margin: float = 0.0,
    floor: float = 0.0,
    replace_champion: bool = False,
    tracking_uri: str = "",
    seed: int = 0,
    deploy_target: str = "",
    endpoint_name: str = "continuous-training",
    deploy_options: dict = {},
) -> None:
    """Retrain on the newest rows of a table when new data, drift, degraded performance or age calls for it.

    Meant for a schedule or a trigger. The champion is judged on the labelled rows that arrived since the last
    training; if no rule calls for another one, all later steps are skipped. The page of decide-retraining
    shows which rule did, and why. The training is that of tabular-training, with the same parameters.

    Args:
        source: The raw data: CSV, Parquet or JSON Lines; a path, a glob, a directory, or a URI that starts
            with file://, s3://, gs://, https:// or sample://.
        null_values: Strings to read as missing values, such as NA; empty for the default; [""] keeps a code
            such as NA.
        on_bad_rows: What to do with rows that can't be read and values that don't fit their column: fail,
            quarantine, or null to read such a value as missing.
        file_format: csv, jsonl or parquet; empty to infer it from the file names.
        delimiter: Field separator of CSV files, one character; empty to detect it.
        decimal: "." if numbers are written as 1,234.5, "," if as 1.234,5; empty to detect it for each column.
        column_names: Names of the columns of CSV files without a header; empty if they have one.
        column_types: Types of columns by name, where the inferred ones are wrong: boolean, integer, number,
            date, timestamp or string.
        schema_uri: Reviewed schema (JSON, a path or URI) that the data must satisfy; empty to infer one.
        label: Column to predict.
        task: classification or regression.
        on_missing_label: What to do with rows without a label: drop (the log and the profile say how many) or
            fail.
        min_class_rows: Minimum number of rows of a class; rows of rarer classes are left out (the log and the
            run's page name them). 1 to keep every class. Has no effect on a regression.
        exclude_columns: Columns to exclude from the features, such as identifiers.
        key: Columns that identify a row, for the split; rows with equal keys stay together. Empty for none.
        group_by: Column whose equal values stay together in the split, such as a customer; empty for none.
        time_column: Column of times for the window, for new rows and for the split, with the newest rows in
            the test; empty if the rows have none.
        window_days: Length in days of the rolling window to use, which ends with the newest row; 0 for all
            rows.
        state_uri: Path or URI (s3://, gs://) of a JSON file that persists between runs and records which rows
            have been trained on; one for each model. Without it, new rows never trigger a training, and rows
            that one training has seen may trigger another.
        reasons: Rules that can trigger a training: new_data, drift, performance, age. Without a champion, the
            run always trains.
        min_new_rows: Minimum number of rows since the last training for new_data.
        false_alarm_rate: Fraction of runs on unchanged data in which drift may be reported.
        minimum_effect: Fraction of rows that must have changed for a column to count as drifted.
        tolerance: How much worse than on its validation rows the champion may be, in the metric's unit.
        max_age_days: Days since the last training for age.
        request: Reason to train regardless of the rules, such as the alert that started the run; empty to
            follow the rules.
        trainer: sklearn for the best of several estimators, or keras for a neural network. A model of one may
            replace a champion of the other.
        effort: How much sklearn tries: quick (about the cost of four usual estimators), standard (a search of
            up to 30 trials or 10 minutes, and an ensemble) or thorough (up to 150 trials or an hour).
        candidates: Estimators for sklearn to try instead, each a name or a mapping with estimator, parameters
            and seconds (its time limit, 300 by default): classes of scikit-learn, XGBoost or LightGBM, or
            Linear, RandomForest, HistGradientBoosting, XGB or LGBM, which fit both tasks.
        network: Options for keras other than the defaults, such as epochs, layers, units and checkpoints.
        metric: Metric to select and promote by; empty for rmse (regression), roc_auc (classification), or
            average_precision if one of two classes has fewer than 5 % of the training rows.
        slice_columns: Columns whose values divide the test table into slices, each evaluated separately.
        model_name: Name of the model in the registry.
        margin: How much better than the champion a model must be to be promoted, in units of the metric.
        floor: Worst score with which a first model is promoted, in units of the metric; 0 to require only
            that it beats a constant prediction (the most frequent class, or the mean).
        replace_champion: Whether to replace a champion that can't be compared because it has another label,
            task, classes or columns, or has seen nearly all test rows; otherwise the new model is refused.
        tracking_uri: MLflow server; empty for the environment's MLFLOW_TRACKING_URI or a local SQLite file.
            In a container without either, a promoted model is deployed but not registered.
        seed: Seed of the split, the training and the bootstrap.
        deploy_target: Where to deploy a new champion, as a canary at first: docker, kubernetes, kserve,
            seldon, tf_serving, vertex or sagemaker; empty for nowhere.
        endpoint_name: Name of the endpoint to deploy to.
        deploy_options: The target's own options, as its deploy component takes them.
    """
    # Never cached: only reading the source shows whether it has changed.
    ingested = ingest_table(
        source=source,
        null_values=null_values,
        on_bad_rows=on_bad_rows,
        file_format=file_format,
        delimiter=delimiter,
        decimal=decimal,
        column_names=column_names,
        column_types=column_types,
        schema_uri=schema_uri,
        label=label,
        on_missing_label=on_missing_label,
        required_columns=slice_columns,
        time_column=time_column,
        window_days=window_days,
    ).set_caching_options(False)
    table = ingested.outputs["table"]
    # In every run, so wrong parameters and bad rows are reported even when there is nothing to train on.
    validated = validate_table(
        table=table,
        schema_uri=schema_uri,
        task=task,
        trainer=trainer,
        effort=effort,
        candidates=candidates,
        metric=metric,
        model_name=model_name,
        margin=margin,
        floor=floor,
        deploy_target=deploy_target,
        endpoint_name=endpoint_name,
        deploy_options=deploy_options,
    ).set_caching_options(False)
    decided = decide_retraining(
        table=table,
        model_name=model_name,
        state_uri=state_uri,
        time_column=time_column,
        reasons=reasons,
        min_new_rows=min_new_rows,
        false_alarm_rate=false_alarm_rate,
        minimum_effect=minimum_effect,
        tolerance=tolerance,
        max_age_days=max_age_days,
        request=request,
        tracking_uri=tracking_uri,
    ).set_caching_options(False)
    with dsl.If(decided.outputs["retrain"] == True, name="train"):  # noqa: E712 kfp builds the condition
        registered = train_and_judge(
            table,
            validated,
            label=label,
            task=task,
            min_class_rows=min_class_rows,
            exclude_columns=exclude_columns,
            key=key,
            group_by=group_by,
            time_column=time_column,
            trainer=trainer,
            effort=effort,
            candidates=candidates,
            network=network,
            metric=metric,
            slice_columns=slice_columns,
            seed=seed,
            model_name=model_name,
            margin=margin,
            floor=floor,
            replace_champion=replace_champion,
            tracking_uri=tracking_uri,
            deploy_target=deploy_target,
            endpoint_name=endpoint_name,
            deploy_options=deploy_options,
        )
        # After the registration, so that the rows of a failed run stay new.
        seen = mark_data_seen(mark=decided.outputs["mark"], state_uri=state_uri).set_caching_options(False)
        seen.after(registered)
