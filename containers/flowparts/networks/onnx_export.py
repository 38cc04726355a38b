"""Exports a trained network to ONNX, so that it is scored where TensorFlow isn't installed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from flowparts.networks.encoding import Encoding

# Float32 arithmetic in another order; relative to the value for a regression.
TOLERANCE = 1e-5
_OPSET = 18


def graph(trained: Any, inputs: Mapping[str, Any], output: str) -> Any:
    """Return a Keras model as an ONNX graph with inputs of the same names.

    Args:
        trained: A model of a dict of inputs.
        inputs: Name of an input to its shape (without rows) and type.
        output: The name of what comes out.
    """
    import keras
    import tensorflow as tf
    import tf2onnx

    names = list(inputs)
    for layer in trained.layers:
        if isinstance(layer, keras.layers.Normalization):
            # tf2onnx takes tensors from outside of the function for further inputs.
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)

    def call(*arrays: Any) -> Any:
        answer = trained(dict(zip(names, arrays, strict=True)), training=False)
        return tf.identity(answer, name=output)

    signature = [tf.TensorSpec([None, *shape], dtype, name=name) for name, (shape, dtype) in inputs.items()]
    converted, _ = tf2onnx.convert.from_function(tf.function(call), signature, opset=_OPSET)
    _rename(converted.graph, dict(zip([value.name for value in converted.graph.input], names, strict=True)))
    _rename(converted.graph, {converted.graph.output[0].name: output})
    _number(converted.graph)
    return converted


def with_columns(trunk: Any, encoding: Encoding) -> bytes:
    """Put what turns raw columns into arrays in front of a trunk's graph, and return the ONNX file.

    The graph takes a vector for each column: double for numbers and moments, text for text. tf2onnx has no
    counterpart of Keras' StringLookup, so ONNX' own LabelEncoder stands for it, with the same vocabulary.
    """
    from onnx import TensorProto, helper

    nodes, inputs = [], []
    axis = helper.make_tensor("axis_of_columns", TensorProto.INT64, [1], [1])
    groups = {"numbers": encoding.numbers, "moments": encoding.moments, "texts": encoding.texts}
    for group, columns in groups.items():
        parts = []
        for index, name in enumerate(columns):
            part = f"{group}_{index}"
            kind = TensorProto.STRING if group == "texts" else TensorProto.DOUBLE
            inputs.append(helper.make_tensor_value_info(name, kind, ["rows"]))
            value = name
            if group == "texts":
                nodes.append(_lookup(name, f"{part}_position", encoding.vocabularies[name]))
                value = f"{part}_whole"
                nodes.append(helper.make_node("Cast", [f"{part}_position"], [value], to=TensorProto.INT32))
            nodes.append(helper.make_node("Unsqueeze", [value, axis.name], [part]))
            parts.append(part)
        if parts:
            nodes.append(helper.make_node("Concat", parts, [group], axis=1))
    order = {name: place for place, name in enumerate(encoding.features)}
    inputs.sort(key=lambda value: order[value.name])
    made = helper.make_graph(
        [*nodes, *trunk.graph.node],
        "network",
        inputs,
        list(trunk.graph.output),
        [axis, *trunk.graph.initializer],
    )
    opsets = {item.domain: item.version for item in trunk.opset_import} | {"ai.onnx.ml": 3}
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())],
        ir_version=trunk.ir_version,
        producer_name="flowparts",
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def difference(expected: pl.DataFrame, found: pl.DataFrame) -> float:
    """Return the largest difference of two predictions of the same rows.

    Args:
        expected: Columns of `models.Model.predict`.
        found: The same, of an export.

    Returns:
        The largest difference of a probability, or of a regression's values relative to the larger of value
        and 1.
    """
    names = [name for name in expected.columns if name.startswith("probability_")] or ["prediction"]
    truth, answers = expected.select(names).to_numpy(), found.select(names).to_numpy()
    scale = np.maximum(1.0, np.abs(truth)) if names == ["prediction"] else 1.0
    return float(np.nan_to_num(np.abs(truth - answers) / scale, nan=np.inf).max(initial=0.0))


def require_parity(expected: pl.DataFrame, found: pl.DataFrame, what: str) -> float:
    """Return the largest difference of an export's predictions, as `difference` does.

    Raises:
        ValueError: It is more than `TOLERANCE`.
    """
    largest = difference(expected, found)
    if not largest <= TOLERANCE:
        raise ValueError(
            f"the {what} export differs from the trained network by {largest:.2g}, more than {TOLERANCE:g}; "
            "lower the learning rate, so that its weights stay smaller"
        )
    return largest


def _lookup(source: str, target: str, vocabulary: list[str]) -> Any:
    from onnx import helper

    return helper.make_node(
        "LabelEncoder",
        [source],
        [target],
        domain="ai.onnx.ml",
        keys_strings=["", *vocabulary],
        values_int64s=[0, *range(2, len(vocabulary) + 2)],
        default_int64=1,
    )


def _number(graph: Any) -> None:
    """Name what is inside of a graph by its place; TensorFlow's names depend on the process' past."""
    outside = {value.name for value in [*graph.input, *graph.output]}
    for place, node in enumerate(graph.node):
        node.name = f"node_{place}"
    made = [*graph.initializer, *(name for node in graph.node for name in node.output)]
    tensors = [each if isinstance(each, str) else each.name for each in made]
    names = {name: f"tensor_{place}" for place, name in enumerate(tensors) if name and name not in outside}
    _rename(graph, names)
    for initializer in graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
    del graph.value_info[:]


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Give tensors of a graph other names."""
    for value in [*graph.input, *graph.output]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
