"""The model contract: the form in which trainers save models and everything else loads them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowparts.models.contract import (
        GraphModel,
        Model,
        PipelineModel,
        annotate,
        load,
        metadata,
        save,
        save_onnx,
    )

__all__ = [
    "GraphModel",
    "Model",
    "PipelineModel",
    "annotate",
    "load",
    "metadata",
    "save",
    "save_onnx",
]
_CONTRACT = frozenset(__all__)
__all__ += [
    "adjusted",
    "agreement",
    "baseline",
    "engines",
    "fitted_estimators",
    "mlmodel",
    "saved_model_audit",
    "scoring",
    "seen",
]


def __getattr__(name: str) -> Any:
    """Import the contract lazily: the server reads MLmodel files without Polars."""
    if name in _CONTRACT:
        return getattr(importlib.import_module("flowparts.models.contract"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
