"""The model registry, and the decision about a new champion."""

__all__ = ["champion", "comparison", "registry", "summary_page"]
