"""Profile tables, and detect columns that leak the label."""

__all__ = ["leakage", "profile"]
