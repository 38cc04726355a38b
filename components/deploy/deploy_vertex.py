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
    """Deploy a model to a Vertex AI endpoint, as a Model Registry version beside the current one.

    Running it again with the same model and settings only waits for an operation in progress. A revision that
    fails to deploy gets no requests. Credentials come from the step's environment.

    Options that aren't given (-1 for whole numbers) keep the endpoint's values; a new endpoint gets the
    defaults in parentheses.

    Args:
        model: The model directory in a Google Cloud bucket; Vertex AI gets only its URI.
        endpoint: The endpoint after the deployment (JSON).
        endpoint_name: Name of the endpoint and the model: at most 38 characters, a-z, 0-9 and hyphens.
        traffic_fraction: Fraction of the requests for the new revision; a first revision gets all.
        replicas: Minimum number of machines (1).
        max_replicas: Maximum number of machines; 0 turns autoscaling off.
        machine_type: Machine type (n1-standard-2).
        accelerator: Accelerator type, such as "NVIDIA_TESLA_T4", for a custom image; this release's server
            uses CPUs only. Empty for none.
        accelerator_count: Accelerators per machine (1).
        service_account: Service account of the server; empty for Vertex AI's default.
        project: Google Cloud project; empty for the environment's.
        location: Region; empty for GOOGLE_CLOUD_LOCATION or CLOUD_ML_REGION.
        image: Image of the model server in Artifact Registry; empty for this release's.
        timeout_seconds: Maximum seconds per operation; deploying takes longest (3600).
        reset: Whether options that aren't given return to the defaults of a new endpoint.

    Returns:
        url: URL that takes the requests.
        revision: The revision, named by a hash of its model and its settings.
        traffic_fraction: Fraction of the requests that it gets.
    """
    ports = dict(locals())  # the target's options, by name
    from flowparts.deploy import operations

    return operations.deploy_step("vertex", **ports)
