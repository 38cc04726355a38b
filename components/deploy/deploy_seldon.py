from typing import NamedTuple

from kfp.dsl import Artifact, Input, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def deploy_seldon(
    model: Input[Model],
    endpoint: Output[Artifact],
    name: str,
    share: int = 100,
    replicas: int = 1,
    cpu: str = "1",
    memory: str = "2Gi",
    image: str = "",
    namespace: str = "",
    environment_from: str = "",
    storage_access: str = "",
    pods: dict = {},  # noqa: B006
    timeout_seconds: float = 600.0,
) -> NamedTuple("Outputs", [("url", str), ("revision", str), ("share", int)]):  # type: ignore[valid-type]
    """Serve a model with Seldon Core 2, as a Model on servers of its own, with a share in an Experiment.

    Running it again changes nothing. A revision that doesn't come up is removed, the reason is told, and the
    previous revision keeps serving.

    Args:
        model: The model, of which only the address is read: s3:// or gs://, where Seldon fetches it.
        endpoint: The endpoint as it is now (JSON).
        name: Name of the endpoint: at most 38 of a-z, 0-9 and hyphen.
        share: Percent of the requests that the new revision gets; a first revision gets all.
        replicas: Servers of a revision.
        cpu: Processors of a pod, such as "2" or "500m".
        memory: Memory of a pod, such as "2Gi".
        image: The model server's image; empty for that of this release.
        namespace: Where to deploy; empty for the step's own namespace.
        environment_from: Name of a Secret in the namespace whose keys become the server's environment, such
            as FLOWPARTS_SERVING_MAX_ROWS; empty for none.
        storage_access: Name of a Secret with the access to the model, as Seldon's agent takes it
            (rclone's settings); empty for what the agent is set up with.
        pods: What is added to the pods: image_pull_secrets, node_selector, tolerations, priority_class,
            labels and annotations.
        timeout_seconds: Time for the pods to become ready.

    Returns:
        url: Where requests go.
        revision: The revision, named after all that its pods are made of.
        share: The percentage that it got.
    """
    from flowparts import deploy
    from flowparts import endpoint as endpoints

    deployed = deploy.target("seldon").deploy(
        model.uri,
        name,
        share=share,
        replicas=replicas,
        cpu=cpu,
        memory=memory,
        image=image,
        namespace=namespace,
        environment_from=environment_from,
        storage_access=storage_access,
        pods=pods,
        timeout_seconds=timeout_seconds,
    )
    return endpoints.publish(deployed, endpoint)
