from typing import Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from .. import runs_in


@runs_in("base")
def summarize_run(
    table: Input[Dataset],
    anomalies: Input[Artifact],
    model: Input[Model],
    serving_metrics: Input[Metrics],
    comparison: Input[Artifact],
    run_summary: Output[HTML],
    version: Optional[str] = None,
) -> None:
    """Sum a training run up on one page: the decision and why, the scores, where data and model come from.

    Args:
        table: The ingested table; only its description is read.
        anomalies: What validate_table found, as JSON.
        model: The model that was trained; only its description is read.
        serving_metrics: What check_serving measured, as JSON.
        comparison: What compare_with_champion found, as JSON.
        run_summary: The page.
        version: The version that register_mlflow made; empty if nothing was registered.
    """
    from flowparts import models, outputs, summary, tables

    page = summary.summary_page(
        comparison=outputs.read_json(comparison.path, "the comparison"),
        version=version or None,
        table=tables.description(table.path),
        anomalies=outputs.read_json(anomalies.path, "the list of anomalies"),
        model=models.metadata(model.path),
        serving=outputs.read_json(serving_metrics.path, "the serving check"),
    )
    outputs.write_text(run_summary.path, page)
