"""What both training pipelines do with a trained model."""

from typing import Any

from kfp import dsl

from components.deploy.roll_out import roll_out
from components.evaluate.check_serving import check_serving
from components.evaluate.compare_with_champion import compare_with_champion
from components.evaluate.evaluate_model import evaluate_model
from components.evaluate.summarize_run import summarize_run
from components.predict.batch_predict import batch_predict
from components.register.register_mlflow import register_mlflow


# A plain function, not a nested pipeline: its steps stand at the top level, where a UI shows them at once.
def judge_and_deploy(
    table: Any,
    anomalies: Any,
    model: Any,
    test: Any,
    slice_columns: Any,
    metric: Any,
    model_name: Any,
    margin: Any,
    floor: Any,
    tracking_uri: Any,
    seed: Any,
    deploy_target: Any,
    endpoint_name: Any,
    deploy_options: Any,
) -> None:
    """Add the steps that judge a model, register it if it beats the champion, sum up, and deploy it."""
    serving = check_serving(model=model, test=test)
    evaluated = evaluate_model(model=model, test=test, metric=metric, slice_columns=slice_columns, seed=seed)
    compared = compare_with_champion(
        model=model,
        test=test,
        model_name=model_name,
        servable=serving.outputs["servable"],
        metric=metric,
        margin=margin,
        floor=floor,
        tracking_uri=tracking_uri,
        seed=seed,
    ).set_caching_options(False)
    registered = register_mlflow(
        model=model,
        metrics=evaluated.outputs["test_metrics"],
        evaluation_report=evaluated.outputs["evaluation_report"],
        comparison=compared.outputs["comparison"],
        comparison_report=compared.outputs["comparison_report"],
        model_name=model_name,
        deploy_target=deploy_target,
        tracking_uri=tracking_uri,
        run_id=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
    ).set_caching_options(False)
    summarize_run(
        table=table,
        anomalies=anomalies,
        model=model,
        serving_metrics=serving.outputs["serving_metrics"],
        comparison=compared.outputs["comparison"],
        version=registered.outputs["version"],
    ).set_caching_options(False)
    with dsl.If(registered.outputs["deploy"] == True, name="deploy"):  # noqa: E712 kfp builds the condition
        predicted = batch_predict(table=test, model=model)
        roll_out(
            model=model,
            predictions=predicted.outputs["predictions"],
            target=deploy_target,
            name=endpoint_name,
            options=deploy_options,
        ).set_caching_options(False)
