"""Steps that all training pipelines share after the training."""

from typing import Any

from kfp import dsl

from flowparts.components.deploy.roll_out import roll_out
from flowparts.components.evaluate.check_serving import check_serving
from flowparts.components.evaluate.evaluate_model import evaluate_model
from flowparts.components.register.register_champion import register_champion


# A plain function, not a nested pipeline: its steps are at the top level, where a UI shows them directly.
def judge_and_deploy(
    model: Any,
    test: Any,
    slice_columns: Any,
    metric: Any,
    model_name: Any,
    margin: Any,
    floor: Any,
    replace_champion: Any,
    tracking_uri: Any,
    seed: Any,
    deploy_target: Any,
    endpoint_name: Any,
    deploy_options: Any,
) -> Any:
    """Add the steps that judge a model, register it if it beats the champion, and deploy it.

    Returns:
        The step that registers it.
    """
    serving = check_serving(model=model, test=test)
    evaluated = evaluate_model(model=model, test=test, metric=metric, slice_columns=slice_columns, seed=seed)
    registered = register_champion(
        model=model,
        test=test,
        evaluation_report=evaluated.outputs["evaluation_report"],
        model_name=model_name,
        serving_metrics=serving.outputs["serving_metrics"],
        metric=metric,
        margin=margin,
        floor=floor,
        replace_champion=replace_champion,
        seed=seed,
        deploy_target=deploy_target,
        tracking_uri=tracking_uri,
        run_id=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
    ).set_caching_options(False)
    with dsl.If(registered.outputs["deploy"] == True, name="deploy"):  # noqa: E712 kfp builds the condition
        roll_out(
            model=model,
            predictions=serving.outputs["predictions"],
            deploy_target=deploy_target,
            endpoint_name=endpoint_name,
            deploy_options=deploy_options,
            run_id=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            model_version=registered.outputs["version"],
        ).set_caching_options(False)
    return registered
