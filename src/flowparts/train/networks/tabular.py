"""A network of dense layers for tables, after Keras' preprocessing layers."""

from collections.abc import Sequence
from typing import Any

from flowparts.train.networks.encoding import MICROSECONDS_PER_DAY, Encoding

# Days of a cycle, and days from its start to 1970 began: the day, the week from Monday, the mean Gregorian
# year.
_CYCLES = ((1.0, 0.0), (7.0, 3.0), (365.2425, 0.0))
# Numbers are clipped at this many standard deviations.
_FARTHEST = 10.0
_WIDEST_EMBEDDING = 32


def trunk(
    encoding: Encoding, layers: int, units: int, dropout: float, outputs: int, classify: bool, policy: str
) -> Any:
    """Return the network to train: from `encoding.arrays` to probabilities or a number.

    Numbers are scaled to zero mean and unit variance, limited to ten standard deviations, and 0 where
    missing, which a further input tells where the training table had such. Of a moment the network sees the
    scaled days and, as sine and cosine, where in the day, the week and the year it lies. A text is a learned
    vector.

    Args:
        encoding: Encoding learned from the training table.
        layers: Hidden layers.
        units: Units of each layer.
        dropout: Dropout rate, in [0, 1).
        outputs: Classes, or 1.
        classify: Whether the outputs are probabilities.
        policy: Keras' dtype policy of the hidden layers, such as float32 or mixed_float16.
    """
    import keras

    inputs: dict[str, Any] = {}
    parts: list[Any] = []
    if encoding.numbers:
        inputs["numbers"] = keras.Input((len(encoding.numbers),), name="numbers", dtype="float64")
        parts += _scaled(inputs["numbers"], encoding.numbers, encoding, "number_scaling")
    if encoding.moments:
        inputs["moments"] = keras.Input((len(encoding.moments),), name="moments", dtype="float64")
        days = inputs["moments"] / MICROSECONDS_PER_DAY
        parts += _scaled(days, encoding.moments, encoding, "moment_scaling")
        parts += [part for length, shift in _CYCLES for part in _cycle(days, length, shift)]
    if encoding.texts:
        inputs["texts"] = keras.Input((len(encoding.texts),), name="texts", dtype="int32")
        for index, name in enumerate(encoding.texts):
            values = max(1, len(encoding.vocabularies[name])) + 2
            width = min(_WIDEST_EMBEDDING, (values + 1) // 2)
            embedding = keras.layers.Embedding(values, width, name=f"text_{index}")
            parts.append(embedding(inputs["texts"][:, index]))
    hidden = keras.layers.Concatenate(name="features")(parts) if len(parts) > 1 else parts[0]
    for layer in range(layers):
        hidden = keras.layers.Dense(units, "relu", dtype=policy, name=f"hidden_{layer}")(hidden)
        if dropout:
            hidden = keras.layers.Dropout(dropout, dtype=policy, name=f"dropout_{layer}")(hidden)
    activation = "softmax" if classify else None
    answer = keras.layers.Dense(outputs, activation, dtype="float32", name="answer")(hidden)
    return keras.Model(inputs, answer, name="trunk")


def answering(trained: Any, mean: float, scale: float) -> Any:
    """Return a trained trunk with output in the label's unit: times `scale`, plus `mean`."""
    import keras

    if (mean, scale) == (0.0, 1.0):
        return trained
    unscaled = keras.layers.Rescaling(scale, mean, dtype="float32", name="unscaled")
    return keras.Model(trained.input, unscaled(trained.output), name="trunk")


def whole(trunk: Any, encoding: Encoding) -> Any:
    """Put Keras' preprocessing layers in front of a trained trunk: a model of raw columns.

    Returns:
        A Keras model of one input for each column, of the shape [rows, 1], in the order of the features and
        named as `input_names` says: text, or float64 for numbers and for moments in microseconds since 1970.
    """
    import keras

    names = input_names(list(encoding.features))
    columns = {
        name: keras.Input((1,), name=names[name], dtype="string" if name in encoding.texts else "float64")
        for name in encoding.features
    }
    groups: dict[str, Any] = {}
    if encoding.numbers:
        groups["numbers"] = _together([columns[name] for name in encoding.numbers], "numbers_together")
    if encoding.moments:
        groups["moments"] = _together([columns[name] for name in encoding.moments], "moments_together")
    if encoding.texts:
        positions = [
            # A column may have no text that occurs twice, and Keras rejects an empty vocabulary.
            keras.layers.StringLookup(
                vocabulary=encoding.vocabularies[name] or ["\x00"], mask_token="", name=f"lookup_{index}"
            )(columns[name])
            for index, name in enumerate(encoding.texts)
        ]
        groups["texts"] = keras.ops.cast(_together(positions, "texts_together", "int64"), "int32")
    return keras.Model(list(columns.values()), trunk(groups), name="model")


def input_names(columns: Sequence[str]) -> dict[str, str]:
    """Return the names of a Keras model's inputs: the columns', without characters that Keras rejects."""
    return {
        name: name if name and "/" not in name else f"column_{index}" for index, name in enumerate(columns)
    }


def _scaled(numbers: Any, names: Sequence[str], encoding: Encoding, layer: str) -> list[Any]:
    import keras

    ops = keras.ops
    normalization = keras.layers.Normalization(
        mean=[encoding.means[name] for name in names],
        variance=[encoding.variances[name] for name in names],
        dtype="float64",
        name=layer,
    )
    scaled = normalization(numbers)
    missing = ops.isnan(scaled)
    filled = ops.clip(ops.where(missing, 0.0, scaled), -_FARTHEST, _FARTHEST)
    parts = [ops.cast(filled, "float32")]
    places = [index for index, name in enumerate(names) if name in encoding.nullable]
    if places:
        parts.append(ops.take(ops.cast(missing, "float32"), places, axis=1))
    return parts


def _cycle(days: Any, length: float, shift: float) -> list[Any]:
    import math

    import keras

    ops = keras.ops
    turns = (days + shift) / length
    turns = turns - ops.floor(turns)
    # A missing time is 0, which isn't a point of the circle.
    missing = ops.isnan(turns)
    angle = ops.cast(ops.where(missing, 0.0, turns) * (2 * math.pi), "float32")
    there = 1.0 - ops.cast(missing, "float32")
    return [ops.sin(angle) * there, ops.cos(angle) * there]


def _together(columns: Sequence[Any], name: str, dtype: str = "float64") -> Any:
    import keras

    if len(columns) == 1:
        return columns[0]
    return keras.layers.Concatenate(dtype=dtype, name=name)(columns)
