"""The fields of the custom resources that a deployment writes, by their projects' published API references.

Kubernetes' own JSON schemas don't have them, and except for KServe's no typed Python client does. Each schema
holds the fields that are used here and refuses every other; where a pod's specification stands inside,
Kubernetes' own strict schema checks it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate

STRING = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
PERCENT = {"type": "integer", "minimum": 0, "maximum": 100}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}

Check = Callable[[dict[str, Any]], None]


def only(required: str = "", **properties: Any) -> dict[str, Any]:
    names = required.split()
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def listed(items: Any, least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


def by(schema: dict[str, Any]) -> Check:
    return functools.partial(jsonschema.validate, schema=schema)


def check_pod(spec: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "checked"}, "spec": spec}
    kubernetes_validate.validate(pod, "1.37", strict=True)


# https://gateway-api.sigs.k8s.io/reference/spec/
HTTP_ROUTE = only(
    "parentRefs rules",
    parentRefs=listed(only("name", name=STRING, namespace=STRING)),
    rules=listed(
        only(
            "backendRefs",
            matches=listed(
                only(path=only("type value", type={"enum": ["Exact", "PathPrefix"]}, value=STRING))
            ),
            filters=listed(
                only(
                    "type urlRewrite",
                    type={"const": "URLRewrite"},
                    urlRewrite=only(
                        path=only("type", type={"const": "ReplacePrefixMatch"}, replacePrefixMatch=STRING)
                    ),
                )
            ),
            backendRefs=listed(only("name port", name=STRING, port=COUNT, weight=COUNT)),
        )
    ),
)
GATEWAY = only(
    "gatewayClassName listeners",
    gatewayClassName=STRING,
    listeners=listed(only("name port protocol", name=STRING, port=COUNT, protocol=STRING, hostname=STRING)),
)

# https://prometheus-operator.dev/docs/api-reference/api/
SERVICE_MONITOR = only(
    "selector endpoints",
    selector=only(
        matchLabels=LABELS,
        matchExpressions=listed(only("key operator", key=STRING, operator={"enum": ["Exists", "In"]})),
    ),
    endpoints=listed(only(port=STRING, path=STRING, interval=STRING)),
    jobLabel=STRING,
    targetLabels=listed(STRING),
)
POD_MONITOR = only(
    "selector podMetricsEndpoints",
    selector=only(
        matchLabels=LABELS,
        matchExpressions=listed(
            only("key operator", key=STRING, operator={"enum": ["Exists", "In"]}, values=listed(STRING))
        ),
    ),
    podMetricsEndpoints=listed(
        only(
            "port",
            port=STRING,
            path=STRING,
            relabelings=listed(
                only(
                    "targetLabel",
                    targetLabel=STRING,
                    replacement=STRING,
                    sourceLabels=listed(STRING),
                    regex=STRING,
                )
            ),
        )
    ),
)
PROMETHEUS_RULE = only(
    "groups",
    groups=listed(
        only(
            "name rules",
            name=STRING,
            rules=listed(
                only(
                    "expr",
                    alert=STRING,
                    record=STRING,
                    expr=STRING,
                    labels=LABELS,
                    annotations=LABELS,
                    **{"for": STRING},
                )
            ),
        )
    ),
)

# https://docs.seldon.ai/seldon-core-2/user-guide/kubernetes-resources
SELDON_SERVER = only(
    "serverConfig",
    serverConfig=STRING,
    capabilities=listed(STRING),
    podSpec={"type": "object"},
    replicas=COUNT,
)
SELDON_MODEL = only(
    "storageUri",
    storageUri={"type": "string", "pattern": "^(s3|gs|minio)://"},
    secretName=STRING,
    server=STRING,
    requirements=listed(STRING),
    replicas=COUNT,
)
SELDON_EXPERIMENT = only(
    "candidates",
    candidates=listed(only("name weight", name=STRING, weight=COUNT)),
)

# https://kserve.github.io/website/docs/reference/crd-api; the tests of the target also check it by KServe's
# client.
KSERVE_PREDICTOR = {
    "canaryTrafficPercent": PERCENT,
    "name": STRING,
    "labels": LABELS,
    "annotations": LABELS,
    "minReplicas": COUNT,
    "maxReplicas": COUNT,
    "timeout": COUNT,
}
# What Knative takes of a pod without switching on features
# (https://knative.dev/docs/serving/configuration/feature-flags/).
KNATIVE_POD = only(automountServiceAccountToken={}, containers={}, serviceAccountName={}, volumes={})
# With the features for a volume that pods write to.
KNATIVE_POD_THAT_WRITES = only(**KNATIVE_POD["properties"], securityContext=only(fsGroup=COUNT))
KNATIVE_CONTAINER = only(
    "ports",
    **{
        name: {}
        for name in (
            "env", "envFrom", "image", "livenessProbe", "name", "readinessProbe", "resources",
            "securityContext", "startupProbe", "volumeMounts",
        )
    },
    ports={"maxItems": 1},
)  # fmt: skip


def check_inference_service(spec: dict[str, Any]) -> None:
    canary = only("predictor trafficPercent", predictor={"type": "object"}, trafficPercent=PERCENT)
    jsonschema.validate(spec, only("predictor", predictor={"type": "object"}, canary=listed(canary)))
    for predictor in (spec["predictor"], *(entry["predictor"] for entry in spec.get("canary", []))):
        own = {name: value for name, value in predictor.items() if name in KSERVE_PREDICTOR}
        jsonschema.validate(own, only(**KSERVE_PREDICTOR))
        pod = {name: value for name, value in predictor.items() if name not in KSERVE_PREDICTOR}
        check_pod(pod)
        if "name" not in predictor:
            # Only with Knative; without, a predictor is a pod's specification.
            writes = any("persistentVolumeClaim" in volume for volume in pod.get("volumes", []))
            jsonschema.validate(pod, KNATIVE_POD_THAT_WRITES if writes else KNATIVE_POD)
            for container in pod["containers"]:
                jsonschema.validate(container, KNATIVE_CONTAINER)


def canary_problem(spec: dict[str, Any], mode: str) -> str:
    """Return what KServe's webhook has against the canaries of an InferenceService; "" if nothing.

    As recorded from its release of 2026-08, pkg/apis/serving/v1beta1/inference_service_validation.go.
    """
    entries = spec.get("canary", [])
    if not entries:
        return ""
    stable = spec["predictor"]
    if mode != "Standard":
        return "canary is only supported in Standard deployment mode"
    if not any(entry["name"] == "STORAGE_URI" for entry in stable["containers"][0]["env"]):
        return "canary requires a stable predictor with a model"
    for entry in entries:
        predictor = entry["predictor"]
        name = predictor.get("name")
        if not name:
            return "canary[0] predictor.name is required"
        if name == stable.get("name"):
            return f'canary predictor.name "{name}" conflicts with stable predictor name'
        for banned in ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling", "workerSpec"):
            if banned in predictor:
                return f'canary "{name}" must not set {banned} (canary uses fixed replicas)'
        if predictor.get("minReplicas", 0) > stable.get("minReplicas", 1):
            return f'canary "{name}" minReplicas must not exceed stable predictor minReplicas'
    return "" if sum(entry["trafficPercent"] for entry in entries) <= 100 else "sum must be <= 100"


def check_seldon_server(spec: dict[str, Any]) -> None:
    jsonschema.validate(spec, SELDON_SERVER)
    check_pod(spec["podSpec"])


# API version, kind, plural, check of the specification.
ALL: list[tuple[str, str, str, Check]] = [
    ("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes", by(HTTP_ROUTE)),
    ("gateway.networking.k8s.io/v1", "Gateway", "gateways", by(GATEWAY)),
    ("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors", by(SERVICE_MONITOR)),
    ("monitoring.coreos.com/v1", "PodMonitor", "podmonitors", by(POD_MONITOR)),
    ("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules", by(PROMETHEUS_RULE)),
    ("serving.kserve.io/v1beta1", "InferenceService", "inferenceservices", check_inference_service),
    ("serving.knative.dev/v1", "Revision", "revisions", by({})),
    ("mlops.seldon.io/v1alpha1", "Server", "servers", check_seldon_server),
    ("mlops.seldon.io/v1alpha1", "Model", "models", by(SELDON_MODEL)),
    ("mlops.seldon.io/v1alpha1", "Experiment", "experiments", by(SELDON_EXPERIMENT)),
]
