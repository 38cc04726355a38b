import base64
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper, numpy_helper

from flowparts import models
from flowparts.models import engines, onnx_graph
from flowparts.models.raw_features import RawFeatures
from flowparts.prepare import preprocess

FLOAT, DOUBLE, TEXT, INT = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.STRING, TensorProto.INT64
METADATA = {"framework": "pytorch", "estimator": "Net", "validation": {"roc_auc": 0.9}}
OPSETS = [helper.make_opsetid("", 18)]
AXES = numpy_helper.from_array(np.array([1], np.int64), "axes")


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any] | None = None) -> bytes:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*given) for given in inputs],
        [helper.make_tensor_value_info(*given) for given in outputs],
        weights or [],
    )
    content: bytes = helper.make_model(made, opset_imports=OPSETS, ir_version=8).SerializeToString()
    return content


def of_columns(columns: list[str], task: str = "regression") -> bytes:
    """Add up number columns; for a classification the sum's sigmoid is the second class's probability."""
    nodes = [helper.make_node("Concat", columns, ["all"], axis=1)]
    if task == "regression":
        nodes.append(helper.make_node("ReduceSum", ["all", "axes"], ["prediction"], keepdims=1))
        outputs = [("prediction", DOUBLE, [None, 1])]
    else:
        nodes.append(helper.make_node("ReduceSum", ["all", "axes"], ["sum"], keepdims=1))
        nodes.append(helper.make_node("Sigmoid", ["sum"], ["probabilities"]))
        outputs = [("probabilities", DOUBLE, [None, 1])]
    return graph(nodes, [(name, DOUBLE, [None, 1]) for name in columns], outputs, [AXES])


def save(path: Path, content: bytes, example: pl.DataFrame, features: dict[str, str], **options: Any) -> Path:
    given = {"task": "regression", "label": "y", "classes": None, "metadata": METADATA, **options}
    models.save_onnx(path, content, features=features, example=example, **given)
    return path


def test_a_graph_of_raw_columns_scores_tables_and_plain_values(tmp_path: Path) -> None:
    rows = pl.DataFrame({"a": [1.0, 2.0], "b": [10, 20]})
    path = save(tmp_path / "m", of_columns(["a", "b"]), rows, {"a": "number", "b": "integer"})
    model = models.load(path)
    assert model.metadata["framework"] == "pytorch"
    assert model.predict(rows)["prediction"].to_list() == [11, 22]
    assert model.predict(rows.lazy().with_columns(pl.lit("x").alias("other")))["prediction"].sum() == 33
    assert model.predict(rows.clear()).schema == {"prediction": pl.Float64}
    engine = engines.load(path)
    assert (engine.name, engine.features) == ("onnxruntime", {"a": "number", "b": "integer"})
    assert engine.predict_columns({"a": [1.5], "b": [2]})["prediction"].tolist() == [3.5]


def test_a_single_probability_column_is_that_of_the_second_class(tmp_path: Path) -> None:
    rows = pl.DataFrame({"a": [3.0, -3.0]})
    options = {"task": "classification", "classes": ["no", "yes"]}
    path = save(tmp_path / "m", of_columns(["a"], "classification"), rows, {"a": "number"}, **options)
    found = models.load(path).predict(rows)
    assert found["prediction"].to_list() == ["yes", "no"]
    np.testing.assert_allclose(found["probability_yes"], 1 / (1 + np.exp([-3, 3])), rtol=1e-12)
    np.testing.assert_allclose(found["probability_no"] + found["probability_yes"], 1)


def test_a_graph_of_features_is_given_what_its_preprocessor_makes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"a": rng.normal(size=50), "town": ["x", "y"] * 25, "y": rng.normal(size=50)})
    learned, features = preprocess.fit(frame.lazy(), label="y", task="regression")
    summing = helper.make_node("ReduceSum", ["features", "axes"], ["prediction"], keepdims=0)
    content = graph([summing], [("features", FLOAT, [None, 3])], [("prediction", FLOAT, [None])], [AXES])
    path = save(tmp_path / "m", content, learned.example, learned.features, preprocessor=learned)
    found = models.load(path).predict(frame)["prediction"]
    np.testing.assert_allclose(found, features.drop("y").sum_horizontal(), rtol=1e-5, atol=1e-5)


def test_text_times_and_whole_numbers_go_in_as_themselves(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["size"], ["parsed"], to=DOUBLE),
        helper.make_node("Cast", ["at"], ["since"], to=DOUBLE),
        helper.make_node("Add", ["parsed", "since"], ["prediction"]),
    ]
    inputs = [("size", TEXT, [None]), ("at", INT, [None])]
    content = graph(nodes, inputs, [("prediction", DOUBLE, [None])])
    rows = pl.DataFrame({"size": ["12"], "at": [datetime.datetime(1970, 1, 1, 0, 0, 1)]})
    path = save(tmp_path / "m", content, rows, {"size": "string", "at": "timestamp"})
    assert models.load(path).predict(rows)["prediction"].to_list() == [1_000_012]
    columns = {"size": ["7"], "at": ["1970-01-01T00:00:02"]}
    assert engines.load(path).predict_columns(columns)["prediction"].tolist() == [2_000_007]
    with pytest.raises(ValueError, match="feature column 'at' must have a value"):
        engines.load(path).predict_columns({"size": ["7"], "at": [None]})


@pytest.mark.parametrize("kind", [FLOAT, DOUBLE], ids=["float", "double"])
def test_a_table_is_scored_as_its_plain_values_are(kind: int, tmp_path: Path) -> None:
    columns = {
        "number": ("number", [1.5, None, float("inf"), float("nan"), 1e300]),
        "whole": ("integer", [1, 2, None, -(2**53), 0]),
        "flag": ("boolean", [True, None, False, True, True]),
        "day": ("date", [datetime.date(2024, 2, 29), None, *[datetime.date(1960, 1, 1)] * 3]),
        "at": ("timestamp", [None, *[datetime.datetime(2024, 1, 1, 0, 0, 0, 1)] * 4]),
    }
    nodes = [helper.make_node("Concat", list(columns), ["all"], axis=1)]
    nodes.append(helper.make_node("IsNaN", ["all"], ["missing"]))
    nodes.append(helper.make_node("Where", ["missing", "minus", "all"], ["filled"]))
    # Each column has a part of its own in the sum.
    nodes.append(helper.make_node("MatMul", ["filled", "shares"], ["weighed"]))
    nodes.append(helper.make_node("Cast", ["town"], ["parsed"], to=kind))
    nodes.append(helper.make_node("Add", ["weighed", "parsed"], ["prediction"]))
    number = np.float32 if kind == FLOAT else np.float64
    weights = [
        numpy_helper.from_array(np.array(-7, number), "minus"),
        numpy_helper.from_array(np.array([[1], [3], [5], [1e-9], [1e-11]], number), "shares"),
    ]
    inputs = [*((name, kind, [None, 1]) for name in columns), ("town", TEXT, [None, 1])]
    content = graph(nodes, inputs, [("prediction", kind, [None, 1])], weights)
    towns = ["1", "2", "3", "4", "5"]
    rows = pl.DataFrame({**{name: values for name, (_, values) in columns.items()}, "town": towns})
    types = {**{name: of for name, (of, _) in columns.items()}, "town": "string"}
    path = save(tmp_path / "m", content, rows, types)
    found = models.load(path).predict(rows)["prediction"].to_numpy()
    plain = engines.load(path).predict_columns({name: rows[name].to_list() for name in rows.columns})
    np.testing.assert_array_equal(found, plain["prediction"])
    assert len(set(found[np.isfinite(found)].tolist())) >= 4


def broken() -> dict[str, tuple[bytes, str]]:
    whole = of_columns(["a"])
    custom = graph(
        [helper.make_node("Steal", ["a"], ["prediction"], domain="evil")],
        [("a", DOUBLE, [None, 1])],
        [("prediction", DOUBLE, [None, 1])],
    )
    outside = onnx.TensorProto()
    outside.CopyFrom(numpy_helper.from_array(np.ones((1, 1)), "w"))
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="numbers.bin")
    external = graph(
        [helper.make_node("Gemm", ["a", "w"], ["prediction"])],
        [("a", DOUBLE, [None, 1])],
        [("prediction", DOUBLE, [None, 1])],
        [outside],
    )
    return {
        "empty": (b"", "the ONNX graph"),
        "text": (b"not a graph", "the ONNX graph can't be read"),
        "cut": (whole[: len(whole) // 2], "the ONNX graph"),
        "custom operator": (custom, "the ONNX graph can't be run: .*Steal"),
        "external data": (external, "the ONNX graph keeps the tensor .w. in another file"),
        "other output": (whole.replace(b"prediction", b"predictiun"), "has no output 'prediction'"),
        "no row each": (
            graph(
                [helper.make_node("ReduceSum", ["a"], ["prediction"], keepdims=1)],
                [("a", DOUBLE, [None, 1])],
                [("prediction", DOUBLE, [None, 1])],
            ),
            "the ONNX graph gives 1 predictions for 2 rows",
        ),
        "other column": (of_columns(["z"]), "inputs of the ONNX graph are not the feature columns: z"),
    }


@pytest.mark.parametrize("what", broken())
def test_an_unusable_graph_is_refused_in_one_line(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.ones((1, 1)).tofile("numbers.bin")
    content, message = broken()[what]
    rows = pl.DataFrame({"a": [1.0, 2.0]})
    with pytest.raises(ValueError, match=message) as refused:
        save(tmp_path / "m", content, rows, {"a": "number"})
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "m").exists()
    if what == "no row each":
        return
    # The same file in a model directory is refused as well when it is opened.
    save(tmp_path / "m", of_columns(["a"]), rows, {"a": "number"})
    (tmp_path / "m" / onnx_graph.FILE).write_bytes(content)
    for opening in (models.load, engines.load):
        with pytest.raises(ValueError, match="ONNX graph") as refused:
            opening(tmp_path / "m")  # type: ignore[operator]
        assert "\n" not in str(refused.value)


def test_a_missing_graph_is_reported(tmp_path: Path) -> None:
    path = save(tmp_path / "m", of_columns(["a"]), pl.DataFrame({"a": [1.0]}), {"a": "number"})
    (path / onnx_graph.FILE).unlink()
    with pytest.raises(ValueError, match="the ONNX graph is missing: there is no file at"):
        models.load(path)


def test_notes_of_the_exporter_are_dropped_wherever_they_stand(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["then"], doc_string="/home/me/inner.py")],
        "inner",
        [],
        [helper.make_tensor_value_info("then", DOUBLE, [None, 1], doc_string="/home/me/output.py")],
    )
    always = numpy_helper.from_array(np.array(True), "always")
    branch = helper.make_node("If", ["always"], ["prediction"], then_branch=inner, else_branch=inner)
    model = onnx.load_model_from_string(
        graph([branch], [("a", DOUBLE, [None, 1])], [("prediction", DOUBLE, [None, 1])], [always])
    )
    model.doc_string = model.graph.doc_string = model.graph.input[0].doc_string = "/home/me/outer.py"
    helper.set_model_props(model, {"trace": "/home/me/model.py"})
    rows = pl.DataFrame({"a": [1.5]})
    path = save(tmp_path / "m", model.SerializeToString(), rows, {"a": "number"})
    assert b"/home/me" not in (path / onnx_graph.FILE).read_bytes()
    assert models.load(path).predict(rows)["prediction"].to_list() == [1.5]


def test_equal_graphs_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("m", "n"):
        save(tmp_path / name, of_columns(["a"]), pl.DataFrame({"a": [1.0]}), {"a": "number"})
    files = [{f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("m", "n")]
    assert files[0] == files[1]


# What a model's graph said of a number, a day, two categories and a target-encoded text in earlier versions.
BEFORE = {
    "types": [
        ["amount", "number"],
        ["at", "timestamp"],
        ["day", "date"],
        ["plan", "string"],
        ["city", "string"],
    ],
    "numbers": ["amount"],
    "timestamps": ["at"],
    "dates": ["day"],
    "categories": [["plan", ["basic", None]]],
    "targets": [["city", ["Rome", "Oslo"], [[1.5], [-0.5]], [0.25]]],
    "fill": [2.0, 2020.0, 6.0, 3.0, 12.0, 18000.0, 2020.0, 6.0, 3.0, 18000.0],
    "mean": [1.0, 2020.0, 5.0, 3.0, 12.0, 18000.0, 2020.0, 5.0, 3.0, 18000.0],
    "scale": [2.0, 1.0, 2.0, 1.0, 6.0, 100.0, 1.0, 2.0, 1.0, 100.0],
}


def test_a_description_of_an_earlier_version_still_makes_its_features() -> None:
    rows = {
        "amount": [None, 5],
        "at": [None, "2021-03-04 06:00"],
        "day": ["2021-03-04", None],
        "plan": [None, "pro"],
        "city": ["Oslo", "Bonn"],
    }
    # 4 March 2021 was a Thursday, 18,690 days after the first of 1970.
    expected = [
        [0.5, 0, 0.5, 0, 0, 0, 1, -1, 0, 6.9, 0, 1, -0.5],
        [2, 1, -1, 0, -1, 6.9025, 0, 0.5, 0, 0, 0, 0, 0.25],
    ]
    np.testing.assert_allclose(RawFeatures(BEFORE).matrix(rows), np.array(expected, dtype=np.float32))


WORDS = ["said", "good\nbad", base64.b64encode(np.ones((2, 3), "<f4").tobytes()).decode(), 3]


@pytest.mark.parametrize(
    "texts",
    [
        [[*WORDS, [0, 0], [1]]],
        [[*WORDS, [0], [1, 1]]],
        [[*WORDS, [0, "much"], [1, 1]]],
        [[*WORDS[:3], 4, [0, 0, 0], [1, 1, 1]]],
        [[*WORDS[:3], 0, [], []]],
        [["said", "one", *WORDS[2:], [0, 0], [1, 1]]],
        [["said", 7, *WORDS[2:], [0, 0], [1, 1]]],
        [["said", "good\nbad", "no base64!", 3, [0, 0], [1, 1]]],
        [["said", "good\nbad", None, 3, [0, 0], [1, 1]]],
        [["said"]],
        7,
    ],
    ids=str,
)
def test_a_damaged_description_of_text_is_refused(texts: Any) -> None:
    summing = helper.make_node("ReduceSum", ["features", "axes"], ["prediction"], keepdims=0)
    content = graph([summing], [("features", FLOAT, [None, 2])], [("prediction", FLOAT, [None])], [AXES])
    learned = {
        **{key: [] for key in BEFORE},
        "types": [["said", "string"]],
        "texts": [[*WORDS, [0, 0], [1, 1]]],
    }
    fine = onnx_graph.Graph(onnx_graph.with_description(content, learned), None)
    assert fine.predict({"said": ["good", None]})["prediction"].tolist() == [2, 0]
    with pytest.raises(ValueError, match="the metadata of the ONNX graph is damaged: "):
        onnx_graph.Graph(onnx_graph.with_description(content, {**learned, "texts": texts}), None)
