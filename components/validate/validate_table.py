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
    """Check every row of a table against a reviewed schema and list the violations, or infer a schema.

    A pipeline may pass the parameters of its later steps: an invalid one then fails here, before any data is
    read, rather than after the training.

    Args:
        table: The table to check.
        table_schema: The schema as JSON, one line for each column: type, nullability, range of numbers and
            timestamps, categories of text, uniqueness. Meant to be edited and kept in git. If no schema is
            given, it is inferred, and this table satisfies it.
        anomalies: The violations as a JSON list, empty if there are none; each with column, rule
            (missing_column, unexpected_column, type, null, minimum, maximum, category or duplicate),
            expected, count (of rows) and examples (up to five distinct values).
        validation_report: HTML page with the same violations.
        schema: Schema to check against, such as the table_schema of an earlier table.
        schema_uri: Schema to check against, the path or URI of a JSON file.
        fail_on_anomaly: Whether to fail, after the outputs are written, if any rule is violated. If false,
            the caller decides by the returned values.
        task: classification or regression.
        trainer: Trainer, as train_tabular takes it.
        effort: Effort of the trainer, as train_tabular takes it.
        candidates: Estimators to try instead; only train_tabular checks them, because this step's image has
            no estimators.
        metric: Metric to select and promote by; it must suit the task.
        model_name: Name of the model in the registry.
        margin: Minimum improvement on the champion, in units of the metric.
        floor: Worst acceptable score of a model without a champion, in units of the metric.
        deploy_target: Where the model is to be deployed, as roll_out takes it.
        endpoint_name: Name of the endpoint there.
        deploy_options: The target's own options.
        destination: File that predictions are to be written to, as export_table takes it.

    Returns:
        valid: Whether the table satisfies the schema.
        anomaly_count: Number of violated rules: one for each rule and column, however many rows violate it.
    """
    from dataclasses import asdict

    from flowparts import parameters, tables
    from flowparts.tables import schema as schemas
    from flowparts.util import metadata, outputs

    learned = {"task": task, "trainer": trainer, "effort": effort, "metric": metric}
    promoted = {"model_name": model_name, "margin": margin, "floor": floor}
    deployed = {"deploy_target": deploy_target, "endpoint_name": endpoint_name}
    written = {"deploy_options": deploy_options, "destination": destination}
    # As a default, which isn't checked: this image has no estimators to check candidates with.
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
