from typing import NamedTuple, Optional

from kfp.dsl import Artifact, Input, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def deploy_docker(
    model: Input[Model],
    endpoint: Output[Artifact],
    endpoint_name: str,
    traffic_fraction: float = 1.0,
    replicas: int = -1,
    cpu: Optional[str] = None,
    memory: Optional[str] = None,
    port: int = -1,
    image: Optional[str] = None,
    prediction_log: Optional[dict] = None,
    timeout_seconds: Optional[float] = None,
    wait_seconds: Optional[float] = None,
    reset: bool = False,
) -> NamedTuple("Outputs", [("url", str), ("revision", str), ("traffic_fraction", float)]):  # type: ignore[valid-type]
    """Serve a model from containers on this machine, as a new revision beside the current one.

    HAProxy splits the traffic. Running it again with the same model and settings changes nothing; a revision
    that fails to start is removed, and the previous one keeps serving. It needs the machine's Docker engine,
    so it runs as a subprocess, not in a pipeline's container.

    Options that aren't given (-1 for whole numbers) keep the endpoint's values; a new endpoint gets the
    defaults in parentheses.

    Args:
        model: The model directory; it is copied, so the endpoint doesn't depend on the run's files.
        endpoint: The endpoint after the deployment (JSON).
        endpoint_name: Name of the endpoint: at most 38 characters, a-z, 0-9 and hyphens.
        traffic_fraction: Fraction of the requests for the new revision; a first revision gets all.
        replicas: Containers per revision (1).
        cpu: CPU per container, such as "2" or "500m" (1).
        memory: Memory per container, such as "2Gi" (2Gi).
        port: Port of the endpoint on 127.0.0.1; 0 keeps it, or picks a free one for a new endpoint.
        image: Image of the model server; empty for this release's.
        prediction_log: Log of requests and predictions, a table for monitoring: its directory on this
            machine, such as {"directory": "/var/lib/churn-log"}, and options of the model server such as
            "keys", "mask", "days" and "seconds"; empty for none. The directory outlives the endpoint.
        timeout_seconds: Maximum seconds until the servers are ready (300).
        wait_seconds: Maximum seconds to wait for another step that is changing the endpoint.
        reset: Whether options that aren't given return to the defaults of a new endpoint.

    Returns:
        url: URL that takes the requests.
        revision: The revision, named by a hash of its model.
        traffic_fraction: Fraction of the requests that it gets.
    """
    ports = dict(locals())  # the target's options, by name
    from flowparts.deploy import operations

    return operations.deploy_step("docker", **ports)
