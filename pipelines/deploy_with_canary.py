from kfp import dsl

from flowparts.components.deploy.roll_out import roll_out
from flowparts.components.ingest.ingest_table import ingest_table
from flowparts.components.predict.batch_predict import batch_predict
from flowparts.components.register.load_champion import load_champion


@dsl.pipeline(name="deploy-with-canary", display_name="Deploy with a canary")
def deploy_with_canary(
    model_name: str = "tabular-training",
    tracking_uri: str = "",
    source: str = "sample://breast_cancer",
    data_version: str = "",
    null_values: list = [],
    on_bad_rows: str = "fail",
    file_format: str = "",
    delimiter: str = "",
    decimal: str = "",
    column_names: list = [],
    column_types: dict = {},
    deploy_target: str = "docker",
    endpoint_name: str = "tabular-training",
    traffic_fraction: float = 0.1,
    deploy_options: dict = {},
    requests: int = 200,
    seconds: float = 20.0,
    max_error_rate: float = 0.01,
    max_slowdown: float = 2.0,
    warm_seconds: float = 60.0,
) -> None:
    """Deploy a registered model's champion as a canary, and promote it in steps or roll it back.

    Args:
        model_name: The registered model; its champion is deployed.
        tracking_uri: MLflow server; empty for the environment's MLFLOW_TRACKING_URI or a local SQLite file.
        source: Rows to probe the endpoint with: CSV, Parquet or JSON Lines; a path, a glob, a directory, or a
            URI that starts with file://, s3://, gs://, https:// or sample://.
        data_version: Version of the rows; change it when the files behind the source have changed.
        null_values: Strings to read as missing values, such as NA; empty for the default; [""] keeps a code
            such as NA.
        on_bad_rows: What to do with rows that can't be read and values that don't fit their column: fail,
            quarantine, or null to read such a value as missing.
        file_format: csv, jsonl or parquet; empty to infer it from the file names.
        delimiter: Field separator of CSV files, one character; empty to detect it.
        decimal: "." if numbers are written as 1,234.5, "," if as 1.234,5; empty to detect it for each column.
        column_names: Names of the columns of CSV files without a header; empty if they have one.
        column_types: Types of columns by name, where the inferred ones are wrong: boolean, integer, number,
            date, timestamp or string.
        deploy_target: Where to deploy: docker, kubernetes, kserve, seldon, tf_serving, vertex or sagemaker.
        endpoint_name: Name of the endpoint: at most 38 of a-z, 0-9 and hyphen.
        traffic_fraction: Fraction of the requests that the new revision gets at first; then 0.5, then 1.
        deploy_options: The target's own options, such as replicas, cpu and memory, as its deploy component
            takes them.
        requests: Requests to each revision at each stage; at least 10 to judge the latency.
        seconds: How long to watch each stage.
        max_error_rate: Maximum fraction of requests without a prediction, above the previous revision's.
        max_slowdown: Maximum ratio of the new revision's latency to the previous one's at the same moment.
        warm_seconds: How long the previous revision keeps its servers after the promotion, where the platform
            can start them again.
    """
    champion = load_champion(
        model_name=model_name,
        tracking_uri=tracking_uri,
        deploy_target=deploy_target,
        endpoint_name=endpoint_name,
        deploy_options=deploy_options,
    ).set_caching_options(False)
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
    ).outputs["table"]
    model = champion.outputs["model"]
    predicted = batch_predict(table=table, model=model)
    roll_out(
        model=model,
        predictions=predicted.outputs["predictions"],
        deploy_target=deploy_target,
        endpoint_name=endpoint_name,
        traffic_fraction=traffic_fraction,
        deploy_options=deploy_options,
        requests=requests,
        seconds=seconds,
        max_error_rate=max_error_rate,
        max_slowdown=max_slowdown,
        warm_seconds=warm_seconds,
        run_id=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
        model_version=champion.outputs["version"],
    ).set_caching_options(False)
