from typing import Optional

from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from .. import STORES, runs_in


@runs_in("tensorflow", cpu="2", memory="4Gi", memory_request="1Gi", secrets=STORES)
def train_keras_tabular(
    train: Input[Dataset],
    validation: Input[Dataset],
    model: Output[Model],
    validation_metrics: Output[Metrics],
    training_report: Output[HTML],
    label: str,
    task: str = "classification",
    exclude_columns: Optional[list[str]] = None,
    weight_column: Optional[str] = None,
    class_weight: Optional[str] = None,
    layers: int = 2,
    units: int = 64,
    dropout: float = 0.1,
    learning_rate: float = 0.003,
    schedule: str = "cosine",
    batch_size: int = 64,
    epochs: int = 40,
    patience: int = 8,
    max_categories: int = 10_000,
    checkpoints: Optional[str] = None,
    checkpoint_seconds: float = 30.0,
    seed: int = 0,
) -> None:
    """Train a neural network on raw rows and store it with its preprocessing as one model.

    Rows are read in chunks, so memory doesn't grow with the table. A step that was interrupted resumes from
    its last checkpoint. If TF_CONFIG names several workers, they train together and the first one writes.

    Args:
        train: Raw rows to learn from.
        validation: Raw rows for early stopping and scoring.
        model: MLflow model directory that takes raw rows: ONNX, a Keras archive and a SavedModel that agree.
        validation_metrics: Metrics on the validation table.
        training_report: HTML page with the learning curves.
        label: Column to predict.
        task: What is learned, classification or regression.
        exclude_columns: Columns to exclude from the features, such as identifiers.
        weight_column: Column of sample weights, numbers of 0 or more; not a feature.
        class_weight: "balanced" to weight classes inversely to their frequency; none if not given.
        layers: Hidden layers.
        units: Units of each hidden layer.
        dropout: Dropout rate, in [0, 1).
        learning_rate: Initial learning rate (Adam).
        schedule: "cosine" to lower the learning rate to 0 over all epochs, or "constant".
        batch_size: Rows per training step.
        epochs: Maximum number of epochs.
        patience: Epochs without a lower validation loss after which training stops; 0 for all epochs.
        max_categories: Maximum vocabulary size per text column; the most frequent values are kept.
        checkpoints: Path or URI of a folder for checkpoints that outlives the step; several workers must
            share it. Default: the folder in FLOWPARTS_CHECKPOINTS, which run.py sets, else beside the model,
            which a step that is retried in another pod doesn't see; none with several workers.
        checkpoint_seconds: Minimum seconds between two checkpoints.
        seed: Seed of the initial weights, the order of the rows and dropout.
    """
    from flowparts import tables
    from flowparts.models import baseline
    from flowparts.train.networks import tabular_model, training
    from flowparts.util import metadata, names, outputs

    trained = tabular_model.train_and_save(
        tables.scan(train.path),
        tables.scan(validation.path),
        model.path,
        label=label,
        task=task,
        exclude_columns=names.texts(exclude_columns, "exclude_columns"),
        weight_column=weight_column or None,
        class_weight=class_weight or None,
        shape=tabular_model.Shape(layers, units, dropout, max_categories),
        options=training.Options(
            epochs, batch_size, learning_rate, schedule, patience, seed, checkpoint_seconds
        ),
        checkpoints=checkpoints or None,
        complete=lambda folder: baseline.record(folder, train.path, validation.path),
    )
    if trained is None:
        return
    stored, page = trained
    metadata.describe(model, stored)
    metadata.log_metrics(validation_metrics, stored["validation"])
    outputs.write_text(training_report.path, page)
