"""How good a model is: metrics, slices, comparison offline and served."""
