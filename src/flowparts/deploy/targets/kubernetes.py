"""Plain Kubernetes: the model server in a Deployment for each revision behind one Service."""

from typing import Any

from flowparts.deploy import common, model_store
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.options import Routed
from flowparts.deploy.server_pod import ServerPod
from flowparts.deploy.targets._fleet import Fleet, Platform

Options = Routed
_platform = Platform("kubernetes", ServerPod)
endpoints, plan, remove, writing = _platform.endpoints, _platform.plan, _platform.remove, _platform.writing
shift, rollback, release = _platform.shift, _platform.rollback, _platform.release
crashes, trouble = _platform.crashes, _platform.trouble


def deploy(model: str, name: str, **given: Any) -> Endpoint:
    """Bring a model up as a revision of an endpoint, wait until its pods are ready, and give it its share.

    Args:
        model: s3://, gs:// or pvc://CLAIM/PATH, which the pods fetch.
        name: The endpoint; the Service's name.
        given: `Options` by name.

    Raises:
        ValueError: An option is wrong, or the revision doesn't come up. It is removed then, and what served
            before still does.
    """
    chosen = Options(**given)
    pod = ServerPod(
        model=model_store.stored(model),
        name=name,
        image=common.image("serving", chosen.image),
        cpu=chosen.cpu,
        memory=chosen.memory,
        environment_from=chosen.environment_from,
        service_account=chosen.service_account,
        options=chosen.pod_options,
    )
    return Fleet.asked("kubernetes", ServerPod, name, chosen).deploy(pod, chosen)


def predict(endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = "") -> list[dict[str, Any]]:
    """Send rows to the Gateway or the Service, or to a revision's own Service."""
    return Fleet.of(endpoint, ServerPod).ask(endpoint, "predict", rows, revision)
