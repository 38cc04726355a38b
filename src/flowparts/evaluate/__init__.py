"""Model evaluation: metrics, slices, comparison of models and the serving check."""
