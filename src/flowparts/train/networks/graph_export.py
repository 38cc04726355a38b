"""Export a trained network to ONNX, so that it can be scored without TensorFlow."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from flowparts.train.networks.encoding import Encoding
from flowparts.util import errors

# For float32 arithmetic in another order; relative to the value for a regression.
TOLERANCE = 1e-5
_OPSET = 18


def graph(trained: Any, inputs: Mapping[str, Any], output: str) -> Any:
    """Return a Keras model as an ONNX graph with inputs of the same names.

    Args:
        trained: A model of a dict of inputs.
        inputs: Name of an input to its shape (without rows) and type.
        output: Name of the output.

    Returns:
        The ONNX model; equal networks give equal bytes.

    Raises:
        ValueError: The network has a layer that ONNX has no counterpart of.
    """
    import keras
    import tensorflow as tf
    import tf2onnx

    names = list(inputs)
    for layer in trained.layers:
        if isinstance(layer, keras.layers.Normalization):
            # tf2onnx treats tensors from outside the function as further inputs.
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)

    def call(*arrays: Any) -> Any:
        answer = trained(dict(zip(names, arrays, strict=True)), training=False)
        return tf.identity(answer, name=output)

    signature = [tf.TensorSpec([None, *shape], dtype, name=name) for name, (shape, dtype) in inputs.items()]
    try:
        converted, _ = tf2onnx.convert.from_function(tf.function(call), signature, opset=_OPSET)
    # Unknown and wrongly converted operators raise various errors.
    except Exception as error:
        raise ValueError(
            f"the network can't be written as an ONNX graph: {errors.first_line(error)}"
        ) from None
    given = [value.name for value in converted.graph.input]
    if len(given) != len(names):
        raise ValueError(
            f"the network can't be written as an ONNX graph: {given[-1]} has no counterpart there"
        )
    rename(converted.graph, {**dict(zip(given, names, strict=True)), converted.graph.output[0].name: output})
    in_order(converted.graph)
    return converted


def with_columns(trunk: Any, encoding: Encoding) -> bytes:
    """Prepend the conversion of raw columns to arrays to a trunk's graph, and return the ONNX file.

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
        found: Those of an export.

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


def in_order(graph: Any) -> None:
    """Sort a graph by what its outputs need, and name everything in it by position.

    Both are TensorFlow's, and depend on what the process made before.
    """
    nodes = {name: node for node in graph.node for name in node.output}
    constants = {constant.name: constant for constant in graph.initializer}
    ordered: dict[int, Any] = {}
    used: dict[str, Any] = {}
    waiting = [nodes[value.name] for value in reversed(graph.output)]
    while waiting:
        node = waiting[-1]
        needed = [nodes[name] for name in node.input if name in nodes]
        missing = [each for each in needed if id(each) not in ordered]
        if missing:
            waiting += reversed(missing)
            continue
        waiting.pop()
        if id(node) not in ordered:
            ordered[id(node)] = node
            used |= {name: constants[name] for name in node.input if name in constants}
    made = [*used, *(name for node in ordered.values() for name in node.output)]
    outside = {value.name for value in [*graph.input, *graph.output]}
    inside = [name for name in made if name and name not in outside]
    for place, node in enumerate(ordered.values()):
        node.name, node.doc_string = f"node_{place}", ""
    kept = [type(each).FromString(each.SerializeToString()) for each in (*ordered.values(), *used.values())]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept[: len(ordered)])
    graph.initializer.extend(kept[len(ordered) :])
    graph.name, graph.doc_string = "network", ""
    for value in [*graph.input, *graph.output]:
        for length in value.type.tensor_type.shape.dim[:1]:
            length.dim_param = length.dim_param and "rows"
    rename(graph, {name: f"tensor_{place}" for place, name in enumerate(inside)})


def rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename tensors of a graph."""
    for value in [*graph.input, *graph.output, *graph.initializer]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
