from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from .. import MLFLOW, runs_in


@runs_in("sklearn", secrets=MLFLOW)
def decide_retraining(
    table: Input[Dataset],
    decision: Output[Artifact],
    decision_report: Output[HTML],
    mark: Output[Artifact],
    model_name: str,
    state_uri: Optional[str] = None,
    time_column: Optional[str] = None,
    reasons: list[str] = ["new_data", "drift", "performance", "age"],  # noqa: B006 kfp needs a literal
    min_new_rows: int = 1,
    false_alarm_rate: float = 0.05,
    minimum_effect: float = 0.05,
    tolerance: float = 0.0,
    max_age_days: float = 30.0,
    request: Optional[str] = None,
    tracking_uri: Optional[str] = None,
) -> NamedTuple("Outputs", [("retrain", bool), ("reason", str)]):  # type: ignore[valid-type]
    """Decide whether to retrain: new data, drift, degraded performance, age, or no champion yet.

    The champion is judged on the labelled rows that arrived after the last training and that it hasn't seen:
    they are compared with its training rows, and its predictions for them with their labels. Put
    mark_data_seen after the training, with the same state_uri, so that the same rows trigger only one
    training. Must run with caching off.

    Args:
        table: The current labelled rows, which a training would use.
        decision: JSON with the decision, the result of each rule, drift by column and the champion's
            performance.
        decision_report: HTML page with the same results.
        mark: High-water mark of the rows, for mark_data_seen.
        model_name: The registered model, whose champion is judged.
        state_uri: Path or URI (s3://, gs://) of a JSON file that persists between runs, one for each model.
            Without it, new rows can't be told from old ones, and all rows that the champion hasn't seen are
            judged.
        time_column: Column of times or increasing numbers that identifies new rows; default: any change of
            the content is new data.
        reasons: Rules that can trigger a training: new_data, drift, performance, age.
        min_new_rows: Minimum number of new rows for new_data; without time_column, by how much the table must
            have grown.
        false_alarm_rate: Fraction of tables of unchanged data in which drift may be reported.
        minimum_effect: Fraction of rows that must have changed for a column to count as drifted.
        tolerance: How much worse than on the validation rows the champion may be, in its metric's unit.
        max_age_days: Days since the last training for age.
        request: Reason to train regardless of the rules, such as the alert that started the run.
        tracking_uri: MLflow server or database; default: the environment's MLFLOW_TRACKING_URI. Without
            either, an SQLite file in the home directory, or in a container no registry and so no champion.

    Returns:
        retrain: Whether to train.
        reason: Reason for the decision, in one sentence.
    """
    from datetime import UTC, datetime

    from flowparts import tables
    from flowparts.monitor import drift, new_data, retraining
    from flowparts.monitor import retraining_report as pages
    from flowparts.util import metadata, names, outputs

    rule = drift.Rule(false_alarm_rate, minimum_effect)
    chosen = names.texts(reasons, "reasons") or retraining.REASONS
    rules = retraining.Rules(chosen, min_new_rows, rule, tolerance, max_age_days)
    rows = tables.scan(table.path)
    present = new_data.mark(rows, time_column or None)
    seen = new_data.seen(state_uri) if state_uri else None
    now = datetime.now(UTC).replace(tzinfo=None)
    with retraining.champion(model_name, tracking_uri or None) as champion:
        decided = retraining.decide(rows, champion, present, seen, rules, now, request or "", bool(state_uri))
    print(decided.reason)  # noqa: T201
    outputs.write_json(decision.path, decided.to_dict())
    described = tables.description(table.path)
    page = pages.page(decided, champion, described["rows"], described["source"] or table.uri)
    outputs.write_text(decision_report.path, page)
    outputs.write_json(mark.path, present.to_dict())
    metadata.describe(decision, {"retrain": decided.retrain, "reason": decided.reason})
    return decided.retrain, metadata.plain(decided.reason)
