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
    """Serve a model from containers on this machine, as a revision of an endpoint beside the one that serves.

    HAProxy in front splits the requests by percent. Running it again with the same model and settings changes
    nothing; a model that doesn't become ready is removed, and the previous revision keeps serving. It needs
    the machine's Docker engine, so it runs as a subprocess and not in a container of a pipeline.

    What isn't given (-1 for a whole number) stays as the endpoint has it; a new one has the values in
    brackets.

    Args:
        model: The model directory; it is copied, so what is served outlives the run's files.
        endpoint: The endpoint as it is now (JSON).
        endpoint_name: Name of the endpoint: at most 38 of a-z, 0-9 and hyphen.
        traffic_fraction: Fraction of the requests that the new revision gets; a first revision gets all.
        replicas: Containers to serve the model (1).
        cpu: Processors for each, such as "2" or "500m" (1).
        memory: Memory for each, such as "2Gi" (2Gi).
        port: Port of the endpoint on 127.0.0.1; 0 to keep it, or to take a free one for a new endpoint.
        image: The model server's image; empty for that of this release.
        prediction_log: The servers' log of requests and predictions, a table for monitoring: its directory on
            this machine, such as {"directory": "/var/lib/churn-log"}, and options of the model server such as
            "keys", "mask", "days" and "seconds"; empty for none. The directory outlives the endpoint.
        timeout_seconds: Time for the servers to become ready (300).
        wait_seconds: Time to wait for another step that changes the endpoint.
        reset: Whether what isn't given becomes as for a new endpoint.

    Returns:
        url: Where requests go.
        revision: The model's revision, named after its content.
        traffic_fraction: The fraction that it got.
    """
    ports = dict(locals())  # the target's options, by name
    from flowparts.deploy import operations

    return operations.deploy_step("docker", **ports)
