"""Export of predictions."""
