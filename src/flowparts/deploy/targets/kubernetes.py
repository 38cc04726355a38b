"""Plain Kubernetes: the model server in a Deployment for each revision behind one Service."""

from typing import Any

from flowparts.deploy import common, model_store
from flowparts.deploy.cluster import Cluster
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.pod_options import PodOptions
from flowparts.deploy.server_pod import ServerPod
from flowparts.deploy.targets._fleet import Fleet, Platform

_platform = Platform("kubernetes", ServerPod)
endpoints, plan, remove, writing = _platform.endpoints, _platform.plan, _platform.remove, _platform.writing
shift, rollback, release = _platform.shift, _platform.rollback, _platform.release
crashes, trouble = _platform.crashes, _platform.trouble


def deploy(
    model: str,
    name: str,
    *,
    share: int = 100,
    replicas: int = 2,
    max_replicas: int = 0,
    cpu: str = "1",
    memory: str = "2Gi",
    image: str = "",
    namespace: str = "",
    environment_from: str = "",
    service_account: str = "",
    gateway: str = "",
    monitor_labels: dict[str, str] = {},  # noqa: B006 nothing changes it
    clients: list[str] = [],  # noqa: B006 nothing changes it
    digest: str = "",
    pods: dict[str, Any] = {},  # noqa: B006 nothing changes it
    timeout_seconds: float = 600.0,
    wait_seconds: float = 0.0,
) -> Endpoint:
    """Bring a model up as a revision of an endpoint, wait until its pods are ready, and give it its share.

    Args:
        model: s3://, gs:// or pvc://CLAIM/PATH, which the pods fetch.
        name: The endpoint; the Service's name.
        share: Percent of the requests for this revision while there is another one.
        replicas: Pods of a revision that gets all requests.
        max_replicas: Up to how many pods the autoscaler goes where processors are busy; 0 for no autoscaling.
        cpu: Processors of a pod.
        memory: Memory of a pod.
        image: The model server's image.
        namespace: Where it is deployed; if not given, the step's own namespace.
        environment_from: A Secret whose keys become the environment of what fetches the model; the server
            gets its token of it, FLOWPARTS_SERVING_TOKEN.
        service_account: The pods' service account.
        gateway: The Gateway that shares requests exactly, as NAME or NAMESPACE/NAME; if not given, by pods.
        monitor_labels: Further labels of the ServiceMonitor, where Prometheus selects by them.
        clients: Further namespaces whose pods the NetworkPolicy admits, besides the endpoint's own, the
            Gateway's and the step's; "*" for everyone.
        digest: What the model's files are, as `trees.digest` tells: pods refuse others. If not given, it is
            read from them here, which for a volume isn't possible.
        pods: What is added to the pods, as `flowparts.deploy.pod_options` says.
        timeout_seconds: How long to wait for the pods.
        wait_seconds: How long to wait for another step that changes the endpoint.

    Raises:
        ValueError: An option is wrong, or the revision doesn't come up. It is removed then, and what served
            before still does.
    """
    model = model_store.stored(model)
    pod = ServerPod(
        *(model, name, common.image("serving", image), cpu, memory, environment_from, service_account),
        options=PodOptions.of(pods),
    )
    fleet = Fleet(Cluster(namespace), "kubernetes", ServerPod, name, replicas, max_replicas, gateway)
    return fleet.deploy(pod, share, monitor_labels, clients, digest, timeout_seconds, wait_seconds)


def predict(endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = "") -> list[dict[str, Any]]:
    """Send rows to the Gateway or the Service, or to a revision's own Service."""
    return Fleet.of(endpoint, ServerPod).ask(endpoint, "predict", rows, revision)
