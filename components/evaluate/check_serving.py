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
    """Start the model server with a model, send it test rows as JSON and compare with offline predictions.

    A model that can't be served doesn't fail this step: servable is false and the reason says why.

    Args:
        model: Model directory to check.
        test: Raw test rows; a sample spread over the table is sent.
        serving_metrics: servable (1 or 0), rows, load_seconds, and for one-row requests latency_ms_median and
            latency_ms_p95.
        predictions: The rows that were sent, with the model's offline predictions, for roll_out; empty if it
            can't score them.
        sample_rows: Number of rows to send.
        timeout_seconds: Maximum seconds for loading and all requests together.

    Returns:
        servable: Whether the model loaded, answered in time and returned the offline predictions.
        reason: Reason for the verdict, in one sentence.
        latency_ms: Median latency of a one-row request over HTTP on this machine, in milliseconds; 0 without
            an answer.
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
