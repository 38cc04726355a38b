from typing import Any

import numpy as np
import onnxruntime
import pytest

from flowparts.train.networks import graph_export, training


def network() -> Any:
    import keras

    training.start(3)
    picture = keras.Input((6, 6, 1), name="picture")
    found = keras.layers.Conv2D(4, 3, activation="relu")(picture)
    found = keras.layers.Flatten()(keras.layers.MaxPooling2D()(found))
    return keras.Model({"picture": picture}, keras.layers.Dense(2, "softmax")(found))


def exported() -> Any:
    return graph_export.graph(network(), {"picture": ((6, 6, 1), "float32")}, "probabilities")


def test_equal_networks_give_equal_bytes_whatever_the_process_made_before() -> None:
    import keras

    first = exported()
    for _ in range(3):
        other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
        other(np.ones((1, 3)))
    second = exported()
    assert second.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)
    inside = {name for node in first.graph.node for name in node.output} - {"probabilities"}
    assert all(name.startswith("tensor_") for name in inside)


def test_a_graph_answers_as_its_network_does() -> None:
    trained, graph = network(), exported()
    pictures = np.random.default_rng(0).random((5, 6, 6, 1), np.float32)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (answers,) = session.run(["probabilities"], {"picture": pictures})
    np.testing.assert_allclose(answers, trained({"picture": pictures}).numpy(), atol=1e-6)


def test_a_layer_without_an_onnx_counterpart_is_reported() -> None:
    import keras

    text = keras.Input((1,), name="text", dtype="string")
    lookup = keras.layers.StringLookup(vocabulary=["a", "b"])
    with pytest.raises(ValueError, match=r"can't be written as an ONNX graph: .*table.* has no counterpart"):
        graph_export.graph(keras.Model({"text": text}, lookup(text)), {"text": ((1,), "string")}, "place")
