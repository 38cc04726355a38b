from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output

from .. import runs_in


@runs_in("sklearn", memory_request="768Mi")
def compare_with_champion(
    model: Input[Model],
    test: Input[Dataset],
    comparison: Output[Artifact],
    report: Output[HTML],
    model_name: str,
    servable: bool = True,
    metric: Optional[str] = None,
    margin: float = 0.0,
    floor: Optional[float] = None,
    confidence: float = 0.95,
    bootstrap_samples: int = 500,
    seed: int = 0,
    tracking_uri: Optional[str] = None,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [("promote", bool), ("reason", str), ("challenger_score", float), ("champion_score", float)],
):
    """Score a new model and the registered champion on the same test rows and decide which one stays.

    The new model is promoted if it can be served, improves on the champion by the margin, and is better in
    the share `confidence` of paired bootstrap resamples. A first model only has to reach the floor, and so
    has one whose champion can't score this table (other label, classes or columns, damaged files).

    Args:
        model: The challenger, a model directory.
        test: Raw test rows with the label; neither model was trained on them.
        comparison: JSON with both models' metrics and intervals, the improvement, the rules, the champion's
            version, the decision and its reason.
        report: The comparison as a page.
        model_name: The registered model whose version with the alias champion is the one to beat.
        servable: Whether the challenger passed check_serving; one that did not is never promoted.
        metric: Metric to compare; roc_auc for classification and rmse for regression if not given.
        margin: Least improvement, in units of the metric.
        floor: Worst score that a model without a champion may have, in units of the metric: the lowest for
            a metric like roc_auc, the highest for an error like rmse. Any score will do if not given.
        confidence: Share of resamples in which the challenger must be better; also that of the intervals.
        bootstrap_samples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
        tracking_uri: MLflow server or database; if not given, the environment's MLFLOW_TRACKING_URI, else an
            SQLite file in the home directory, which a container loses when it ends.

    Returns:
        promote: Whether the challenger takes the champion's place.
        reason: Why, in one line.
        challenger_score: The challenger's metric on the test table.
        champion_score: The champion's metric; without a usable champion the floor, or 0 if there is none.
    """
    from tempfile import TemporaryDirectory

    from flowparts import champion, metadata, outputs, registry, tables

    metric, tracking_uri = metric or None, tracking_uri or None
    champion.check_rules(metric, margin, floor, confidence, bootstrap_samples)
    version = registry.champion_version(model_name, tracking_uri)
    with TemporaryDirectory() as directory:
        result = champion.compare(
            model.path,
            registry.download(model_name, version, directory, tracking_uri) if version else None,
            tables.scan(test.path),
            metric=metric,
            margin=margin,
            floor=floor,
            confidence=confidence,
            servable=servable,
            samples=bootstrap_samples,
            seed=seed,
        )
    result |= {"model_name": model_name, "champion_version": version}
    outputs.write_json(comparison.path, result)
    outputs.write_text(report.path, champion.comparison_page(result))
    metadata.describe(comparison, {key: result[key] for key in ("promote", "reason", "metric")})
    print(result["reason"])  # noqa: T201
    to_beat = champion.score(result, "champion") if result["champion"] else float(floor or 0.0)
    return result["promote"], metadata.plain(result["reason"]), champion.score(result, "challenger"), to_beat
