"""Directories made to harm whoever opens them: each is refused in one sentence, by every way in."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

from flowparts import models
from flowparts.models import engines, mlmodel, onnx_graph
from flowparts.serving import served_model
from flowparts.serving.server_settings import Settings
from flowparts.util import weights
from tests.flowparts.serving.conftest import train

ROWS = pl.DataFrame({"a": [1.0, 2.0]})
DOUBLE = TensorProto.DOUBLE


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model that scikit-learn scores: without a graph."""
    path = train(tmp_path_factory.mktemp("native") / "model")
    (path / "model.onnx").unlink()
    change(path, lambda told: told["metadata"].pop("onnx"))
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model that is a graph alone."""
    path = tmp_path_factory.mktemp("graph") / "model"
    content = sum_of([helper.make_node("Identity", ["a"], ["prediction"])])
    given = {"task": "regression", "label": "y", "classes": None, "metadata": {"framework": "pytorch"}}
    models.save_onnx(path, content, features={"a": "number"}, example=ROWS, **given)
    return path


def sum_of(nodes: list[Any], tensors: list[Any] | None = None, **more: Any) -> bytes:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("a", DOUBLE, [None, 1])],
        [helper.make_tensor_value_info("prediction", DOUBLE, [None, 1])],
        tensors or [],
        **more,
    )
    content: bytes = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    ).SerializeToString()
    return content


def change(model: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    told = yaml.safe_load((model / "MLmodel").read_text())
    edit(told)
    (model / "MLmodel").write_text(yaml.safe_dump(told))


def setting(*names: str, to: Any) -> Callable[[Path], None]:
    """Put another value into MLmodel."""

    def edit(told: dict[str, Any]) -> None:
        for name in names[:-1]:
            told = told[name]
        told[names[-1]] = to

    return lambda model: change(model, edit)


def described(text: str | bytes) -> Callable[[Path], Any]:
    content = text.encode() if isinstance(text, str) else text
    return lambda model: (model / "MLmodel").write_bytes(content)


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def sparse_giant(name: str) -> Callable[[Path], None]:
    """Make a file say that it has 4 GB, which take no room."""

    def make(model: Path) -> None:
        with (model / name).open("r+b") as file:
            file.truncate(4 << 30)

    return make


def replaced(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def act(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        make(model / name)

    return act


def linked(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def outside(**of: Any) -> Any:
    tensor = numpy_helper.from_array(np.ones((1, 1)), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "secrets.env", **of}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def graph_of(content: bytes) -> Callable[[Path], None]:
    """Put a graph into a model with what `onnx_graph.Graph` needs to know."""

    def make(model: Path) -> None:
        parsed = onnx.load_model_from_string(content)
        helper.set_model_props(parsed, {"flowparts": json.dumps({"types": [["a", "number"]]})})
        (model / onnx_graph.FILE).write_bytes(parsed.SerializeToString())

    return make


ADD = helper.make_node("Add", ["a", "w"], ["prediction"])
CONSTANT = helper.make_node("Constant", [], ["w"], value=outside())


def in_branch() -> bytes:
    inner = helper.make_graph([CONSTANT], "inner", [], [helper.make_tensor_value_info("w", DOUBLE, [1, 1])])
    always = numpy_helper.from_array(np.array(True), "always")
    branch = helper.make_node("If", ["always"], ["v"], then_branch=inner, else_branch=inner)
    return sum_of([branch, helper.make_node("Add", ["a", "v"], ["prediction"])], [always])


def sparse() -> bytes:
    indices = numpy_helper.from_array(np.array([0], np.int64), "i")
    values = outside()
    tensor = helper.make_sparse_tensor(values, indices, [1])
    return sum_of([helper.make_node("Identity", ["a"], ["prediction"])], sparse_initializer=[tensor])


# By what the graph or MLmodel of a model is replaced.
OF_GRAPHS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "external data": (graph_of(sum_of([ADD], [outside()])), "keeps the tensor 'w' in another file"),
    "external data above": (graph_of(sum_of([ADD], [outside(location="../s")])), "keeps the tensor 'w'"),
    "external data, absolute": (
        graph_of(sum_of([ADD], [outside(location="/etc/passwd")])),
        "keeps the tensor",
    ),
    "external data of a part": (
        graph_of(sum_of([ADD], [outside(offset=0, length=8)])),
        "keeps the tensor 'w'",
    ),
    "external data in a node": (graph_of(sum_of([CONSTANT, ADD])), "keeps the tensor 'w' in another file"),
    "external data in a branch": (graph_of(in_branch()), "keeps the tensor 'w' in another file"),
    "external data in a sparse tensor": (graph_of(sparse()), "keeps the tensor 'w' in another file"),
    "unknown operator": (
        graph_of(sum_of([helper.make_node("Steal", ["a"], ["prediction"], domain="evil")])),
        "can't be run",
    ),
    "a loop of itself": (
        graph_of(sum_of([helper.make_node("Add", ["a", "prediction"], ["prediction"])])),
        "can't",
    ),
    "graph is text": (lambda model: (model / "model.onnx").write_text("graph"), "can't be r"),
    "graph is empty": (lambda model: (model / "model.onnx").write_bytes(b""), "ONNX graph"),
    "graph is of another runtime's format": (
        lambda model: (model / "model.onnx").write_bytes(b"\x18\0\0\0ORTM" + b"\0" * 64),
        "ONNX graph",
    ),
    "graph is a pipe": (replaced("model.onnx", os.mkfifo), "device, pipe or socket"),
    "graph is a link out": (replaced("model.onnx", linked("/etc/hostname")), "a link that leads out"),
    "graph is a device": (replaced("model.onnx", linked("/dev/zero")), "a link that leads out"),
    "graph is a directory": (replaced("model.onnx", Path.mkdir), "ONNX graph is missing"),
    "graph is missing": (lambda model: (model / "model.onnx").unlink(), "ONNX graph is missing"),
    "MLmodel is empty": (described(""), "not saved by flowparts"),
    "MLmodel is a pipe": (replaced("MLmodel", os.mkfifo), "device, pipe or socket"),
    "MLmodel is a link out": (replaced("MLmodel", linked("/etc/passwd")), "a link that leads out"),
    "MLmodel is a link to nothing": (replaced("MLmodel", linked("nothing")), "can't be read"),
    "MLmodel is a link to itself": (replaced("MLmodel", linked("MLmodel")), "can't be read"),
    "MLmodel is a directory": (replaced("MLmodel", Path.mkdir), "is not valid YAML: it is a directory"),
    "MLmodel of 4 GB": (sparse_giant("MLmodel"), "has more than 16 MB"),
    "MLmodel runs a function": (
        described("!!python/object/apply:os.system ['touch pwned']"),
        "could not determine a constructor",
    ),
    "MLmodel names a module": (described("!!python/module:os"), "could not determine a constructor"),
    "MLmodel's aliases repeat": (described(laughs(12)), "more than 2,000,000 values"),
    "MLmodel's alias holds itself": (described("&a [*a]"), "it contains itself by the alias 'a'"),
    "MLmodel's map holds itself": (described("&a {b: *a}"), "it contains itself by the alias 'a'"),
    "MLmodel nests lists": (described("[" * 50_000), "nested deeper than 100 levels"),
    "MLmodel nests maps": (described("".join(f"{' ' * n}a:\n" for n in range(200))), "nested deeper"),
    "MLmodel isn't UTF-8": (described(b"\xff\xfe\xfa"), "is not valid YAML"),
    "MLmodel holds NUL": (described(b"a: \x00"), "is not valid YAML"),
    "MLmodel holds no date": (described("a: 2024-99-99"), "is not valid YAML"),
    "MLmodel has a key that is a map": (described("? {a: 1}\n: 2"), "is not valid YAML"),
    "MLmodel is a list": (described("- a"), "not saved by flowparts"),
    "MLmodel's metadata is text": (setting("metadata", to="x"), "not saved by flowparts"),
    "task is unknown": (setting("metadata", "task", to="steal"), "a wrong task"),
    "task is a list": (setting("metadata", "task", to=["regression"]), "a wrong task"),
    "label is a number": (setting("metadata", "label", to=1), "a wrong label"),
    "features are a map": (setting("metadata", "features", to={"a": 1}), "a wrong list of features"),
    "features are numbers": (setting("metadata", "features", to=[1]), "a wrong list of features"),
    "classes are text": (setting("metadata", "classes", to="ab"), "a wrong list of classes"),
    "classes are empty": (setting("metadata", "classes", to=[]), "a wrong list of classes"),
    "classes are lists": (setting("metadata", "classes", to=[[1], [2]]), "a wrong list of classes"),
    "classes are of two types": (setting("metadata", "classes", to=[1, "a"]), "a wrong list of classes"),
    "schema is a list": (setting("metadata", "schema", to=[]), "a wrong schema"),
    "onnx is text": (setting("metadata", "onnx", to="agrees"), "a wrong part on onnx"),
    "flavors are a list": (setting("flavors", to=["onnx"]), "a wrong flavors"),
    "signature is text": (setting("signature", to="x"), "a wrong signature"),
    "model_uuid is a number": (setting("model_uuid", to=7), "a wrong model_uuid"),
    "a pipe beside it": (lambda model: os.mkfifo(model / "more"), "device, pipe or socket"),
    "a link out beside it": (lambda model: (model / "more").symlink_to("/etc"), "a link that leads out"),
}


def skops(model: Path, edit: Callable[[str], str]) -> None:
    """Change the description of the objects in a skops file."""
    file = model / "model.skops"
    content = file.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(file, "w") as copy:
        for name in source.namelist():
            part = source.read(name)
            copy.writestr(name, edit(part.decode()) if name == "schema.json" else part)


def swapped(old: str, new: str) -> Callable[[Path], None]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return lambda model: skops(model, edit)


def holding(estimator: Any) -> Callable[[Path], None]:
    """Put another object where the weights are, as skops itself writes it."""

    def make(model: Path) -> None:
        from skops.io import dump

        dump(estimator, model / "model.skops")

    return make


def bomb(model: Path) -> None:
    # Deflated, of which each byte stands for a thousand.
    entry = zipfile.ZipInfo("schema.json")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(model / "model.skops", "w") as archive, archive.open(entry, "w") as file:
        for _ in range(70):
            file.write(b" " * (1 << 20))


def claiming(model: Path) -> None:
    """Make an archive whose directory claims terabytes."""
    with zipfile.ZipFile(model / "model.skops", "a") as archive:
        archive.writestr("more", b"")
        archive.getinfo("more").file_size = 1 << 45


def constructor(module: str, name: str, *arguments: str) -> str:
    """Return a node that calls a type."""
    given = [
        {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(each)}
        for each in arguments
    ]
    content = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": given}
    node = {"__class__": name, "__module__": module, "__loader__": "ConstructorFromReduceNode"}
    return json.dumps({**node, "content": content, "protocol": 2, "_skops_version": "0.16"})


def whole_schema(text: str) -> Callable[[Path], None]:
    return lambda model: skops(model, lambda _: text)


JOBLIB = '"memory": {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": '
OF_WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a reader of files": (
        holding(CountVectorizer(input="filename")),
        "CountVectorizer isn't part of a model",
    ),
    "a reader of files in a pipeline": (
        holding(make_pipeline(CountVectorizer(input="filename"), LogisticRegression())),
        "CountVectorizer isn't part of a model",
    ),
    "a cache of pickles": (
        holding(make_pipeline(LinearRegression(), memory="/tmp/cache")),
        "memory='/tmp/cache' of sklearn.pipeline.Pipeline names a file",
    ),
    "a booster of a file": (
        whole_schema(constructor("lightgbm.basic", "Booster", "{}", "", "/etc/passwd")),
        "ConstructorFromReduceNode of lightgbm.basic.Booster isn't part of a model",
    ),
    "a booster of xgboost of a file": (
        whole_schema(constructor("xgboost.core", "Booster", "{}", "", "/etc/passwd")),
        "ConstructorFromReduceNode of xgboost.core.Booster",
    ),
    "a call of os.system": (
        whole_schema(constructor("os", "system", "touch pwned")),
        "of os.system isn't part",
    ),
    "a function": (swapped('"ObjectNode"', '"FunctionNode"'), "FunctionNode of"),
    "a method": (swapped('"ObjectNode"', '"MethodNode"'), "MethodNode of"),
    "a partial": (swapped('"ObjectNode"', '"PartialNode"'), "PartialNode of"),
    "an operator": (swapped('"ObjectNode"', '"OperatorFuncNode"'), "OperatorFuncNode of"),
    "a loader that is none": (swapped('"ObjectNode"', '"EvilNode"'), "EvilNode of"),
    "a type of another module": (
        swapped('"sklearn.pipeline"', '"subprocess"'),
        "subprocess.Pipeline isn't part",
    ),
    "a file for a dict": (swapped('"__class__": "dict"', '"__class__": "open"'), "DictNode of"),
    "no JSON": (whole_schema("{"), "is not a valid skops file"),
    "deep JSON": (whole_schema('{"a":' * 100_000 + "1" + "}" * 100_000), "is not a valid skops file"),
    "a list": (whole_schema("[]"), "skops file|aren't a pipeline"),
    "a schema that is a bomb": (bomb, "schema.json has more than 64 MB"),
    "a directory of terabytes": (claiming, "would unpack to"),
    "no archive": (lambda model: (model / "model.skops").write_text("x"), "is not a valid skops file"),
    "a pickle": (lambda model: (model / "model.skops").write_bytes(b"cos\nsystem\n."), "not a valid skops"),
    "half an archive": (
        lambda model: (model / "model.skops").write_bytes((model / "model.skops").read_bytes()[:3000]),
        "is not a valid skops file",
    ),
    "another model": (holding(LinearRegression()), "aren't a pipeline saved by flowparts"),
    "a pipe": (replaced("model.skops", os.mkfifo), "device, pipe or socket"),
    "a link out": (replaced("model.skops", linked("/etc/passwd")), "a link that leads out"),
    "nothing": (lambda model: (model / "model.skops").unlink(), "weights are missing"),
}


def refused_by_all(model: Path, message: str) -> None:
    for act in (
        lambda: models.load(model),
        lambda: engines.load(model),
        lambda: served_model.load(model, Settings()),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            act()
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("what", OF_GRAPHS)
def test_a_hostile_graph_or_description_gives_a_one_line_error(
    what: str, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(graph, model)
    home = tmp_path / "home"
    home.mkdir()
    # Where external data is looked for.
    (home / "secrets.env").write_bytes(np.ones((1, 1)).tobytes())
    monkeypatch.chdir(home)
    make, message = OF_GRAPHS[what]
    make(model)
    refused_by_all(model, message)
    assert [path.name for path in home.iterdir()] == ["secrets.env"]


@pytest.mark.parametrize("what", OF_WEIGHTS)
def test_hostile_weights_give_a_one_line_error(
    what: str, native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(native, model)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    make, message = OF_WEIGHTS[what]
    make(model)
    refused_by_all(model, message)
    assert not list(home.iterdir())


def test_what_is_written_once_and_named_twice_in_mlmodel_is_read(graph: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(graph, model)
    twice = ["a", "b"]
    change(model, lambda told: told.update(more=[twice, twice]))
    assert "*id001" in (model / "MLmodel").read_text()
    assert mlmodel.read(model)["more"] == [twice, twice]


def test_weights_that_could_not_be_read_again_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"memory='cache' of sklearn\.pipeline\.Pipeline names a file"):
        weights.dump(make_pipeline(LinearRegression(), memory="cache"), tmp_path / "w.skops")
    assert not (tmp_path / "w.skops").exists()
