"""Export of predictions."""

__all__ = ["export"]
