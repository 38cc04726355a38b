"""Plain Kubernetes: the model server in a Deployment for each revision behind one Service."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flowparts import deploy as targets
from flowparts import model_store
from flowparts.cluster import Cluster
from flowparts.deploy import _fleet
from flowparts.deploy._fleet import Fleet
from flowparts.endpoint import Endpoint
from flowparts.pod_options import PodOptions
from flowparts.server_pod import ServerPod


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
        clients: Namespaces whose pods may ask, besides the endpoint's own, for a NetworkPolicy; everyone if
            there are none.
        digest: What the model's files are, as `trees.digest` tells: pods refuse others. If not given, it is
            read from them here, which for a volume isn't possible.
        pods: What is added to the pods, as `flowparts.pod_options` says.
        timeout_seconds: How long to wait for the pods.
        wait_seconds: How long to wait for another step that changes the endpoint.

    Raises:
        ValueError: An option is wrong, or the revision doesn't come up. It is removed then, and what served
            before still does.
    """
    model = model_store.stored(model)
    pod = ServerPod(
        *(model, name, targets.image("serving", image), cpu, memory, environment_from, service_account),
        options=PodOptions.of(pods),
    )
    fleet = Fleet(Cluster(namespace), "kubernetes", ServerPod, name, replicas, max_replicas, gateway)
    return fleet.deploy(pod, share, monitor_labels, clients, digest, timeout_seconds, wait_seconds)


def endpoints(namespace: str = "") -> list[Endpoint]:
    """Return the endpoints in a namespace."""
    return _fleet.endpoints("kubernetes", namespace)


def plan(
    name: str,
    shares: Sequence[int],
    *,
    replicas: int = 2,
    max_replicas: int = 0,
    namespace: str = "",
    gateway: str = "",
    **_: Any,
) -> targets.Plan:
    """Return what shares a revision would get: without a Gateway a ratio of pods."""
    fleet = Fleet(Cluster(namespace), "kubernetes", ServerPod, name, replicas, max_replicas, gateway)
    return fleet.plan(shares)


def remove(name: str, *, namespace: str = "", pretend: bool = False) -> list[str]:
    """Remove an endpoint with all its revisions, or only pretend to, and return what is in it."""
    return _fleet.remove("kubernetes", ServerPod, name, namespace, pretend)


@contextmanager
def writing(name: str, *, namespace: str = "", wait_seconds: float = 0.0) -> Iterator[Endpoint | None]:
    """Be the only step that changes an endpoint, and give what it is; None if there is none."""
    fleet = Fleet(Cluster(namespace), "kubernetes", ServerPod, name, 1, 0, "")
    with fleet.there.writing(name, wait_seconds):
        yield fleet.state()


def shift(endpoint: Endpoint, percent: int) -> Endpoint:
    """Give the current revision a share; the previous one keeps its pods, at 100 too, for a rollback."""
    return Fleet.of(endpoint, ServerPod).shift(endpoint, percent)


def rollback(endpoint: Endpoint) -> Endpoint:
    """Bring the previous revision to its full strength, give it all requests and remove the current one."""
    return Fleet.of(endpoint, ServerPod).rollback(endpoint)


def predict(endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = "") -> list[dict[str, Any]]:
    """Send rows to the Gateway or the Service, or to a revision's own Service."""
    return Fleet.of(endpoint, ServerPod).ask(endpoint, "predict", rows, revision)


def crashes(endpoint: Endpoint, revision: str) -> dict[str, int]:
    """Return how often each container of a revision's pods has ended by itself."""
    return Fleet.of(endpoint, ServerPod).crashes(revision)


def trouble(endpoint: Endpoint, revision: str) -> str:
    """Return why pods of a revision don't run, or have ended; empty if nothing is wrong."""
    return Fleet.of(endpoint, ServerPod).trouble(revision)


def release(endpoint: Endpoint) -> None:
    """Take the pods from a previous revision without requests; a rollback brings them back."""
    Fleet.of(endpoint, ServerPod).release(endpoint)
