from typing import NamedTuple, Optional

from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from .. import STORES, runs_in


@runs_in("sklearn", cpu="2", memory="4Gi", memory_request="1Gi", secrets=STORES)
def tune_model(
    train: Input[Dataset],
    model: Output[Model],
    validation_metrics: Output[Metrics],
    tuning_report: Output[HTML],
    trial_table: Output[Dataset],
    label: str,
    validation: Input[Dataset] = None,  # type: ignore[assignment] # kfp's form of an optional one
    task: str = "classification",
    space: Optional[dict] = None,
    trials: int = 30,
    max_seconds: float = 0.0,
    parallel_trials: int = 1,
    folds: int = 0,
    group_by: Optional[str] = None,
    time_column: Optional[str] = None,
    metric: Optional[str] = None,
    exclude_columns: Optional[list[str]] = None,
    weight_column: Optional[str] = None,
    class_weight: Optional[str] = None,
    early_stopping_rounds: int = 50,
    checkpoints: Optional[str] = None,
    seed: int = 0,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs", [("estimator", str), ("parameters", dict), ("metric", str), ("score", float)]
):
    """Search for the best estimator and parameters, and train the model of raw rows with them.

    The first trial of each estimator has its default parameters; TPE (Optuna) suggests the others. Boosted
    trees stop early, and successive halving prunes trials that are worse than two thirds of the others after
    the first and third fold or, on large tables, on a ninth and a third of the training rows.
    The same inputs, seed and parallel_trials give the same trials and model, on however many processors;
    with max_seconds, the number of trials depends on the machine. A step that was killed resumes after the
    last finished trial.

    Args:
        train: Raw rows to learn from.
        model: MLflow model directory that takes raw rows.
        validation_metrics: Metrics of the best trial on the validation table, or the means of its folds.
        tuning_report: HTML page: history, importances and slices of the search, and the best parameters.
        trial_table: A row for each trial: estimator, state, score, parameters (JSON) and why it failed.
        label: Column to predict.
        validation: Raw rows that every trial is scored on. If not given, trials are cross-validated on the
            training rows, and the model is trained on all of them.
        task: What is learned, classification or regression.
        space: Estimators (as for train_sklearn) to their parameters: a value, or a mapping of type (int,
            float or categorical), low and high, log, or choices, and when (other parameter to its values, for
            a conditional one). An empty mapping stands for the shipped space; Linear, RandomForest,
            ExtraTrees, HistGradientBoosting, LGBM and XGB have one. Default: Linear, RandomForest, LGBM and
            XGB.
        trials: Maximum number of trials; 0 for no limit but max_seconds.
        max_seconds: Maximum seconds of the search, excluding the final training; 0 for no limit.
        parallel_trials: Number of trials at a time, each in a process; they share the step's processors.
        folds: Number of folds without a validation table; 0 stands for 5.
        group_by: Column whose equal values stay in one fold; what split_table kept together does anyway.
        time_column: Column by which each fold is validated on rows later than those it trains on; if not
            given, the one that split_table split by.
        metric: Metric to optimize; if not given, rmse for regression, and for classification roc_auc, or
            average_precision if one of two classes has fewer than 5 % of the rows.
        exclude_columns: Columns to exclude from the features, such as identifiers.
        weight_column: Column of sample weights, numbers of 0 or more; not a feature.
        class_weight: "balanced" to weight classes inversely to their frequency; none if not given.
        early_stopping_rounds: Boosting stops when the validation loss hasn't improved for this many rounds;
            0 to train them all.
        checkpoints: Path or URI of a folder for finished trials that outlives the step. Default: the folder
            in FLOWPARTS_CHECKPOINTS, which run.py sets, else beside the model, which a step that is retried
            in another pod doesn't see.
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
    from flowparts.tune import tuning
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
        budget=Budget(trials, max_seconds, parallel_trials),
    )
    settings.check(validated=validation is not None)
    chosen_by = None if validation is None else validation.path
    rows, held_out = tables.scan(train.path), None if chosen_by is None else tables.scan(chosen_by)
    settings = settings.split_as(tables.description(train.path), validated=validation is not None)
    study = tuning.identity(rows, held_out, settings)
    with tuning.remembered(checkpoints or None, model.path, study) as journal:
        tuned = tuning.tune(
            rows,
            held_out,
            model.path,
            settings,
            journal,
            complete=lambda folder: baseline.record(folder, train.path, chosen_by),
        )
        stored = models.metadata(model.path)
        metadata.describe(model, stored)
        metadata.log_metrics(validation_metrics, stored["validation"])
        metadata.describe(trial_table, tables.write(tuned.table(), trial_table.path))
        outputs.write_text(tuning_report.path, tuned.page)
    return stored["estimator"], tuned.parameters, tuned.metric, stored["validation"][tuned.metric]
