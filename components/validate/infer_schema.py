from typing import Optional

from kfp.dsl import Artifact, Dataset, Input, Output

from .. import runs_in


@runs_in("base")
def infer_schema(table: Input[Dataset], schema: Output[Artifact], schema_uri: Optional[str] = None) -> None:
    """Describe what a table holds as a schema, or take a reviewed schema instead.

    Args:
        table: The table to describe.
        schema: The schema as JSON, one line for each column: its type, whether values may be missing, bounds
            of numbers and timestamps, categories of text, uniqueness. Meant to be edited and kept in git.
        schema_uri: Reviewed schema to take instead of describing the table: a path or a URI of a JSON file.
            Empty to infer one.
    """
    from flowparts import metadata, tables
    from flowparts import schema as schemas

    content = schemas.read(schema_uri) if schema_uri else schemas.infer(tables.scan(table.path))
    schemas.write(content, schema.path)
    metadata.describe(schema, {"columns": content.columns, "source": schema_uri or "inferred"})
