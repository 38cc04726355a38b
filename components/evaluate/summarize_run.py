from typing import Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from .. import runs_in


@runs_in("base")
def summarize_run(
    table: Input[Dataset],
    train: Input[Dataset],
    test: Input[Dataset],
    anomalies: Input[Artifact],
    model: Input[Model],
    serving: Input[Metrics],
    comparison: Input[Artifact],
    report: Output[HTML],
    version: Optional[str] = None,
) -> None:
    """Sum a training run up on one page: the decision and why, the scores, where data and model come from.

    Args:
        table: The ingested table; only its metadata is read.
        train: The training rows; only their metadata is read.
        test: The test rows; only their metadata is read.
        anomalies: What validate_table found, as JSON.
        model: The model that was picked; only its metadata is read.
        serving: What check_serving measured, as JSON.
        comparison: What compare_with_champion found, as JSON.
        report: The page.
        version: The version that register_mlflow made; none when the champion stays.
    """
    from flowparts import models, outputs, summary

    page = summary.summary_page(
        comparison=outputs.read_json(comparison.path, "the comparison"),
        version=version or None,
        table=table.metadata,
        train=train.metadata,
        test=test.metadata,
        anomalies=outputs.read_json(anomalies.path, "the list of anomalies"),
        model=models.metadata(model.path),
        candidates=model.metadata.get("candidates", []),
        serving=outputs.read_json(serving.path, "the serving check"),
    )
    outputs.write_text(report.path, page)
