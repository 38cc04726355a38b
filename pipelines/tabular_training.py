from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model

from components.deploy.roll_out import roll_out
from components.evaluate.check_serving import check_serving
from components.evaluate.compare_with_champion import compare_with_champion
from components.evaluate.evaluate_classification import evaluate_classification
from components.evaluate.evaluate_regression import evaluate_regression
from components.evaluate.select_best import select_best
from components.evaluate.summarize_run import summarize_run
from components.ingest.ingest_table import ingest_table
from components.predict.batch_predict import batch_predict
from components.prepare.fit_preprocessor import fit_preprocessor
from components.prepare.split_table import split_table
from components.register.register_mlflow import register_mlflow
from components.train.train_keras_tabular import train_keras_tabular
from components.train.train_sklearn import train_sklearn
from components.validate.infer_schema import infer_schema
from components.validate.profile_table import profile_table
from components.validate.validate_table import validate_table

CANDIDATES = [
    {"estimator": "Linear", "parameters": {}},
    {"estimator": "RandomForest", "parameters": {"n_estimators": 200}},
    {"estimator": "HistGradientBoosting", "parameters": {}},
    {"estimator": "LGBM", "parameters": {"n_estimators": 200, "learning_rate": 0.05}},
]


@dsl.pipeline(name="decide-and-register")
def decide_and_register(
    table: Input[Dataset],
    train: Input[Dataset],
    anomalies: Input[Artifact],
    test: Input[Dataset],
    model: Input[Model],
    metrics: Input[Metrics],
    evaluation_report: Input[HTML],
    model_name: str,
    metric: str,
    margin: float,
    tracking_uri: str,
    seed: int,
    deploy_target: str,
    endpoint_name: str,
    deploy_options: dict,
) -> None:
    """Promote the model if it can be served and beats the champion, sum the run up, and deploy it."""
    serving = check_serving(model=model, test=test)
    decision = compare_with_champion(
        model=model,
        test=test,
        model_name=model_name,
        servable=serving.outputs["servable"],
        metric=metric,
        margin=margin,
        tracking_uri=tracking_uri,
        seed=seed,
    ).set_caching_options(False)
    facts = {
        "table": table,
        "train": train,
        "anomalies": anomalies,
        "test": test,
        "model": model,
        "serving": serving.outputs["metrics"],
        "comparison": decision.outputs["comparison"],
    }
    with dsl.If(decision.outputs["promote"] == True, name="promoted"):  # noqa: E712 kfp builds the condition
        registered = register_mlflow(
            model=model,
            metrics=metrics,
            evaluation_report=evaluation_report,
            comparison_report=decision.outputs["report"],
            model_name=model_name,
            tracking_uri=tracking_uri,
            run_id=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
        ).set_caching_options(False)
        summarize_run(**facts, version=registered.outputs["version"]).set_caching_options(False)
        with dsl.If(deploy_target != "", name="deploy"):
            predicted = batch_predict(table=test, model=model)
            roll_out(
                model=model,
                predictions=predicted.outputs["predictions"],
                target=deploy_target,
                name=endpoint_name,
                options=deploy_options,
            ).set_caching_options(False)
    with dsl.Else(name="champion-stays"):
        summarize_run(**facts).set_caching_options(False)


@dsl.pipeline(name="judge")
def judge(
    table: Input[Dataset],
    train: Input[Dataset],
    anomalies: Input[Artifact],
    test: Input[Dataset],
    model: Input[Model],
    task: str,
    slice_columns: list,
    model_name: str,
    metric: str,
    margin: float,
    tracking_uri: str,
    seed: int,
    deploy_target: str,
    endpoint_name: str,
    deploy_options: dict,
) -> None:
    """Evaluate the model by its task, and decide on it."""
    gate = {
        "table": table,
        "train": train,
        "anomalies": anomalies,
        "test": test,
        "model": model,
        "model_name": model_name,
        "metric": metric,
        "margin": margin,
        "tracking_uri": tracking_uri,
        "seed": seed,
        "deploy_target": deploy_target,
        "endpoint_name": endpoint_name,
        "deploy_options": deploy_options,
    }
    with dsl.If(task == "regression", name="regression"):
        evaluated = evaluate_regression(model=model, test=test, slice_columns=slice_columns, seed=seed)
        decide_and_register(
            **gate, metrics=evaluated.outputs["metrics"], evaluation_report=evaluated.outputs["report"]
        )
    with dsl.Else(name="classification"):
        evaluated = evaluate_classification(model=model, test=test, slice_columns=slice_columns, seed=seed)
        decide_and_register(
            **gate, metrics=evaluated.outputs["metrics"], evaluation_report=evaluated.outputs["report"]
        )


@dsl.pipeline(name="tabular-training", display_name="Train on a table")
def tabular_training(
    source: str = "sample://breast_cancer",
    data_version: str = "",
    label: str = "target",
    task: str = "classification",
    trainer: str = "sklearn",
    schema_uri: str = "",
    exclude_columns: list = [],  # noqa: B006 kfp reads the default, nothing changes it
    candidates: list = CANDIDATES,
    metric: str = "",
    slice_columns: list = [],  # noqa: B006
    model_name: str = "tabular-training",
    margin: float = 0.0,
    tracking_uri: str = "",
    seed: int = 0,
    deploy_target: str = "",
    endpoint_name: str = "tabular-training",
    deploy_options: dict = {},  # noqa: B006
) -> None:
    """Train on a table with scikit-learn or Keras, and register the best model if it beats the champion.

    Args:
        source: The raw data: CSV, Parquet or JSON Lines; a path, a glob, a directory, or a URI that starts
            with file://, s3://, gs://, https:// or sample://.
        data_version: Names the state of the data; change it when the files behind the source have changed,
            so that cached results are not used.
        label: Column to predict.
        task: classification or regression.
        trainer: sklearn to pick the best of the candidates, or keras for a neural network; the champion that
            the result is compared with may come from either.
        schema_uri: Reviewed schema (JSON, a path or URI) that the data must satisfy; empty to infer one.
        exclude_columns: Columns that are not features, such as identifiers.
        candidates: Estimators for sklearn to try in parallel, each with its estimator and parameters; one is
            a class of scikit-learn, XGBoost or LightGBM, or Linear, RandomForest, HistGradientBoosting, XGB
            or LGBM, which fit both tasks.
        metric: Metric that selects and promotes; empty for roc_auc (classification) or rmse (regression).
        slice_columns: Columns whose values cut the test table into slices, each evaluated by itself.
        model_name: Name of the model in the registry.
        margin: How much better than the champion a model must be to be promoted, in units of the metric.
        tracking_uri: MLflow server; empty for the environment's MLFLOW_TRACKING_URI or a local SQLite file.
        seed: Seed of the split, the training and the bootstrap.
        deploy_target: Where to deploy a new champion, at first for a share of the requests: docker,
            kubernetes, kserve, seldon, tf_serving, vertex or sagemaker; empty for nowhere.
        endpoint_name: Name of the endpoint that it becomes a revision of.
        deploy_options: The target's own options, as its deploy component takes them.
    """
    ingested = ingest_table(source=source, data_version=data_version)
    table = ingested.outputs["table"]
    profile_table(table=table)
    # Read anew each time: nothing tells that a reviewed schema behind the same URI was edited.
    schema = infer_schema(table=table, schema_uri=schema_uri).set_caching_options(False)
    validated = validate_table(table=table, schema=schema.outputs["schema"])
    parts = split_table(table=table, stratify_by=label, seed=seed).after(validated)
    judged = {
        "table": table,
        "train": parts.outputs["train"],
        "anomalies": validated.outputs["anomalies"],
        "test": parts.outputs["test"],
        "task": task,
        "slice_columns": slice_columns,
        "model_name": model_name,
        "metric": metric,
        "margin": margin,
        "tracking_uri": tracking_uri,
        "seed": seed,
        "deploy_target": deploy_target,
        "endpoint_name": endpoint_name,
        "deploy_options": deploy_options,
    }
    with dsl.If(trainer == "keras", name="keras"):
        network = train_keras_tabular(
            train=parts.outputs["train"],
            validation=parts.outputs["validation"],
            label=label,
            task=task,
            exclude_columns=exclude_columns,
            seed=seed,
        )
        judge(**judged, model=network.outputs["model"])
    with dsl.Else(name="sklearn"):
        prepared = fit_preprocessor(
            train=parts.outputs["train"],
            validation=parts.outputs["validation"],
            label=label,
            task=task,
            exclude_columns=exclude_columns,
            seed=seed,
        )
        with dsl.ParallelFor(candidates) as candidate:
            trained = train_sklearn(
                train_features=prepared.outputs["train_features"],
                validation_features=prepared.outputs["validation_features"],
                preprocessor=prepared.outputs["preprocessor"],
                estimator=candidate.estimator,  # type: ignore[union-attr]
                parameters=candidate.parameters,  # type: ignore[union-attr]
                seed=seed,
            )
        best = select_best(candidates=dsl.Collected(trained.outputs["model"]), metric=metric)
        judge(**judged, model=best.outputs["model"])
