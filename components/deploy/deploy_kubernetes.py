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
    prediction_log: Optional[dict] = None,
    pods: Optional[dict] = None,
    digest: Optional[str] = None,
    timeout_seconds: Optional[float] = None,
    wait_seconds: Optional[float] = None,
    reset: bool = False,
) -> NamedTuple("Outputs", [("url", str), ("revision", str), ("traffic_fraction", float)]):  # type: ignore[valid-type]
    """Serve a model from pods on Kubernetes, as a new revision beside the current one.

    Creates a Deployment and a Service for the revision, and for the endpoint a Service, a
    PodDisruptionBudget, a NetworkPolicy and, with the Prometheus operator, a ServiceMonitor. Running it again
    changes nothing. A revision that fails to start is removed, the error says why, and the previous revision
    keeps serving.

    Options that aren't given (-1 for whole numbers) keep the endpoint's values; a new endpoint gets the
    defaults in parentheses.

    Args:
        model: The model; only its URI (s3:// or gs://) is read, and the pods download it from there.
        endpoint: The endpoint after the deployment (JSON).
        endpoint_name: Name of the endpoint: at most 38 characters, a-z, 0-9 and hyphens.
        traffic_fraction: Fraction of the requests for the new revision; a first revision gets all.
        replicas: Pods of a revision that gets all requests (2). Without a gateway, the traffic is split
            by the number of pods.
        max_replicas: Maximum number of pods when autoscaling on CPU; 0 turns autoscaling off.
        cpu: CPU per pod, such as "2" or "500m" (1).
        memory: Memory per pod, such as "2Gi" (2Gi).
        image: Image of the model server; empty for this release's.
        namespace: Namespace to deploy to; empty for the step's own.
        environment_from: Name of a Secret in the namespace with the credentials for the download, such as
            AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, as environment variables; the server itself gets only
            FLOWPARTS_SERVING_TOKEN. Empty for none.
        service_account: Service account of the pods, such as one with cloud access; empty for the default.
        gateway: Gateway that splits the traffic exactly, as NAME or NAMESPACE/NAME; empty to split it by the
            number of pods.
        monitoring: Whether to install the alerting rules too, which needs the Prometheus operator (False).
        monitor_labels: Extra labels of the ServiceMonitor and the rules that Prometheus selects them by, such
            as {"release": "kube-prometheus-stack"}.
        clients: More namespaces whose pods may send requests, such as that of Prometheus, besides those of
            the endpoint, the gateway and the step; ["*"] for all.
        prediction_log: Log of requests and predictions, a table for monitoring: a folder of a
            PersistentVolumeClaim in the namespace, such as {"directory": "pvc://logs/churn"}, with options of
            the model server such as "keys", "days" and "seconds"; "mask" needs "secret", the Secret with the
            key of the hashes. Empty for none. The folder outlives the endpoint.
        pods: Additions to the pods: image_pull_secrets, node_selector, tolerations, priority_class, labels
            and annotations.
        digest: Digest of the model's files (model_fingerprint of register_champion); pods refuse any other
            model. Empty to compute it here, which needs access to the files.
        timeout_seconds: Maximum seconds until the pods are ready (600).
        wait_seconds: Maximum seconds to wait for another step that is changing the endpoint.
        reset: Whether options that aren't given return to the defaults of a new endpoint.

    Returns:
        url: URL that takes the requests.
        revision: The revision, named by a hash of everything that defines its pods.
        traffic_fraction: Fraction of the requests that it gets.
    """
    ports = dict(locals())  # the target's options, by name
    from flowparts.deploy import operations

    return operations.deploy_step("kubernetes", **ports)
