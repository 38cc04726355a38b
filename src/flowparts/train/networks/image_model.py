"""Train a network on a table of encoded images, and store it as a model directory that takes such images."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import models, tables
from flowparts.models import mlmodel
from flowparts.prepare import preprocess
from flowparts.train.networks import (
    archive,
    feed,
    finishing,
    graph_export,
    image,
    label_encoding,
    saved_model,
    training,
)
from flowparts.train.networks.checkpoints import Checkpoints, place
from flowparts.train.networks.finishing import predictions
from flowparts.util import images, masking, outputs, sources
from flowparts.util.images import Size

_EXAMPLE_ROWS = 3
_PARITY_ROWS = 200
_EVALUATED_AT_ONCE = 256
# Encoded images and pixels that are shuffled together in memory.
_POOL_BYTES = 256 << 20
_LEAST_POOL_ROWS = 64
# The SavedModel's signature that takes pixels.
_PIXELS = "pixels"


@dataclass(frozen=True)
class Shape:
    """Architecture of a convolutional network, and its augmentation.

    Attributes:
        size: Size of its images in pixels.
        blocks: Blocks of two convolutions and a pooling.
        filters: Filters of the first block, twice as many in each further one.
        dropout: Dropout rate after the last block, in [0, 1).
        augment: Maximum random shift, zoom and rotation while training.
    """

    size: Size
    blocks: int
    filters: int
    dropout: float
    augment: float

    def __post_init__(self) -> None:
        """Raise ValueError if an option is out of range."""
        training.require_at_least_one(self, "blocks", "filters")
        training.require_dropout(self.dropout)
        if not 0 <= self.augment <= 0.5:
            raise ValueError(f"augment must be from 0 to 0.5, not {self.augment:g}")
        image.check_blocks(self.size, self.blocks)


@dataclass(frozen=True, kw_only=True)
class Network(finishing.Network):
    """A trained network of images.

    Attributes:
        model: The Keras model of pixels, without the augmentation layers.
        size: The image size that it takes.
        column: The image column.
    """

    model: Any
    size: Size
    column: str


def train_and_save(
    table: pl.LazyFrame,
    validation: pl.LazyFrame,
    path: str | Path,
    *,
    column: str,
    label: str,
    class_weight: str | None,
    weights: str | None,
    shape: Shape,
    options: training.Options,
    checkpoints: str | None = None,
    complete: Callable[[Path], None] | None = None,
) -> tuple[mlmodel.Card, str] | None:
    """Train a network as `train` does and write its model directory.

    Args:
        table: Training images.
        validation: Images for early stopping and scoring.
        path: The model directory to make.
        column: The column of encoded images.
        label: The column to predict.
        class_weight: "balanced" to weight classes inversely to their frequency.
        weights: As for `train`.
        shape: Architecture of the network.
        options: How it is trained.
        checkpoints: A folder for training states, as for `checkpoints.place`; cleared at the end.
        complete: As for `models.save`.

    Returns:
        The model's metadata, and a page with the learning curves. None in all workers but the first, which
        alone writes.

    Raises:
        ValueError: As `train` and `save`.
    """
    network = train(
        table,
        validation,
        column=column,
        label=label,
        class_weight=class_weight,
        weights=weights,
        shape=shape,
        options=options,
        checkpoints=place(checkpoints, path, training.workers()),
    )
    subject = f"classification of {label}"
    write = partial(save, complete=complete)
    return finishing.write(network, write, path, class_weight=class_weight, options=options, subject=subject)


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
    """Train a network on encoded images, read in chunks.

    Args:
        table: Training images.
        validation: Images for early stopping and scoring.
        column: The column of encoded images.
        label: The column to predict.
        class_weight: "balanced" to weigh each class by the inverse of its share.
        weights: Path or URI of a .keras archive to start from; its image size overrides that of `shape`.
        shape: Architecture of the network.
        options: How it is trained.
        checkpoints: A path or URI of a folder for training states, which all workers share; None to keep
            none.

    Raises:
        ValueError: An option or a table's content makes training impossible; the sentence says how.
    """
    _require_images(table, column)
    tables.require_rows(table, "the training table")
    classes = preprocess.check_label(table, label, "classification") or []
    preprocess.check_held_out(
        validation, [column], label, "classification", classes, None, "the validation table"
    )
    _require_images(validation, column)
    labels = label_encoding.learn(table, label, classes, class_weight, None)
    fingerprint = tables.fingerprint(tables.select(table, [column, label]))
    spread = training.start(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        start = _fetched(weights, Path(scratch)) if weights else None
        size = image.body_of(start, masking.shown(str(weights)))[1] if start else shape.size

        def network(policy: str, augment: float) -> Any:
            if start:
                body, _ = image.body_of(start, masking.shown(str(weights)))
                return image.fine_tuned(body, size, shape.dropout, len(classes), augment)
            return image.convolutional(
                size, shape.blocks, shape.filters, shape.dropout, len(classes), augment, policy
            )

        def rows(frame: pl.LazyFrame) -> feed.Rows:
            def convert(some: pl.DataFrame) -> Any:
                return (
                    {"image": images.pixels(some[column].to_list(), size)},
                    labels.numbers(some[label]),
                    labels.weights(some),
                )

            return feed.Rows(frame, [column, label], convert, _pool_rows(frame, column, size))

        run = {"data": fingerprint, "weights": weights, **asdict(shape), **asdict(options), **asdict(labels)}
        states = Checkpoints(checkpoints, {**run, "workers": training.workers()}) if checkpoints else None
        seeds = training.Seeds(options.seed)
        learning, watching = rows(table), rows(validation)
        trained = training.fit(
            spread,
            lambda policy: network(policy, shape.augment),
            feed.dataset(learning, options.batch_size, seeds, even=training.workers() > 1),
            feed.dataset(watching, _EVALUATED_AT_ONCE),
            learning.count,
            options,
            states,
            "sparse_categorical_crossentropy",
            ["accuracy"],
            seeds,
        )
        model = network("float32", 0.0)
        model.set_weights(trained.model.get_weights())
    answers = model.predict(feed.dataset(watching, _EVALUATED_AT_ONCE), verbose=0)
    facts = {
        "estimator": "KerasFineTunedNetwork" if weights else "KerasConvolutionalNetwork",
        "parameters": {**asdict(shape), **options.described(), "size": asdict(size)},
        "started_from": masking.shown(weights) if weights else None,
        "training_fingerprint": fingerprint,
        **finishing.facts(trained, labels, answers, table, validation),
    }
    return Network(
        model=model,
        size=size,
        column=column,
        labels=labels,
        trained=trained,
        facts=facts,
        checkpoints=states,
        example=tables.select(table, [column]).head(_EXAMPLE_ROWS).pipe(tables.collect),
        held_out=tables.select(validation, [column]).head(_PARITY_ROWS).pipe(tables.collect),
    )


def save(
    network: Network,
    path: str | Path,
    metadata: dict[str, Any],
    complete: Callable[[Path], None] | None = None,
) -> mlmodel.Card:
    """Write a model directory atomically.

    It holds the network three times: `model.onnx`, which `models.load` scores with after decoding and
    resizing encoded images as the graph's metadata says; `saved_model`, whose default signature decodes and
    resizes by itself, with TensorFlow's decoders, and whose signature "pixels" takes pixels (uint8: images,
    height, width, channels); and `model.keras`, which takes pixels. On pixels the three must agree; how far
    TensorFlow's decoding moves a probability is noted.

    Returns:
        The metadata as stored.

    Raises:
        ValueError: An export's predictions differ from the network's.
    """
    size, classes, column = network.size, list(network.labels.classes or []), network.column
    shape = (size.height, size.width, size.channels)
    graph = graph_export.graph(network.model, {"image": (shape, "uint8")}, "probabilities")
    graph_export.rename(graph.graph, {graph.graph.input[0].name: column})
    pixels = images.pixels(network.held_out[column].to_list(), size)
    expected = predictions(network.model.predict({"image": pixels}, verbose=0), classes)
    with tempfile.TemporaryDirectory() as scratch, outputs.atomic(path) as partial:
        servable = Path(scratch) / "saved_model"
        _write_saved_model(network.model, column, size, classes, servable)
        served = saved_model.predict(servable, {column: pixels}, _PIXELS)
        graph_export.require_parity(expected, pl.DataFrame(served), "SavedModel")
        stored = models.save_onnx(
            partial,
            graph.SerializeToString(deterministic=True),
            features={column: "image"},
            example=network.example,
            task="classification",
            label=network.labels.label,
            classes=classes,
            metadata={
                **network.facts,
                **metadata,
                "framework": "tensorflow",
                "takes": {
                    **asdict(size),
                    "encoded": ["model.onnx by flowparts", "saved_model"],
                    "pixels": ["model.onnx", f"saved_model, signature {_PIXELS!r}", "model.keras"],
                },
                "decoding_difference": _decoding_difference(network, expected, servable),
            },
            image_size=size,
        )
        shutil.copytree(servable, partial / "saved_model")
        archive.save(network.model, partial / "model.keras")
        graph_export.require_parity(expected, models.load(partial).predict(network.held_out), "ONNX")
        if complete:
            complete(partial)
            stored = models.metadata(partial)
    return stored


def _write_saved_model(model: Any, column: str, size: Size, classes: list[Any], folder: Path) -> None:
    import tensorflow as tf

    def answer(pixels: Any) -> list[Any]:
        found = model({"image": pixels}, training=False)
        best = tf.gather(tf.constant(classes), tf.argmax(found, axis=1))
        return [best, *(found[:, index] for index in range(len(classes)))]

    names = ["prediction", *(f"probability_{value}" for value in classes)]
    shape = [None, size.height, size.width, size.channels]
    signatures = {
        saved_model.DEFAULT: saved_model.Signature(
            lambda encoded: answer(image.decoded(encoded, size)),
            {column: tf.TensorSpec([None], tf.string)},
            names,
        ),
        _PIXELS: saved_model.Signature(answer, {column: tf.TensorSpec(shape, tf.uint8)}, names),
    }
    saved_model.write(signatures, model, folder)


def _decoding_difference(network: Network, expected: pl.DataFrame, folder: Path) -> float:
    """Return how much TensorFlow's decoding changes a probability, for images in formats that it supports."""
    contents = network.held_out[network.column]
    known = contents.map_elements(images.media_type, pl.String).is_in(image.DECODED)
    if not known.any():
        return 0.0
    encoded = contents.filter(known).to_numpy().astype(object)
    served = saved_model.predict(folder, {network.column: encoded})
    return graph_export.difference(expected.filter(known), pl.DataFrame(served))


def _require_images(frame: pl.LazyFrame, column: str) -> None:
    tables.require_columns(frame, [column], "image column")
    dtype = frame.collect_schema()[column]
    if dtype != pl.Binary:
        raise ValueError(
            f"image column {column!r} holds {dtype}, not encoded images; make the table with ingest_images"
        )
    missing = frame.select(tables.column(column).null_count()).pipe(tables.collect).item()
    if missing:
        raise ValueError(f"image column {column!r} is missing in {missing} rows; drop these rows")


def _pool_rows(frame: pl.LazyFrame, column: str, size: Size) -> int:
    encoded = frame.select(tables.column(column).bin.size().mean()).pipe(tables.collect).item() or 0
    pixels = size.height * size.width * size.channels
    # A chunk is read, decoded and shuffled.
    return max(_LEAST_POOL_ROWS, int(_POOL_BYTES / (encoded + 2 * pixels)))


def _fetched(weights: str, scratch: Path) -> Path:
    files = sources.fetch(weights, scratch)
    if len(files) != 1:
        raise ValueError(
            f"weights {masking.shown(weights)!r} names {len(files)} files, not one .keras archive"
        )
    return files[0].path
