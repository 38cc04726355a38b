from typing import Optional

from .. import MLFLOW, runs_in


@runs_in("sklearn", secrets=MLFLOW)
def mark_deployed(
    model_name: str,
    version: str,
    promoted: bool,
    deploy_target: str,
    endpoint_name: str,
    tracking_uri: Optional[str] = None,
) -> None:
    """Note at a registered version how its rollout ended.

    Put it after roll_out. A version that register_champion has registered for a deployment awaits it until
    then: if the rollout failed, the next run of continuous-training deploys the champion. It must run with
    caching off.

    Args:
        model_name: The registered model.
        version: Its version that was rolled out; empty to note nothing, as without a registry.
        promoted: Whether it serves; if not, it was rolled back, and no later run deploys it.
        deploy_target: Where it was rolled out.
        endpoint_name: Name of the endpoint there.
        tracking_uri: MLflow server or database; if not given, the environment's MLFLOW_TRACKING_URI, else an
            SQLite file in the home directory.
    """
    from flowparts.register import registry

    if version:
        outcome = f"{'promoted' if promoted else 'rolled back'} on {deploy_target}, endpoint {endpoint_name}"
        registry.note_deployment(model_name, version, outcome, tracking_uri or None)
