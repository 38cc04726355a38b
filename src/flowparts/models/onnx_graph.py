"""Score raw values with a model.onnx, by ONNX Runtime and NumPy alone.

A graph takes either one float32 matrix of features, with metadata that says how to compute them from the raw
columns (`raw_features`), or the raw columns themselves, one input each:

- a floating-point input takes numbers and booleans; times as microseconds since 1970; missing values as NaN;
- a text input takes text; times as ISO 8601; missing values as empty text;
- a uint8 input takes the pixels of an image column, decoded and resized to the metadata's "image_size"
  (height, width, channels), in the shape (images, height, width, channels); no missing values;
- an int64 or boolean input takes integers or booleans; times as microseconds since 1970; no missing values.

Other inputs are vectors, or matrices of one column. A classifier's output is "probabilities", of shape
(rows, classes), or (rows, 1) with those of the second of two classes; and "label", the class's index, if the
predicted class isn't always the most probable one. A regressor's output is "prediction", one number per row.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowparts.models.raw_features import Columns, RawFeatures, conform
from flowparts.util import errors, images

if TYPE_CHECKING:
    import polars as pl

FILE = "model.onnx"
# The entry of the graph's metadata for the description that `with_description` adds.
_ENTRY = "flowparts"
_MATRIX = "features"
_FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64}
_EXACT = {"tensor(int64)": np.int64, "tensor(bool)": np.bool_}
_TEXT = "tensor(string)"


class Graph:
    """A loaded model.onnx; thread-safe.

    Args:
        graph: The file's content.
        classes: Sorted classes of a classifier; None for a regressor.
        threads: Number of threads per call; one has the lowest latency.

    Attributes:
        types: Raw column name to type, in order.

    Raises:
        ValueError: It is missing or damaged, refers to other files, needs operators that ONNX Runtime lacks,
            or wasn't written by flowparts.
    """

    def __init__(self, graph: bytes, classes: Sequence[Any] | None, threads: int = 1) -> None:
        self._session = _session(graph, threads)
        text = self._session.get_modelmeta().custom_metadata_map.get(_ENTRY)
        if text is None:
            raise ValueError(f"the ONNX graph was not saved by flowparts: its metadata lacks {_ENTRY!r}")
        self._inputs = {node.name: node for node in self._session.get_inputs()}
        outputs = {node.name for node in self._session.get_outputs()}
        self._output = "prediction" if classes is None else "probabilities"
        try:
            learned = json.loads(text)
            self.types: dict[str, str] = dict(learned["types"])
            self._image_size = images.Size(**learned["image_size"]) if "image_size" in learned else None
            self._features = RawFeatures(learned) if _MATRIX in self._inputs and "fill" in learned else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the metadata of the ONNX graph is damaged: {error}") from None
        if self._output not in outputs:
            raise ValueError(
                f"the ONNX graph has no output {self._output!r}; it has: {', '.join(sorted(outputs))}"
            )
        if self._features is None and set(self._inputs) != set(self.types):
            raise ValueError(
                f"the inputs of the ONNX graph are not the feature columns: {', '.join(self._inputs)}; "
                f"the columns are: {', '.join(self.types)}"
            )
        self._wanted = [self._output, *(["label"] if "label" in outputs else [])]
        self._names = [f"probability_{value}" for value in classes or []]
        text_classes = bool(classes) and isinstance(classes[0], str) if classes else False
        self._classes = None if classes is None else np.array(classes, dtype=object if text_classes else None)

    def predict(self, columns: Columns) -> dict[str, npt.NDArray[Any]]:
        """Score rows given by column.

        Args:
            columns: Feature to its values, in the form of `raw_features.conform`.

        Returns:
            "prediction" and "probability_<class>", as in `models.Model.predict`.

        Raises:
            ValueError: A value has another type than its column, or is missing and the graph needs it.
        """
        if self._features is None:
            return self._run(self._feed(conform(columns, self.types)))
        return self.predict_matrix(self._features.matrix(columns))

    def predict_table(self, rows: "pl.DataFrame") -> dict[str, npt.NDArray[Any]]:
        """Score rows of a table from `casts.conform`, as `predict` does for plain values."""
        columns = {
            column.name: column.to_list() for column in rows.iter_columns() if not self._accepts(column)
        }
        if self._features is not None:
            return self.predict(columns)
        arrays = {column.name: self._array(column) for column in rows.iter_columns() if self._accepts(column)}
        return self._run({**self._feed(columns), **arrays})

    def predict_matrix(self, matrix: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """Score rows of features."""
        return self._run({_MATRIX: matrix})

    def _run(self, feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        found = self._session.run(self._wanted, feed)
        if self._classes is None:
            return {"prediction": np.asarray(found[0], dtype=float).reshape(-1)}
        probabilities = np.asarray(found[0], dtype=float)
        if probabilities.ndim == 1 or probabilities.shape[1] == 1:
            positive = probabilities.reshape(-1)
            probabilities = np.column_stack([1 - positive, positive])
        positions = found[1].reshape(-1) if len(found) > 1 else probabilities.argmax(axis=1)
        return {
            "prediction": self._classes[positions],
            **{name: probabilities[:, index] for index, name in enumerate(self._names)},
        }

    def _pixels(self, name: str, values: Sequence[Any], size: images.Size) -> npt.NDArray[Any]:
        if any(value is None for value in values):
            raise ValueError(
                f"feature column {name!r} must have a value: the model's graph can't represent a missing one"
            )
        try:
            return images.pixels(values, size)
        except ValueError as error:
            raise ValueError(f"feature column {name!r} holds images; {error}") from None

    def _feed(self, columns: Columns) -> dict[str, npt.NDArray[Any]]:
        feed = {}
        for name in columns:
            if self._image_size and self.types[name] == "image":
                feed[name] = self._pixels(name, columns[name], self._image_size)
                continue
            values = _as_input(name, columns[name], self._inputs[name].type)
            feed[name] = self._shaped(name, values)
        return feed

    def _accepts(self, column: "pl.Series") -> bool:
        """Return whether a column can be converted as an array, without a list of Python values."""
        if column.name not in self._inputs:
            return False
        import polars as pl

        kind = self._inputs[column.name].type
        numeric = column.dtype.is_numeric() or column.dtype.is_temporal() or column.dtype == pl.Boolean
        return (kind in _FLOATS and numeric) or (kind == _TEXT and column.dtype == pl.String)

    def _array(self, column: "pl.Series") -> npt.NDArray[Any]:
        import polars as pl

        kind = self._inputs[column.name].type
        if kind == _TEXT:
            return self._shaped(column.name, column.fill_null("").to_numpy())
        numbers = column.dt.epoch("us") if column.dtype.is_temporal() else column
        values = numbers.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return self._shaped(column.name, _finite(values, kind))

    def _shaped(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values.reshape(-1, 1) if len(self._inputs[name].shape) == 2 else values


def _as_input(name: str, values: Sequence[Any], kind: str) -> npt.NDArray[Any]:
    if kind in _FLOATS:
        if any(hasattr(value, "year") for value in values):
            moments = np.array(values, dtype="datetime64[us]")
            values = np.where(np.isnat(moments), np.nan, moments.astype(np.int64)).tolist()
        return _finite(np.array(values, dtype=float), kind)
    if kind in _EXACT:
        if any(value is None for value in values):
            raise ValueError(
                f"feature column {name!r} must have a value: the model's graph can't represent a missing one"
            )
        if values and hasattr(values[0], "year"):
            return np.array(values, dtype="datetime64[us]").astype(np.int64)
        return np.array(values).astype(_EXACT[kind])
    return np.array(["" if value is None else _text(value) for value in values], dtype=object)


def _finite(numbers: npt.NDArray[np.float64], kind: str) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        return np.where(np.isfinite(numbers), numbers, np.nan).astype(_FLOATS[kind])


def _text(value: Any) -> str:
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)


def with_description(graph: bytes, learned: Mapping[str, Any]) -> bytes:
    """Add the description that `Graph` needs to an ONNX file; equal graphs give equal bytes.

    The exporter's notes are dropped: PyTorch writes stack traces, with paths of the machine.

    Args:
        graph: An ONNX file of any origin.
        learned: Result of `raw_features.describe` for a graph of features; for a graph of raw columns only
            "types": pairs of column name and type.

    Raises:
        ValueError: It isn't an ONNX file.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(graph)
    # Protobuf's error; its module depends on how protobuf was built.
    except Exception as error:
        raise ValueError(f"the ONNX graph can't be read: {errors.first_line(error)}") from None
    _drop_notes(model)
    onnx.helper.set_model_props(model, {_ENTRY: json.dumps(learned, allow_nan=False)})
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def require_self_contained(graph: bytes) -> None:
    """Raise ValueError if any tensor of a graph is stored in another file.

    The runtime would look for it in the working directory, where the file could be anything.
    """
    # The key of tensors that name a file. Most graphs don't contain it, and parsing one costs a server time
    # and memory at each start.
    if b"location" not in graph:
        return
    import onnx

    try:
        model = onnx.load_model_from_string(graph)
    except Exception as error:
        raise ValueError(f"the ONNX graph can't be read: {errors.first_line(error)}") from None
    pending: list[Any] = [model]
    while pending:
        message = pending.pop()
        if isinstance(message, onnx.TensorProto) and (
            message.external_data or message.data_location == onnx.TensorProto.EXTERNAL
        ):
            raise ValueError(
                f"the ONNX graph keeps the tensor {message.name!r} in another file, which isn't read; export "
                "it with its weights inside"
            )
        for part, value in message.ListFields():
            if part.message_type:
                pending.extend([value] if hasattr(value, "ListFields") else value)


def _drop_notes(message: Any) -> None:
    for part, value in message.ListFields():
        if part.name in ("doc_string", "metadata_props"):
            message.ClearField(part.name)
        elif part.message_type:
            for inner in [value] if hasattr(value, "ListFields") else value:
                _drop_notes(inner)


def read(path: str | Path, sha256: str | None = None) -> bytes:
    """Return the content of a graph's file.

    Raises:
        ValueError: It is missing, or its SHA-256 differs.
    """
    try:
        content = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ValueError(f"the ONNX graph is missing: there is no file at {path}") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged: it is not the file that was checked when the model was saved")
    return content


def _session(graph: bytes, threads: int) -> Any:
    import onnxruntime

    require_self_contained(graph)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Problems are raised as errors; the library would log them as well.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    # The runtime's errors have no common base class.
    except Exception as error:
        raise ValueError(f"the ONNX graph can't be run: {errors.first_line(error)}") from None
