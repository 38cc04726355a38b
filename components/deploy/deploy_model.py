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
    """Serve a model on the platform that a parameter names, as a new revision of an endpoint.

    For pipelines whose users choose the platform. Each platform also has its own deploy component, which
    lists its options as parameters.

    Args:
        model: The model directory.
        endpoint: The endpoint after the deployment (JSON).
        deploy_target: docker, kubernetes, kserve, seldon, tf_serving, vertex or sagemaker.
        endpoint_name: Name of the endpoint: at most 38 characters, a-z, 0-9 and hyphens.
        traffic_fraction: Fraction of the requests for the new revision; a first revision gets all.
        deploy_options: Options of the target, such as replicas, cpu and memory; see its deploy component.
            Others keep the endpoint's values, unless {"reset": true} is given.
        run_id: The pipeline run that deploys; on a cluster it is noted at the revision.
        model_version: The model's version in the registry, noted likewise.

    Returns:
        url: URL that takes the requests.
        revision: The revision, named by a hash of its model.
        traffic_fraction: Fraction of the requests that it gets.
    """
    from flowparts.deploy import endpoint as endpoints
    from flowparts.deploy import operations

    origin = {"run": run_id or "", "model-version": model_version or ""}
    deployed = operations.deployed(
        deploy_target, model.uri, endpoint_name, traffic_fraction, deploy_options or {}, origin
    )
    return endpoints.publish(deployed, endpoint)
