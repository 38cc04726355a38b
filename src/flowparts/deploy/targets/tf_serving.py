"""TensorFlow Serving on Kubernetes: its official image in a Deployment for each revision behind one Service.

It takes a SavedModel, so only models that have one, and speaks REST on port 80 of the Service and gRPC on
8500 (https://www.tensorflow.org/tfx/serving/api_rest). Revisions, traffic, routing and access are as on plain
Kubernetes. A request names the model's inputs, all of them and no others: revisions that split the traffic
must take the same columns.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowparts.deploy import common, model_store
from flowparts.deploy.cluster import Cluster
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.options import Routed
from flowparts.deploy.targets import _tf_rows
from flowparts.deploy.targets._fleet import Fleet, Platform
from flowparts.deploy.tf_serving_pod import Batching, TensorFlowServingPod, threads
from flowparts.serving import saved_model_files

# The release of TensorFlow that saves the models: an older server may lack operations.
_IMAGE = "tensorflow/serving:2.21.0"


_platform = Platform("tf_serving", TensorFlowServingPod)
endpoints, plan, remove, writing = _platform.endpoints, _platform.plan, _platform.remove, _platform.writing
shift, rollback, release = _platform.shift, _platform.rollback, _platform.release
crashes, diagnose = _platform.crashes, _platform.diagnose


@dataclass(frozen=True, kw_only=True)
class Options(Routed):
    """The options of TensorFlow Serving.

    Attributes:
        image: Image of TensorFlow Serving; default: FLOWPARTS_TF_SERVING_IMAGE of the environment, else the
            official one.
        max_batch_size: Maximum rows per batch and per request; 0 for no batching.
        batch_timeout_micros: Maximum microseconds that a request waits for its batch to fill.
        num_batch_threads: Batches processed in parallel; 0 for one per CPU.
        max_enqueued_batches: Maximum queued batches; more requests are refused.
    """

    max_batch_size: int = 1024
    batch_timeout_micros: int = 1000
    num_batch_threads: int = 0
    max_enqueued_batches: int = 100


def deploy(model: str, name: str, **given: Any) -> Endpoint:
    """Deploy a model as a revision of an endpoint, wait until its pods are ready, and route traffic to it.

    Args:
        model: s3://, gs:// or pvc://CLAIM/PATH, which the pods download.
        name: The endpoint; the Service's name, and the model's.
        given: `Options` by name.

    Raises:
        ValueError: An option is wrong, the model has no SavedModel, or the revision fails to start. It is
            removed, and the previous one keeps serving.
    """
    chosen = Options(**given)
    common.require_allowed("image", chosen.image)
    model = model_store.stored(model)
    pod = TensorFlowServingPod(
        model=model,
        name=name,
        image=chosen.image or os.environ.get("FLOWPARTS_TF_SERVING_IMAGE") or _IMAGE,
        cpu=chosen.cpu,
        memory=chosen.memory,
        environment_from=chosen.environment_from,
        service_account=chosen.service_account,
        fetcher=common.image("base"),
        batching=Batching(
            chosen.max_batch_size,
            chosen.batch_timeout_micros,
            chosen.num_batch_threads or threads(chosen.cpu),
            chosen.max_enqueued_batches,
        ),
        options=chosen.pod_options,
    )
    # If the step can read the model too, check it before the pods do.
    if seen := common.mounted(model):
        saved_model_files.require(seen)
    return Fleet.of_options("tf_serving", TensorFlowServingPod, name, chosen).deploy(pod, chosen)


def predict(endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = "") -> list[dict[str, Any]]:
    """Send rows by the REST API to the Gateway or the Service, or to a revision's own Service."""
    fleet = Fleet.of(endpoint, TensorFlowServingPod)
    inputs = _inputs(
        fleet.cluster.namespace, f"{endpoint.name}-{revision or endpoint.revision}", endpoint.name
    )
    path = f"v1/models/{endpoint.name}:predict"
    answers = fleet.ask(endpoint, path, _tf_rows.instances(rows, inputs), revision)
    return _tf_rows.predictions(answers)


@functools.cache
def _inputs(namespace: str, service: str, name: str) -> Mapping[str, _tf_rows.Input]:
    return _tf_rows.inputs(Cluster(namespace).ask_service(service, f"v1/models/{name}/metadata"))
