from typing import NamedTuple, Optional

from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("tune", cpu="2", memory="4Gi", memory_request="1Gi", secrets=DEPLOYMENT)
def tune_on_platform(
    train: Input[Dataset],
    model: Output[Model],
    validation_metrics: Output[Metrics],
    tuning_report: Output[HTML],
    trial_table: Output[Dataset],
    label: str,
    platform: str,
    store: str,
    validation: Input[Dataset] = None,  # type: ignore[assignment] # kfp's form of an optional one
    task: str = "classification",
    space: Optional[dict] = None,
    trials: int = 30,
    parallel_trials: int = 2,
    folds: int = 0,
    group_by: Optional[str] = None,
    time_column: Optional[str] = None,
    metric: Optional[str] = None,
    exclude_columns: Optional[list[str]] = None,
    weight_column: Optional[str] = None,
    class_weight: Optional[str] = None,
    early_stopping_rounds: int = 50,
    platform_options: Optional[dict] = None,
    seed: int = 0,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs", [("estimator", str), ("parameters", dict), ("metric", str), ("score", float)]
):
    """Search with a platform's tuner, each trial on a separate machine, and train the best model.

    For searches that are too large for one machine. The step follows the search, reports why trials can't
    run, and removes what it has started. The platform suggests trials from those that have ended, so with
    several at a time another run may try others. A step that was killed continues the same search when
    retried.

    Args:
        train: Raw rows to learn from.
        model: MLflow model directory that takes raw rows.
        validation_metrics: Metrics of the best trial on the validation table, or the means of its folds.
        tuning_report: HTML page: history, importances and slices of the search, and the best parameters.
        trial_table: A row for each trial: estimator, state, score, parameters (JSON) and why it failed.
        label: Column to predict.
        platform: The platform that suggests and runs the trials, katib or vertex.
        store: Folder for tables and results while the search runs, which this step writes and trials read and
            write: s3:// or gs://, for Vertex AI gs://.
        validation: Raw rows that every trial is scored on. If not given, trials are cross-validated on the
            training rows, and the model is trained on all of them.
        task: What is learned, classification or regression.
        space: As for tune_model.
        trials: Number of trials; the search ends early if half of them fail.
        parallel_trials: Trials at a time.
        folds: Number of folds without a validation table; 0 stands for 5.
        group_by: Column whose equal values stay in one fold; what split_table kept together does anyway.
        time_column: Column by which each fold is validated on rows later than those it trains on; if not
            given, the one that split_table split by.
        metric: Metric to optimize; if not given, as for tune_model.
        exclude_columns: Columns to exclude from the features, such as identifiers.
        weight_column: Column of sample weights, numbers of 0 or more; not a feature.
        class_weight: "balanced" to weight classes inversely to their frequency; none if not given.
        early_stopping_rounds: Boosting stops when the validation loss hasn't improved for this many rounds;
            0 to train them all.
        platform_options: Options of the platform. trial_seconds (900) limits a trial, including the wait for
            its machine. katib: cpu, memory, namespace, image, environment_from (a Secret with the
            keys of the store), service_account and pods. vertex: machine_type (n1-standard-4), project,
            location, image and service_account.
        seed: Seed of the folds, the search and the training.

    Returns:
        estimator: Class name of the model's estimator.
        parameters: The parameters of the model's estimator.
        metric: The metric that was optimized.
        score: The metric of the best trial.
    """
    from flowparts import models, tables
    from flowparts.models import baseline
    from flowparts.train.candidates import Options
    from flowparts.tune import platforms, remote, tuning
    from flowparts.tune.study import Budget
    from flowparts.util import metadata, names, outputs

    settings = tuning.Settings(
        label=label,
        task=task,
        options=Options(class_weight or None, weight_column or None, early_stopping_rounds or None, seed),
        metric=metric or None,
        folds=folds,
        group_by=group_by or None,
        time_column=time_column or None,
        exclude_columns=names.texts(exclude_columns, "exclude_columns"),
        space=space,
        budget=Budget(trials, 0.0, parallel_trials),
    )
    settings.check(validated=validation is not None)
    chosen_by = None if validation is None else validation.path
    tuned = remote.tune(
        platforms.platform(platform, platform_options or {}),
        store,
        train.path,
        chosen_by,
        model.path,
        settings,
        complete=lambda folder: baseline.record(folder, train.path, chosen_by),
    )
    stored = models.metadata(model.path)
    metadata.describe(model, stored)
    metadata.log_metrics(validation_metrics, stored["validation"])
    metadata.describe(trial_table, tables.write(tuned.table(), trial_table.path))
    outputs.write_text(tuning_report.path, tuned.page)
    return stored["estimator"], tuned.parameters, tuned.metric, stored["validation"][tuned.metric]
