"""Prepare tables for estimators: split and preprocessing."""

__all__ = ["clock", "folds", "preprocess", "split", "transformers", "words"]
