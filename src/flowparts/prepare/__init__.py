"""From a table to what an estimator takes: split and preprocessing."""
