from typing import NamedTuple, Optional

from kfp.dsl import Artifact, Input, Model, Output

from .. import DEPLOYMENT, runs_in


@runs_in("deploy", secrets=DEPLOYMENT)
def deploy_sagemaker(
    model: Input[Model],
    endpoint: Output[Artifact],
    endpoint_name: str,
    role: str,
    traffic_fraction: float = 1.0,
    replicas: int = -1,
    instance_type: Optional[str] = None,
    region: Optional[str] = None,
    storage: Optional[str] = None,
    image: Optional[str] = None,
    timeout_seconds: Optional[float] = None,
    reset: bool = False,
) -> NamedTuple("Outputs", [("url", str), ("revision", str), ("traffic_fraction", float)]):  # type: ignore[valid-type]
    """Deploy a model to an Amazon SageMaker endpoint, as a production variant beside the current one.

    Running it again with the same model and settings only waits for a change in progress. A revision that
    fails to deploy gets no requests. Credentials come from the step's environment.

    Options that aren't given (-1 for whole numbers) keep the endpoint's values; a new endpoint gets the
    defaults in parentheses.

    Args:
        model: The model directory; an archive of it is uploaded to S3.
        endpoint: The endpoint after the deployment (JSON).
        endpoint_name: Name of the endpoint: at most 38 characters, a-z, 0-9 and hyphens.
        role: ARN of the execution role; it must be able to read the archive and the image.
        traffic_fraction: Fraction of the requests for the new revision; a first revision gets all.
        replicas: Instances per revision (1).
        instance_type: Instance type (ml.m5.large).
        region: AWS region; empty for the environment's.
        storage: Where to upload the archive, s3://BUCKET/PREFIX; empty for the model's own bucket.
        image: Image of the model server in ECR; empty for this release's.
        timeout_seconds: Maximum seconds until the revision serves (1800).
        reset: Whether options that aren't given return to the defaults of a new endpoint.

    Returns:
        url: URL that takes the requests.
        revision: The revision, named by a hash of its model and its settings.
        traffic_fraction: Fraction of the requests that it gets.
    """
    ports = dict(locals())  # the target's options, by name
    from flowparts.deploy import operations

    return operations.deploy_step("sagemaker", **ports)
