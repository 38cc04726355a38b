"""What a platform team adds to pods reaches them on every cluster target, checked by Kubernetes' schemas."""

from typing import Any

import pytest

from flowparts.deploy import operations
from flowparts.deploy.pod_options import PodOptions
from flowparts.deploy.targets import kserve, kubernetes, seldon
from tests.flowparts.deploy.kubernetes_api import KubernetesApi

MODEL = "s3://models/churn/1"
OPTIONS: dict[str, Any] = {"image": "registry.example/flowparts-serving:0.1.0", "timeout_seconds": 30.0}
PLACED = {
    "image_pull_secrets": ["registry"],
    "node_selector": {"pool": "models"},
    "tolerations": [{"key": "models", "operator": "Exists", "effect": "NoSchedule"}],
    "priority_class": "serving",
}
LABELLED = {"labels": {"team": "growth"}, "annotations": {"example.com/owner": "growth"}}
EXPECTED = {
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"pool": "models"},
    "tolerations": PLACED["tolerations"],
    "priorityClassName": "serving",
}


def test_the_pod_options_are_in_a_deployments_pods(api: KubernetesApi) -> None:
    made = kubernetes.deploy(MODEL, "churn", **OPTIONS, pods={**PLACED, **LABELLED})
    template = api.get("deployments", f"churn-{made.revision}")["spec"]["template"]
    assert template["spec"].items() >= EXPECTED.items()
    assert template["spec"]["enableServiceLinks"] is False
    assert template["metadata"]["annotations"] == LABELLED["annotations"]
    assert template["metadata"]["labels"]["team"] == "growth"
    # A revision stands for all that its pods are made of.
    assert kubernetes.deploy(MODEL, "churn", **OPTIONS, pods=LABELLED).revision != made.revision


def test_the_labels_of_the_endpoint_win(api: KubernetesApi) -> None:
    labels = {"labels": {"flowparts/revision": "mine"}}
    made = kubernetes.deploy(MODEL, "churn", **OPTIONS, pods=labels)
    template = api.get("deployments", f"churn-{made.revision}")["spec"]["template"]
    assert template["metadata"]["labels"]["flowparts/revision"] == made.revision


def test_the_pod_options_are_in_kserves_predictor(api: KubernetesApi) -> None:
    api.unknown.add("serving.knative.dev/v1")
    kserve.deploy(MODEL, "churn", **OPTIONS, pods={**PLACED, **LABELLED})
    predictor = api.get("inferenceservices", "churn")["spec"]["predictor"]
    assert predictor.items() >= {**EXPECTED, "annotations": LABELLED["annotations"]}.items()
    assert predictor["labels"]["team"] == "growth"
    assert predictor["enableServiceLinks"] is False


def test_seldon_takes_what_a_pod_specification_has(api: KubernetesApi) -> None:
    made = seldon.deploy(MODEL, "churn", **OPTIONS, pods=PLACED)
    assert api.get("servers", f"churn-{made.revision}")["spec"]["podSpec"].items() >= EXPECTED.items()
    with pytest.raises(ValueError, match="Seldon takes no labels and annotations for pods"):
        seldon.deploy(MODEL, "churn", **OPTIONS, pods=LABELLED)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"node_selectors": {}}, "unknown field of the option 'pods' 'node_selectors'; did you mean"),
        ({"node_selector": ["pool"]}, "node_selector of the option 'pods' must be texts by name, not"),
        ({"tolerations": ["models"]}, "tolerations of the option 'pods' must be a list of objects"),
        ({"labels": {"cost": 7}}, "labels of the option 'pods' must be texts by name"),
    ],
)
def test_invalid_pod_options_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PodOptions.of(given)
    assert operations.options("kubernetes", {"pods": given})
