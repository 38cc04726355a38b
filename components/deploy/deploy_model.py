from typing import NamedTuple

from kfp.dsl import Artifact, Input, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def deploy_model(
    model: Input[Model],
    endpoint: Output[Artifact],
    target: str,
    name: str,
    share: int = 100,
    options: dict = {},  # noqa: B006 kfp reads the default, nothing changes it
    run_id: str = "",
    model_version: str = "",
) -> NamedTuple("Outputs", [("url", str), ("revision", str), ("share", int)]):  # type: ignore[valid-type]
    """Serve a model on the platform that a parameter names, as a revision of an endpoint.

    For a pipeline that leaves the platform to whoever runs it. Each platform has a component of its own as
    well, which shows its options one by one.

    Args:
        model: The model directory.
        endpoint: The endpoint as it is now (JSON).
        target: docker, kubernetes, kserve, seldon, tf_serving, vertex or sagemaker.
        name: Name of the endpoint: at most 38 of a-z, 0-9 and hyphen.
        share: Percent of the requests that the new revision gets; a first revision gets all.
        options: The target's own options, such as replicas, cpu and memory, as its component takes them. What
            isn't named stays as the endpoint has it, unless {"reset": true} is.
        run_id: The pipeline run that deploys; clusters note it beside the revision.
        model_version: The model's version in the registry, likewise.

    Returns:
        url: Where requests go.
        revision: The model's revision, named after its content.
        share: The percentage that it got.
    """
    from flowparts.deploy import endpoint as endpoints
    from flowparts.deploy import operations

    origin = {"run": run_id, "model-version": model_version}
    deployed = operations.deployed(target, model.uri, name, share, options, origin)
    return endpoints.publish(deployed, endpoint)
