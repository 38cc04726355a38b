from typing import NamedTuple, Optional

from kfp.dsl import Artifact, Input, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def deploy_kubernetes(
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
    gateway: Optional[str] = None,
    monitoring: Optional[bool] = None,
    monitor_labels: Optional[dict] = None,
    clients: Optional[list] = None,
    pods: Optional[dict] = None,
    digest: Optional[str] = None,
    timeout_seconds: Optional[float] = None,
    wait_seconds: Optional[float] = None,
    reset: bool = False,
) -> NamedTuple("Outputs", [("url", str), ("revision", str), ("traffic_fraction", float)]):  # type: ignore[valid-type]
    """Serve a model from pods on Kubernetes, as a revision of an endpoint beside the one that serves.

    Makes a Deployment and a Service for the revision, and for the endpoint a Service, a PodDisruptionBudget,
    a NetworkPolicy, and where there is Prometheus a ServiceMonitor. Running it again changes nothing. A
    revision that doesn't come up is removed, the error says why, and the previous revision keeps serving.

    What isn't given (-1 for a whole number) stays as the endpoint has it; a new one has the values in
    brackets.

    Args:
        model: The model, of which only the address is read: s3:// or gs://, where the server fetches it.
        endpoint: The endpoint as it is now (JSON).
        endpoint_name: Name of the endpoint: at most 38 of a-z, 0-9 and hyphen.
        traffic_fraction: Fraction of the requests that the new revision gets; a first revision gets all.
        replicas: Pods of a revision that gets all requests (2). Without a gateway the share is a ratio of
            pods.
        max_replicas: Up to how many pods an autoscaler goes where processors are busy; 0 for no autoscaler.
        cpu: Processors of a pod, such as "2" or "500m" (1).
        memory: Memory of a pod, such as "2Gi" (2Gi).
        image: The model server's image; empty for that of this release.
        namespace: Where to deploy; empty for the step's own namespace.
        environment_from: Name of a Secret in the namespace whose keys become the environment of what
            fetches the model, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the server gets only
            FLOWPARTS_SERVING_TOKEN of it. Empty for none.
        service_account: The pods' service account, where a cloud ties rights to it; empty for the default.
        gateway: The Gateway that shares requests exactly, as NAME or NAMESPACE/NAME; empty for a ratio of
            pods.
        monitoring: Whether the alerting rules are installed too, which takes the Prometheus operator (False).
        monitor_labels: Further labels of the ServiceMonitor and the rules, where Prometheus selects by them,
            such as {"release": "kube-prometheus-stack"}.
        clients: Further namespaces whose pods may send requests, besides the endpoint's own, the gateway's
            and the step's, such as that of Prometheus; ["*"] for everyone.
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

    return operations.deploy_step("kubernetes", **ports)
