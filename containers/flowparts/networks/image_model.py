"""Trains a network on a table of encoded images and stores it as a model directory that takes such images."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import images, models, outputs, preprocess, sources, tables
from flowparts.images import Size
from flowparts.metrics import score
from flowparts.networks import archive, feed, image, onnx_export, saved_model, target, training
from flowparts.networks.checkpoints import Checkpoints
from flowparts.networks.tabular_model import predictions

_EXAMPLE_ROWS = 3
_PARITY_ROWS = 200
_EVALUATED_AT_ONCE = 256
# Encoded images and pixels that are shuffled together in memory.
_POOL_BYTES = 256 << 20
_LEAST_POOL_ROWS = 64


@dataclass(frozen=True)
class Shape:
    """What a convolutional network looks like, and how its images are varied.

    Attributes:
        size: The pixels it takes.
        blocks: Blocks of two convolutions and a pooling.
        filters: Filters of the first block, twice as many in each further one.
        dropout: Share of the last block's answers left out at random while training.
        augment: How far images are moved, scaled and turned at random while training.
    """

    size: Size
    blocks: int
    filters: int
    dropout: float
    augment: float

    def __post_init__(self) -> None:
        """Raise ValueError unless every option makes sense."""
        for name in ("blocks", "filters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1, not {self.dropout:g}")
        if not 0 <= self.augment <= 0.5:
            raise ValueError(f"augment must be from 0 to 0.5, not {self.augment:g}")
        image.check_blocks(self.size, self.blocks)


@dataclass(frozen=True)
class Network:
    """A trained network of images.

    Attributes:
        model: The Keras model of pixels, without what varies them while training.
        size: The pixels it takes.
        target: What was learned of the label.
        trained: How training went.
        scores: Metric to value on the validation table.
        facts: What the model's metadata says of the training.
        checkpoints: Where training states are, until all is written.
        column: The image column.
        example: A few images.
        held_out: Images of the validation table that exports are checked with.
    """

    model: Any
    size: Size
    target: target.Target
    trained: training.Trained
    scores: dict[str, float]
    facts: dict[str, Any]
    checkpoints: Checkpoints | None
    column: str
    example: pl.DataFrame
    held_out: pl.DataFrame


def train(
    table: pl.LazyFrame,
    validation: pl.LazyFrame,
    *,
    column: str,
    label: str,
    class_weight: str | None,
    weights: str | None,
    shape: Shape,
    options: training.Options,
    checkpoints: str | None,
) -> Network:
    """Train a network on encoded images, read piece by piece.

    Args:
        table: Training images.
        validation: Images that early stopping watches and that the network is scored with.
        column: The column of encoded images.
        label: The column to predict.
        class_weight: "balanced" to weigh each class by the inverse of its share.
        weights: Path or URI of a .keras archive to start from; its own size of images counts.
        shape: What the network looks like.
        options: How it is trained.
        checkpoints: A path or URI of a folder for training states, which all workers share; None to keep
            none.

    Raises:
        ValueError: An option or a table's content makes training impossible; the sentence says how.
    """
    _require_images(table, column)
    classes = preprocess.check_label(table, label, "classification") or []
    preprocess.check_held_out(
        validation, [column], label, "classification", classes, None, "the validation table"
    )
    _require_images(validation, column)
    goal = target.learn(table, label, classes, class_weight, None)
    fingerprint = tables.fingerprint(table.select(column, label))
    spread = training.start(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        start = _fetched(weights, Path(scratch)) if weights else None
        size = image.body_of(start, sources.shown(str(weights)))[1] if start else shape.size

        def network(augment: float) -> Any:
            if start:
                body, _ = image.body_of(start, sources.shown(str(weights)))
                return image.fine_tuned(body, size, shape.dropout, len(classes), augment)
            precision = training.precision()
            return image.convolutional(
                size, shape.blocks, shape.filters, shape.dropout, len(classes), augment, precision
            )

        def rows(frame: pl.LazyFrame) -> feed.Rows:
            def convert(some: pl.DataFrame) -> Any:
                return (
                    {"image": images.pixels(some[column].to_list(), size)},
                    goal.numbers(some[label]),
                    goal.weights(some),
                )

            return feed.Rows(frame, [column, label], convert, _pool_rows(frame, column, size))

        run = {"data": fingerprint, "weights": weights, **asdict(shape), **asdict(options), **asdict(goal)}
        states = Checkpoints(checkpoints, {**run, "workers": training.workers()}) if checkpoints else None
        seeds = training.Seeds(options.seed)
        learning, watching = rows(table), rows(validation)
        trained = training.fit(
            spread,
            lambda: network(shape.augment),
            feed.dataset(learning, options.batch_size, seeds, even=training.workers() > 1),
            feed.dataset(watching, _EVALUATED_AT_ONCE),
            learning.count,
            options,
            states,
            "sparse_categorical_crossentropy",
            ["accuracy"],
            seeds,
        )
        model = network(0.0)
        model.set_weights(trained.model.get_weights())
    answers = model.predict(feed.dataset(watching, _EVALUATED_AT_ONCE), verbose=0)
    truth = validation.select(label).collect(engine="streaming").to_series()
    scores = score("classification", truth, predictions(answers, classes), classes)
    facts = {
        "estimator": "KerasFineTunedNetwork" if weights else "KerasConvolutionalNetwork",
        "parameters": {**asdict(shape), **options.described(), "size": asdict(size)},
        "started_from": sources.shown(weights) if weights else None,
        "best_epoch": trained.best_epoch,
        "epochs_done": len(trained.history["loss"]),
        "training_fingerprint": fingerprint,
        "validation": scores,
    }
    example = table.select(column).head(_EXAMPLE_ROWS).collect(engine="streaming")
    held_out = validation.select(column).head(_PARITY_ROWS).collect(engine="streaming")
    return Network(model, size, goal, trained, scores, facts, states, column, example, held_out)


def save(network: Network, path: str | Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Write a model directory that appears whole or not at all.

    It holds the network three times: `model.onnx`, which `models.load` scores with after decoding and
    resizing encoded images as the graph's metadata says; `model.keras` and `saved_model`, which take pixels
    (uint8: images, height, width, channels). The three must agree.

    Returns:
        The metadata as stored.

    Raises:
        ValueError: An export answers otherwise than the network.
    """
    size, classes, column = network.size, list(network.target.classes or []), network.column
    shape = (size.height, size.width, size.channels)
    graph = onnx_export.graph(network.model, {"image": (shape, "uint8")}, "probabilities")
    onnx_export.rename(graph.graph, {graph.graph.input[0].name: column})
    pixels = images.pixels(network.held_out[column].to_list(), size)
    expected = predictions(network.model.predict({"image": pixels}, verbose=0), classes)
    with outputs.whole(path) as partial:
        stored = models.save_onnx(
            partial,
            graph.SerializeToString(deterministic=True),
            features={column: "image"},
            example=network.example,
            task="classification",
            label=network.target.label,
            classes=classes,
            metadata={
                **network.facts,
                **metadata,
                "framework": "tensorflow",
                "takes": {
                    "predict": "encoded images (BMP, GIF, JPEG, PNG, TIFF, WebP), in JSON as base64",
                    "model.onnx": "uint8 pixels: images, height, width, channels",
                    **asdict(size),
                },
            },
            image_size=size,
        )
        _write_saved_model(network.model, column, shape, classes, partial / "saved_model")
        archive.save(network.model, partial / "model.keras")
        scored = models.load(partial).predict(network.held_out)
        served = pl.DataFrame(saved_model.predict(partial / "saved_model", {column: pixels}))
        onnx_export.require_parity(expected, scored, "ONNX")
        onnx_export.require_parity(expected, served, "SavedModel")
    return stored


def _write_saved_model(
    model: Any, column: str, shape: tuple[int, int, int], classes: list[Any], folder: Path
) -> None:
    import tensorflow as tf

    def answer(pixels: Any) -> list[Any]:
        found = model({"image": pixels}, training=False)
        best = tf.gather(tf.constant(classes), tf.argmax(found, axis=1))
        return [best, *(found[:, index] for index in range(len(classes)))]

    specs = {column: tf.TensorSpec([None, *shape], tf.uint8)}
    names = ["prediction", *(f"probability_{value}" for value in classes)]
    saved_model.write(answer, specs, names, model, folder)


def _require_images(frame: pl.LazyFrame, column: str) -> None:
    tables.require_columns(frame, [column], "image column")
    dtype = frame.collect_schema()[column]
    if dtype != pl.Binary:
        raise ValueError(
            f"image column {column!r} holds {dtype}, not encoded images; make the table with ingest_images"
        )
    missing = frame.select(pl.col(column).null_count()).collect(engine="streaming").item()
    if missing:
        raise ValueError(f"image column {column!r} is missing in {missing} rows; drop these rows")


def _pool_rows(frame: pl.LazyFrame, column: str, size: Size) -> int:
    encoded = frame.select(pl.col(column).bin.size().mean()).collect(engine="streaming").item() or 0
    pixels = size.height * size.width * size.channels
    # A piece is read, decoded and put in another order.
    return max(_LEAST_POOL_ROWS, int(_POOL_BYTES / (encoded + 2 * pixels)))


def _fetched(weights: str, scratch: Path) -> Path:
    files = sources.fetch(weights, scratch)
    if len(files) != 1:
        raise ValueError(
            f"weights {sources.shown(weights)!r} names {len(files)} files, not one .keras archive"
        )
    return files[0].path
