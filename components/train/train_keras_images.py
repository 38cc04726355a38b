from typing import Optional

from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from .. import STORES, runs_in


@runs_in("tensorflow", cpu="2", memory="4Gi", memory_request="1Gi", secrets=STORES)
def train_keras_images(
    train: Input[Dataset],
    validation: Input[Dataset],
    model: Output[Model],
    validation_metrics: Output[Metrics],
    training_report: Output[HTML],
    label: str = "label",
    image_column: str = "image",
    weights: Optional[str] = None,
    height: int = 64,
    width: int = 64,
    channels: int = 3,
    blocks: int = 2,
    filters: int = 16,
    dropout: float = 0.2,
    augment: float = 0.1,
    class_weight: Optional[str] = None,
    learning_rate: float = 0.003,
    schedule: str = "cosine",
    batch_size: int = 64,
    epochs: int = 20,
    patience: int = 5,
    checkpoints: Optional[str] = None,
    checkpoint_seconds: float = 30.0,
    seed: int = 0,
) -> None:
    """Train a convolutional network on encoded images, from scratch or from pretrained weights.

    Images are read and decoded in chunks, so memory doesn't grow with the table. A step that was interrupted
    resumes from its last checkpoint. If TF_CONFIG names several workers, they train together and the first
    one writes.

    Args:
        train: Images to learn from.
        validation: Images for early stopping and scoring.
        model: MLflow model directory that takes encoded images (base64 in JSON), decoded and resized as its
            metadata says; the ONNX graph, the Keras archive and the SavedModel in it take the pixels.
        validation_metrics: Metrics on the validation table.
        training_report: HTML page with the learning curves.
        label: Column to predict.
        image_column: Column of encoded images.
        weights: Path or URI of a .keras archive to start from, a network that takes pixels from 0 to 255; its
            last layer is replaced, and its image size and layers override the options for these.
        height: Height in pixels that images are resized to.
        width: Width in pixels that images are resized to.
        channels: 3 for colour, 1 for grey.
        blocks: Blocks of two convolutions and a pooling that halves the image.
        filters: Filters of the first block; each further block has twice as many.
        dropout: Dropout rate after the last block, in [0, 1).
        augment: Maximum random shift and zoom of training images, as a fraction of their size; they are also
            rotated by up to a tenth of it, in full turns. From 0 to 0.5.
        class_weight: "balanced" to weight classes inversely to their frequency; none if not given.
        learning_rate: Initial learning rate (Adam).
        schedule: "cosine" to lower the learning rate to 0 over all epochs, or "constant".
        batch_size: Images per training step.
        epochs: Maximum number of epochs.
        patience: Epochs without a lower validation loss after which training stops; 0 for all epochs.
        checkpoints: Path or URI of a folder for checkpoints that outlives the step; several workers must
            share it. Default: the folder in FLOWPARTS_CHECKPOINTS, which run.py sets, else beside the model,
            which a step that is retried in another pod doesn't see; none with several workers.
        checkpoint_seconds: Minimum seconds between two checkpoints.
        seed: Seed of the initial weights, the order of the images, augmentation and dropout.
    """
    from flowparts import tables
    from flowparts.models import baseline
    from flowparts.train.networks import image_model, training
    from flowparts.util import images, metadata, outputs

    trained = image_model.train_and_save(
        tables.scan(train.path),
        tables.scan(validation.path),
        model.path,
        column=image_column,
        label=label,
        class_weight=class_weight or None,
        weights=weights or None,
        shape=image_model.Shape(images.Size(height, width, channels), blocks, filters, dropout, augment),
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
