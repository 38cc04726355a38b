from typing import NamedTuple

from kfp.dsl import Dataset, Input, Metrics, Model, Output

from .. import runs_in


@runs_in("serving")
def check_serving(
    model: Input[Model],
    test: Input[Dataset],
    serving_metrics: Output[Metrics],
    predictions: Output[Dataset],
    sample_rows: int = 200,
    timeout_seconds: float = 120.0,
) -> NamedTuple("Outputs", [("servable", bool), ("reason", str), ("latency_ms", float)]):  # type: ignore[valid-type]
    """Start the model server with a model, send it test rows as JSON and require the offline predictions.

    A model that can't serve doesn't fail this step: servable is then false and the reason says why.

    Args:
        model: Model directory to check.
        test: Raw rows to send, spread over the table.
        serving_metrics: servable (1 or 0), rows, load_seconds, and for requests of one row
            latency_ms_median and latency_ms_p95.
        predictions: The rows that were sent, with what the model predicts for them offline, for roll_out;
            empty if it can't score them.
        sample_rows: Number of rows to send.
        timeout_seconds: Time for loading and all answers together.

    Returns:
        servable: Whether the model loaded, answered in time and predicted what it predicts offline.
        reason: Why, in one sentence.
        latency_ms: Median milliseconds for a request of one row over HTTP on this machine; 0 if there was no
            answer.
    """
    from flowparts import tables
    from flowparts.evaluate import serving_check
    from flowparts.models import agreement
    from flowparts.util import metadata

    serving_check.check_options(sample_rows, timeout_seconds)
    rows = agreement.sample(tables.scan(test.path), sample_rows)
    verdict = serving_check.check(model.path, rows, timeout_seconds)
    described = tables.write(verdict.predictions, predictions.path, f"predictions for rows of {test.uri}")
    metadata.describe(predictions, described)
    metadata.log_metrics(serving_metrics, verdict.metrics())
    return verdict.servable, metadata.plain(verdict.reason), verdict.latency_ms
