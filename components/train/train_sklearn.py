from typing import Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from .. import runs_in


@runs_in("sklearn", cpu="2", memory="4Gi", memory_request="768Mi")
def train_sklearn(
    train_features: Input[Dataset],
    validation_features: Input[Dataset],
    preprocessor: Input[Artifact],
    model: Output[Model],
    validation_metrics: Output[Metrics],
    training_report: Output[HTML],
    estimator: str,
    parameters: Optional[dict] = None,
    class_weight: Optional[str] = None,
    weight_column: Optional[str] = None,
    early_stopping_rounds: int = 0,
    seed: int = 0,
) -> None:
    """Train an estimator on a table of features and store it with its preprocessing as one model of raw rows.

    Args:
        train_features: Transformed training rows from fit_preprocessor.
        validation_features: Transformed validation rows, for scoring and early stopping.
        preprocessor: What fit_preprocessor learned; it knows the label and the task.
        model: MLflow model directory that takes raw rows; weights as skops, no pickle.
        validation_metrics: Metrics on the validation table.
        training_report: HTML page with the metrics, what the model costs and its parameters.
        estimator: Class name of scikit-learn, XGBoost or LightGBM, such as RandomForestClassifier; or the
            family for the task at hand: RandomForest, HistGradientBoosting, XGB, LGBM, Linear.
        parameters: Parameters of its constructor. For a parameter that takes an estimator, give its name, or
            a dict with its name and parameters.
        class_weight: "balanced" to weight classes inversely to their frequency; none if not given.
        weight_column: Column of sample weights, as given to fit_preprocessor.
        early_stopping_rounds: Stop when the validation loss hasn't improved for this many rounds; for
            XGB, LGBM and HistGradientBoosting. 0 to train them all.
        seed: Random state of the estimator.
    """
    from flowparts import tables
    from flowparts.models import baseline
    from flowparts.prepare import preprocess
    from flowparts.train import candidates, estimators, selection
    from flowparts.util import metadata, outputs

    options = candidates.Options(
        class_weight or None, weight_column or None, early_stopping_rounds or None, seed
    )
    learned = preprocess.load(preprocessor.path)
    (untrained,) = candidates.build(
        [{"estimator": estimator, "parameters": parameters}], learned.task, options
    )
    train = estimators.examples(tables.scan(train_features.path), learned, options.weight_column)
    held_out = estimators.examples(tables.scan(validation_features.path), learned, options.weight_column)
    trained = candidates.train(untrained, learned, train, held_out)
    stored = trained.save(
        model.path,
        learned,
        train,
        lambda folder: baseline.carry_over(preprocessor.path, folder, trained.predictions),
    )
    metadata.describe(model, stored)
    metadata.log_metrics(validation_metrics, trained.facts["validation"])
    outputs.write_text(training_report.path, selection.training_report(trained.measured()))
