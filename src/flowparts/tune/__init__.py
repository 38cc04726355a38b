"""Hyperparameter search over the estimators that `flowparts.train` trains."""

__all__ = ["effort", "platforms", "remote", "rounds", "space", "study", "tuning"]
