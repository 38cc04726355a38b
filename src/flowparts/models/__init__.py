"""The model contract: what any trainer saves, and everything else loads and scores."""

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


def __getattr__(name: str) -> Any:
    """Import the contract when something of it is used: the server reads MLmodel files without Polars."""
    if name in __all__:
        return getattr(importlib.import_module("flowparts.models.contract"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
