"""Append calibration and decision threshold to the ONNX graph of a classifier."""

from typing import Any

import numpy as np

from flowparts.models import adjusted
from flowparts.models.adjusted import CalibratedProbabilities, DecisionThreshold

_PROBABILITIES, _LABEL = "probabilities", "label"


def calibrate(model: Any, calibration: CalibratedProbabilities) -> None:
    """Append the calibration to a graph with the output "probabilities" (rows, classes); drop "label"."""
    from onnx import helper, numpy_helper

    graph = model.graph
    output = _output(model, _PROBABILITIES)
    kind = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
    for each in graph.node:
        for names in (each.input, each.output):
            names[:] = ["uncalibrated" if name == _PROBABILITIES else name for name in names]
    kept = [each for each in graph.output if each.name != _LABEL]
    del graph.output[:]
    graph.output.extend(kept)

    def constant(name: str, values: Any, dtype: Any = kind) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def node(operator: str, inputs: list[str], result: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(operator, inputs, [result], **attributes))
        return result

    logs = node("Log", [node("Add", ["uncalibrated", constant("floor", adjusted.FLOOR)], "floored")], "logs")
    if calibration.knots is None:
        scaled = node("Mul", [logs, constant("slope", calibration.slope)], "scaled")
        if calibration.intercepts is not None:
            scaled = node("Add", [scaled, constant("intercepts", [calibration.intercepts])], "shifted")
        node("Softmax", [scaled], _PROBABILITIES, axis=1)
        return
    at, values = (np.asarray(each, dtype=float) for each in calibration.knots)
    steps = np.diff(values) / np.diff(at)
    odds = node("MatMul", [logs, constant("difference", [[-1.0], [1.0]])], "log_odds")
    bounded = node("Clip", [odds, constant("lowest", at[0]), constant("highest", at[-1])], "bounded")
    passed = node("GreaterOrEqual", [bounded, constant("inner", [at[1:-1]])], "passed")
    counted = node("Cast", [passed], "counted", to=helper.np_dtype_to_tensor_dtype(np.dtype(np.int64)))
    place = node("ReduceSum", [counted, constant("columns", [1], np.int64)], "place", keepdims=1)
    gathered = {
        name: node("Gather", [constant(f"{name}_of_knots", table), place], name, axis=0)
        for name, table in (("begin", at[:-1]), ("base", values[:-1]), ("rise", steps))
    }
    beyond = node("Sub", [bounded, gathered["begin"]], "beyond")
    second = node("Add", [gathered["base"], node("Mul", [beyond, gathered["rise"]], "risen")], "second")
    first = node("Sub", [constant("one", 1.0), second], "first")
    node("Concat", [first, second], _PROBABILITIES, axis=1)


def decide(model: Any, decision: DecisionThreshold) -> None:
    """Append the threshold to a graph with the output "probabilities"; its output "label" is the decision."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    kind = helper.tensor_dtype_to_np_dtype(_output(model, _PROBABILITIES).type.tensor_type.elem_type)
    for node in graph.node:
        node.output[:] = ["most_probable" if name == _LABEL else name for name in node.output]
    for each in list(graph.output):
        if each.name == _LABEL:
            graph.output.remove(each)
    places = {"positive": decision.positive, "negative": 1 - decision.positive}
    for name, place in places.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(place, dtype=np.int64), name))
    threshold = np.asarray(decision.threshold, dtype=kind)
    graph.initializer.append(numpy_helper.from_array(threshold, "threshold"))
    graph.node.extend(
        [
            helper.make_node("Gather", [_PROBABILITIES, "positive"], ["of_positive"], axis=1),
            helper.make_node("GreaterOrEqual", ["of_positive", "threshold"], ["reached"]),
            helper.make_node("Where", ["reached", "positive", "negative"], [_LABEL]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info(_LABEL, TensorProto.INT64, [None]))


def _output(model: Any, name: str) -> Any:
    return next(each for each in model.graph.output if each.name == name)
