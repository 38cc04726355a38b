"""Against the stand-in for SageMaker of tests/flowparts/deploy/sagemaker_service.py; the servers are real."""

from collections.abc import Callable
from typing import Any

import pytest
from kfp import dsl

from flowparts.components.deploy.deploy_sagemaker import deploy_sagemaker
from flowparts.components.register.load_champion import load_champion
from tests.clouds import ARCHIVES, Served
from tests.flowparts.deploy.sagemaker_service import ROLE, SageMakerService

IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/flowparts-serving:0.1.0"
OPTIONS = {"endpoint_name": "churn", "role": ROLE, "image": IMAGE, "timeout_seconds": 20.0}


@dsl.pipeline(name="example")
def example(champion: str, role: str, storage: str, tracking_uri: str) -> None:
    loaded = load_champion(model_name=champion, tracking_uri=tracking_uri)
    deploy_sagemaker(model=loaded.outputs["model"], endpoint_name="churn", role=role, storage=storage)


def test_a_model_is_deployed_tried_promoted_and_rolled_back(
    sagemaker_ai: SageMakerService, served: tuple[Served, Served], try_canary: Callable[..., None]
) -> None:
    first, second = ((str(model.path), model.path) for model in served)
    try_canary(deploy_sagemaker, first, second, storage=f"s3://{ARCHIVES}/models", **OPTIONS)


def test_a_model_without_a_bucket_for_its_archive_is_refused(
    sagemaker_ai: SageMakerService, served: tuple[Served, Served], artifact: Callable[..., Any]
) -> None:
    model = dsl.Model(uri=str(served[0].path))
    with pytest.raises(ValueError, match=r"storage must be s3://BUCKET/PREFIX, .* not in S3 but at '/"):
        deploy_sagemaker.python_func(model=model, endpoint=artifact("endpoint"), **OPTIONS)
    assert sagemaker_ai.writes() == []
