"""The target for plain Kubernetes: one Deployment of the model server per revision behind one Service."""

from dataclasses import dataclass
from typing import Any

from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.options import Routed
from flowparts.deploy.pod_log import Logged
from flowparts.deploy.server_pod import ServerPod
from flowparts.deploy.targets._fleet import Fleet, Platform

_platform = Platform("kubernetes", ServerPod)
endpoints, plan, remove, writing = _platform.endpoints, _platform.plan, _platform.remove, _platform.writing
shift, rollback, release = _platform.shift, _platform.rollback, _platform.release
crashes, diagnose = _platform.crashes, _platform.diagnose


@dataclass(frozen=True, kw_only=True)
class Options(Routed, Logged):
    """The options of plain Kubernetes."""


def deploy(model: str, name: str, **given: Any) -> Endpoint:
    """Deploy a model as a revision of an endpoint, wait until its pods are ready, and route traffic to it.

    Args:
        model: s3://, gs:// or pvc://CLAIM/PATH, which the pods download.
        name: The endpoint; the Service's name.
        given: `Options` by name.

    Raises:
        ValueError: An option is wrong, or the revision fails to start. It is removed, and the previous one
            keeps serving.
    """
    chosen = Options(**given)
    pod = ServerPod.of(model, name, chosen, chosen.service_account)
    fleet = Fleet.of_options("kubernetes", ServerPod, name, chosen)
    if pod.log:
        pod.log.require_claim(fleet.cluster)
    return fleet.deploy(pod, chosen)


def predict(endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = "") -> list[dict[str, Any]]:
    """Send rows to the Gateway or the Service, or to a revision's own Service."""
    return Fleet.of(endpoint, ServerPod).ask(endpoint, "predict", rows, revision)
