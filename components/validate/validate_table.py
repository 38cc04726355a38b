from typing import NamedTuple, Optional

from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from .. import STORES, runs_in


@runs_in("base", secrets=STORES)
def validate_table(
    table: Input[Dataset],
    table_schema: Output[Artifact],
    anomalies: Output[Artifact],
    validation_report: Output[HTML],
    schema: Input[Artifact] = None,  # type: ignore[assignment] # kfp's form of an optional one
    schema_uri: Optional[str] = None,
    fail_on_anomaly: bool = True,
    task: Optional[str] = None,
    trainer: Optional[str] = None,
    effort: Optional[str] = None,
    candidates: Optional[list] = None,
    metric: Optional[str] = None,
    model_name: Optional[str] = None,
    margin: float = 0.0,
    floor: float = 0.0,
    deploy_target: Optional[str] = None,
    endpoint_name: Optional[str] = None,
    deploy_options: Optional[dict] = None,
    destination: Optional[str] = None,
) -> NamedTuple("Outputs", [("valid", bool), ("anomaly_count", int)]):  # type: ignore[valid-type]
    """Check every row of a table against a reviewed schema and list what breaks it, or infer its schema.

    A pipeline may give the parameters of its later steps, so that one that can't be right fails here, before
    anything is read, and not after the training.

    Args:
        table: The table to check.
        table_schema: The schema as JSON, one line for each column: its type, whether values may be missing,
            bounds of numbers and timestamps, categories of text, uniqueness. Meant to be edited and kept in
            git. Inferred, if none is given; then it describes this table, which satisfies it.
        anomalies: The broken rules as a JSON list, empty if there are none; each with column, rule
            (missing_column, unexpected_column, type, null, minimum, maximum, category or duplicate),
            expected, count (of rows) and examples (up to five different values).
        validation_report: The same for people.
        schema: What the columns must be, such as the table_schema of an earlier table.
        schema_uri: The same as a path or URI of a JSON file.
        fail_on_anomaly: Fail after the outputs are written if any rule is broken. If false, leave the
            decision to whoever reads the returned values.
        task: What is to be learned, classification or regression.
        trainer: What is to learn it, as train_tabular takes it.
        effort: How much that is to try, as train_tabular takes it.
        candidates: What it is to try instead; looked at by train_tabular, as this step knows no estimators.
        metric: Metric to select and promote by; it must measure the task.
        model_name: Name of the model in the registry.
        margin: Minimum improvement on the champion, in units of the metric.
        floor: Worst score of a model without a champion, in units of the metric.
        deploy_target: Where the model is to be deployed, as roll_out takes it.
        endpoint_name: Name of the endpoint there.
        deploy_options: The target's own options.
        destination: File that predictions are to be written to, as export_table takes it.

    Returns:
        valid: Whether no rule is broken.
        anomaly_count: Broken rules, one for each rule of each column however many rows break it.
    """
    from dataclasses import asdict

    from flowparts import parameters, tables
    from flowparts.tables import schema as schemas
    from flowparts.util import metadata, outputs

    learned = {"task": task, "trainer": trainer, "effort": effort, "metric": metric}
    promoted = {"model_name": model_name, "margin": margin, "floor": floor}
    deployed = {"deploy_target": deploy_target, "endpoint_name": endpoint_name}
    written = {"deploy_options": deploy_options, "destination": destination}
    # Not among the given: this image has no estimators to check them by.
    parameters.check({**learned, **promoted, **deployed, **written}, {"candidates": candidates})
    reviewed = schema.path if schema else schema_uri
    frame = tables.scan(table.path)
    expected = schemas.read(reviewed) if reviewed else schemas.infer(frame)
    found = schemas.validate(frame, expected) if reviewed else []
    page = schemas.render(found, expected, tables.row_count(frame), is_inferred=not reviewed)
    schemas.write(expected, table_schema.path)
    outputs.write_json(anomalies.path, [asdict(anomaly) for anomaly in found])
    outputs.write_text(validation_report.path, page)
    source = "inferred" if not reviewed else schema_uri or "given"
    metadata.describe(table_schema, {"columns": expected.columns, "source": source})
    metadata.describe(anomalies, {"anomaly_count": len(found)})
    if found and fail_on_anomaly:
        raise ValueError(schemas.summary(found))
    return not found, len(found)
