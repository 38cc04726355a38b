"""Monitoring of endpoints by the Prometheus operator: a monitor with the scrape targets, and alerting rules.

See https://prometheus-operator.dev/docs/api-reference/api/ for the fields.
"""

import logging
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flowparts.deploy.cluster import Cluster, Manifest
from flowparts.deploy.options import InCluster

SERVICES, PODS, RULE = "ServiceMonitor", "PodMonitor", "PrometheusRule"
# One for all endpoints of a namespace: its rules distinguish them by the label job.
RULE_NAME = "flowparts"
_API = "monitoring.coreos.com/v1"
# Marks the monitors of endpoints with rules; the rules are removed with the last of them.
_WITH_RULES = {"flowparts/rules": "true"}
_GROUPS = Path(__file__).parent / "rules.yml"

_log = logging.getLogger("flowparts")


def rule(labels: dict[str, str], namespace: str = "") -> Manifest:
    """Return the recording and alerting rules as a PrometheusRule."""
    metadata: dict[str, Any] = {"name": RULE_NAME, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": _API,
        "kind": RULE,
        "metadata": {**metadata, "labels": labels},
        "spec": {"groups": yaml.safe_load(_GROUPS.read_text(encoding="utf-8"))["groups"]},
    }


def by_services(selector: dict[str, Any], path: str, name_label: str, labels: list[str]) -> Manifest:
    """Return the specification of a ServiceMonitor.

    Args:
        selector: Selector of the Services.
        path: Path of the metrics at their port `http`.
        name_label: Label of the Services that becomes the label `job`, as in publish_metrics.
        labels: Labels of the Services to copy to all metrics.
    """
    return {
        "selector": selector,
        "endpoints": [{"port": "http", "path": path}],
        "jobLabel": name_label,
        "targetLabels": labels,
    }


def by_pods(
    endpoint: str, selector: dict[str, Any], port: str, revision_label: str, revision: str = "(.+)"
) -> Manifest:
    """Return the specification of a PodMonitor for this project's model server.

    Args:
        endpoint: The endpoint, which becomes the label `job`, as in publish_metrics.
        selector: Selector of the pods.
        port: Name of the server's port.
        revision_label: Label of the pods with the revision, which becomes the label `flowparts_revision`, as
            with a ServiceMonitor.
        revision: Regular expression for the whole of that label, whose group is the revision.
    """
    source = f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', revision_label)}"
    relabelings = [
        {"targetLabel": "job", "replacement": endpoint},
        {"sourceLabels": [source], "regex": revision, "targetLabel": "flowparts_revision"},
    ]
    return {
        "selector": selector,
        "podMetricsEndpoints": [{"port": port, "path": "/metrics", "relabelings": relabelings}],
    }


@dataclass
class Monitor:
    """The monitor of one endpoint, and its use of the namespace's rules.

    Attributes:
        cluster: The namespace.
        endpoint: The endpoint.
        kind: SERVICES or PODS.
        name: The monitor's name.
    """

    cluster: Cluster
    endpoint: str
    kind: str
    name: str
    _installed: bool = field(default=False, init=False)
    _before: Manifest | None = field(default=None, init=False)

    @property
    def is_possible(self) -> bool:
        """Whether the cluster has the Prometheus operator."""
        return self.cluster.serves(_API, self.kind)

    def install(self, chosen: InCluster, spec: Manifest) -> None:
        """Install monitor and rules before a deployment with the option monitoring.

        Raises:
            ValueError: The cluster has no Prometheus operator, or a permission is missing; nothing has
                changed then.
        """
        if not chosen.monitoring:
            return
        for kind in (self.kind, RULE):
            if not self.cluster.serves(_API, kind):
                raise ValueError(
                    f"the cluster knows no {kind} of {_API}; install the Prometheus operator, or leave out "
                    "the option monitoring"
                )
        self._before = self._found()
        self._apply(spec, {**chosen.monitor_labels, **_WITH_RULES})
        self._installed = True
        try:
            self._apply_rules(chosen.monitor_labels)
        except ValueError:
            with suppress(ValueError):  # the first error names the cause
                self.undo()
            raise

    def finish(self, chosen: InCluster, spec: Manifest) -> None:
        """Install only the monitor after a deployment without the option monitoring.

        A cluster without the operator gets none. The model serves, so a missing permission is only a warning.
        """
        if chosen.monitoring:
            return
        try:
            if self.is_possible:
                had_rules = _has_rules(self._found())
                self._apply(spec, chosen.monitor_labels)
                if had_rules:
                    self._remove_rules()
        except ValueError as error:
            _log.warning("Prometheus won't read the metrics of endpoint %s: %s", self.endpoint, error)

    def undo(self) -> None:
        """Undo `install`."""
        if not self._installed:
            return
        if self._before:
            self._apply(self._before["spec"], self._before["metadata"].get("labels", {}))
        else:
            self.cluster.delete(_API, self.kind, self.name)
        if not _has_rules(self._before):
            self._remove_rules()

    def remove(self) -> None:
        """Remove the monitor, and the rules if no other endpoint of the namespace uses them."""
        if not self.is_possible:
            return
        had_rules = _has_rules(self._found())
        self.cluster.delete(_API, self.kind, self.name)
        if had_rules:
            self._remove_rules()

    def _found(self) -> Manifest | None:
        return self.cluster.get(_API, self.kind, self.name)

    def _apply(self, spec: Manifest, labels: dict[str, str]) -> None:
        metadata = {
            "name": self.name,
            "namespace": self.cluster.namespace,
            "labels": {**labels, **self.cluster.labels(self.endpoint)},
        }
        self.cluster.apply({"apiVersion": _API, "kind": self.kind, "metadata": metadata, "spec": spec})

    def _apply_rules(self, labels: dict[str, str]) -> None:
        # Existing labels, by which Prometheus found them so far, stay.
        found = self.cluster.get(_API, RULE, RULE_NAME) or {"metadata": {}}
        kept = found["metadata"].get("labels", {})
        self.cluster.apply(rule({**kept, **labels, **self.cluster.managed()}, self.cluster.namespace))

    def _remove_rules(self) -> None:
        asking = {**self.cluster.managed(), **_WITH_RULES}
        for kind in (SERVICES, PODS):
            found = self.cluster.find(_API, kind, asking) if self.cluster.serves(_API, kind) else []
            if any((kind, each["metadata"]["name"]) != (self.kind, self.name) for each in found):
                return
        self.cluster.delete(_API, RULE, RULE_NAME)


def _has_rules(monitor: Manifest | None) -> bool:
    labels = (monitor or {}).get("metadata", {}).get("labels", {})
    return bool(_WITH_RULES.items() <= labels.items())
