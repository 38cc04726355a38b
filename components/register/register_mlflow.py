from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Input, Metrics, Model

from .. import MLFLOW, runs_in


@runs_in("sklearn", secrets=MLFLOW)
def register_mlflow(
    model: Input[Model],
    metrics: Input[Metrics],
    evaluation_report: Input[HTML],
    comparison: Input[Artifact],
    comparison_report: Input[HTML],
    model_name: str,
    deploy_target: str = "",
    tracking_uri: Optional[str] = None,
    experiment: str = "flowparts",
    alias: str = "champion",
    run_id: str = "",
) -> NamedTuple("Outputs", [("version", str), ("model_uri", str), ("deploy", bool)]):  # type: ignore[valid-type]
    """Register a model as the new champion in MLflow, with its metrics and reports, if it won the comparison.

    Nothing is done for a model that lost. The version's tags hold its lineage: fingerprints of the training
    data and of the model, git commit, pipeline run, task, estimator and key metrics. Where the champion has
    changed since the comparison, the step fails. A step that is retried makes no second version.

    Args:
        model: The model directory; it is stored as it is.
        metrics: Metrics on the test table.
        evaluation_report: The evaluation as a page, kept with the run.
        comparison: What compare_with_champion decided on this model, as JSON.
        comparison_report: The comparison with the champion as a page, kept with the run.
        model_name: The registered model; made if it isn't there.
        deploy_target: Where the pipeline deploys a new champion; empty for nowhere. Only decides `deploy`.
        tracking_uri: MLflow server or database; if not given, the environment's MLFLOW_TRACKING_URI. Without
            either, an SQLite file in the home directory, or in a container no registry, so that the model is
            not registered and is kept as this run's artifact only.
        experiment: MLflow experiment of the run; made if it isn't there.
        alias: Alias that moves to the new version.
        run_id: Pipeline run that made the model; ties a retried step to the version it has already made.

    Returns:
        version: The version's number in the registry; empty if nothing was registered.
        model_uri: The version's URI for MLflow, such as models:/churn/3; empty if nothing was registered.
        deploy: Whether the model was promoted and is to be deployed: for a condition.
    """
    from flowparts import champion, outputs, registry

    decision = outputs.read_json(comparison.path, "the comparison")
    champion.require_compared(decision, model.path, model_name)
    deploy = bool(decision["promote"] and deploy_target)
    if not decision["promote"]:
        print(f"not registered: {decision['reason']}")  # noqa: T201
        return "", "", False
    if not registry.is_configured(tracking_uri):
        print(f"not registered: {registry.NOT_CONFIGURED}")  # noqa: T201
        return "", "", deploy
    measured = outputs.read_json(metrics.path, "the metrics")
    version, uri = registry.register(
        model.path,
        model_name,
        metrics={name: value for name, value in measured.items() if isinstance(value, int | float)},
        reports={"evaluation": evaluation_report.path, "comparison": comparison_report.path},
        tracking_uri=tracking_uri or None,
        experiment=experiment,
        alias=alias,
        pipeline_run_id=run_id,
        compared_with=(decision["champion_version"] or "") if alias == registry.ALIAS else None,
    )
    return version, uri, deploy
