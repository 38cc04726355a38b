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

    The model says whether it is a classification or a regression. Metrics that the test table leaves
    undefined are left out, such as ROC AUC of a single class or R2 of a constant label.

    Args:
        model: Model that takes raw rows.
        test: Raw rows that the model has not seen, with its label column.
        test_metrics: Accuracy, F1, ROC AUC and others, or RMSE, MAE, R2 and others; the file also holds the
            ends of the bootstrap intervals and the metrics of each slice.
        curves: Of a classification, the confusion matrix (the 10 most frequent classes) and, for two classes,
            the ROC curve of the positive one; the file also holds the curves of each of more classes,
            precision against recall, and calibration. Empty for a regression.
        evaluation_report: HTML page: how good the model is, where it errs, the worst slice, and whether its
            probabilities can be trusted.
        metric: The metric to return as the score; the one that the model was chosen by if not given.
        slice_columns: Columns to measure by: each text or whole number, quartiles of many numbers, months of
            timestamps; default: none.
        bootstrap_samples: Resamples of the test rows for the 95 % intervals, at least 20.
        seed: Seed of the resampling.

    Returns:
        metric: The metric that the score is.
        score: The metric on the test table. Where it is undefined, a value that no threshold lets pass: 0, or
            the largest number for an error.
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
