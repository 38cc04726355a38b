"""What the Prometheus operator is told about endpoints: whom to scrape, and the alerting rules.

See https://prometheus-operator.dev/docs/api-reference/api/ for the fields.
"""

from pathlib import Path
from typing import Any

import yaml

from flowparts.deploy.cluster import Cluster, Manifest

MONITOR = ("monitoring.coreos.com/v1", "ServiceMonitor")
RULE = ("monitoring.coreos.com/v1", "PrometheusRule")
# One for all endpoints of a namespace: its rules tell them apart by the label job.
RULE_NAME = "flowparts"
RULES = Path(__file__).parent / "rules.yml"


def rule(labels: dict[str, str], namespace: str = "") -> Manifest:
    """Return the recording and alerting rules as a PrometheusRule."""
    metadata: dict[str, Any] = {"name": RULE_NAME, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": RULE[0],
        "kind": RULE[1],
        "metadata": {**metadata, "labels": labels},
        "spec": {"groups": yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]},
    }


def monitor_spec(selector: dict[str, Any], path: str, name_label: str, labels: list[str]) -> dict[str, Any]:
    """Return the specification of a ServiceMonitor.

    Args:
        selector: Which Services it is about.
        path: Where their port `http` has metrics.
        name_label: Label of the Services that becomes the label `job`, as publish_metrics has it.
        labels: Labels of the Services that all metrics bear.
    """
    return {
        "selector": selector,
        "endpoints": [{"port": "http", "path": path}],
        "jobLabel": name_label,
        "targetLabels": labels,
    }


def require_operator(cluster: Cluster) -> None:
    """Raise ValueError unless the cluster knows ServiceMonitors and PrometheusRules."""
    for api_version, kind in (MONITOR, RULE):
        if not cluster.serves(api_version, kind):
            raise ValueError(
                f"the cluster knows no {kind} of {api_version}; install the Prometheus operator, or leave "
                "out the option monitoring"
            )
