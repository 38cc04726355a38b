from typing import NamedTuple, Optional

from kfp.dsl import HTML, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from .. import runs_in


@runs_in("sklearn")
def evaluate_classification(
    model: Input[Model],
    test: Input[Dataset],
    metrics: Output[Metrics],
    curves: Output[ClassificationMetrics],
    report: Output[HTML],
    slice_columns: Optional[list[str]] = None,
    bootstrap_samples: int = 500,
    seed: int = 0,
) -> NamedTuple("Outputs", [("accuracy", float), ("f1", float), ("roc_auc", float), ("log_loss", float)]):  # type: ignore[valid-type]
    """Score a test table with a classification model and measure its answers, overall and by slice.

    Two classes or more. Where the test table holds one class only, the metrics that need two are left out.

    Args:
        model: Classification model that takes raw rows.
        test: Raw rows that the model has not seen, with its label column.
        metrics: Accuracy, F1, ROC AUC and others; the file also holds the ends of the bootstrap intervals and
            the metrics of each slice.
        curves: Confusion matrix and, for two classes, the ROC curve of the later one; the file also holds the
            curves of each of more classes, precision against recall, and calibration.
        report: HTML page: how good it is, where it errs, the worst slice, whether its probabilities hold.
        slice_columns: Columns to measure by: each text or whole number, quartiles of many numbers, months of
            timestamps; default: none.
        bootstrap_samples: Resamples of the test rows for the 95 % intervals, at least 20.
        seed: Seed of the resampling.

    Returns:
        accuracy: Share of right answers.
        f1: F1, unweighted mean of the classes.
        roc_auc: Area under the ROC curve (more than two classes: mean of each against the rest); 0 where the
            test table holds one class only, so that no threshold passes.
        log_loss: Mean negative log of the probability given to the true class.
    """
    from flowparts import evaluation, evaluation_report, models, outputs, tables

    found = evaluation.evaluate(
        models.load(model.path),
        tables.scan(test.path),
        "classification",
        slice_columns,
        bootstrap_samples,
        seed,
    )
    for name, value in found.metrics.items():
        metrics.log_metric(name, value)
    drawn = evaluation.curves(found)
    curves.log_confusion_matrix(drawn["classes"], drawn["confusion_matrix"])
    if len(found.classes) == 2:
        for roc in drawn["roc"].values():
            curves.log_roc_curve(roc["false_positive_rate"], roc["true_positive_rate"], roc["threshold"])

    outputs.write_json(metrics.path, found.to_dict())
    outputs.write_json(curves.path, drawn)
    outputs.write_text(report.path, evaluation_report.classification_page(found))
    scores = found.metrics
    return scores["accuracy"], scores["f1"], scores.get("roc_auc", 0.0), scores["log_loss"]
