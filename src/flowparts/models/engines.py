"""The engines that servers score with: a small interface to a saved model, whatever runs it.

A server has columns of plain values from JSON, not tables, and scores a few rows at a time, so an engine's
time per call matters more than its speed on a million rows. ONNX Runtime takes microseconds where
scikit-learn takes milliseconds, and doesn't need to import it.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flowparts.models import mlmodel, onnx_graph

if TYPE_CHECKING:
    from flowparts import models

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """A loaded model for servers; thread-safe.

    Attributes:
        name: The engine: "onnxruntime" or "native".
        reason: Reason for the choice, in one sentence.
        features: Raw column name to type (integer, number, boolean, string, timestamp, date), in order.
        classes: Sorted classes of a classifier; None for a regressor.
        task: "classification" or "regression".
    """

    name: str
    reason: str
    features: dict[str, str]
    classes: list[Any] | None
    task: str

    def predict_columns(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Score rows given by column.

        Args:
            columns: Feature to its values, one per row, in JSON form: numbers, booleans, text, ISO 8601 text
                for timestamps and dates, and None for missing values.

        Returns:
            The columns of `models.Model.predict` as NumPy arrays.

        Raises:
            ValueError: A value has another type than its column.
        """
        ...


def load(model_dir: str | Path, threads: int = 1) -> Engine:
    """Load a model directory with the fastest engine that predicts the same, and log the choice.

    Args:
        model_dir: The model directory.
        threads: Number of threads of ONNX Runtime per call; one has the lowest latency.

    Raises:
        ValueError: There is no model, or it is damaged.
    """
    description = mlmodel.read(model_dir)
    stored = description["metadata"]
    export = stored.get("onnx") or {}
    engine: Engine
    if "onnx" in (description.get("flavors") or {}):
        engine = OnnxRuntime(model_dir, stored, "the model is an ONNX graph", threads)
    elif export.get("agrees"):
        engine = OnnxRuntime(model_dir, stored, export["reason"], threads)
    else:
        from flowparts import models

        reason = export.get("reason", "the model was saved without an ONNX graph")
        engine = Native(models.load(model_dir), reason)
    _log.info("the model at %s runs in %s: %s", model_dir, engine.name, engine.reason)
    return engine


class OnnxRuntime:
    """The model's ONNX graph in ONNX Runtime, without the framework that trained it.

    Raises:
        ValueError: The graph is missing or damaged, or differs from the one checked when the model was saved.
    """

    name = "onnxruntime"

    def __init__(self, model_dir: str | Path, stored: Mapping[str, Any], reason: str, threads: int) -> None:
        self.reason = reason
        self.classes = stored["classes"]
        self.task = stored["task"]
        content = onnx_graph.read(Path(model_dir) / onnx_graph.FILE, (stored.get("onnx") or {}).get("sha256"))
        graph = onnx_graph.Graph(content, self.classes, threads)
        self.features = graph.types
        self.predict_columns = graph.predict


class Native:
    """The model in the framework that trained it."""

    name = "native"

    def __init__(self, model: "models.Model", reason: str) -> None:
        self.reason = reason
        self._model = model
        self.features = model.types
        self.classes = model.classes
        self.task = model.task

    def predict_columns(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Score rows given by column; see `Engine`."""
        from flowparts.models import raw_features

        table = raw_features.table(columns, self.features)
        return {series.name: series.to_numpy() for series in self._model.predict(table).iter_columns()}
