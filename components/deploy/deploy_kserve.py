from typing import NamedTuple, Optional

from kfp.dsl import Artifact, Input, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def deploy_kserve(
    model: Input[Model],
    endpoint: Output[Artifact],
    endpoint_name: str,
    traffic_fraction: float = 1.0,
    replicas: int = -1,
    max_replicas: int = -1,
    cpu: Optional[str] = None,
    memory: Optional[str] = None,
    image: Optional[str] = None,
    namespace: Optional[str] = None,
    environment_from: Optional[str] = None,
    service_account: Optional[str] = None,
    pods: Optional[dict] = None,
    digest: Optional[str] = None,
    timeout_seconds: Optional[float] = None,
    wait_seconds: Optional[float] = None,
    reset: bool = False,
) -> NamedTuple("Outputs", [("url", str), ("revision", str), ("traffic_fraction", float)]):  # type: ignore[valid-type]
    """Serve a model from a KServe InferenceService, as a revision with a share of the requests.

    Running it again changes nothing. Where a revision doesn't come up, the error says why, and the service is
    as it was before. With Knative that shares the requests; without, KServe's Gateway does, and if it has
    none a revision gets 0 or 100 %.

    What isn't given (-1 for a whole number) stays as the endpoint has it; a new one has the values in
    brackets.

    Args:
        model: The model, of which only the address is read: s3:// or gs://, where the pods fetch it.
        endpoint: The endpoint as it is now (JSON).
        endpoint_name: Name of the endpoint: at most 38 of a-z, 0-9 and hyphen.
        traffic_fraction: Fraction of the requests that the new revision gets; a first revision gets all.
        replicas: Pods of a revision at least (1).
        max_replicas: Pods of a revision at most; 0 for no autoscaling.
        cpu: Processors of a pod, such as "2" or "500m" (1).
        memory: Memory of a pod, such as "2Gi" (2Gi).
        image: The model server's image; empty for that of this release.
        namespace: Where to deploy; empty for the step's own namespace.
        environment_from: Name of a Secret in the namespace of whose keys the server gets
            FLOWPARTS_SERVING_TOKEN, which clients must know; empty for none.
        service_account: The pods' service account, whose Secrets are KServe's credentials for the model, or
            to which a cloud ties rights; empty for the default.
        pods: What is added to the pods: image_pull_secrets, node_selector, tolerations, priority_class,
            labels and annotations.
        digest: Digest of the model's files (model_fingerprint of register_champion): pods refuse others.
            Empty to read the files, which takes access to them here.
        timeout_seconds: Time for the pods to become ready (600).
        wait_seconds: Time to wait for another step that changes the endpoint.
        reset: Whether what isn't given becomes as for a new endpoint.

    Returns:
        url: Where requests go.
        revision: The revision, named after all that its pods are made of.
        traffic_fraction: The fraction that it got.
    """
    ports = dict(locals())  # the target's options, by name
    from flowparts.deploy import operations

    return operations.deploy_step("kserve", **ports)
