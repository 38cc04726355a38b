from typing import NamedTuple, Optional

from kfp.dsl import HTML, Input, Metrics, Model

from .. import runs_in


@runs_in("sklearn")
def register_mlflow(
    model: Input[Model],
    metrics: Input[Metrics],
    evaluation_report: Input[HTML],
    comparison_report: Input[HTML],
    model_name: str,
    tracking_uri: Optional[str] = None,
    experiment: str = "flowparts",
    alias: str = "champion",
    run_id: str = "",
) -> NamedTuple("Outputs", [("version", str), ("model_uri", str)]):  # type: ignore[valid-type]
    """Log a model with its parameters, metrics and reports to MLflow and register it as the new champion.

    The version bears tags for its lineage: fingerprints of the training data and of the model, git commit,
    pipeline run, task, estimator and key metrics. A step that is tried again makes no second version.

    Args:
        model: The model directory; it is stored as it is.
        metrics: Metrics on the test table.
        evaluation_report: The evaluation as a page, kept with the run.
        comparison_report: The comparison with the champion as a page, kept with the run.
        model_name: The registered model; made if it isn't there.
        tracking_uri: MLflow server or database; if not given, the environment's MLFLOW_TRACKING_URI, else an
            SQLite file in the home directory, which a container loses when it ends.
        experiment: MLflow experiment of the run; made if it isn't there.
        alias: Alias that moves to the new version.
        run_id: Pipeline run that made the model; ties a retried step to the version it has already made.

    Returns:
        version: The version's number in the registry.
        model_uri: The version's URI for MLflow, such as models:/churn/3.
    """
    from flowparts import outputs, registry

    measured = outputs.read_json(metrics.path, "the metrics")
    return registry.register(
        model.path,
        model_name,
        metrics={name: value for name, value in measured.items() if isinstance(value, int | float)},
        reports={"evaluation": evaluation_report.path, "comparison": comparison_report.path},
        tracking_uri=tracking_uri or None,
        experiment=experiment,
        alias=alias,
        pipeline_run_id=run_id,
    )
