from kfp import dsl

from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.predict.batch_predict import batch_predict
from flowparts.components.predict.export_table import export_table
from flowparts.components.register.load_champion import load_champion
from flowparts.components.validate.validate_table import validate_table


@dsl.pipeline(name="batch-prediction", display_name="Predict in batch")
def batch_prediction(
    source: str = "sample://breast_cancer",
    data_version: str = "",
    null_values: list = [],
    on_bad_rows: str = "fail",
    file_format: str = "",
    delimiter: str = "",
    decimal: str = "",
    column_names: list = [],
    column_types: dict = {},
    model_name: str = "tabular-training",
    key_columns: list = [],
    destination: str = "",
    tracking_uri: str = "",
) -> None:
    """Score a table with the champion of a registered model, after checking it against the model's schema.

    Args:
        source: The rows to score: CSV, Parquet or JSON Lines; a path, a glob, a directory, or a URI that
            starts with file://, s3://, gs://, https:// or sample://.
        data_version: Version of the data; change it when the files behind the source have changed, so that no
            cached results are used.
        null_values: Strings to read as missing values, such as NA; empty for the default; [""] keeps a code
            such as NA.
        on_bad_rows: What to do with rows that can't be read and values that don't fit their column: fail,
            quarantine, or null to read such a value as missing.
        file_format: csv, jsonl or parquet; empty to infer it from the file names.
        delimiter: Field separator of CSV files, one character; empty to detect it.
        decimal: "." if numbers are written as 1,234.5, "," if as 1.234,5; empty to detect it for each column.
        column_names: Names of the columns of CSV files without a header; empty if they have one.
        column_types: Types of columns by name, where those of the model's schema, or the inferred ones of
            other columns, are wrong: boolean, integer, number, date, timestamp or string.
        model_name: Name of the model in the registry, such as tabular-training.
        key_columns: Columns to keep beside the predictions, such as an identifier; empty to keep all.
        destination: File to also write the predictions to, ending in .csv, .parquet or .jsonl: a path or a
            URI that starts with s3:// or gs://; empty for none.
        tracking_uri: MLflow server; empty for the environment's MLFLOW_TRACKING_URI or a local SQLite file.
    """
    champion = load_champion(model_name=model_name, tracking_uri=tracking_uri).set_caching_options(False)
    table = ingest_table(
        source=source,
        data_version=data_version,
        null_values=null_values,
        on_bad_rows=on_bad_rows,
        file_format=file_format,
        delimiter=delimiter,
        decimal=decimal,
        column_names=column_names,
        column_types=column_types,
        schema=champion.outputs["schema"],
        required_columns=key_columns,
    ).outputs["table"]
    validated = validate_table(table=table, schema=champion.outputs["schema"], destination=destination)
    scored = batch_predict(table=table, model=champion.outputs["model"], key_columns=key_columns).after(
        validated
    )
    with dsl.If(destination != "", name="export"):
        export_table(table=scored.outputs["predictions"], destination=destination).set_caching_options(False)
