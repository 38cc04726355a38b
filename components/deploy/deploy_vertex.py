from typing import NamedTuple, Optional

from kfp.dsl import Artifact, Input, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def deploy_vertex(
    model: Input[Model],
    endpoint: Output[Artifact],
    endpoint_name: str,
    traffic_fraction: float = 1.0,
    replicas: int = -1,
    max_replicas: int = -1,
    machine_type: Optional[str] = None,
    accelerator: Optional[str] = None,
    accelerator_count: int = -1,
    service_account: Optional[str] = None,
    project: Optional[str] = None,
    location: Optional[str] = None,
    image: Optional[str] = None,
    timeout_seconds: Optional[float] = None,
    reset: bool = False,
) -> NamedTuple("Outputs", [("url", str), ("revision", str), ("traffic_fraction", float)]):  # type: ignore[valid-type]
    """Deploy a model to an endpoint of Vertex AI, as a version in its Model Registry, beside what serves.

    Running it again with the same model and settings changes nothing, and waits for an operation that is
    under way. A revision that can't be deployed gets no request. Credentials are those of the step's
    environment.

    What isn't given (-1 for a whole number) stays as the endpoint has it; a new one has the values in
    brackets.

    Args:
        model: The model directory in a bucket of Google Cloud; Vertex AI gets only the address.
        endpoint: The endpoint as it is now (JSON).
        endpoint_name: Name of the endpoint and the registered model: at most 38 of a-z, 0-9 and hyphen.
        traffic_fraction: Fraction of the requests that the new revision gets; a first revision gets all.
        replicas: Machines at least (1).
        max_replicas: Machines at most; 0 for no autoscaling.
        machine_type: Type of the machines (n1-standard-2).
        accelerator: Type of accelerator, such as "NVIDIA_TESLA_T4", for an image of your own that uses it:
            this release's server computes on processors. Empty for none.
        accelerator_count: Accelerators of each machine (1).
        service_account: Account that the server runs as; empty for Vertex AI's own.
        project: Google Cloud project; empty for that of the environment.
        location: Region; empty for GOOGLE_CLOUD_LOCATION or CLOUD_ML_REGION.
        image: The model server's image in Artifact Registry; empty for that of this release.
        timeout_seconds: Time for each operation, of which deploying takes longest (3600).
        reset: Whether what isn't given becomes as for a new endpoint.

    Returns:
        url: Where requests go.
        revision: The revision, named after the content of its model and its settings.
        traffic_fraction: The fraction that it got.
    """
    ports = dict(locals())  # the target's options, by name
    from flowparts.deploy import operations

    return operations.deploy_step("vertex", **ports)
