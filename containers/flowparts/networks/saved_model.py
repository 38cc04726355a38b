"""Writes a network as a SavedModel whose signature has a column's name for each input.

TensorFlow's Python takes identifiers only for the names of a signature, TensorFlow Serving and the C++ loader
take any text: a column's and a class's own names are put into the file afterwards.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write(
    function: Any,
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    model: Any,
    folder: Path,
) -> None:
    """Write a SavedModel with the signature "serving_default".

    Args:
        function: Takes a tensor for each input, in order, and returns a list of tensors.
        inputs: Name of an input to its shape and type (`tf.TensorSpec`).
        outputs: Names of what it returns.
        model: The Keras model whose weights and lookup tables it uses.
        folder: Where to write.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    taken = {f"input_{index}": name for index, name in enumerate(inputs)}
    given = {f"output_{index}": name for index, name in enumerate(outputs)}

    def signature(**tensors: Any) -> dict[str, Any]:
        answers = function(*(tensors[short] for short in taken))
        return dict(zip(given, answers, strict=True))

    specs = {
        short: tf.TensorSpec(spec.shape, spec.dtype, name=short)
        for short, spec in zip(taken, inputs.values(), strict=True)
    }
    concrete = tf.function(signature).get_concrete_function(**specs)
    module = tf.Module()
    # Tracked as Keras' own, the variables would stay without values where a graph is loaded into a session.
    module.variables_kept = [variable.value for variable in model.weights]
    module.tables_kept = [layer.lookup_table for layer in model.layers if hasattr(layer, "lookup_table")]
    tf.saved_model.save(module, str(folder), signatures=concrete)
    file = folder / "saved_model.pb"
    stored = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in stored.meta_graphs:
        described = meta_graph.signature_def["serving_default"]
        _rename(described.inputs, taken)
        _rename(described.outputs, given)
    file.write_bytes(stored.SerializeToString(deterministic=True))
    # A chance number, of use to nobody here.
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    for empty in ("assets",):
        if (folder / empty).is_dir() and not any((folder / empty).iterdir()):
            shutil.rmtree(folder / empty)


def predict(folder: str | Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Answer rows with a SavedModel through TensorFlow's own loader, as TensorFlow Serving does.

    Args:
        folder: The SavedModel.
        inputs: Name of an input to its values.
    """
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        described = loaded.signature_def["serving_default"]
        wanted = {name: tensor.name for name, tensor in described.outputs.items()}
        feed = {described.inputs[name].name: values for name, values in inputs.items()}
        answers: dict[str, Any] = session.run(wanted, feed)
        return answers


def _rename(tensors: Any, names: Mapping[str, str]) -> None:
    for short, name in names.items():
        info = type(tensors[short])()
        info.CopyFrom(tensors[short])
        del tensors[short]
        tensors[name].CopyFrom(info)
