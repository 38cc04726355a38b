"""Export fitted estimators as ONNX graphs, which are kept only if they predict the same."""

import copy
import hashlib
import importlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from flowparts.models import agreement, fitted_estimators, onnx_adjusted, onnx_graph, raw_features
from flowparts.models.adjusted import ADJUSTED, CalibratedProbabilities, DecisionThreshold
from flowparts.models.agreement import TOLERANCE
from flowparts.prepare import preprocess
from flowparts.prepare.preprocess import Preprocessor
from flowparts.util import errors

# Operators of 2023, which every current ONNX Runtime supports.
_OPSETS = {"": 18, "ai.onnx.ml": 3}
_IR_VERSION = 8
_SAMPLE_ROWS = 2_000
# Converters process nodes one by one in Python: with more than this, an export takes minutes.
_MAX_NODES = 500_000
# Features are scaled, so these are far out, and beyond 32-bit arithmetic.
_EXTREMES = (0.0, 1e3, -1e3, 3.4e38, -3.4e38)
_NUMBERS = [None, 0.0, -0.0, 1.0, -1.0, 1e9, -1e9, 1e300, -1e300, 1e-300]
_MOMENTS = [
    None,
    "0001-01-01T00:00:00",
    "1969-12-31T23:59:59.999999",
    "2024-02-29 12:30",
    "9999-12-31T23:59:59",
]
_SPECIAL: dict[str, list[Any]] = {
    "integer": _NUMBERS,
    "number": _NUMBERS,
    "boolean": [None, False, True],
    "string": [None, "", "\u2603 unseen"],
    "timestamp": _MOMENTS,
    "date": _MOMENTS,
}
# Number of words of a vocabulary, and how often they are repeated to exceed the part of a text that is read.
_PROBED_TERMS, _REPEATED = 50, 100
# Loops over rows are slower than the original.
_LOOPS = {"Loop", "Scan"}


@dataclass(frozen=True)
class Parity:
    """The result of comparing an exported graph with its original.

    Attributes:
        agrees: Whether the graph can replace the original.
        reason: Reason for the verdict, in one sentence.
        rows: Number of compared rows: a sample of training rows, the example, and synthetic extremes.
        largest_difference: Largest difference of probabilities, or of regression values in units of
            `agreement.scale`.
        tolerance: Largest allowed difference.
        precision: Precision of the graph: "float32" or "float64".
        sha256: Digest of the graph's file.
    """

    agrees: bool
    reason: str
    rows: int = 0
    largest_difference: float = 0.0
    tolerance: float = TOLERANCE
    precision: str = ""
    sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, for the model's metadata."""
        return asdict(self)


def export(
    estimator: Any, preprocessor: Preprocessor, sample: Any, classes: Sequence[Any] | None
) -> tuple[bytes | None, Parity]:
    """Export a fitted estimator as an ONNX graph, if one predicts the same.

    The graph takes the float32 features; its metadata describes how they are made from raw columns. It is
    compared with the estimator on the sample, on the preprocessor's example and on synthetic rows: missing
    values, known and unseen categories, extreme numbers and times. Features must be bit-identical, predicted
    classes equal (see `agreement.classes_may_differ`), probabilities and numbers equal within `TOLERANCE`;
    on synthetic rows, the estimator's answers in 64 bits will do as well. If 32-bit arithmetic doesn't
    suffice, 64 bits are tried.

    Args:
        estimator: A fitted scikit-learn, XGBoost or LightGBM estimator; not changed.
        preprocessor: The preprocessor of its features.
        sample: Training features, rows by columns, of which at most 2,000 rows are used.
        classes: Sorted classes of a classifier; None for a regressor.

    Returns:
        The ONNX file or None, and the result of the comparison.
    """
    if classes is not None and not hasattr(estimator, "predict_proba"):
        return None, Parity(agrees=False, reason=f"{_name(estimator)} has no probabilities of its own")
    trees = [thresholds for thresholds in map(_thresholds, _parts(estimator)) if thresholds is not None]
    nodes = sum(map(len, trees))
    if nodes > _MAX_NODES:
        reason = f"its trees have {nodes:,} nodes; at most {_MAX_NODES:,} are exported"
        return None, Parity(agrees=False, reason=reason)
    learned = raw_features.describe(preprocessor)
    raw = _probes(preprocessor)
    numbers = [name for name, kind in preprocessor.features.items() if kind in ("integer", "number")]
    table = pl.DataFrame(raw, schema_overrides=dict.fromkeys(numbers, pl.Float64()), strict=False)
    expected = preprocess.matrix(table, preprocessor)
    unequal = int((raw_features.RawFeatures(learned).matrix(raw) != expected).any(axis=1).sum())
    if unequal:
        reason = f"the features of {unequal} of {len(expected)} raw rows differ from those in training"
        return None, Parity(agrees=False, reason=reason, rows=len(expected))
    step = max(1, len(sample) // _SAMPLE_ROWS)
    width = expected.shape[1]
    extremes = np.repeat(np.array(_EXTREMES, dtype=np.float32)[:, None], width, axis=1)
    example, synthetic = np.split(expected, [preprocessor.example.height])
    usual = np.concatenate([sample[::step][:_SAMPLE_ROWS], example])
    rows = np.concatenate([usual, extremes, synthetic]).astype(np.float32)
    return _best(estimator, learned, rows, len(usual), classes)


def _best(
    estimator: Any, learned: Mapping[str, Any], rows: Any, usual: int, classes: Sequence[Any] | None
) -> tuple[bytes | None, Parity]:
    """Return the first graph that agrees, the faster precision first; or None and why the first doesn't.

    The first `usual` rows are from the table, the others are synthetic.
    """
    try:
        with np.errstate(all="ignore"):  # numbers overflow at the extremes
            expected = fitted_estimators.predictions(estimator, rows, classes)
    except ValueError as error:
        return None, Parity(
            agrees=False, reason=f"{_name(estimator)} can't score every row: {errors.first_line(error)}"
        )
    failures = []
    unit = agreement.scale(expected.head(usual), "regression" if classes is None else "classification")
    for precision in ("float32", "float64"):
        try:
            graph = onnx_graph.with_description(
                _convert(estimator, precision, rows.shape[1], classes), learned
            )
            online = onnx_graph.Graph(graph, classes).predict_matrix(rows)
        # Converters and the runtime raise all kinds of exceptions.
        except Exception as error:
            failures.append(
                Parity(
                    agrees=False, reason=f"{_name(estimator)} can't be exported: {errors.first_line(error)}"
                )
            )
            continue
        digest = hashlib.sha256(graph).hexdigest()
        answers = [expected]
        parity = _compare(estimator, answers, online, usual, classes, unit, precision, digest)
        if not parity.agrees:
            with np.errstate(all="ignore"):
                answers.append(fitted_estimators.predictions(estimator, rows.astype(float), classes))
            parity = _compare(estimator, answers, online, usual, classes, unit, precision, digest)
        if parity.agrees:
            return graph, parity
        failures.append(parity)
    return None, failures[0]


def _compare(
    estimator: Any,
    answers: Sequence[pl.DataFrame],
    online: Mapping[str, Any],
    usual: int,
    classes: Sequence[Any] | None,
    unit: float,
    precision: str,
    sha256: str,
) -> Parity:
    """Compare a graph's answers with those of the original.

    `answers` may end with the original's in 64 bits. Synthetic rows, all but the first `usual`, need only
    agree with either: far out, sums of 32 bits overflow in one order and not in another.
    """
    apart, wrong, answered = _apart(estimator, answers[0], online, classes, unit)
    exactly = 0
    for exact in answers[1:]:
        exact_apart, exact_wrong, exact_answered = _apart(estimator, exact, online, classes, unit)
        right = wrong & exact_answered & ~exact_wrong & (np.arange(len(wrong)) >= usual)
        apart, wrong, exactly = np.where(right, exact_apart, apart), wrong & ~right, int(right.sum())
    rows, largest = int(answered.sum()), float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))
    if wrong.any():
        differing = f"{int(wrong.sum())} of {rows} rows otherwise, by up to {largest:.2g}"
        return Parity(
            agrees=False,
            reason=f"the ONNX graph predicts {differing}",
            rows=rows,
            largest_difference=min(largest, float(np.finfo(float).max)),
        )
    reason = f"the ONNX graph predicts {rows} rows as the original does, within {TOLERANCE:g}"
    if exactly:
        reason += f"; {exactly} synthetic ones far out as it does in 64 bits"
    return Parity(True, reason, rows, largest, precision=precision, sha256=sha256)


def _apart(
    estimator: Any,
    expected: pl.DataFrame,
    online: Mapping[str, Any],
    classes: Sequence[Any] | None,
    unit: float,
) -> tuple[Any, Any, Any]:
    """Return, of each row, the largest difference, whether it is too large, and whether there was an answer.

    There is nothing to compare if the original itself fails.
    """
    names = [f"probability_{value}" for value in classes] if classes else ["prediction"]
    truth = expected.select(names).to_numpy()
    found = np.column_stack([online[name] for name in names])
    answered = np.isfinite(truth).all(axis=1)
    units = unit if classes else np.maximum(unit, np.abs(truth[answered]))
    apart, wrong = np.zeros(len(truth)), np.zeros(len(truth), dtype=bool)
    each = np.abs(found[answered] - truth[answered]) / units
    apart[answered], wrong[answered] = each.max(axis=1), ~(each <= TOLERANCE).all(axis=1)
    if classes:
        leads = [np.diff(np.sort(side[answered], axis=1)[:, -2:], axis=1)[:, 0] for side in (truth, found)]
        may_differ = agreement.classes_may_differ(*leads)
        if isinstance(estimator, DecisionThreshold):
            positive = truth[answered][:, estimator.positive]
            may_differ = agreement.near_threshold(positive, estimator.threshold)
        same = np.array(expected["prediction"].to_list(), dtype=object) == online["prediction"]
        wrong[answered] |= ~same[answered] & ~may_differ
    return apart, wrong, answered


def _convert(estimator: Any, precision: str, width: int, classes: Sequence[Any] | None) -> bytes:
    """Return a graph from float32 "features" to "prediction" or "probabilities", perhaps with "label"."""
    model = _graph(estimator, precision, width, classes)
    loops = _LOOPS & {node.op_type for node in model.graph.node}
    if loops:
        raise ValueError(f"its graph loops over rows ({', '.join(loops)}), which is slower than the original")
    if precision == "float64":
        _cast_input(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _graph(estimator: Any, precision: str, width: int, classes: Sequence[Any] | None) -> Any:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    if isinstance(estimator, ADJUSTED):
        model = _graph(estimator.estimator, precision, width, classes)
        if isinstance(estimator, CalibratedProbabilities):
            onnx_adjusted.calibrate(model, estimator)
        else:
            onnx_adjusted.decide(model, estimator)
        return model
    _register_converters()
    # A copy, because parts of it are changed.
    inner = copy.deepcopy(fitted_estimators.bare(estimator))
    _round_thresholds(inner)
    if type(inner).__module__ == "sklearn.ensemble._voting":
        _unlabel(inner, classes)
    # Converters refuse options that only concern `transform`.
    flat = [name for name in inner.get_params() if name.split("__")[-1] == "flatten_transform"]
    inner.set_params(**dict.fromkeys(flat, False))
    most_probable = fitted_estimators.predicts_most_probable(estimator)
    if classes is not None and not most_probable:
        inner.classes_ = np.arange(len(classes))
    kind: Any = FloatTensorType if precision == "float32" else DoubleTensorType
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = to_onnx(
            inner,
            initial_types=[("features", kind([None, width]))],
            name=_name(estimator),
            options=None if classes is None else {id(inner): {"zipmap": False}},
            target_opset=_OPSETS,
        )
    outputs = model.graph.output
    _rename(model, outputs[-1].name, "prediction" if classes is None else "probabilities")
    if classes is not None and most_probable:
        del outputs[0]
    elif classes is not None:
        _rename(model, outputs[0].name, "label")
    return model


@cache
def _register_converters() -> None:
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    for name, module in fitted_estimators.BOOSTERS.items():
        classifier = name.endswith("Classifier")
        update_registered_converter(
            getattr(importlib.import_module(module), name),
            f"Flowparts{name}",
            calculate_linear_classifier_output_shapes
            if classifier
            else calculate_linear_regressor_output_shapes,
            convert_xgboost if module == "xgboost" else convert_lightgbm,
            options={"zipmap": [True, False], "nocl": [True, False]} if classifier else {"split": None},
        )


def _round_thresholds(estimator: Any) -> None:
    """Round the thresholds of trees down to 32 bits, in place.

    Converters round to the nearest, so a feature between the two would go the other way. Rounded down, a
    threshold t splits 32-bit features x exactly as before: x <= t.
    """
    for part in _parts(estimator):
        thresholds = _thresholds(part)
        if thresholds is not None:
            thresholds[:] = _rounded_down(thresholds)
        booster = getattr(part, "_Booster", None)
        if type(booster).__module__ == "lightgbm.basic":
            part._Booster = _rounded_booster(booster)


def _rounded_down(thresholds: Any) -> Any:
    with np.errstate(over="ignore"):
        nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _rounded_booster(booster: Any) -> Any:
    from lightgbm import Booster

    def rounded(match: re.Match[str]) -> str:
        numbers = _rounded_down(np.array(match[1].split(), dtype=float)).astype(float)
        return "threshold=" + " ".join(repr(number) for number in numbers.tolist())

    text = re.sub(r"^threshold=(.*)$", rounded, booster.model_to_string(), flags=re.MULTILINE)
    # The text sizes of the trees have changed; without them, the model is read in one go.
    return Booster(model_str=re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE))


def _thresholds(part: Any) -> Any:
    """Return the thresholds of a scikit-learn tree, an array that the tree uses; None for others."""
    kind = type(part)
    if kind.__module__ == "sklearn.tree._tree":
        return part.threshold
    histogram = kind.__module__ == "sklearn.ensemble._hist_gradient_boosting.predictor"
    return part.nodes["num_threshold"] if histogram else None


def _parts(root: Any) -> Iterator[Any]:
    """Yield an estimator and all estimators inside it."""
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        yield part
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part
        elif isinstance(part, np.ndarray) and part.dtype == object:
            waiting += part.ravel().tolist()
        elif type(part).__module__.partition(".")[0] in ("sklearn", "lightgbm", "flowparts"):
            waiting += getattr(part, "__dict__", {}).values()


def _unlabel(vote: Any, classes: Sequence[Any] | None) -> None:
    """Prepare a weighted mean of estimators for its converter, which takes no members with text labels."""
    vote.estimators_ = [fitted_estimators.bare(each) for each in vote.estimators_]
    if vote.weights is not None:
        vote.weights = np.asarray(vote.weights)
    for each in vote.estimators_:
        if classes is not None and type(each).__name__ not in fitted_estimators.BOOSTERS:
            each.classes_ = np.arange(len(classes))


def _rename(model: Any, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for output in model.graph.output:
        if output.name == old:
            output.name = new


def _cast_input(model: Any) -> None:
    """Make a graph with float64 features take float32 ones."""
    from onnx import TensorProto, helper

    _rename(model, "features", "features64")
    model.graph.node.insert(0, helper.make_node("Cast", ["features"], ["features64"], to=TensorProto.DOUBLE))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _probes(preprocessor: Preprocessor) -> dict[str, list[Any]]:
    """Return plain raw values by column: the example, and the special values of each type, mixed."""
    known: dict[str, list[Any]] = {}
    described = raw_features.describe(preprocessor)
    for name, values, *_ in described["categories"] + described["targets"]:
        known[name] = values
    for name, vocabulary, *_ in described["texts"]:
        terms = vocabulary.split("\n")[:_PROBED_TERMS]
        known[name] = [*known.get(name, []), *terms, " ".join(terms).upper(), " ".join(terms) * _REPEATED]
    special = {name: _SPECIAL[kind] + known.get(name, []) for name, kind in preprocessor.features.items()}
    example = json.loads(preprocessor.example.write_json())
    rows = max(map(len, special.values()))
    return {
        name: [row[name] for row in example]
        + [values[(row * (shift + 1) + shift) % len(values)] for row in range(rows)]
        for shift, (name, values) in enumerate(special.items())
    }


def _name(estimator: Any) -> str:
    return type(fitted_estimators.bare(estimator)).__name__
