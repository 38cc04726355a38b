from typing import NamedTuple, Optional

from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from .. import runs_in


@runs_in("sklearn")
def evaluate_regression(
    model: Input[Model],
    test: Input[Dataset],
    metrics: Output[Metrics],
    report: Output[HTML],
    slice_columns: Optional[list[str]] = None,
    bootstrap_samples: int = 500,
    seed: int = 0,
) -> NamedTuple("Outputs", [("rmse", float), ("mae", float), ("r2", float)]):  # type: ignore[valid-type]
    """Score a test table with a regression model and measure its errors, overall and by slice.

    Metrics that the test table leaves undefined, such as R2 of a constant label, are left out.

    Args:
        model: Regression model that takes raw rows.
        test: Raw rows that the model has not seen, with its label column.
        metrics: RMSE, MAE, R2 and others; the file also holds the ends of the bootstrap intervals and the
            metrics of each slice.
        report: HTML page: how large the errors are, where it errs, the worst slice.
        slice_columns: Columns to measure by: each text or whole number, quartiles of many numbers, months of
            timestamps; default: none.
        bootstrap_samples: Resamples of the test rows for the 95 % intervals, at least 20.
        seed: Seed of the resampling.

    Returns:
        rmse: Root of the mean squared error, in the label's unit.
        mae: Mean absolute error, in the label's unit.
        r2: Share of the label's variance explained; 0 where the label is constant.
    """
    from flowparts import evaluation, evaluation_report, models, outputs, tables

    found = evaluation.evaluate(
        models.load(model.path), tables.scan(test.path), "regression", slice_columns, bootstrap_samples, seed
    )
    for name, value in found.metrics.items():
        metrics.log_metric(name, value)
    outputs.write_json(metrics.path, found.to_dict())
    outputs.write_text(report.path, evaluation_report.regression_page(found))
    scores = found.metrics
    return scores["rmse"], scores["mae"], scores.get("r2", 0.0)
