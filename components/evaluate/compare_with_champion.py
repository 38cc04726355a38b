from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from .. import MLFLOW, runs_in


@runs_in("sklearn", memory_request="768Mi", secrets=MLFLOW)
def compare_with_champion(
    model: Input[Model],
    test: Input[Dataset],
    comparison: Output[Artifact],
    comparison_metrics: Output[Metrics],
    comparison_report: Output[HTML],
    model_name: str,
    servable: bool = True,
    metric: Optional[str] = None,
    margin: float = 0.0,
    floor: float = 0.0,
    confidence: float = 0.95,
    bootstrap_samples: int = 500,
    seed: int = 0,
    tracking_uri: Optional[str] = None,
) -> NamedTuple("Outputs", [("promote", bool), ("reason", str)]):  # type: ignore[valid-type]
    """Score a new model and the registered champion on the same test rows and decide which one stays.

    The new model is promoted if it can be served, improves on the champion by the margin, and is better in
    the share `confidence` of paired bootstrap resamples. A first model only has to reach the floor, and so
    has one whose champion can't score this table (other label, classes or columns, damaged files).

    Args:
        model: The challenger, a model directory.
        test: Raw test rows with the label; neither model was trained on them.
        comparison: JSON with both models' metrics and intervals, the improvement, the rules, the champion's
            version, what was compared (fingerprints of model and test rows), the decision and its reason.
        comparison_metrics: The compared metric of challenger and champion, and the improvement; only the
            challenger's where there is no champion.
        comparison_report: The comparison as a page.
        model_name: The registered model whose version with the alias champion is the one to beat.
        servable: Whether the challenger passed check_serving; one that did not is never promoted.
        metric: Metric to compare; roc_auc for classification and rmse for regression if not given.
        margin: Minimum improvement, in units of the metric.
        floor: Worst score that a model without a champion may have, in units of the metric: the lowest for
            a metric like roc_auc, the highest for an error like rmse. 0 for none.
        confidence: Share of resamples in which the challenger must be better; also that of the intervals.
        bootstrap_samples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
        tracking_uri: MLflow server or database; if not given, the environment's MLFLOW_TRACKING_URI. Without
            either, an SQLite file in the home directory, or in a container no registry and so no champion.

    Returns:
        promote: Whether the challenger takes the champion's place.
        reason: Reason for the decision, in one line.
    """
    from tempfile import TemporaryDirectory

    from flowparts import champion, metadata, outputs, registry, tables

    metric, tracking_uri = metric or None, tracking_uri or None
    champion.check_rules(metric, margin, floor, confidence, bootstrap_samples)
    registry.require_name(model_name)
    configured = registry.is_configured(tracking_uri)
    version = registry.champion_version(model_name, tracking_uri) if configured else None
    with TemporaryDirectory() as directory:
        result = champion.compare(
            model.path,
            registry.download(model_name, version, directory, tracking_uri) if version else None,
            tables.scan(test.path),
            metric=metric,
            margin=margin,
            floor=floor or None,
            confidence=confidence,
            servable=servable,
            samples=bootstrap_samples,
            seed=seed,
        )
    result |= {
        "model_name": model_name,
        "champion_version": version,
        "registry": configured,
        "model_fingerprint": registry.fingerprint(model.path),
        "test_fingerprint": tables.description(test.path)["fingerprint"],
    }
    outputs.write_json(comparison.path, result)
    outputs.write_text(comparison_report.path, champion.comparison_page(result))
    metadata.log_metrics(comparison_metrics, champion.scores(result))
    metadata.describe(comparison, {key: result[key] for key in ("promote", "reason", "metric")})
    print(result["reason"])  # noqa: T201
    return result["promote"], metadata.plain(result["reason"])
