from typing import NamedTuple, Optional

from kfp.dsl import HTML, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from .. import runs_in


@runs_in("sklearn")
def evaluate_model(
    model: Input[Model],
    test: Input[Dataset],
    test_metrics: Output[Metrics],
    curves: Output[ClassificationMetrics],
    evaluation_report: Output[HTML],
    metric: Optional[str] = None,
    slice_columns: Optional[list[str]] = None,
    bootstrap_samples: int = 500,
    seed: int = 0,
) -> NamedTuple("Outputs", [("metric", str), ("score", float)]):  # type: ignore[valid-type]
    """Score a test table with a model and measure its predictions, overall and by slice.

    The model's metadata says whether it is a classifier or a regressor. Metrics that are undefined on the
    test table are left out, such as ROC AUC with a single class or R2 with a constant label.

    Args:
        model: Model to evaluate; takes raw rows.
        test: Raw rows that the model has not seen, with its label column.
        test_metrics: Accuracy, F1, ROC AUC and others, or RMSE, MAE, R2 and others; the file also holds the
            bootstrap intervals and the metrics of each slice.
        curves: For classifiers, the confusion matrix (10 most frequent classes) and, for two classes, the ROC
            curve of the positive class; the file also holds one-vs-rest curves for more classes,
            precision-recall curves and calibration. Empty for regressors.
        evaluation_report: HTML page: how good the model is, where it errs, its worst slice, and how well its
            probabilities are calibrated.
        metric: Metric to return as the score; default: the metric that the model was selected by.
        slice_columns: Columns to slice by: by text or integer value, by quartile if there are many numbers,
            by month for timestamps; default: none.
        bootstrap_samples: Number of bootstrap resamples for the 95 % intervals, at least 20.
        seed: Seed of the bootstrap.

    Returns:
        metric: Name of the returned metric.
        score: The metric on the test table. If it is undefined, a value that fails every threshold: 0, or the
            largest float for an error.
    """
    from flowparts import models, tables
    from flowparts.evaluate import directions, evaluation
    from flowparts.evaluate import evaluation_report as pages
    from flowparts.util import metadata, names, outputs

    loaded = models.load(model.path)
    chosen = directions.chosen(metric or models.metadata(model.path).get("metric"), loaded.task)
    slices = names.texts(slice_columns, "slice_columns")
    found = evaluation.evaluate(loaded, tables.scan(test.path), slices, bootstrap_samples, seed)
    metadata.log_metrics(test_metrics, found.metrics, found.to_dict())
    drawn = {} if loaded.classes is None else evaluation.curves(found)
    if drawn:
        evaluation.log_curves(curves, drawn)
    outputs.write_json(curves.path, drawn)
    outputs.write_text(evaluation_report.path, pages.page(found, chosen))
    return chosen, evaluation.score(found, chosen)
