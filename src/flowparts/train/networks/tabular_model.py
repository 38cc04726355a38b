"""Train a network on a table, and store it as a model directory of raw rows."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from flowparts import models, step, tables
from flowparts.models import mlmodel
from flowparts.prepare import preprocess
from flowparts.train import selection
from flowparts.train.networks import (
    archive,
    encoding,
    feed,
    finishing,
    graph_export,
    label_encoding,
    saved_model,
    tabular,
    training,
)
from flowparts.train.networks.checkpoints import Checkpoints, place
from flowparts.train.networks.finishing import predictions
from flowparts.util import outputs
from flowparts.util.names import hint

_EXAMPLE_ROWS = 5
_PARITY_ROWS = 1_000
# Validation rows that are predicted at once.
_EVALUATED_AT_ONCE = 4_096
_OPTIONS_OF = "train_keras_tabular"


@dataclass(frozen=True)
class Shape:
    """Architecture of a network of dense layers.

    Attributes:
        layers: Hidden layers.
        units: Units of each layer.
        dropout: Dropout rate, in [0, 1).
        max_categories: Maximum vocabulary size per text column.
    """

    layers: int
    units: int
    dropout: float
    max_categories: int

    def __post_init__(self) -> None:
        """Raise ValueError if an option is out of range."""
        if self.layers < 0:
            raise ValueError(f"layers must be 0 or more, not {self.layers}")
        training.require_at_least_one(self, "units", "max_categories")
        training.require_dropout(self.dropout)


@dataclass(frozen=True, kw_only=True)
class Network(finishing.Network):
    """A trained network of raw rows.

    Attributes:
        trunk: The Keras model of `encoding.arrays`, with output in the label's unit.
        encoding: The learned encoding of the columns.
    """

    trunk: Any
    encoding: encoding.Encoding


def settings(given: Mapping[str, Any], seed: int) -> tuple[Shape, training.Options, str | None]:
    """Return the architecture of a network, its training options, and the given folder for its checkpoints.

    Args:
        given: Options other than the defaults, by their names and types in train_keras_tabular. Whole floats
            become the integers that are wanted.
        seed: Seed of the initial weights, the order of the rows and dropout.

    Raises:
        ValueError: An option is unknown, of a wrong type or out of range.
    """
    shape, options = (
        [field.name for field in fields(part) if field.name != "seed"] for part in (Shape, training.Options)
    )
    component = step.component(_OPTIONS_OF)
    parameters = inspect.signature(getattr(component, "python_func", component)).parameters
    values = {name: parameters[name].default for name in (*shape, *options, "checkpoints")}
    for name, value in given.items():
        if name not in values:
            raise ValueError(
                f"a network has no option {name!r}; {hint(name, list(values))}it has: {', '.join(values)}"
            )
        kind = parameters[name].annotation
        text = kind not in (int, float)
        if isinstance(value, bool) or not isinstance(value, str if text else int | float):
            raise ValueError(f"{name} must be {'text' if text else 'a number'}, not {value!r}")
        if kind is int and value != int(value):
            raise ValueError(f"{name} must be a whole number, not {value!r}")
        values[name] = value if text else kind(value)
    return (
        Shape(**{name: values[name] for name in shape}),
        training.Options(**{name: values[name] for name in options}, seed=seed),
        values["checkpoints"],
    )


def train_and_save(
    table: pl.LazyFrame,
    validation: pl.LazyFrame,
    path: str | Path,
    *,
    label: str,
    task: str,
    exclude_columns: Sequence[str],
    weight_column: str | None,
    class_weight: str | None,
    shape: Shape,
    options: training.Options,
    checkpoints: str | None = None,
    metric: str | None = None,
    complete: Callable[[Path], None] | None = None,
) -> tuple[mlmodel.Card, str] | None:
    """Train a network as `train` does and write its model directory.

    Args:
        table: Raw training rows.
        validation: Raw rows for early stopping and scoring.
        path: The model directory to make.
        label: The column to predict.
        task: "classification" or "regression".
        exclude_columns: Columns to exclude from the features.
        weight_column: Column of sample weights; not a feature.
        class_weight: "balanced" to weight classes inversely to their frequency.
        shape: Architecture of the network.
        options: How it is trained.
        checkpoints: A folder for training states, as for `checkpoints.place`; cleared at the end.
        metric: A metric that the validation table must define; none if not given.
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
        label=label,
        task=task,
        exclude_columns=exclude_columns,
        weight_column=weight_column,
        class_weight=class_weight,
        shape=shape,
        options=options,
        checkpoints=place(checkpoints, path, training.workers()),
    )
    if metric and training.is_chief():
        selection.rank([{**network.facts, "task": task, "label": label}], metric)
    subject = f"{task} of {label}"
    write = partial(save, complete=complete)
    return finishing.write(network, write, path, class_weight=class_weight, options=options, subject=subject)


def train(
    table: pl.LazyFrame,
    validation: pl.LazyFrame,
    *,
    label: str,
    task: str,
    exclude_columns: Sequence[str],
    weight_column: str | None,
    class_weight: str | None,
    shape: Shape,
    options: training.Options,
    checkpoints: str | None,
) -> Network:
    """Train a network on raw rows, read in chunks.

    Args:
        table: Raw training rows.
        validation: Raw rows for early stopping and scoring.
        label: The column to predict.
        task: "classification" or "regression".
        exclude_columns: Columns to exclude from the features.
        weight_column: Column of sample weights; not a feature.
        class_weight: "balanced" to weigh each class by the inverse of its share.
        shape: Architecture of the network.
        options: How it is trained.
        checkpoints: A path or URI of a folder for training states, which all workers share; None to keep
            none.

    Raises:
        ValueError: An option or a table's content makes training impossible; the sentence says how.
    """
    preprocess.check_options(label, task, exclude_columns, weight_column, shape.max_categories)
    found = preprocess.examine(table, label, task, exclude_columns, weight_column)
    preprocess.check_held_out(
        validation, found.features, label, task, found.classes, weight_column, "the validation table"
    )
    learned = encoding.learn(table, found.features, found.nullable, shape.max_categories)
    labels = label_encoding.learn(table, label, found.classes, class_weight, weight_column)
    classify, outputs_ = labels.classes is not None, len(labels.classes or [0])
    fingerprint = tables.fingerprint(table)

    def rows(frame: pl.LazyFrame) -> feed.Rows:
        return feed.table_rows(
            frame,
            lambda some: encoding.arrays(some, learned),
            learned.features,
            label,
            labels.numbers,
            labels.weights,
            weight_column,
        )

    run = {"data": fingerprint, "workers": training.workers(), **asdict(shape), **asdict(options)}
    states = Checkpoints(checkpoints, {**run, **asdict(labels), **asdict(learned)}) if checkpoints else None
    spread = training.start(options.seed)
    seeds = training.Seeds(options.seed)
    learning, watching = rows(table), rows(validation)
    trained = training.fit(
        spread,
        lambda policy: tabular.trunk(
            learned, shape.layers, shape.units, shape.dropout, outputs_, classify, policy
        ),
        feed.dataset(learning, options.batch_size, seeds, even=training.workers() > 1),
        feed.dataset(watching, _EVALUATED_AT_ONCE),
        learning.count,
        options,
        states,
        "sparse_categorical_crossentropy" if classify else "mean_squared_error",
        ["accuracy"] if classify else ["mean_absolute_error"],
        seeds,
    )
    trunk = tabular.answering(trained.model, labels.mean, labels.scale)
    answers = trunk.predict(feed.dataset(watching, _EVALUATED_AT_ONCE), verbose=0)
    features = list(learned.features)
    return Network(
        trunk=trunk,
        encoding=learned,
        labels=labels,
        trained=trained,
        facts={
            "estimator": "KerasDenseNetwork",
            "parameters": {**asdict(shape), **options.described()},
            "dropped_columns": found.dropped,
            "training_fingerprint": fingerprint,
            "training_rows": learning.count,
            **finishing.facts(trained, labels, answers, table, validation),
        },
        checkpoints=states,
        example=tables.select(table, features).head(_EXAMPLE_ROWS).pipe(tables.collect),
        held_out=tables.select(validation, features).head(_PARITY_ROWS).pipe(tables.collect),
    )


def save(
    network: Network,
    path: str | Path,
    metadata: dict[str, Any],
    complete: Callable[[Path], None] | None = None,
) -> mlmodel.Card:
    """Write a model directory atomically.

    It holds the network three times: `model.keras` and `saved_model` take raw columns through Keras' own
    preprocessing layers, `model.onnx` is what `models.load` scores with. The three must agree.

    Args:
        network: The trained network.
        path: The directory to make.
        metadata: Further metadata of the model.
        complete: As for `models.save`.

    Returns:
        The metadata as stored.

    Raises:
        ValueError: An export's predictions differ from the network's.
    """
    labels, learned = network.labels, network.encoding
    regression = labels.classes is None
    whole = tabular.whole(network.trunk, learned)
    inputs = {
        name: (values.shape[1:], values.dtype)
        for name, values in encoding.arrays(network.held_out.head(1), learned).items()
    }
    output = "prediction" if regression else "probabilities"
    graph = graph_export.with_columns(graph_export.graph(network.trunk, inputs, output), learned)

    rows = pl.concat([network.held_out, _strange(network.held_out)])
    columns = encoding.columns(rows, learned)
    expected = predictions(answer(whole, columns), labels.classes)
    with outputs.atomic(path) as partial:
        stored = models.save_onnx(
            partial,
            graph,
            features=learned.features,
            example=network.example,
            task="regression" if regression else "classification",
            label=labels.label,
            classes=labels.classes,
            metadata={**network.facts, **metadata, "framework": "tensorflow"},
        )
        _write_saved_model(whole, learned, labels, partial / "saved_model")
        archive.save(whole, partial / "model.keras")
        scored = models.load(partial).predict(rows)
        served = pl.DataFrame(saved_model.predict(partial / "saved_model", columns))
        graph_export.require_parity(expected, scored, "ONNX")
        graph_export.require_parity(expected, served, "SavedModel")
        if complete:
            complete(partial)
            stored = models.metadata(partial)
    return stored


def _strange(rows: pl.DataFrame) -> pl.DataFrame:
    """Return a row of missing values, and one of values that no table has."""
    missing = rows.head(1).with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in rows.schema.items()
    )
    unseen = rows.head(1).with_columns(
        pl.lit("\N{SNOWMAN} never seen").alias(name)
        for name, dtype in rows.schema.items()
        if dtype == pl.String
    )
    return pl.concat([missing, unseen])


def answer(model: Any, columns: dict[str, Any]) -> Any:
    """Predict raw columns, as from `encoding.columns`, with a whole Keras model."""
    import tensorflow as tf

    tensors = [
        tf.constant(values.tolist() if values.dtype == object else values)[:, None]
        for values in columns.values()
    ]
    return model(tensors, training=False).numpy()


def _write_saved_model(
    whole: Any, learned: encoding.Encoding, labels: label_encoding.LabelEncoding, folder: Path
) -> None:
    import tensorflow as tf

    def answer(*columns: Any) -> list[Any]:
        found = whole([column[:, None] for column in columns], training=False)
        if labels.classes is None:
            return [found[:, 0]]
        best = tf.gather(tf.constant(labels.classes), tf.argmax(found, axis=1))
        return [best, *(found[:, index] for index in range(len(labels.classes)))]

    specs = {
        name: tf.TensorSpec([None], tf.string if kind == "string" else tf.float64)
        for name, kind in learned.features.items()
    }
    names = ["prediction", *(f"probability_{value}" for value in labels.classes or [])]
    saved_model.write({saved_model.DEFAULT: saved_model.Signature(answer, specs, names)}, whole, folder)
