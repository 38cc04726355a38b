from typing import NamedTuple, Optional

from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from .. import STORES, runs_in


# One image for both trainers: which one it is can't be known when the pipeline is compiled.
@runs_in("tensorflow", cpu="2", memory="4Gi", memory_request="1Gi", secrets=STORES)
def train_tabular(
    train: Input[Dataset],
    validation: Input[Dataset],
    model: Output[Model],
    validation_metrics: Output[Metrics],
    training_report: Output[HTML],
    label: str,
    task: str = "classification",
    trainer: str = "sklearn",
    effort: str = "quick",
    candidates: Optional[list] = None,
    network: Optional[dict] = None,
    metric: Optional[str] = None,
    exclude_columns: Optional[list[str]] = None,
    weight_column: Optional[str] = None,
    class_weight: Optional[str] = None,
    early_stopping_rounds: int = 0,
    seed: int = 0,
) -> NamedTuple("Outputs", [("estimator", str), ("metric", str), ("score", float)]):  # type: ignore[valid-type]
    """Train the best of several estimators, or a neural network, as one model of raw rows.

    With effort, estimators and parameters are chosen automatically, and the best model is trained again on
    training and validation rows together; its validation metrics were measured before that. Candidates are
    trained one after another on the training rows, each on all processors, and the one that scores best on
    the validation table is used without training it again. On large tables, forests get fewer leaves, and
    fewer rows for each tree, unless set by parameters. An estimator that can't be trained on these rows, or
    takes longer than its seconds, is left out with the reason as long as another one succeeds. A network is
    trained as by train_keras_tabular. Options are checked before any row is read. Before training, the step
    warns of columns that alone predict the label or look like an identifier. The model stores which rows it
    has seen.

    Args:
        train: Raw rows to learn from.
        validation: Raw rows to choose by, which early stopping watches.
        model: MLflow model directory that takes raw rows; its metadata lists the candidates, best first.
        validation_metrics: The model's metrics on the validation table.
        training_report: HTML page: a leaderboard of all estimators that were tried, or the learning curves of
            a network.
        label: Column to predict.
        task: What is learned, classification or regression.
        trainer: sklearn for the best of several estimators, or keras for a neural network.
        effort: For sklearn without candidates: how much to try. quick costs about as much as four common
            estimators: a weighted mean of boosted trees of several shapes and a linear model, below 5,000
            rows also of a forest, cross-validated. standard adds a search of up to 30 trials or 10
            minutes and weights more members; thorough has up to 150 trials or an hour, more estimators, and a
            cross-validation below 50,000 rows. Text columns whose values hardly recur in the validation rows
            are left out, with a warning.
        candidates: For sklearn: estimators to try instead, each by its name, or as a mapping of estimator (as
            for train_sklearn), parameters and seconds (its time limit; 300 if there are several).
        network: For keras: options other than the defaults, as train_keras_tabular takes them, such as
            epochs, layers, units and checkpoints.
        metric: Validation metric to choose by; if not given, rmse for regression, and for classification
            roc_auc, or average_precision if one of two classes has fewer than 5 % of the rows.
        exclude_columns: Columns to exclude from the features, such as identifiers.
        weight_column: Column of sample weights, numbers of 0 or more; not a feature.
        class_weight: "balanced" to weight classes inversely to their frequency; none if not given.
        early_stopping_rounds: For candidates: stop when the validation loss hasn't improved for this many
            rounds; XGB, LGBM and HistGradientBoosting only. 0 to train them all.
        seed: Seed of the preprocessing and the training.

    Returns:
        estimator: Class name of the model's estimator.
        metric: The validation metric that it was chosen by.
        score: The model's validation metric.
    """
    from flowparts import models, tables
    from flowparts.models import baseline
    from flowparts.train import trainers
    from flowparts.train.candidates import Options
    from flowparts.train.problem import Problem
    from flowparts.tune import effort as efforts
    from flowparts.util import metadata, names, outputs

    problem = Problem(
        label=label,
        task=task,
        options=Options(class_weight or None, weight_column or None, early_stopping_rounds or None, seed),
        metric=metric or None,
        exclude_columns=names.texts(exclude_columns, "exclude_columns"),
    )
    trainers.check(trainer, effort, bool(candidates))
    rows = tables.scan(train.path), tables.scan(validation.path)
    if trainer == "sklearn" and not candidates:
        page, chosen_by = efforts.train(
            *rows,
            model.path,
            problem,
            effort=effort,
            described=tables.description(train.path),
            complete=lambda folder, held_out: baseline.record(folder, train.path, validation.path, held_out),
        )
    else:
        page, chosen_by = trainers.train(
            *rows,
            model.path,
            problem,
            trainer=trainer,
            entries=candidates or [],
            network=network,
            complete=lambda folder: baseline.record(folder, train.path, validation.path),
        )
    stored = models.metadata(model.path)
    metadata.describe(model, stored)
    metadata.log_metrics(validation_metrics, stored["validation"])
    outputs.write_text(training_report.path, page)
    return stored["estimator"], chosen_by, stored["validation"][chosen_by]
