from typing import NamedTuple, Optional

from kfp.dsl import Artifact, Input, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def deploy_model(
    model: Input[Model],
    endpoint: Output[Artifact],
    deploy_target: str,
    endpoint_name: str,
    traffic_fraction: float = 1.0,
    deploy_options: Optional[dict] = None,
    run_id: Optional[str] = None,
    model_version: Optional[str] = None,
) -> NamedTuple("Outputs", [("url", str), ("revision", str), ("traffic_fraction", float)]):  # type: ignore[valid-type]
    """Serve a model on the platform that a parameter names, as a revision of an endpoint.

    For a pipeline that leaves the platform to whoever runs it. Each platform has a component of its own as
    well, which shows its options one by one.

    Args:
        model: The model directory.
        endpoint: The endpoint as it is now (JSON).
        deploy_target: docker, kubernetes, kserve, seldon, tf_serving, vertex or sagemaker.
        endpoint_name: Name of the endpoint: at most 38 of a-z, 0-9 and hyphen.
        traffic_fraction: Fraction of the requests that the new revision gets; a first revision gets all.
        deploy_options: The target's own options, such as replicas, cpu and memory, as its component takes
            them. What isn't named stays as the endpoint has it, unless {"reset": true} is.
        run_id: The pipeline run that deploys; clusters note it beside the revision.
        model_version: The model's version in the registry, likewise.

    Returns:
        url: Where requests go.
        revision: The model's revision, named after its content.
        traffic_fraction: The fraction that it got.
    """
    from flowparts.deploy import endpoint as endpoints
    from flowparts.deploy import operations

    origin = {"run": run_id or "", "model-version": model_version or ""}
    deployed = operations.deployed(
        deploy_target, model.uri, endpoint_name, traffic_fraction, deploy_options or {}, origin
    )
    return endpoints.publish(deployed, endpoint)
