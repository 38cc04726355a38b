from typing import Optional

from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from .. import runs_in


@runs_in("sklearn", cpu="2", memory="4Gi", memory_request="768Mi")
def train_sklearn(
    train_features: Input[Dataset],
    validation_features: Input[Dataset],
    preprocessor: Input[Artifact],
    model: Output[Model],
    metrics: Output[Metrics],
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
        validation_features: Transformed validation rows; scored, and watched by early stopping.
        preprocessor: What fit_preprocessor learned; it knows the label and the task.
        model: MLflow model directory that takes raw rows; weights as skops, no pickle.
        metrics: Metrics on the validation table.
        estimator: Class name of scikit-learn, XGBoost or LightGBM, such as RandomForestClassifier; or the
            family for the task at hand: RandomForest, HistGradientBoosting, XGB, LGBM, Linear.
        parameters: Parameters of its constructor. Where an estimator is wanted, give its name, or a
            dict with its name and parameters.
        class_weight: "balanced" to weigh each class by the inverse of its share; none if not given.
        weight_column: Column of sample weights, as given to fit_preprocessor.
        early_stopping_rounds: Stop when the validation loss has not improved for so many rounds; for
            XGB, LGBM and HistGradientBoosting. 0 to train them all.
        seed: Random state of the estimator.
    """
    from flowparts import estimators, lineage, metadata, models, outputs, preprocess, tables
    from flowparts.metrics import score

    class_weight, weight_column = class_weight or None, weight_column or None
    learned = preprocess.load(preprocessor.path)
    untrained = estimators.build(
        estimator,
        learned.task,
        parameters,
        class_weight=class_weight,
        weighted=weight_column is not None,
        early_stopping_rounds=early_stopping_rounds or None,
        seed=seed,
    )
    train = estimators.examples(tables.scan(train_features.path), learned, weight_column)
    validation = estimators.examples(tables.scan(validation_features.path), learned, weight_column)
    trained = estimators.fit(untrained, train, validation, class_weight, early_stopping_rounds or None)

    predicted = models.predictions(trained, validation.matrix, learned.classes)
    scores = score(learned.task, validation.truth, predicted, learned.classes)
    stored = models.save(
        model.path,
        trained,
        preprocessor=learned,
        task=learned.task,
        label=learned.label,
        classes=learned.classes,
        metadata={
            "estimator": type(untrained).__name__,
            "parameters": estimators.described(untrained, parameters),
            "class_weight": class_weight,
            "early_stopping_rounds": early_stopping_rounds,
            "training_fingerprint": learned.training_fingerprint,
            "git_commit": lineage.git_commit(),
            "validation": scores,
        },
        train_features=train.matrix,
    )
    metadata.describe(model, stored)
    for name, value in scores.items():
        metrics.log_metric(name, value)
    outputs.write_json(metrics.path, scores)
