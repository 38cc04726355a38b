"""Hyperparameter search over the estimators that `flowparts.train` trains."""
