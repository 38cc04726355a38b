"""SavedModels that TensorFlow itself wrote: what computes is served, what touches files is not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from flowparts.models import saved_model_audit


def saved(folder: Path, call: Callable[[Any], Any], **kept: Any) -> Path:
    """Write a SavedModel whose one signature takes text."""
    module = tf.Module()
    for name, value in kept.items():
        setattr(module, name, value)
    signature = tf.function(call, input_signature=[tf.TensorSpec([None], tf.string, "given")])
    tf.saved_model.save(module, str(folder), signatures=signature)
    return folder


def change(folder: Path, edit: Callable[[Any], Any]) -> None:
    file = folder / "saved_model.pb"
    told = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    edit(told.meta_graphs[0])
    file.write_bytes(told.SerializeToString())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weight = tf.Variable(2.0)
    keys, values = tf.constant(["a", "b"]), tf.constant([1, 2], tf.int64)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0)

    def call(given: Any) -> dict[str, Any]:
        return {"number": tf.cast(table.lookup(given), tf.float32) * weight}

    return saved(tmp_path_factory.mktemp("plain") / "model", call, weight=weight, table=table)


@pytest.fixture
def model(plain: Path, tmp_path: Path) -> Path:
    shutil.copytree(plain, tmp_path / "model")
    return tmp_path / "model"


def test_variables_and_vocabularies_are_served(model: Path) -> None:
    saved_model_audit.check(model)


CALLS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "reads a file": (lambda given: {"x": tf.io.read_file(given[0])}, "ReadFile"),
    "reads a fixed file": (lambda _: {"x": tf.io.read_file("/etc/passwd")}, "ReadFile"),
    "lists files": (lambda given: {"x": tf.io.matching_files(given)}, "MatchingFiles"),
    "restores a checkpoint": (
        lambda given: {"x": tf.raw_ops.RestoreV2(
            prefix=given[0], tensor_names=["w"], shape_and_slices=[""], dtypes=[tf.float32])[0]},
        "reads or writes files where a request may reach it",
    ),
    "calls Python": (
        lambda given: {"x": tf.py_function(lambda value: value, [given], tf.string)}, "EagerPyFunc",
    ),
    "decodes by a descriptor's file": (
        lambda given: {"x": tf.raw_ops.DecodeProtoV2(
            bytes=given, message_type="a.B", field_names=[], output_types=[],
            descriptor_source="/etc/passwd")[0]},
        "DecodeProtoV2",
    ),
    "reads a table of a data set": (
        lambda given: {"x": next(iter(tf.data.TextLineDataset(given)))},
        "Dataset|Iterator",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CALLS)
def test_an_operation_that_may_do_more_than_compute_is_refused_by_its_name(what: str, tmp_path: Path) -> None:
    call, message = CALLS[what]
    with pytest.raises(ValueError, match=message) as refused:
        saved_model_audit.check(saved(tmp_path / "model", call))
    assert "\n" not in str(refused.value)


def test_a_write_operation_is_refused_in_any_function(tmp_path: Path) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def inner(given: Any) -> Any:
        tf.io.write_file("/tmp/pwned", given[0])
        return given

    def call(given: Any) -> dict[str, Any]:
        return {"x": tf.cond(tf.size(given) > 0, lambda: inner(given), lambda: given)}

    with pytest.raises(ValueError, match="has the operation 'WriteFile', which may do more than compute"):
        saved_model_audit.check(saved(tmp_path / "model", call))


def test_a_vocabulary_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("a\nb\n")
    initializer = tf.lookup.TextFileInitializer(
        str(tmp_path / "words"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER,
    )  # fmt: skip
    table = tf.lookup.StaticHashTable(initializer, 0)
    folder = saved(tmp_path / "model", lambda given: {"x": table.lookup(given)}, table=table)
    with pytest.raises(ValueError, match="InitializeTableFromTextFile"):
        saved_model_audit.check(folder)


def saver_fed(graph: Any) -> None:
    """Let a request say where variables are saved to."""
    graph.signature_def["serving_default"].inputs["path"].name = graph.saver_def.filename_tensor_name


def saver_asked(graph: Any) -> None:
    """Let a request have variables saved."""
    graph.signature_def["serving_default"].outputs["x"].name = graph.saver_def.save_tensor_name


def saver_awaited(graph: Any) -> None:
    """Save variables whenever a request is answered."""
    node = graph.saver_def.save_tensor_name.partition(":")[0]
    next(each for each in graph.graph_def.node if each.name == "StatefulPartitionedCall").input.append(
        f"^{node}"
    )


def saver_at_start(graph: Any) -> None:
    """Save variables when the model is loaded."""
    names = graph.collection_def["saved_model_main_op"].node_list
    names.value.append(graph.saver_def.save_tensor_name.partition(":")[0])


def restoring_saves(graph: Any) -> None:
    """Save variables when they are loaded."""
    graph.saver_def.restore_op_name = graph.saver_def.save_tensor_name.partition(":")[0]
    graph.saver_def.save_tensor_name = "saver_filename:0"


def fixed_path(graph: Any) -> None:
    """Load variables from another file than TensorFlow says."""
    for function in graph.graph_def.library.function:
        for node in function.node_def:
            if node.op == "RestoreV2":
                node.input[0] = "RestoreV2/tensor_names:output:0"


def signature_saves(graph: Any) -> None:
    """Call the function that saves where a signature is answered."""
    save = graph.saver_def.save_tensor_name.partition(":")[0]
    nodes = {node.name: node for node in graph.graph_def.node}
    nodes["StatefulPartitionedCall"].attr["f"].func.name = nodes[save].attr["f"].func.name


def named_twice(graph: Any) -> None:
    graph.graph_def.library.function.append(graph.graph_def.library.function[0])


def asset_outside(graph: Any) -> None:
    graph.asset_file_def.add().filename = "../../../etc/passwd"


@pytest.mark.parametrize(
    "edit",
    [saver_fed, saver_asked, saver_awaited, saver_at_start, restoring_saves, fixed_path, signature_saves,
     named_twice, asset_outside],
)  # fmt: skip
def test_requests_cannot_reach_the_functions_that_load_and_save_variables(
    edit: Callable[[Any], Any], model: Path
) -> None:
    change(model, edit)
    with pytest.raises(
        ValueError, match=r"may reach it|two functions of one name|leads out of its directory"
    ):
        saved_model_audit.check(model)


@pytest.mark.parametrize(
    "name", ["saved_model.cpb", "saved_model.pbtxt", "more/file", "assets.extra/requests"]
)
def test_a_file_that_no_saved_model_has_is_refused(name: str, model: Path) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("x")
    with pytest.raises(ValueError, match=f"holds {name}, which doesn't belong in a SavedModel"):
        saved_model_audit.check(model)


@pytest.mark.parametrize("content", [b"\xff", b"not one", b"\x12\x05abc"])
def test_a_folder_without_a_saved_model_gives_a_one_line_error(content: bytes, model: Path) -> None:
    (model / "saved_model.pb").write_bytes(content)
    with pytest.raises(ValueError, match="is not a SavedModel"):
        saved_model_audit.check(model)


def test_a_graph_of_gigabytes_is_not_read(model: Path) -> None:
    with (model / "saved_model.pb").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="has more than 256 MB"):
        saved_model_audit.check(model)
