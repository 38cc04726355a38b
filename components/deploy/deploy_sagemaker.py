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
    """Deploy a model to an endpoint of Amazon SageMaker, as a production variant beside the one that serves.

    Running it again with the same model and settings changes nothing, and waits for a change that is under
    way. A revision that can't be deployed gets no request. Credentials are those of the step's environment.

    What isn't given (-1 for a whole number) stays as the endpoint has it; a new one has the values in
    brackets.

    Args:
        model: The model directory; an archive of it goes to S3.
        endpoint: The endpoint as it is now (JSON).
        endpoint_name: Name of the endpoint: at most 38 of a-z, 0-9 and hyphen.
        role: ARN of the role that the servers run as; it must be able to read the archive and the image.
        traffic_fraction: Fraction of the requests that the new revision gets; a first revision gets all.
        replicas: Instances of the revision (1).
        instance_type: Type of the instances (ml.m5.large).
        region: AWS region; empty for that of the environment.
        storage: Where the model's archive goes, s3://BUCKET/PREFIX; empty for the model's own bucket.
        image: The model server's image in ECR; empty for that of this release.
        timeout_seconds: Time for the revision to serve (1800).
        reset: Whether what isn't given becomes as for a new endpoint.

    Returns:
        url: Where requests go.
        revision: The revision, named after the content of its model and its settings.
        traffic_fraction: The fraction that it got.
    """
    ports = dict(locals())  # the target's options, by name
    from flowparts.deploy import operations

    return operations.deploy_step("sagemaker", **ports)
