from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from .. import MLFLOW, runs_in


@runs_in("sklearn", memory_request="768Mi", secrets=MLFLOW)
def register_champion(
    model: Input[Model],
    test: Input[Dataset],
    evaluation_report: Input[HTML],
    comparison: Output[Artifact],
    comparison_metrics: Output[Metrics],
    run_summary: Output[HTML],
    model_name: str,
    serving_metrics: Input[Metrics] = None,  # type: ignore[assignment] # kfp's form of an optional one
    metric: Optional[str] = None,
    margin: float = 0.0,
    floor: float = 0.0,
    replace_champion: bool = False,
    confidence: float = 0.95,
    bootstrap_samples: int = 500,
    seed: int = 0,
    deploy_target: Optional[str] = None,
    tracking_uri: Optional[str] = None,
    experiment: str = "flowparts",
    run_id: Optional[str] = None,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs", [("promote", bool), ("reason", str), ("version", str), ("deploy", bool)]
):
    """Compare a new model with the registered champion on the same test rows, and register it if it wins.

    Both are scored on rows that neither has seen in training; there must be at least 30. The new model is
    promoted if it can be served, beats the champion by the margin, and is better in the fraction `confidence`
    of paired bootstrap resamples. In the same fraction, any model must beat the constant prediction of the
    most frequent class or the mean. A model whose label, task, classes or columns differ from the champion's
    is refused. A champion with damaged files counts as none.

    A promoted model becomes an MLflow version with its metrics, its reports and the alias champion; a model
    that lost isn't registered. The version's tags record its lineage: fingerprints of the training data and
    the model, git commit, pipeline run, task, estimator and key metrics. The step fails if the champion
    changes during the comparison. A retried step registers no second version.

    Args:
        model: The challenger's model directory; it is stored unchanged.
        test: Raw test rows with the label.
        evaluation_report: The challenger's evaluation report, stored with the version.
        comparison: JSON with both models' metrics and intervals, the improvement, the rules, the champion's
            version, fingerprints of the model and the test rows, the decision and its reason, and the new
            version.
        comparison_metrics: The compared metric of challenger and champion, and the improvement; without a
            champion only the challenger's metric.
        run_summary: HTML page about the run, also stored with the version: the decision and its reason, both
            models' scores, the candidates, and the lineage of data and model.
        model_name: Name of the registered model, created if it doesn't exist; its version with the alias
            champion is the one to beat.
        serving_metrics: Result of check_serving; a challenger that isn't servable is never promoted, an
            unchecked one can be.
        metric: Metric to compare by; default: the metric that the challenger was selected by.
        margin: Minimum improvement, in units of the metric.
        floor: Threshold for a model without a champion, in units of the metric: the minimum for a score like
            roc_auc, the maximum for an error like rmse. It replaces the comparison with the constant
            prediction. 0 for none.
        replace_champion: Whether a champion that can't be compared (other label, task, classes or columns, or
            trained on nearly all test rows) is replaced; otherwise the new model is refused.
        confidence: Fraction of resamples in which the challenger must be better, and confidence level of the
            intervals.
        bootstrap_samples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
        deploy_target: Target that the pipeline deploys a new champion to; empty for none. Only sets `deploy`.
        tracking_uri: MLflow server or database; if not given, the environment's MLFLOW_TRACKING_URI. Without
            either, an SQLite file in the home directory, or in a container no registry: then there is no
            champion, and a promoted model is only this run's artifact.
        experiment: MLflow experiment of the version's run, created if it doesn't exist.
        run_id: Pipeline run that trained the model; with it a retried step finds its earlier version.

    Returns:
        promote: Whether the challenger becomes the champion.
        reason: Reason for the decision, in one line.
        version: Version number in the registry; empty if nothing was registered.
        deploy: Whether to deploy the model: it was promoted and there is a deploy_target.
    """
    from tempfile import TemporaryDirectory

    from flowparts import models, tables
    from flowparts.evaluate.serving_check import Measures
    from flowparts.register import champion, registry, summary_page
    from flowparts.register.comparison import Registration
    from flowparts.util import metadata, outputs

    metric, tracking_uri, run_id = metric or None, tracking_uri or None, run_id or ""
    champion.check_rules(metric, margin, floor, confidence, bootstrap_samples)
    registry.require_name(model_name)
    evaluation = outputs.read_text(evaluation_report.path, "the evaluation report")
    serving: Measures = {}
    if serving_metrics:
        serving = outputs.read_json(serving_metrics.path, "the serving check")
    described, tested = models.metadata(model.path), tables.description(test.path)
    configured = registry.is_configured(tracking_uri)
    old = registry.champion_to_beat(model.path, model_name, tracking_uri, run_id) if configured else None
    with TemporaryDirectory() as directory:
        compared = champion.compare(
            model.path,
            registry.download(model_name, old, directory, tracking_uri) if old else None,
            tables.scan(test.path),
            metric=metric,
            margin=margin,
            floor=floor or None,
            confidence=confidence,
            servable=bool(serving.get("servable", True)),
            replace_champion=replace_champion,
            samples=bootstrap_samples,
            seed=seed,
        )
    result: Registration = {
        **compared, "model_name": model_name, "champion_version": old, "registry": configured, "version": "",
        "model_fingerprint": registry.fingerprint(model.path), "test_fingerprint": tested["fingerprint"],
    }  # fmt: skip
    page = summary_page.summary_page(result, described, serving, tested["source"])
    unregistered = f"; not registered: {registry.NOT_CONFIGURED}" * (result["promote"] and not configured)
    print(result["reason"] + unregistered)  # noqa: T201
    if result["promote"] and configured:
        result["version"] = registry.register(
            model.path,
            model_name,
            metrics=champion.measured(result),
            reports={"evaluation": evaluation, "summary": page},
            compared_with=old or "",
            tracking_uri=tracking_uri,
            experiment=experiment,
            pipeline_run_id=run_id,
        )
        page = summary_page.summary_page(result, described, serving, tested["source"])
    outputs.write_json(comparison.path, result)
    outputs.write_text(run_summary.path, page)
    metadata.log_metrics(comparison_metrics, champion.scores(result))
    metadata.describe(comparison, {key: result[key] for key in ("promote", "reason", "metric", "version")})
    decision = (result["promote"], metadata.plain(result["reason"]), result["version"])
    return *decision, bool(result["promote"] and deploy_target)
