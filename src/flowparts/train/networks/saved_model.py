"""Write a network as a SavedModel whose signature has an input for each column, by its name.

TensorFlow's Python takes identifiers only for the names of a signature, TensorFlow Serving and the C++ loader
take any text: a column's and a class's own names are put into the file afterwards.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT = "serving_default"


@dataclass(frozen=True)
class Signature:
    """A signature of a SavedModel.

    Attributes:
        function: Takes a tensor for each input, in order, and returns a list of tensors.
        inputs: Name of an input to its shape and type (`tf.TensorSpec`).
        outputs: Names of its outputs.
    """

    function: Callable[..., Any]
    inputs: Mapping[str, Any]
    outputs: Sequence[str]


def write(signatures: Mapping[str, Signature], model: Any, folder: Path) -> None:
    """Write a SavedModel.

    Args:
        signatures: Name to signature; servers use `DEFAULT` if none is named.
        model: The Keras model whose weights and lookup tables they use.
        folder: Where to write.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    module = tf.Module()
    # If Keras tracked them, the variables would have no values when a graph is loaded into a session.
    module.variables_kept = [variable.value for variable in model.weights]
    module.tables_kept = [layer.lookup_table for layer in model.layers if hasattr(layer, "lookup_table")]
    concrete = {name: _concrete(signature) for name, signature in signatures.items()}
    tf.saved_model.save(module, str(folder), signatures=concrete)
    file = folder / "saved_model.pb"
    stored = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in stored.meta_graphs:
        for name, signature in signatures.items():
            described = meta_graph.signature_def[name]
            _rename(described.inputs, _short("input", signature.inputs))
            _rename(described.outputs, _short("output", signature.outputs))
    file.write_bytes(stored.SerializeToString(deterministic=True))
    # A random number that nothing uses.
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    assets = folder / "assets"
    if assets.is_dir() and not any(assets.iterdir()):
        assets.rmdir()


def _concrete(signature: Signature) -> Any:
    import tensorflow as tf

    taken, given = _short("input", signature.inputs), _short("output", signature.outputs)

    def call(**tensors: Any) -> dict[str, Any]:
        answers = signature.function(*(tensors[short] for short in taken))
        return dict(zip(given, answers, strict=True))

    specs = {
        short: tf.TensorSpec(spec.shape, spec.dtype, name=short)
        for short, spec in zip(taken, signature.inputs.values(), strict=True)
    }
    return tf.function(call).get_concrete_function(**specs)


def _short(kind: str, names: Iterable[str]) -> dict[str, str]:
    """Return an identifier for each name."""
    return {f"{kind}_{index}": name for index, name in enumerate(names)}


def predict(folder: str | Path, inputs: Mapping[str, Any], signature: str = DEFAULT) -> dict[str, Any]:
    """Predict rows with a SavedModel by TensorFlow's own loader, like TensorFlow Serving.

    Args:
        folder: The SavedModel.
        inputs: Name of an input to its values.
        signature: The signature to call.
    """
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        described = loaded.signature_def[signature]
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
