"""Model evaluation: metrics, slices, comparison of models and the serving check."""

__all__ = ["directions", "evaluation", "evaluation_report", "metrics", "positives", "serving_check"]
