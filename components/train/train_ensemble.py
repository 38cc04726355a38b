from typing import NamedTuple, Optional

from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from .. import STORES, runs_in


@runs_in("sklearn", cpu="2", memory="4Gi", memory_request="1Gi", secrets=STORES)
def train_ensemble(
    train: Input[Dataset],
    model: Output[Model],
    validation_metrics: Output[Metrics],
    ensemble_report: Output[HTML],
    label: str,
    validation: Input[Dataset] = None,  # type: ignore[assignment] # kfp's form of an optional one
    trial_table: Input[Dataset] = None,  # type: ignore[assignment]
    task: str = "classification",
    members: Optional[list] = None,
    folds: int = 0,
    group_by: Optional[str] = None,
    time_column: Optional[str] = None,
    metric: Optional[str] = None,
    calibrate: bool = True,
    threshold: Optional[dict] = None,
    max_seconds: float = 0.0,
    exclude_columns: Optional[list[str]] = None,
    weight_column: Optional[str] = None,
    class_weight: Optional[str] = None,
    early_stopping_rounds: int = 50,
    seed: int = 0,
) -> NamedTuple("Outputs", [("estimator", str), ("metric", str), ("score", float)]):  # type: ignore[valid-type]
    """Train several estimators and combine them into one model of raw rows: their weighted mean.

    Members are compared on held-out rows: the validation table, or the folds of a cross-validation. Greedy
    selection finds their weights there; a single member may win. Members with a weight are trained again on
    all rows, including validation, boosted trees for the mean number of rounds that early stopping kept.
    Probabilities are calibrated if that lowers the log loss on held-out rows. A member that can't be trained
    on these rows is left out, with the reason.

    Args:
        train: Raw rows to learn from.
        model: MLflow model directory that takes raw rows; one ONNX graph for servers.
        validation_metrics: Metrics of the ensemble on the held-out rows.
        ensemble_report: HTML page: leaderboard of the members with weight, interval and cost, calibration,
            threshold, and members left out with the reasons.
        label: Column to predict.
        validation: Raw rows that members are compared on. If not given, they are cross-validated on the
            training rows.
        trial_table: Trials of tune_model; the best two configurations of each estimator are members.
        task: What is learned, classification or regression.
        members: Estimators, each by its name (as for train_sklearn) or as a mapping of estimator, parameters
            and seconds (its time limit; 300 if there are several). Default: those of trial_table, else
            three shapes of LGBM, Linear, RandomForest and ExtraTrees.
        folds: Number of folds without a validation table; 0 stands for 5.
        group_by: Column whose equal values stay in one fold; what split_table kept together does anyway.
        time_column: Column by which each fold is validated on rows later than those it trains on; if not
            given, the one that split_table split by.
        metric: Metric to optimize; if not given, rmse for regression, and for classification roc_auc, or
            average_precision if one of two classes has fewer than 5 % of the rows.
        calibrate: Whether to calibrate the probabilities of a classification: by temperature, Platt's method
            or isotonic regression, whichever has the lowest log loss in cross-fitting, if any lowers it.
        threshold: How to choose the probability from which the positive one of two classes is predicted, on
            the held-out rows: metric (f1, balanced_accuracy or mcc), or false_positive_cost and
            false_negative_cost, or min_recall (for the highest precision), or min_precision. Default: the
            more probable class is predicted.
        max_seconds: Seconds after which no further member is tried; 0 for no limit.
        exclude_columns: Columns to exclude from the features, such as identifiers.
        weight_column: Column of sample weights, numbers of 0 or more, for training, calibration and
            threshold; not a feature.
        class_weight: "balanced" to weight classes inversely to their frequency in training; none if not
            given. Calibrated probabilities are those of the rows as they are: to find more of a rare class,
            give a threshold.
        early_stopping_rounds: Boosting stops when the validation loss hasn't improved for this many rounds;
            0 to train them all.
        seed: Seed of the folds and the training.

    Returns:
        estimator: Class name of the model's estimator: a voting one for several members.
        metric: The metric that was optimized.
        score: The metric of the ensemble on the held-out rows.
    """
    from flowparts import tables
    from flowparts.models import baseline
    from flowparts.train import calibration, ensemble, portfolio
    from flowparts.train import ensemble_report as report
    from flowparts.train.candidates import Options
    from flowparts.train.problem import Problem
    from flowparts.util import metadata, names, outputs

    problem = Problem(
        label=label,
        task=task,
        options=Options(class_weight or None, weight_column or None, early_stopping_rounds or None, seed),
        metric=metric or None,
        folds=folds,
        group_by=group_by or None,
        time_column=time_column or None,
        exclude_columns=names.texts(exclude_columns, "exclude_columns"),
    )
    entries = members or []
    if trial_table is not None and not entries:
        entries = portfolio.members_of_trials(tables.scan(trial_table.path))
    ensemble.check(problem, entries, threshold, max_seconds, validated=validation is not None)
    chosen_by = None if validation is None else validation.path
    problem = problem.split_as(tables.description(train.path), validated=validation is not None)
    held_out = None if chosen_by is None else tables.scan(chosen_by)
    with problem.compared(tables.scan(train.path), held_out) as rows:
        methods = calibration.METHODS if calibrate else ()
        made = ensemble.fit(rows, entries, calibrate=methods, threshold=threshold, max_seconds=max_seconds)
    stored = made.save(
        model.path, lambda folder: baseline.record(folder, train.path, chosen_by, made.trained.predictions)
    )
    metadata.describe(model, stored)
    metadata.log_metrics(validation_metrics, stored["validation"])
    outputs.write_text(ensemble_report.path, report.page(made))
    return stored["estimator"], stored["metric"], stored["validation"][stored["metric"]]
