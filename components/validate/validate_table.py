from typing import NamedTuple

from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from .. import STORES, runs_in


@runs_in("base", secrets=STORES)
def validate_table(
    table: Input[Dataset],
    schema: Input[Artifact],
    anomalies: Output[Artifact],
    validation_report: Output[HTML],
    fail_on_anomaly: bool = True,
) -> NamedTuple("Outputs", [("valid", bool), ("anomaly_count", int)]):  # type: ignore[valid-type]
    """Check every row of a table against a schema and list what breaks it.

    Args:
        table: The table to check.
        schema: What the columns must be, as infer_schema writes it.
        anomalies: The broken rules as a JSON list, empty if there are none; each with column, rule
            (missing_column, unexpected_column, type, null, minimum, maximum, category or duplicate),
            expected, count (of rows) and examples (up to five different values).
        validation_report: The same for people.
        fail_on_anomaly: Fail after both outputs are written if any rule is broken. If false, leave the
            decision to whoever reads the returned values.

    Returns:
        valid: Whether no rule is broken.
        anomaly_count: Broken rules, one for each rule of each column however many rows break it.
    """
    from dataclasses import asdict

    from flowparts import metadata, outputs, tables
    from flowparts import schema as schemas

    expected = schemas.read(schema.path)
    frame = tables.scan(table.path)
    found = schemas.validate(frame, expected)
    outputs.write_json(anomalies.path, [asdict(anomaly) for anomaly in found])
    outputs.write_text(validation_report.path, schemas.render(found, expected, tables.row_count(frame)))
    metadata.describe(anomalies, {"anomaly_count": len(found)})
    if found and fail_on_anomaly:
        raise ValueError(schemas.summary(found))
    return not found, len(found)
