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
    """Score a new model and the registered champion on the same test rows, and register the one that wins.

    Both are scored on the rows that neither has seen in training, of which there must be 30. The new model is
    promoted if it can be served, improves on the champion by the margin, and is better in the share
    `confidence` of paired bootstrap resamples; in the same share, any model must be better than always giving
    the most frequent class, or the mean. A model of another label, task, classes or columns than the champion
    of that name is refused. A champion whose files are damaged counts as none.

    A promoted model becomes a version in MLflow with its metrics and reports and the alias champion; nothing
    is registered for one that lost. The version's tags hold its lineage: fingerprints of the training data
    and of the model, git commit, pipeline run, task, estimator and key metrics. Where the champion changes
    during the comparison, the step fails. A step that is tried again makes no second version.

    Args:
        model: The challenger, a model directory; it is stored as it is.
        test: Raw test rows with the label.
        evaluation_report: The challenger's evaluation as a page, kept with the version.
        comparison: JSON with both models' metrics and intervals, the improvement, the rules, the champion's
            version, what was compared (fingerprints of model and test rows), the decision and its reason, and
            the new version.
        comparison_metrics: The compared metric of challenger and champion, and the improvement; only the
            challenger's where there is no champion.
        run_summary: The run as a page, kept with the version as well: the decision and why, the scores of
            both models, the candidates, where data and model come from.
        model_name: The registered model, made if it isn't there; its version with the alias champion is the
            one to beat.
        serving_metrics: What check_serving found; a challenger that is not servable is never promoted, one
            that was not checked may be.
        metric: Metric to compare; the one that the challenger was chosen by if not given.
        margin: Minimum improvement, in units of the metric.
        floor: Worst score that a model without a champion may have, in units of the metric: the lowest for
            a metric like roc_auc, the highest for an error like rmse. It takes the place of the comparison
            with a constant answer. 0 for none.
        replace_champion: Whether a champion that can't be compared (other label, task, classes or columns, or
            it has seen nearly all test rows) counts as none, instead of the new model being refused.
        confidence: Fraction of resamples in which the challenger must be better; also that of the intervals.
        bootstrap_samples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
        deploy_target: Where the pipeline deploys a new champion; empty for nowhere. Only decides `deploy`.
        tracking_uri: MLflow server or database; if not given, the environment's MLFLOW_TRACKING_URI. Without
            either, an SQLite file in the home directory, or in a container no registry: there is no champion
            then, and a promoted model is not registered and is kept as this run's artifact only.
        experiment: MLflow experiment of the version's run; made if it isn't there.
        run_id: Pipeline run that made the model; ties a step that is tried again to the version it has made.

    Returns:
        promote: Whether the challenger takes the champion's place.
        reason: Reason for the decision, in one line.
        version: The version's number in the registry; empty if nothing was registered.
        deploy: Whether the model was promoted and is to be deployed: for a condition.
    """
    from tempfile import TemporaryDirectory

    from flowparts import models, tables
    from flowparts.register import champion, registry, summary
    from flowparts.register.comparison import Registration
    from flowparts.util import metadata, outputs

    metric, tracking_uri, run_id = metric or None, tracking_uri or None, run_id or ""
    champion.check_rules(metric, margin, floor, confidence, bootstrap_samples)
    registry.require_name(model_name)
    evaluation = outputs.read_text(evaluation_report.path, "the evaluation report")
    serving = outputs.read_json(serving_metrics.path, "the serving check") if serving_metrics else {}
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
    page = summary.summary_page(result, described, serving, tested["source"])
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
        page = summary.summary_page(result, described, serving, tested["source"])
    outputs.write_json(comparison.path, result)
    outputs.write_text(run_summary.path, page)
    metadata.log_metrics(comparison_metrics, champion.scores(result))
    metadata.describe(comparison, {key: result[key] for key in ("promote", "reason", "metric", "version")})
    decision = (result["promote"], metadata.plain(result["reason"]), result["version"])
    return *decision, bool(result["promote"] and deploy_target)
